"""Anything that shows a photograph -> uint8 RGB of shape (H, W, 3)."""

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

from . import fov
from .errors import ImageError, OptionError

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
    "is a DICOM file, which is not read. Convert it to PNG first, for example with pydicom "
    "(Image.fromarray(pydicom.dcmread(FILE).pixel_array).save('eye.png')) or dcmj2pnm of DCMTK"
)


MAX_PIXELS = 200_000_000
"""Largest image that is decoded unless a larger limit is asked for: 14,000 x 14,000 pixels."""


def to_rgb(image: ImageLike, max_pixels: int = MAX_PIXELS) -> RGB:
    """Decode an image into a new array of its own.

    Parameters
    ----------
    image : path, bytes, binary file object, PIL image, ndarray or Tensor
        Files: whatever Pillow reads; turned upright by their EXIF orientation; of several pages
        the first, with a logged warning. PIL images: their pixels as they are.
        Arrays: (H, W, 3) RGB, (H, W, 4) RGBA or (H, W). Tensors: (3, H, W) or (H, W).
        uint8; uint16, of which `round(x / 257)` is taken; or float in [0, 1]. Grey is repeated;
        pixels of alpha 0 become black, all others keep their colour.
    max_pixels : int
        Larger images are refused, files before they are decoded: a small file may unpack to
        any size. (Pillow has a limit of its own, ``PIL.Image.MAX_IMAGE_PIXELS``.)

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
        _check_pixels(image.width, image.height, "The PIL image", max_pixels)
        return _from_pil(image, "the PIL image")
    if isinstance(image, (str, os.PathLike)):
        return _from_path(Path(image), max_pixels)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _from_file(io.BytesIO(image), f"the {len(image)} bytes given", max_pixels)
    if isinstance(image, np.ndarray):
        return _from_array(image, "array", max_pixels)
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    if torch is not None and isinstance(image, torch.Tensor):
        return _from_tensor(image, max_pixels)
    if hasattr(image, "read"):
        return _from_stream(image, max_pixels)
    raise ImageError(f"An image cannot be a {type(image).__name__}. {_ACCEPTED}.")


def choose_max_pixels(max_pixels: int) -> int:
    """The caller's limit; raises OptionError if it is not a positive whole number."""
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        raise OptionError(f"max_pixels is {max_pixels!r}; it has to be a whole number from 1 up.")
    return max_pixels


def field_of_view(image: ImageLike) -> NDArray[np.bool_]:
    """Field of view of a photograph: the bright disc inside its dark border.

    Parameters
    ----------
    image : as in :func:`vesselseg.segment`

    Returns
    -------
    ndarray of bool (H, W)
        True inside; all True where no dark border is found.

    Raises
    ------
    FileNotFoundError, ImageError
        As :func:`vesselseg.segment`.
    """
    return fov.find(to_rgb(image)).mask


def _from_path(path: Path, max_pixels: int) -> RGB:
    if not path.exists():
        raise FileNotFoundError(f"There is no image {str(path)!r}.")
    if path.is_dir():
        raise ImageError(
            f"{str(path)!r} is a folder, an image file is needed. For all images of a folder: "
            f"model.segment_many(sorted(Path({str(path)!r}).glob('*.jpg')))."
        )
    try:
        stream = path.open("rb")
    except OSError as error:
        raise ImageError(f"{str(path)!r} cannot be opened: {error.strerror}.") from error
    with stream:
        return _from_file(stream, repr(str(path)), max_pixels)


def _from_stream(stream: Any, max_pixels: int) -> RGB:
    name = getattr(stream, "name", None)
    label = f"the file object {name!r}" if isinstance(name, str) else "the file object given"
    try:
        content = stream.read()
    except (OSError, ValueError) as error:
        raise ImageError(f"{label} cannot be read: {error}.") from error
    if not isinstance(content, bytes):
        raise ImageError(f"{label} gives {type(content).__name__}; open it in binary mode, 'rb'.")
    return _from_file(io.BytesIO(content), label, max_pixels)


def _from_file(stream: IO[bytes], label: str, max_pixels: int) -> RGB:
    head = stream.read(132)
    stream.seek(0)
    if not head:
        raise ImageError(f"{label} is empty.")
    if head[128:] == b"DICM":
        raise ImageError(f"{label} {_DICOM}.")
    try:
        # Bytes from outside can make a decoder raise anything; all of it means the same here.
        with Image.open(stream) as opened:
            _check_pixels(opened.width, opened.height, label, max_pixels)
            pages = getattr(opened, "n_frames", 1)
            opened.load()
            upright = ImageOps.exif_transpose(opened)
    except ImageError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        if "cannot identify" in reason:
            reason = "its content is of no image format that Pillow knows"
        raise ImageError(
            f"{label} could not be decoded: {reason}. It may be truncated, damaged or no image."
        ) from error
    if pages > 1:
        logger.warning("%s has %d pages; the first is used.", label, pages)
    return _from_pil(upright, label, format_=opened.format)


