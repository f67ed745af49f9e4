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
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from .errors import ImageError, OptionError
from .formats import READABLE, formats_with_endings, is_dicom, open_picture
from .fov import find_field_of_view
from .spec import is_integer, plain

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

ImageLike: TypeAlias = Union[
    str, "os.PathLike[str]", bytes, bytearray, memoryview, IO[bytes], Image.Image,
    "NDArray[Any]", "Tensor",
]  # fmt: skip
RGB: TypeAlias = "NDArray[np.uint8]"

_DTYPES = "uint8, uint16, or float with values in [0, 1]"

MAX_PIXELS = 200_000_000  # default limit on the size of an image: 14,000 x 14,000


def to_rgb(image: ImageLike, max_pixels: int = MAX_PIXELS, bits: int | None = None) -> RGB:
    """Decode an image of any accepted kind into a new array of uint8 (H, W, 3), RGB in C order.

    Files are turned upright by their EXIF orientation, PIL images are taken as they are. Files of
    more than `max_pixels` are rejected before they are decoded, since a small one can unpack to
    any size. (Pillow has a limit of its own, ``PIL.Image.MAX_IMAGE_PIXELS``.) `bits` is the number
    of significant bits in 16-bit images.
    """
    bits = check_bits(bits)
    if isinstance(image, Image.Image):
        _check_size(image.width, image.height, "The PIL image", max_pixels)
        return _from_pil(_check_opened(image, "The PIL image"), "the PIL image", image.format, bits)
    if isinstance(image, (str, os.PathLike)):
        return _from_path(Path(image), max_pixels, bits)
    if isinstance(image, (bytes, bytearray, memoryview)):
        content = bytes(image)
        return _from_file(io.BytesIO(content), f"the {len(content)} bytes given", max_pixels, bits)
    if isinstance(image, np.ndarray):
        return _from_array(image, "The array", max_pixels, bits)
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    if torch is not None and isinstance(image, torch.Tensor):
        return _from_tensor(image, max_pixels, bits)
    if hasattr(image, "read"):
        name = getattr(image, "name", None)
        label = f"the file object {name!r}" if isinstance(name, str) else "the file object given"
        try:
            content = image.read()
        except Exception as error:  # a caller's object can raise anything
            raise ImageError(f"{label} cannot be read: {error}.") from error
        if not isinstance(content, (bytes, bytearray, memoryview)):
            kind = type(content).__name__
            raise ImageError(f"{label} returns {kind}; open it in binary mode, 'rb'.")
        return _from_file(io.BytesIO(content), label, max_pixels, bits)
    raise ImageError(
        f"An image cannot be a {type(image).__name__}. Accepted are a path, the bytes of an image "
        f"file, a binary file object, a PIL image, a NumPy array (H, W, 3) RGB, (H, W, 4) RGBA or "
        f"(H, W) grey, and a torch tensor (3, H, W) or (H, W)."
    )


def is_single(images: Any) -> bool:
    """Whether what should be several images is one: a batch (N, H, W, C) counts as several."""
    if isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)):
        return True
    is_array = hasattr(images, "ndim") and hasattr(images, "dtype")
    return hasattr(images, "read") or (is_array and images.ndim < 4)


def check_max_pixels(max_pixels: int) -> int:
    """Return the limit; raise OptionError if it is not a positive integer."""
    limit = plain(max_pixels)
    if not is_integer(limit, 1, 2**63):
        raise OptionError(f"max_pixels is {max_pixels!r}; it must be a positive integer.")
    return int(limit)


def check_bits(bits: int | None) -> int | None:
    """Return the number of bits, or None; raise OptionError for anything else."""
    bits = plain(bits)
    if bits is not None and not is_integer(bits, 8, 16):
        raise OptionError(f"bits is {bits!r}; it must be an integer from 8 to 16, or None.")
    return bits


def field_of_view(image: ImageLike, *, bits: int | None = None) -> NDArray[np.bool_]:
    """Find the field of view of a photograph: the bright disc inside its dark border.

    Parameters
    ----------
    image : path, bytes, binary file object, PIL image, ndarray or Tensor
        As :func:`vesselseg.segment` takes it.
    bits : int, optional
        Significant bits in 16-bit images, for example 12 if values run from 0 to 4095.

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
    >>> bool(vesselseg.field_of_view(np.full((64, 64, 3), 200, np.uint8)).all())
    True
    """
    return find_field_of_view(to_rgb(image, bits=bits)).mask


