"""Pixels of any type and colours -> uint8 RGB of shape (H, W, 3)."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import ImageError

if TYPE_CHECKING:
    from PIL import ImageCms
    from torch import Tensor

RGB: TypeAlias = "NDArray[np.uint8]"

_DTYPES = "uint8, uint16, or float with values in [0, 1]"
_ROUNDING = 1e-3  # of floats beyond [0, 1]: a quarter of a step of 255
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space -> mode of Pillow
_NEAR = 3  # of 255: a profile that moves no colour further is sRGB under another name
_STEPS = 6  # of each channel, in the colours that a profile is tried on


@dataclass
class Reading:
    """How one image is read, and what is to be said about it."""

    max_pixels: float
    bits: int | None
    """Significant bits of 16-bit values, if they are known."""
    label: str = "The image"
    """The name of the image in messages."""
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Add a sentence about the image. It has no name, since results keep it."""
        self.warnings.append(f"The image {text}")


def check_size(width: int, height: int, label: str, max_pixels: float) -> None:
    """Raise ImageError if an image is larger than the limit."""
    if width * height > max_pixels:
        raise ImageError(
            f"{label} has {width} x {height} pixels; at most {max_pixels:,} are accepted. Reduce "
            f"it or, if it is meant to be that large, raise the limit of pixels."
        )


def from_pil(image: Image.Image, reading: Reading) -> RGB:
    """Convert a PIL image of any mode. Colours with an embedded profile become sRGB."""
    check_size(image.width, image.height, reading.label, reading.max_pixels)
    mode, file_format = image.mode, image.format
    profile = image.info.get("icc_profile")
    if mode == "LAB":
        raise ImageError(f"{reading.label} has the PIL mode 'LAB'. Convert it to RGB first.")
    try:
        if mode == "La":  # PIL converts premultiplied grey to LA only
            image = image.convert("LA")
        if mode == "CMYK" and profile:
            image, profile = _apply_profile(image, profile, reading), None
        if not mode.startswith(("F", "I")):
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        values = np.asarray(image)
    except Exception as error:  # a lazily opened file is decoded now, and can raise anything
        raise ImageError(
            f"{reading.label} cannot be converted from PIL mode {mode!r}: {error}."
        ) from error
    if mode == "I":  # older versions of Pillow open 16-bit files in this mode
        has_16_bits = file_format in ("PNG", "TIFF", "PPM")
        if not has_16_bits or np.any((values < 0) | (values > 65535)):
            raise ImageError(
                f"{reading.label} has the PIL mode 'I', whose values have no defined brightness. "
                f"Convert it to RGB or, in Python, pass a NumPy array of {_DTYPES}."
            )
        values = values.astype(np.uint16)
    return to_srgb(from_array(values, reading), profile, reading)


def from_tensor(tensor: Tensor, reading: Reading) -> RGB:
    """Convert a tensor (3, H, W) or (H, W)."""
    try:  # NumPy has no bfloat16
        values = tensor.float() if tensor.is_floating_point() else tensor
        array = values.numpy(force=True)
    except (TypeError, RuntimeError) as error:
        layout = "nested" if tensor.is_nested else tensor.layout
        kind = f"{tensor.dtype}, {layout}, on {tensor.device}"
        raise ImageError(
            f"A tensor of this kind cannot be used: {kind}. Allowed are dense tensors of {_DTYPES}."
        ) from error
    shape = array.shape
    if array.ndim == 3 and shape[0] == 3:
        array = array.transpose(1, 2, 0)
    elif array.ndim != 2:
        raise ImageError(
            f"A tensor must be (3, H, W) or (H, W); this one is {shape}.{_shape_hint(shape)}"
        )
    return from_array(array, reading)


