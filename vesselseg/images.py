"""Any photograph that vesselseg accepts -> uint8 RGB of shape (H, W, 3)."""

from __future__ import annotations

import io
import logging
import math
import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .errors import ImageError, OptionError
from .fov import find_field_of_view
from .spec import is_integer

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

ImageLike: TypeAlias = Union[
    str, "os.PathLike[str]", bytes, bytearray, memoryview, IO[bytes], Image.Image,
    "NDArray[Any]", "Tensor",
]  # fmt: skip
RGB: TypeAlias = "NDArray[np.uint8]"

_ACCEPTED = (
    "Accepted are a path, the bytes of an image file, a binary file object, a PIL image, a NumPy "
    "array (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey, and a torch tensor (3, H, W) or (H, W)"
)
_DTYPES = "uint8, uint16, or float with values in [0, 1]"
_DICOM = (
    "is a DICOM file, which vesselseg does not read. Convert it to PNG, for example with pydicom "
    "(Image.fromarray(pydicom.dcmread(FILE).pixel_array).save('eye.png')) or dcmj2pnm of DCMTK"
)

MAX_PIXELS = 200_000_000
"""Default limit on the size of an image: 14,000 x 14,000 pixels."""


def to_rgb(image: ImageLike, max_pixels: int = MAX_PIXELS) -> RGB:
    """Decode an image into a new array.

    Parameters
    ----------
    image : path, bytes, binary file object, PIL image, ndarray or Tensor
        Files: whatever Pillow reads, turned upright by their EXIF orientation; the first of
        several pages, with a logged warning. PIL images: their pixels as they are.
        Arrays: (H, W, 3) RGB, (H, W, 4) RGBA or (H, W). Tensors: (3, H, W) or (H, W).
        uint8; uint16, converted by `round(x / 257)`; or float in [0, 1]. Grey is repeated.
        Pixels of alpha 0 become black; all others keep their colour.
    max_pixels : int
        Larger images are rejected, files before they are decoded, since a small file can unpack
        to any size. (Pillow has a limit of its own, ``PIL.Image.MAX_IMAGE_PIXELS``.)

    Returns
    -------
    ndarray of uint8 (H, W, 3)
        RGB, C order, sharing no memory with `image`.

    Raises
    ------
    FileNotFoundError
        If `image` is a path that does not exist.
    ImageError
        If it is anything else than described, too large, or a file that cannot be decoded.
    """
    if isinstance(image, Image.Image):
        check_size(image.width, image.height, "The PIL image", max_pixels)
        return from_pil(image, "the PIL image")
    if isinstance(image, (str, os.PathLike)):
        return from_path(Path(image), max_pixels)
    if isinstance(image, (bytes, bytearray, memoryview)):
        content = bytes(image)
        return from_file(io.BytesIO(content), f"the {len(content)} bytes given", max_pixels)
    if isinstance(image, np.ndarray):
        return from_array(image, "The array", max_pixels)
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    if torch is not None and isinstance(image, torch.Tensor):
        return from_tensor(image, max_pixels)
    if hasattr(image, "read"):
        name = getattr(image, "name", None)
        label = f"the file object {name!r}" if isinstance(name, str) else "the file object given"
        try:
            content = image.read()
        except Exception as error:  # a caller's object can raise anything
            raise ImageError(f"{label} cannot be read: {error}.") from error
        if not isinstance(content, bytes):
            kind = type(content).__name__
            raise ImageError(f"{label} returns {kind}; open it in binary mode, 'rb'.")
        return from_file(io.BytesIO(content), label, max_pixels)
    raise ImageError(f"An image cannot be a {type(image).__name__}. {_ACCEPTED}.")


def check_max_pixels(max_pixels: int) -> int:
    """Return the limit; raise OptionError if it is not a positive integer."""
    if not is_integer(max_pixels, 1, 2**63):
        raise OptionError(f"max_pixels is {max_pixels!r}; it must be a positive integer.")
    return max_pixels