def _from_pil(image: Image.Image, label: str, format_: str | None = None) -> RGB:
    mode = image.mode
    if 0 in image.size:
        raise ImageError(f"{label} is empty: {image.width} x {image.height} pixels.")
    if mode.startswith("I;16"):
        return _from_array(np.asarray(image).astype(np.uint16), label)
    if mode == "I" and (format_ or image.format) in ("PNG", "TIFF", "PPM"):
        wide = np.asarray(image)  # older Pillows open files of 16 bits in this mode
        if wide.min() >= 0 and wide.max() <= 65535:
            return _from_array(wide.astype(np.uint16), label)
    if mode == "F":
        return _from_array(np.asarray(image), label)
    if mode in ("I", "LAB"):
        raise ImageError(
            f"{label} has the PIL mode {mode!r}, whose values have no defined brightness or "
            f"colour here. Convert it to RGB, or give a NumPy array of {_DTYPES}."
        )
    try:
        has_alpha = mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
        return _from_array(np.asarray(_convert(image, "RGBA" if has_alpha else "RGB")), label)
    except (ValueError, OSError, KeyError) as error:
        raise ImageError(
            f"{label} has the PIL mode {mode!r}, which cannot be converted."
        ) from error


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "La":  # PIL converts grey with premultiplied alpha to LA alone
        image = image.convert("LA")
    return image if image.mode == mode else image.convert(mode)


def _from_tensor(tensor: Tensor, max_pixels: int) -> RGB:
    shape = tuple(tensor.shape)
    if not (tensor.ndim == 2 or (tensor.ndim == 3 and shape[0] == 3)):
        raise ImageError(
            f"A tensor has to be (3, H, W) or (H, W), this one is {shape}.{_hint(shape)}"
        )
    values = tensor.detach()
    if values.is_floating_point():
        values = values.float()  # NumPy has no bfloat16
    try:
        array = values.cpu().numpy()
    except (TypeError, RuntimeError) as error:
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise ImageError(
            f"A tensor of this kind cannot be used: {kind}. Allowed are {_DTYPES}, in memory."
        ) from error
    return _from_array(array.transpose(1, 2, 0) if array.ndim == 3 else array, "tensor", max_pixels)


def _from_array(array: NDArray[Any], label: str, max_pixels: float = math.inf) -> RGB:
    shape = array.shape
    label = f"The {label}" if label in ("array", "tensor") else label
    if not (array.ndim == 2 or (array.ndim == 3 and shape[2] in (3, 4))):
        raise ImageError(
            f"{label} has the shape {shape}; it has to be (H, W, 3) RGB, (H, W, 4) RGBA or "
            f"(H, W) grey.{_hint(shape)}"
        )
    if 0 in shape:
        raise ImageError(f"{label} is empty: its shape is {shape}.")
    _check_pixels(shape[1], shape[0], label, max_pixels)
    values = _to_uint8(array, label)
    if values.ndim == 2:
        return np.ascontiguousarray(np.broadcast_to(values[..., None], (*shape, 3)))
    rgb = np.array(values[..., :3], order="C")
    if shape[2] == 4:
        rgb[array[..., 3] == 0] = 0
    return rgb


def _to_uint8(array: NDArray[Any], label: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return np.asarray(array)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
        # round(x / 257) in whole numbers: 65535 -> 255
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind != "f":
        hint = ""
        if array.dtype.kind in "iu" and array.min() >= 0 and array.max() <= 255:
            hint = " If its values are 0 to 255, give array.astype(np.uint8)."
        raise ImageError(f"{label} has the type {array.dtype}; allowed are {_DTYPES}.{hint}")
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{label} has values that are not finite (NaN or infinity).")
    if low < 0 or high > 1:
        hint = " For values 0 to 255, divide by 255 or convert to uint8." if low >= 0 else ""
        raise ImageError(
            f"{label} has values from {low:g} to {high:g}; those of type float have to lie in "
            f"[0, 1].{hint}"
        )
    return np.rint(array.astype(np.float32) * 255).astype(np.uint8)


def _check_pixels(width: int, height: int, label: str, max_pixels: float) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"{label} has {width} x {height} pixels; at most {max_pixels:,} are accepted. If it is "
            f"meant to be that large, raise the limit: load_model(..., max_pixels=...)."
        )


def _hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        return " It looks like a batch: segment_many takes the images one by one."
    if len(shape) == 3 and shape[0] == 3:
        return " Channels come last in arrays: array.transpose(1, 2, 0)."
    if len(shape) == 3 and shape[2] == 3:
        return " Channels come first in tensors: tensor.permute(2, 0, 1)."
    if len(shape) == 3 and 1 in (shape[0], shape[2]):
        return " Leave out the axis of length 1."
    return ""