def _from_path(path: Path, max_pixels: int, bits: int | None) -> RGB:
    """Decode a file; pipes and other files that cannot be rewound are read whole first."""
    label = repr(str(path))
    try:
        if path.is_dir():
            raise ImageError(
                f"{label} is a folder; an image file is needed. For all images of a folder: "
                f"model.segment_many(sorted(Path({label}).glob('*.jpg')))."
            )
        with path.open("rb") as stream:
            whole = stream if stream.seekable() else io.BytesIO(stream.read())
            return _from_file(whole, label, max_pixels, bits)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no image {label}.") from error
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{label} cannot be opened: {reason}.") from error


def _from_file(stream: IO[bytes], label: str, max_pixels: int, bits: int | None) -> RGB:
    """Decode the content of an image file."""
    head = stream.read(132)
    stream.seek(0)
    if not head:
        raise ImageError(f"{label} is empty.")
    if is_dicom(head):
        return _from_dicom(stream, label, max_pixels, bits)
    try:
        with open_picture(stream) as opened:
            _check_size(opened.width, opened.height, label, max_pixels)
            pages = getattr(opened, "n_frames", 1)
            has_16_bits = any(";16" in str(tile[3]) for tile in opened.tile)
            if isinstance(opened, TiffImageFile) and bits is None:
                depth = opened.tag_v2.get(BITSPERSAMPLE, (0,))[0]
                bits = depth if 8 < depth < 16 else None
            opened.load()
            upright = ImageOps.exif_transpose(opened)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{label} could not be decoded: {error}.") from error
    except Exception as error:  # bytes from outside can make a decoder raise anything
        reason = str(error).partition("\n")[0]
        raise ImageError(
            f"{label} could not be decoded: {reason}. It may be truncated, damaged or no image."
        ) from error
    _warn_of_pages(pages, label)
    if has_16_bits and upright.mode in ("RGB", "RGBA"):
        _check_reduced(np.asarray(upright), label, bits)
        bits = None
    return _from_pil(upright, label, opened.format, bits)


def _from_dicom(stream: IO[bytes], label: str, max_pixels: int, bits: int | None) -> RGB:
    """Decode the photograph in a DICOM file, which says itself how many bits it uses."""
    from . import dicom  # most photographs need nothing of it

    photograph = dicom.open_photograph(stream, label)
    _check_size(photograph.width, photograph.height, label, max_pixels)
    values, depth = dicom.decode(photograph, label)
    _warn_of_pages(photograph.pages, label)
    return _from_array(values, label, bits=bits or depth)


def _warn_of_pages(pages: int, label: str) -> None:
    """Log that only the first page of a file, or frame of a DICOM file, is used."""
    if pages > 1:
        logger.warning("%s has %d pages; the first is used.", label, pages)


def _check_reduced(values: NDArray[np.uint8], label: str, bits: int | None) -> None:
    """Warn or raise if Pillow's reduction of a 16-bit RGB file to 8 bits left hardly any."""
    advice = "Read it with tifffile or OpenCV, and pass the array with bits=..."
    if bits not in (None, 16):
        raise ImageError(
            f"{label} is a 16-bit RGB file, of which Pillow keeps the upper 8 bits; bits={bits} "
            f"cannot be applied. {advice}"
        )
    if 0 < values[..., :3].max() < 64:
        logger.warning(
            "%s is a 16-bit RGB file whose values end below 2 ** 14. It seems to use fewer bits, "
            "and is read as a very dark photograph. %s", label, advice,
        )  # fmt: skip


def _check_opened(image: Image.Image, label: str) -> Image.Image:
    """Return an image; raise ImageError if its file is in another format and not decoded yet.

    Pillow decodes a file when its pixels are first used, which would be in our hands.
    """
    # "MPO" is what Pillow calls a JPEG file with several pictures.
    if not isinstance(image, ImageFile.ImageFile) or image.format in (*READABLE, "MPO"):
        return image
    try:
        is_decoded = not image.tile and image.im is not None
    except Exception:  # Pillow raises if there are no pixels yet
        is_decoded = False
    if not is_decoded:
        raise ImageError(
            f"{label} was opened from a file in the format {image.format}, which vesselseg does "
            f"not decode. Formats that are read: {', '.join(formats_with_endings())}. If you trust "
            f"the file, decode it yourself: pass image.convert('RGB'), or an array."
        )
    return image


