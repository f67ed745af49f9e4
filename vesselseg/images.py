"""Any photograph that vesselseg accepts -> uint8 RGB of shape (H, W, 3)."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from . import tiff
from .errors import ImageError, VesselsegError
from .files import is_folder, windows_hint
from .formats import MAX_PIXELS as MAX_PIXELS
from .formats import READABLE, formats_with_endings, is_dicom, is_tiff
from .fov import find_field_of_view
from .pictures import (
    collect_complaints,
    is_overwritten,
    load_whole,
    open_picture,
    without_metadata,
)
from .pixels import RGB as RGB
from .pixels import Reading, check_size, from_array, from_pil, from_tensor, to_srgb
from .spec import check_integer

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

ImageSource: TypeAlias = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, IO[bytes]]
"""An image file: a path, its content, or a binary file object."""

ImageLike: TypeAlias = Union[ImageSource, Image.Image, "NDArray[Any]", "Tensor"]

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the image upright."""


class Decoded(NamedTuple):
    """A photograph and what is to be said about its file."""

    rgb: RGB
    """uint8 (H, W, 3) in C order, the reader's own copy."""
    warnings: tuple[str, ...] = ()
    """What may have been misread, one sentence or more each."""
    label: str = "The image"
    """The name of the image in messages."""


def to_rgb(image: ImageLike, max_pixels: int = MAX_PIXELS, bits: int | None = None) -> RGB:
    """Decode an image as :func:`decode` does, and log its warnings."""
    decoded = decode(image, max_pixels, bits)
    for warning in decoded.warnings:
        logger.warning("%s: %s", decoded.label, warning)
    return decoded.rgb


def decode(
    image: ImageLike | Decoded, max_pixels: int = MAX_PIXELS, bits: int | None = None
) -> Decoded:
    """Decode an image of any accepted kind into a new array of uint8 (H, W, 3), RGB in C order.

    Files are turned upright by their EXIF orientation, PIL images are taken as they are. Colours
    with an embedded profile are converted to sRGB. Files of more than `max_pixels` are rejected
    before they are decoded, since a small one can unpack to any size. `bits` is the number of
    significant bits in 16-bit images. What is decoded already is returned.
    """
    reading = Reading(max_pixels, check_bits(bits))
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    if is_source(image):
        with open_source(image) as (stream, label):
            reading.label = label
            rgb = _read_file(stream, reading)
    elif isinstance(image, Image.Image):
        reading.label = "The PIL image"
        _check_opened(image)
        with _complaints_of(reading):
            rgb = from_pil(image, reading)
    elif isinstance(image, np.ndarray):
        reading.label = "The array"
        rgb = from_array(image, reading)
    elif torch is not None and isinstance(image, torch.Tensor):
        reading.label = "The tensor"
        rgb = from_tensor(image, reading)
    elif isinstance(image, Decoded):
        check_size(image.rgb.shape[1], image.rgb.shape[0], "The photograph", max_pixels)
        return image
    else:
        raise ImageError(
            f"An image cannot be a {type(image).__name__}. Accepted are a path, the bytes of an "
            f"image file, a binary file object, a PIL image, a NumPy array (H, W, 3) RGB, "
            f"(H, W, 4) RGBA or (H, W) grey, and a torch tensor (3, H, W) or (H, W)."
        )
    return Decoded(rgb, tuple(reading.warnings), reading.label)


def is_source(image: Any) -> bool:
    """Whether an image is a file: a path, its content, or a file object."""
    is_path_or_content = isinstance(image, (str, os.PathLike, bytes, bytearray, memoryview))
    return is_path_or_content or hasattr(image, "read")


def is_single(images: Any) -> bool:
    """Whether what should be several images is one: a batch (N, H, W, C) counts as several."""
    is_array = hasattr(images, "ndim") and hasattr(images, "dtype")
    if is_array:
        return bool(images.ndim < 4)
    return is_source(images) or isinstance(images, (Image.Image, Decoded))


def check_bits(bits: int | None) -> int | None:
    """Return the number of bits, or None; raise OptionError for anything else."""
    allowed = "an integer from 8 to 16, or None"
    return None if bits is None else check_integer("bits", bits, 8, 16, allowed)


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