def field_of_view(image: ImageLike) -> NDArray[np.bool_]:
    """Find the field of view of a photograph: the bright disc inside its dark border.

    Parameters
    ----------
    image : path, bytes, binary file object, PIL image, ndarray or Tensor
        As :func:`vesselseg.segment` takes it.

    Returns
    -------
    ndarray of bool (H, W)
        True inside; all True if no dark border is found.

    Raises
    ------
    FileNotFoundError
        If `image` is a path that does not exist.
    ImageError
        If `image` is not an accepted image or cannot be decoded.

    Examples
    --------
    >>> import numpy as np, vesselseg
    >>> vesselseg.field_of_view(np.full((64, 64, 3), 200, np.uint8)).all()
    np.True_
    """
    return find_field_of_view(to_rgb(image)).mask


def from_path(path: Path, max_pixels: int) -> RGB:
    """Decode a file; pipes and other files that cannot be rewound are read whole first."""
    label = repr(str(path))
    try:
        if path.is_dir():
            raise ImageError(
                f"{label} is a folder; an image file is needed. For all images of a folder: "
                f"model.segment_many(sorted(Path({label}).glob('*.jpg')))."
            )
        with path.open("rb") as stream:
            if stream.seekable():
                return from_file(stream, label, max_pixels)
            return from_file(io.BytesIO(stream.read()), label, max_pixels)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no image {label}.") from error
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{label} cannot be opened: {reason}.") from error


def from_file(stream: IO[bytes], label: str, max_pixels: int) -> RGB:
    """Decode the content of an image file."""
    head = stream.read(132)
    stream.seek(0)
    if not head:
        raise ImageError(f"{label} is empty.")
    if head[128:] == b"DICM":
        raise ImageError(f"{label} {_DICOM}.")
    try:
        with Image.open(stream) as opened:
            check_size(opened.width, opened.height, label, max_pixels)
            pages = getattr(opened, "n_frames", 1)
            opened.load()
            upright = ImageOps.exif_transpose(opened)
    except ImageError:
        raise
    except Exception as error:  # bytes from outside can make a decoder raise anything
        reason = str(error).partition("\n")[0]
        if "cannot identify" in reason:
            reason = "Pillow does not recognise its format"
        raise ImageError(
            f"{label} could not be decoded: {reason}. It may be truncated, damaged or no image."
        ) from error
    if pages > 1:
        logger.warning("%s has %d pages; the first is used.", label, pages)
    return from_pil(upright, label, opened.format)


def from_pil(image: Image.Image, label: str, file_format: str | None = None) -> RGB:
    """Convert a PIL image of any mode."""
    mode = image.mode
    if 0 in image.size:
        raise ImageError(f"{label} is empty: {image.width} x {image.height} pixels.")
    if mode == "LAB":
        raise ImageError(f"{label} has the PIL mode 'LAB'. Convert it to RGB first.")
    try:
        if mode == "F" or mode.startswith("I"):
            values = np.asarray(image)
        else:
            has_alpha = mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
            if mode == "La":  # PIL converts premultiplied grey to LA only
                values = np.asarray(image.convert("LA").convert("RGBA"))
            else:
                values = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
    except Exception as error:  # a lazily opened file is decoded now, and can raise anything
        raise ImageError(
            f"{label} cannot be converted from the PIL mode {mode!r}: {error}."
        ) from error
    if mode == "I":  # older versions of Pillow open 16-bit files in this mode
        has_16_bits = (file_format or image.format) in ("PNG", "TIFF", "PPM")
        if not has_16_bits or values.min() < 0 or values.max() > 65535:
            raise ImageError(
                f"{label} has the PIL mode 'I', whose values have no defined brightness. Convert "
                f"it to RGB, or pass a NumPy array of {_DTYPES}."
            )
    if mode.startswith("I"):
        values = values.astype(np.uint16)
    return from_array(values, label)