def from_array(array: NDArray[Any], reading: Reading) -> RGB:
    """Convert an array (H, W, 3) RGB, (H, W, 4) RGBA, (H, W) or (H, W, 1) grey.

    uint16 of n bits becomes `round(255 * x / (2**n - 1))`, float is in [0, 1], and pixels of
    alpha 0 become black.
    """
    shape, label, bits = array.shape, reading.label, reading.bits
    if array.ndim < 2 or shape[2:] not in ((), (1,), (3,), (4,)):
        raise ImageError(
            f"{label} has the shape {shape}; it must be (H, W, 3) RGB, (H, W, 4) RGBA or "
            f"(H, W) grey.{_shape_hint(shape)}"
        )
    if 0 in shape:
        raise ImageError(f"{label} is empty: its shape is {shape}.")
    check_size(shape[1], shape[0], label, reading.max_pixels)
    kind, values = array.dtype.kind, array
    is_uint16 = kind == "u" and array.dtype.itemsize == 2  # of either byte order
    if bits is not None and bits != 8 * array.dtype.itemsize and not is_uint16:
        raise ImageError(f"{label} has values of type {array.dtype}; {bits} bits are for uint16.")
    if is_uint16:
        most = int(array.max()) if shape[2:] != (4,) else int(array[..., :3].max())
        _check_depth(most, reading)
        full = 2 ** (bits or 16) - 1
        values = (array.astype(np.uint32) * 510 + full) // (2 * full)
    elif kind == "f":
        values = _scale_floats(array, label)
    elif array.dtype != np.uint8:
        in_range = kind in "iu" and array.min() >= 0 and array.max() <= 255
        hint = " If its values are 0 to 255, convert it to uint8." if in_range else ""
        raise ImageError(f"{label} has the type {array.dtype}; allowed are {_DTYPES}.{hint}")
    rgb = np.empty((*shape[:2], 3), np.uint8)
    rgb[:] = values.reshape(*shape[:2], -1)[..., :3]
    if shape[2:] == (4,):
        is_transparent = array[..., 3] == 0
        if is_transparent.all():
            reading.warn("is transparent everywhere. Its transparency was ignored.")
        else:
            rgb[is_transparent] = 0
    return rgb


def _shape_hint(shape: tuple[int, ...]) -> str:
    """A sentence on how to turn an array or tensor of this shape into an accepted one, or ""."""
    if len(shape) == 4:
        return " It looks like a batch: segment_many takes the images one by one."
    if len(shape) != 3:
        return ""
    if shape[0] == 3:
        return " Channels come last in arrays: array.transpose(1, 2, 0)."
    if shape[2] == 3:
        return " Channels come first in tensors: tensor.permute(2, 0, 1)."
    return " Remove the axis of length 1." if 1 in (shape[0], shape[2]) else ""


def _check_depth(most: int, reading: Reading) -> None:
    """Raise if 16-bit values exceed the bits; warn if they seem to use fewer than 16."""
    if reading.bits is not None and most >= 2**reading.bits:
        raise ImageError(
            f"{reading.label} has values up to {most}, which {reading.bits} bits do not hold."
        )
    likely = next((n for n in (8, 10, 12, 14) if most < 2**n), None)
    if reading.bits is None and most and likely:
        reading.warn(
            f"has 16-bit values that end at {most}, and is read as a very dark photograph. If they "
            f"use {likely} bits, set bits to {likely}; if it is that dark, set bits to 16."
        )


def _scale_floats(array: NDArray[Any], label: str) -> NDArray[Any]:
    """Floats in [0, 1] -> 0 to 255; a rounding error beyond is clipped."""
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{label} has values that are not finite (NaN or infinity).")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        hint = " If they are 0 to 255, divide by 255 or convert to uint8." if low >= 0 else ""
        raise ImageError(
            f"{label} has float values from {low:.9g} to {high:.9g}; they must lie in [0, 1].{hint}"
        )
    return np.asarray(np.rint(array.astype(np.float32).clip(0, 1) * 255))


def to_srgb(rgb: RGB, profile: bytes | None, reading: Reading) -> RGB:
    """Convert from the colours of an ICC profile to sRGB, which models are trained on."""
    if not profile:
        return rgb
    image = Image.fromarray(rgb)
    given = image.getchannel(0) if profile[16:20] == b"GRAY" else image
    converted = _apply_profile(given, profile, reading)
    return rgb if converted is given else np.array(converted)


def _apply_profile(image: Image.Image, profile: bytes, reading: Reading) -> Image.Image:
    """Convert an RGB, grey or CMYK image to sRGB, or warn that its profile cannot be used.

    The same object is returned then, and if the profile is sRGB.
    """
    try:
        from PIL import ImageCms

        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if _PROFILE_MODES.get(space) != image.mode:
            raise ValueError(f"it is for {space or 'unknown'} colours")
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, image.mode, "RGB")
        if image.mode != "CMYK" and _changes_little(transform, image.mode):
            return image
        return transform.apply(image)
    except Exception as error:  # a profile from outside can make the library raise anything
        problem = str(error).partition("\n")[0] or type(error).__name__
        reading.warn(f"has a colour profile that cannot be used ({problem}).")
        return image


def _changes_little(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform leaves colours from all of RGB, or grey, nearly as they are."""
    steps = np.linspace(0, 255, _STEPS).astype(np.uint8)
    colors: NDArray[Any] = np.stack(np.meshgrid(steps, steps, steps), axis=-1)
    colors = colors.reshape(_STEPS, -1, 3)
    given = Image.fromarray(colors if mode == "RGB" else colors[..., 0])
    expected = np.asarray(given.convert("RGB")).astype(int)
    return bool(np.abs(np.asarray(transform.apply(given)) - expected).max() <= _NEAR)