def _from_pil(image: Image.Image, label: str, file_format: str | None, bits: int | None) -> RGB:
    """Convert a PIL image of any mode; `file_format` is that of the file it comes from."""
    mode = image.mode
    if mode == "LAB":
        raise ImageError(f"{label} has the PIL mode 'LAB'. Convert it to RGB first.")
    try:
        if mode == "La":  # PIL converts premultiplied grey to LA only
            image = image.convert("LA")
        if not mode.startswith(("F", "I")):
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        values = np.asarray(image)
    except Exception as error:  # a lazily opened file is decoded now, and can raise anything
        raise ImageError(f"{label} cannot be converted from PIL mode {mode!r}: {error}.") from error
    if mode == "I":  # older versions of Pillow open 16-bit files in this mode
        has_16_bits = file_format in ("PNG", "TIFF", "PPM")
        if not has_16_bits or np.any((values < 0) | (values > 65535)):
            raise ImageError(
                f"{label} has the PIL mode 'I', whose values have no defined brightness. Convert "
                f"it to RGB, or pass a NumPy array of {_DTYPES}."
            )
        values = values.astype(np.uint16)
    return _from_array(values, label, bits=bits)


def _from_tensor(tensor: Tensor, max_pixels: int, bits: int | None) -> RGB:
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
    return _from_array(array, "The tensor", max_pixels, bits)


def _from_array(
    array: NDArray[Any], label: str, max_pixels: float = math.inf, bits: int | None = None
) -> RGB:
    """Convert an array (H, W, 3) RGB, (H, W, 4) RGBA, (H, W) or (H, W, 1) grey.

    uint16 of n bits becomes `round(255 * x / (2**n - 1))`, float is in [0, 1], and pixels of
    alpha 0 become black.
    """
    shape = array.shape
    if array.ndim < 2 or shape[2:] not in ((), (1,), (3,), (4,)):
        raise ImageError(
            f"{label} has the shape {shape}; it must be (H, W, 3) RGB, (H, W, 4) RGBA or "
            f"(H, W) grey.{_shape_hint(shape)}"
        )
    if 0 in shape:
        raise ImageError(f"{label} is empty: its shape is {shape}.")
    _check_size(shape[1], shape[0], label, max_pixels)
    kind, values = array.dtype.kind, array
    is_uint16 = kind == "u" and array.dtype.itemsize == 2  # of either byte order
    if bits is not None and bits != 8 * array.dtype.itemsize and not is_uint16:
        raise ImageError(f"{label} has values of type {array.dtype}; bits={bits} is for uint16.")
    if is_uint16:
        most = int(array.max()) if shape[2:] != (4,) else int(array[..., :3].max())
        _check_depth(most, label, bits)
        full = 2 ** (bits or 16) - 1
        values = (array.astype(np.uint32) * 510 + full) // (2 * full)
    elif kind == "f":
        low, high = array.min(), array.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ImageError(f"{label} has values that are not finite (NaN or infinity).")
        if low < 0 or high > 1:
            hint = " If they are 0 to 255, divide by 255 or convert to uint8." if low >= 0 else ""
            raise ImageError(
                f"{label} has float values from {low:g} to {high:g}; they must lie in [0, 1].{hint}"
            )
        values = np.rint(array.astype(np.float32) * 255)
    elif array.dtype != np.uint8:
        in_range = kind in "iu" and array.min() >= 0 and array.max() <= 255
        hint = " If its values are 0 to 255, pass array.astype(np.uint8)." if in_range else ""
        raise ImageError(f"{label} has the type {array.dtype}; allowed are {_DTYPES}.{hint}")
    rgb = np.empty((*shape[:2], 3), np.uint8)
    rgb[:] = values.reshape(*shape[:2], -1)[..., :3]
    if shape[2:] == (4,):
        rgb[array[..., 3] == 0] = 0
    return rgb


def _check_depth(most: int, label: str, bits: int | None) -> None:
    """Raise ImageError if 16-bit values exceed `bits`; warn if they seem to use fewer than 16."""
    if bits is not None and most >= 2**bits:
        raise ImageError(f"{label} has values up to {most}, which {bits} bits do not hold.")
    likely = next((n for n in (8, 10, 12, 14) if most < 2**n), None)
    if bits is None and most and likely:
        logger.warning(
            "%s has 16-bit values that end at %d, and is read as a very dark photograph. If they "
            "use %d bits, pass bits=%d (--bits %d); if it is that dark, pass bits=16.",
            label, most, likely, likely, likely,
        )  # fmt: skip


def _check_size(width: int, height: int, label: str, max_pixels: float) -> None:
    """Raise ImageError if an image is larger than the limit."""
    if width * height > max_pixels:
        raise ImageError(
            f"{label} has {width} x {height} pixels; at most {max_pixels:,} are accepted. If it is "
            f"meant to be that large, raise the limit: load_model(..., max_pixels=...)."
        )


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