def from_tensor(tensor: Tensor, max_pixels: int) -> RGB:
    """Convert a tensor (3, H, W) or (H, W)."""
    try:
        shape = tuple(tensor.shape)
        values = tensor.detach()
        if values.is_floating_point():
            values = values.float()  # NumPy has no bfloat16
        array = values.cpu().numpy()
    except (TypeError, RuntimeError) as error:
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise ImageError(
            f"A tensor of this kind cannot be used: {kind}. Allowed are dense tensors of {_DTYPES}."
        ) from error
    if array.ndim == 3 and shape[0] == 3:
        return from_array(array.transpose(1, 2, 0), "The tensor", max_pixels)
    if array.ndim == 2:
        return from_array(array, "The tensor", max_pixels)
    raise ImageError(
        f"A tensor must be (3, H, W) or (H, W); this one is {shape}.{shape_hint(shape)}"
    )


def from_array(array: NDArray[Any], label: str, max_pixels: float = math.inf) -> RGB:
    """Convert an array (H, W, 3) RGB, (H, W, 4) RGBA, (H, W) or (H, W, 1) grey."""
    shape = array.shape
    if not (array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4))):
        raise ImageError(
            f"{label} has the shape {shape}; it must be (H, W, 3) RGB, (H, W, 4) RGBA or "
            f"(H, W) grey.{shape_hint(shape)}"
        )
    if 0 in shape:
        raise ImageError(f"{label} is empty: its shape is {shape}.")
    check_size(shape[1], shape[0], label, max_pixels)
    values = to_uint8(array, label)
    if values.ndim == 2 or shape[2] == 1:
        grey = values.reshape(shape[0], shape[1], 1)
        return np.ascontiguousarray(np.broadcast_to(grey, (*shape[:2], 3)))
    rgb = np.array(values[..., :3], order="C")
    if shape[2] == 4:
        rgb[array[..., 3] == 0] = 0
    return rgb


def to_uint8(array: NDArray[Any], label: str) -> NDArray[np.uint8]:
    """Convert uint16, or float in [0, 1], to uint8."""
    if array.dtype == np.uint8:
        return np.asarray(array)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
        # round(x / 257) in integers: 65535 -> 255
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind != "f":
        hint = ""
        if array.dtype.kind in "iu" and array.min() >= 0 and array.max() <= 255:
            hint = " If its values are 0 to 255, pass array.astype(np.uint8)."
        raise ImageError(f"{label} has the type {array.dtype}; allowed are {_DTYPES}.{hint}")
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{label} has values that are not finite (NaN or infinity).")
    if low < 0 or high > 1:
        hint = ""
        if low >= 0:
            hint = " If they are 0 to 255, divide by 255 or convert to uint8."
        raise ImageError(
            f"{label} has float values from {low:g} to {high:g}; they must lie in [0, 1].{hint}"
        )
    return np.rint(array.astype(np.float32) * 255).astype(np.uint8)


def check_size(width: int, height: int, label: str, max_pixels: float) -> None:
    """Raise ImageError if an image is larger than the limit."""
    if width * height > max_pixels:
        raise ImageError(
            f"{label} has {width} x {height} pixels; at most {max_pixels:,} are accepted. If it is "
            f"meant to be that large, raise the limit: load_model(..., max_pixels=...)."
        )


def shape_hint(shape: tuple[int, ...]) -> str:
    """A sentence on how to turn an array or tensor of this shape into an accepted one, or ""."""
    if len(shape) == 4:
        return " It looks like a batch: segment_many takes the images one by one."
    if len(shape) == 3 and shape[0] == 3:
        return " Channels come last in arrays: array.transpose(1, 2, 0)."
    if len(shape) == 3 and shape[2] == 3:
        return " Channels come first in tensors: tensor.permute(2, 0, 1)."
    if len(shape) == 3 and 1 in (shape[0], shape[2]):
        return " Remove the axis of length 1."
    return ""