@contextlib.contextmanager
def open_source(source: Any) -> Iterator[tuple[IO[bytes], str]]:
    """Open an image file, and give the name that messages call it by.

    The stream can be rewound: pipes and the caller's own file objects are read whole first.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
        yield (
            io.BytesIO(content),
            f"the {len(content)} bytes given" if content else "what was given",
        )
    elif isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        with _open_path(name) as stream:
            yield stream, repr(name)
    else:
        name = getattr(source, "name", None)
        label = f"the file object {name!r}" if isinstance(name, str) else "the file object given"
        try:
            content = source.read()
        except Exception as error:  # a caller's object can raise anything
            raise ImageError(f"{label} cannot be read: {error}.") from error
        if not isinstance(content, (bytes, bytearray, memoryview)):
            kind = type(content).__name__
            raise ImageError(f"{label} returns {kind}; open it in binary mode, 'rb'.")
        yield io.BytesIO(content), label


def _open_path(name: str) -> IO[bytes]:
    """Open the image file at a path."""
    if re.match(r"[a-z][a-z0-9+.-]+:/", name, re.IGNORECASE):
        raise ImageError(
            f"{name!r} is an address. Addresses are not read here; download the image first."
        )
    if is_folder(name):
        raise ImageError(
            f"{name!r} is a folder; an image file is needed. For all images of a folder: "
            f"model.segment_many(sorted(Path({name!r}).glob('*.jpg')))."
        )
    path = Path(name)
    try:
        stream = path.open("rb")
        if stream.seekable():
            return stream
        with stream:
            return io.BytesIO(stream.read())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no image {name!r}.{windows_hint(path)}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name!r} cannot be opened: {reason}.") from error


@contextlib.contextmanager
def _complaints_of(reading: Reading) -> Iterator[None]:
    """Warn of what a decoder complains of."""
    with collect_complaints() as complaints:
        yield
    for complaint in dict.fromkeys(complaints):
        reading.warn(f"may be damaged. Its decoder says: {complaint.strip()}")


def _read_file(stream: IO[bytes], reading: Reading) -> RGB:
    """Decode an image file; once more without metadata if that fails."""
    try:
        head = stream.read(132)
        if not head:
            raise ImageError(f"{reading.label} is empty.")
        with _complaints_of(reading):
            if is_dicom(head):
                return _read_dicom(stream, reading)
            try:
                return _read_picture(stream, reading)
            except VesselsegError:
                raise
            except Exception:  # bytes from outside can make a decoder raise anything
                plain_content = without_metadata(stream, 16 * reading.max_pixels)
                if plain_content is None:
                    raise
                # The first error says what is wrong with a file that is damaged elsewhere, too.
                with contextlib.suppress(Exception):
                    rgb = _read_picture(io.BytesIO(plain_content), reading)
                    reading.warn(
                        "has damaged metadata, which was left out: it is not turned upright, and "
                        "its colours are taken as sRGB."
                    )
                    return rgb
                raise
    except VesselsegError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{reading.label} could not be decoded: {error}.") from error
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ImageError(
            f"{reading.label} could not be decoded: {reason}. It may be truncated, damaged or no "
            f"image."
        ) from error


def _read_picture(stream: IO[bytes], reading: Reading) -> RGB:
    """Decode a file of a format in the table; whatever a decoder raises is passed on."""
    layout = None
    stream.seek(0)
    if is_tiff(stream.read(4)):
        layout = tiff.Layout(tiff.read_tags(stream))
        check_size(layout.width, layout.height, reading.label, reading.max_pixels)
        reason = layout.why_rejected()
        if reason:
            raise ImageError(f"{reading.label} {reason}")
        if layout.needs_tifffile(reading.bits):
            return _read_with_tifffile(stream, layout, reading)
    try:
        opening = open_picture(stream, (), reading.max_pixels, reading.label)
    except UnidentifiedImageError:
        if layout is None:
            raise
        return _read_with_tifffile(stream, layout, reading)
    with opening as opened:
        pages = getattr(opened, "n_frames", 1)
        has_16_bits = any(";16" in str(tile[3]) for tile in opened.tile)
        load_whole(opened, stream)
    if opened.format in ("JPEG", "MPO") and is_overwritten(stream):
        reading.warn("is damaged: a large part of its file is one byte, repeated.")
    _warn_of_pages(pages, opened.mode, reading)
    gamma = opened.info.get("gamma")
    has_space = "icc_profile" in opened.info or "srgb" in opened.info
    if gamma and not has_space and not 0.4 < gamma < 0.52:  # sRGB is 1 / 2.2
        reading.warn(f"declares a gamma of {gamma:g}, which is not applied.")
    if layout is not None:
        depth = max(layout.bits)
        if reading.bits is None and 8 < depth < 16:
            reading.bits = depth
        if layout.photometric is None:
            reading.warn("does not say whether 0 is black or white. White was assumed.")
    upright = _turn_upright(opened, reading)
    upright.format = opened.format
    if has_16_bits and upright.mode in ("RGB", "RGBA"):
        _check_reduced(np.asarray(upright), reading)
        reading.bits = None
    if layout is not None and layout.is_negative:
        positive = tiff.invert(np.asarray(upright))
        return to_srgb(from_array(positive, reading), opened.info.get("icc_profile"), reading)
    return from_pil(upright, reading)


def _read_with_tifffile(stream: IO[bytes], layout: tiff.Layout, reading: Reading) -> RGB:
    """Decode a TIFF file that Pillow reads wrongly."""
    values = tiff.read(stream, layout, reading.label, reading.max_pixels)
    if layout.is_composite:
        reading.warn("is an ImageJ file of 3 channels, which were read as red, green and blue.")
    rgb = from_array(values, reading)
    if layout.orientation in _TURNS:
        rgb = np.array(Image.fromarray(rgb).transpose(_TURNS[layout.orientation]))
    return to_srgb(rgb, layout.color_profile, reading)


def _read_dicom(stream: IO[bytes], reading: Reading) -> RGB:
    """Decode the photograph in a DICOM file, which says itself how many bits it uses."""
    from . import dicom  # most photographs need nothing of it

    photograph = dicom.open_photograph(stream, reading.label)
    check_size(photograph.width, photograph.height, reading.label, reading.max_pixels)
    values, depth = dicom.decode(photograph, reading.label)
    _warn_of_pages(photograph.pages, "", reading)
    reading.bits = reading.bits or depth
    return to_srgb(from_array(values, reading), photograph.color_profile, reading)


def _warn_of_pages(pages: int, mode: str, reading: Reading) -> None:
    """Warn that only the first page of a file, or frame of a DICOM file, is used."""
    if pages > 1:
        reading.warn(f"has {pages} pages; the first is used.")
    if pages == 3 and mode in ("L", "I", "F", "I;16", "I;16B"):
        reading.warn(
            "may have the red, green and blue of a photograph in its 3 pages. If so, merge them "
            "into one RGB picture."
        )


def _turn_upright(image: Image.Image, reading: Reading) -> Image.Image:
    """Turn an image by its EXIF orientation."""
    try:
        exif = image.getexif()
        orientation = exif.get(ExifTags.Base.Orientation)
        is_adobe_rgb = exif.get_ifd(ExifTags.IFD.Interop).get(1) == "R03"
    except Exception:  # metadata from outside can make Pillow raise anything
        reading.warn("has damaged EXIF data: it is not turned upright.")
        return image
    if is_adobe_rgb and "icc_profile" not in image.info:
        reading.warn("has the colours of Adobe RGB, but no profile. They are taken as sRGB.")
    if orientation not in _TURNS:
        return image
    return image.transpose(_TURNS[orientation])


def _check_reduced(values: NDArray[np.uint8], reading: Reading) -> None:
    """Warn or raise if Pillow's reduction of a 16-bit RGB file to 8 bits left hardly any."""
    advice = (
        "Scale its values to the whole range of 16 bits; or, in Python, read it with tifffile or "
        "OpenCV, and pass the array and its bits."
    )
    if reading.bits not in (None, 16):
        raise ImageError(
            f"{reading.label} is a 16-bit RGB file, of which Pillow keeps the upper 8 bits; "
            f"{reading.bits} bits cannot be taken from it. {advice}"
        )
    if 0 < values[..., :3].max() < 64:
        reading.warn(
            f"is a 16-bit RGB file whose values end below 2 ** 14. It seems to use fewer bits, and "
            f"is read as a very dark photograph. {advice}"
        )


def _check_opened(image: Image.Image) -> None:
    """Raise ImageError if a PIL image's file is in another format and not decoded yet.

    Pillow decodes a file when its pixels are first used, which would be in our hands.
    """
    if isinstance(image, TiffImageFile):
        layout = tiff.Layout(image.tag_v2)
        if layout.why_rejected() or layout.needs_tifffile(None) or layout.is_negative:
            raise ImageError(
                "The PIL image comes from a TIFF file that Pillow misreads. Pass the file."
            )
    # "MPO" is what Pillow calls a JPEG file with several pictures.
    if not isinstance(image, ImageFile.ImageFile) or image.format in (*READABLE, "MPO"):
        return
    try:
        is_decoded = not image.tile and image.im is not None
    except Exception:  # Pillow raises if there are no pixels yet
        is_decoded = False
    if not is_decoded:
        raise ImageError(
            f"The PIL image was opened from a file in the format {image.format}, which vesselseg "
            f"does not decode. Formats that are read: {', '.join(formats_with_endings())}. If you "
            f"trust the file, decode it yourself: pass image.convert('RGB'), or an array."
        )
