"""Any photograph that vesselseg accepts -> uint8 RGB of shape (H, W, 3)."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias, Union, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from . import tiff
from .color import convert_to_srgb
from .errors import ImageError, MissingExtraError, OptionError
from .formats import MAX_PIXELS as MAX_PIXELS
from .formats import (
    READABLE,
    check_local,
    check_size,
    collect_complaints,
    formats_with_endings,
    is_dicom,
    is_overwritten,
    is_tiff,
    open_picture,
    without_metadata,
)
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
_ROUNDING = 1e-3  # of floats beyond [0, 1]: a quarter of a step of 255
_ORIENTATION, _INTEROPERABILITY = 0x0112, 0xA005  # EXIF
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


def to_rgb(
    image: ImageLike | Decoded, max_pixels: int = MAX_PIXELS, bits: int | None = None
) -> RGB:
    """Decode an image as :func:`decode` does, and log its warnings."""
    decoded = decode(image, max_pixels, bits)
    log_warnings(decoded, logger)
    return decoded.rgb


def log_warnings(decoded: Decoded, logger: logging.Logger) -> None:
    """Log the warnings about an image with its name."""
    for warning in decoded.warnings:
        logger.warning("%s: %s", decoded.label, warning)


def decode(
    image: ImageLike | Decoded, max_pixels: int = MAX_PIXELS, bits: int | None = None
) -> Decoded:
    """Decode an image of any accepted kind into a new array of uint8 (H, W, 3), RGB in C order.

    Files are turned upright by their EXIF orientation, PIL images are taken as they are. Colours
    with an embedded profile are converted to sRGB. Files of more than `max_pixels` are rejected
    before they are decoded, since a small one can unpack to any size. `bits` is the number of
    significant bits in 16-bit images. What is decoded already is returned.
    """
    if isinstance(image, Decoded):
        check_size(image.rgb.shape[1], image.rgb.shape[0], "The photograph", max_pixels)
        return image
    reader = _Reader(max_pixels, check_bits(bits))
    rgb = reader.read(image)
    return Decoded(rgb, tuple(reader.warnings), reader.label)


def is_single(images: Any) -> bool:
    """Whether what should be several images is one: a batch (N, H, W, C) counts as several."""
    if isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, Decoded)):
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


class _Reader:
    """Reads one image, and collects what is to be said about it."""

    def __init__(self, max_pixels: float, bits: int | None) -> None:
        self.max_pixels = max_pixels
        self.bits = bits
        self.label = ""
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        """Add a sentence about the image. It has no name, since results keep it."""
        self.warnings.append(f"The image {text}")

    def read(self, image: ImageLike) -> RGB:
        """Decode an image of any accepted kind."""
        if isinstance(image, Image.Image):
            self.label = "The PIL image"
            check_size(image.width, image.height, self.label, self.max_pixels)
            with collect_complaints() as complaints:
                rgb = self._from_pil(_check_opened(image, self.label), image.format)
            return self._pass_on(complaints, rgb)
        if isinstance(image, (str, os.PathLike)):
            return self._from_path(os.fspath(image))
        if isinstance(image, (bytes, bytearray, memoryview)):
            content = bytes(image)
            self.label = f"the {len(content)} bytes given"
            return self._from_file(io.BytesIO(content))
        if isinstance(image, np.ndarray):
            self.label = "The array"
            return self._from_array(image)
        torch = sys.modules.get("torch")  # whoever has a tensor has imported it
        if torch is not None and isinstance(image, torch.Tensor):
            self.label = "The tensor"
            return self._from_tensor(image)
        if hasattr(image, "read"):
            return self._from_object(cast("IO[bytes]", image))
        raise ImageError(
            f"An image cannot be a {type(image).__name__}. Accepted are a path, the bytes of an "
            f"image file, a binary file object, a PIL image, a NumPy array (H, W, 3) RGB, "
            f"(H, W, 4) RGBA or (H, W) grey, and a torch tensor (3, H, W) or (H, W)."
        )

    def _pass_on(self, complaints: list[str], rgb: RGB) -> RGB:
        """Warn of what a decoder has complained of; return the pixels."""
        for complaint in dict.fromkeys(complaints):
            self.warn(f"may be damaged. Its decoder says: {complaint.strip()}")
        return rgb

    def _from_path(self, name: str) -> RGB:
        """Decode a file; pipes and other files that cannot be rewound are read whole first."""
        self.label = label = repr(name)
        check_local(name)
        path = Path(name)
        try:
            if path.is_dir():
                raise ImageError(
                    f"{label} is a folder; an image file is needed. For all images of a folder: "
                    f"model.segment_many(sorted(Path({label}).glob('*.jpg')))."
                )
            with path.open("rb") as stream:
                whole = stream if stream.seekable() else io.BytesIO(stream.read())
                return self._from_file(whole)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"There is no image {label}.") from error
        except ImageError:
            raise
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ImageError(f"{label} cannot be opened: {reason}.") from error

    def _from_object(self, source: IO[bytes]) -> RGB:
        """Decode what a file object holds."""
        name = getattr(source, "name", None)
        self.label = (
            f"the file object {name!r}" if isinstance(name, str) else "the file object given"
        )
        try:
            content = source.read()
        except Exception as error:  # a caller's object can raise anything
            raise ImageError(f"{self.label} cannot be read: {error}.") from error
        if not isinstance(content, (bytes, bytearray, memoryview)):
            kind = type(content).__name__
            raise ImageError(f"{self.label} returns {kind}; open it in binary mode, 'rb'.")
        return self._from_file(io.BytesIO(content))

    def _from_file(self, stream: IO[bytes]) -> RGB:
        """Decode the content of an image file."""
        head = stream.read(132)
        stream.seek(0)
        if not head:
            raise ImageError(f"{self.label} is empty.")
        with collect_complaints() as complaints:
            rgb = self._from_dicom(stream) if is_dicom(head) else self._from_picture(stream)
        return self._pass_on(complaints, rgb)

    def _from_picture(self, stream: IO[bytes]) -> RGB:
        """Decode a file of a format in the table; once more without metadata if that fails."""
        try:
            try:
                return self._load(stream)
            except (ImageError, MissingExtraError):
                raise
            except Exception:  # bytes from outside can make a decoder raise anything
                plain_content = without_metadata(stream, 16 * self.max_pixels)
                if plain_content is None:
                    raise
                # The first error says what is wrong with a file that is damaged elsewhere, too.
                with contextlib.suppress(Exception):
                    rgb = self._load(io.BytesIO(plain_content))
                    self.warn(
                        "has damaged metadata, which was left out: it is not turned upright, and "
                        "its colours are taken as sRGB."
                    )
                    return rgb
                raise
        except (ImageError, MissingExtraError):
            raise
        except UnidentifiedImageError as error:
            raise ImageError(f"{self.label} could not be decoded: {error}.") from error
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise ImageError(
                f"{self.label} could not be decoded: {reason}. It may be truncated, damaged or no "
                f"image."
            ) from error

    def _load(self, stream: IO[bytes]) -> RGB:
        """Decode a file; whatever a decoder raises is passed on."""
        layout = None
        stream.seek(0)
        if is_tiff(stream.read(4)):
            layout = tiff.Layout(tiff.read_tags(stream))
            check_size(layout.width, layout.height, self.label, self.max_pixels)
            reason = layout.why_rejected()
            if reason:
                raise ImageError(f"{self.label} {reason}")
            if layout.needs_tifffile(self.bits):
                return self._from_tifffile(stream, layout)
        try:
            opening = open_picture(stream, (), self.max_pixels, self.label)
        except UnidentifiedImageError:
            if layout is None:
                raise
            return self._from_tifffile(stream, layout)
        with opening as opened:
            pages = getattr(opened, "n_frames", 1)
            has_16_bits = any(";16" in str(tile[3]) for tile in opened.tile)
            _load_whole(opened, stream)
        if opened.format in ("JPEG", "MPO") and is_overwritten(stream):
            self.warn("is damaged: a large part of its file is one byte, repeated.")
        self._warn_of_pages(pages, opened.mode)
        self._warn_of_colors(opened.info)
        if layout is not None:
            depth = max(layout.bits)
            if self.bits is None and 8 < depth < 16:
                self.bits = depth
            if layout.photometric is None:
                self.warn("does not say whether 0 is black or white. White was assumed.")
        upright = self._turn_upright(opened)
        if has_16_bits and upright.mode in ("RGB", "RGBA"):
            _check_reduced(np.asarray(upright), self)
            self.bits = None
        is_negative = layout is not None and layout.is_negative
        return self._from_pil(upright, opened.format, is_negative=is_negative)

    def _from_tifffile(self, stream: IO[bytes], layout: tiff.Layout) -> RGB:
        """Decode a TIFF file that Pillow reads wrongly."""
        values = tiff.read(stream, layout, self.label, self.max_pixels)
        if layout.is_composite:
            self.warn("is an ImageJ file of 3 channels, which were read as red, green and blue.")
        image = Image.fromarray(self._from_array(values))
        self.bits = None
        image.info.update(layout.color_profile())
        image.getexif()[_ORIENTATION] = layout.orientation
        return self._from_pil(self._turn_upright(image), None)

    def _from_dicom(self, stream: IO[bytes]) -> RGB:
        """Decode the photograph in a DICOM file, which says itself how many bits it uses."""
        from . import dicom  # most photographs need nothing of it

        photograph = dicom.open_photograph(stream, self.label)
        check_size(photograph.width, photograph.height, self.label, self.max_pixels)
        values, depth = dicom.decode(photograph, self.label)
        self._warn_of_pages(photograph.pages, "")
        self.max_pixels, self.bits = math.inf, self.bits or depth
        return self._to_srgb(self._from_array(values), photograph.color_profile)

    def _warn_of_pages(self, pages: int, mode: str) -> None:
        """Warn that only the first page of a file, or frame of a DICOM file, is used."""
        if pages > 1:
            self.warn(f"has {pages} pages; the first is used.")
        if pages == 3 and mode in ("L", "I", "F", "I;16", "I;16B"):
            self.warn(
                "may have the red, green and blue of a photograph in its 3 pages. If so, read them "
                "with tifffile, and pass one array (H, W, 3)."
            )

    def _warn_of_colors(self, info: dict[Any, Any]) -> None:
        """Warn of colours that a file declares otherwise than by a profile."""
        gamma = info.get("gamma")
        has_space = "icc_profile" in info or "srgb" in info
        if gamma and not has_space and not 0.4 < gamma < 0.52:  # sRGB is 1 / 2.2
            self.warn(f"declares a gamma of {gamma:g}, which is not applied.")

    def _turn_upright(self, image: Image.Image) -> Image.Image:
        """Turn an image by its EXIF orientation."""
        try:
            exif = image.getexif()
            orientation = exif.get(_ORIENTATION)
            is_adobe_rgb = exif.get_ifd(_INTEROPERABILITY).get(1) == "R03"
        except Exception:  # metadata from outside can make Pillow raise anything
            self.warn("has damaged EXIF data: it is not turned upright.")
            return image
        if is_adobe_rgb and "icc_profile" not in image.info:
            self.warn("has the colours of Adobe RGB, but no profile. They are taken as sRGB.")
        if orientation not in _TURNS:
            return image
        return image.transpose(_TURNS[orientation])

    def _from_pil(
        self, image: Image.Image, file_format: str | None, *, is_negative: bool = False
    ) -> RGB:
        """Convert a PIL image of any mode; `file_format` is that of the file it comes from."""
        mode = image.mode
        profile = image.info.get("icc_profile")
        if mode == "LAB":
            raise ImageError(f"{self.label} has the PIL mode 'LAB'. Convert it to RGB first.")
        try:
            if mode == "La":  # PIL converts premultiplied grey to LA only
                image = image.convert("LA")
            if mode == "CMYK" and profile:
                image, profile = self._convert_profile(image, profile), None
            if not mode.startswith(("F", "I")):
                image = image.convert("RGBA" if image.has_transparency_data else "RGB")
            values = np.asarray(image)
        except Exception as error:  # a lazily opened file is decoded now, and can raise anything
            raise ImageError(
                f"{self.label} cannot be converted from PIL mode {mode!r}: {error}."
            ) from error
        if mode == "I":  # older versions of Pillow open 16-bit files in this mode
            has_16_bits = file_format in ("PNG", "TIFF", "PPM")
            if not has_16_bits or np.any((values < 0) | (values > 65535)):
                raise ImageError(
                    f"{self.label} has the PIL mode 'I', whose values have no defined brightness. "
                    f"Convert it to RGB, or pass a NumPy array of {_DTYPES}."
                )
            values = values.astype(np.uint16)
        if is_negative:
            values = tiff.invert(values)
        return self._to_srgb(self._from_array(values), profile)

    def _to_srgb(self, rgb: RGB, profile: bytes | None) -> RGB:
        """Convert the colours of a profile to sRGB."""
        if not profile:
            return rgb
        image = Image.fromarray(rgb)
        is_grey = profile[16:20] == b"GRAY"
        given = image.getchannel(0) if is_grey else image
        converted = self._convert_profile(given, profile)
        return rgb if converted is given else np.array(converted)

    def _convert_profile(self, image: Image.Image, profile: bytes) -> Image.Image:
        """Convert an image to sRGB, or warn that it cannot be done."""
        converted, problem = convert_to_srgb(image, profile)
        if problem:
            self.warn(f"has a colour profile that cannot be used ({problem}).")
        return converted

    def _from_tensor(self, tensor: Tensor) -> RGB:
        """Convert a tensor (3, H, W) or (H, W)."""
        try:  # NumPy has no bfloat16
            values = tensor.float() if tensor.is_floating_point() else tensor
            array = values.numpy(force=True)
        except (TypeError, RuntimeError) as error:
            layout = "nested" if tensor.is_nested else tensor.layout
            kind = f"{tensor.dtype}, {layout}, on {tensor.device}"
            raise ImageError(
                f"A tensor of this kind cannot be used: {kind}. Allowed are dense tensors of "
                f"{_DTYPES}."
            ) from error
        shape = array.shape
        if array.ndim == 3 and shape[0] == 3:
            array = array.transpose(1, 2, 0)
        elif array.ndim != 2:
            raise ImageError(
                f"A tensor must be (3, H, W) or (H, W); this one is {shape}.{_shape_hint(shape)}"
            )
        return self._from_array(array)

    def _from_array(self, array: NDArray[Any]) -> RGB:
        """Convert an array (H, W, 3) RGB, (H, W, 4) RGBA, (H, W) or (H, W, 1) grey.

        uint16 of n bits becomes `round(255 * x / (2**n - 1))`, float is in [0, 1], and pixels of
        alpha 0 become black.
        """
        shape, label, bits = array.shape, self.label, self.bits
        if array.ndim < 2 or shape[2:] not in ((), (1,), (3,), (4,)):
            raise ImageError(
                f"{label} has the shape {shape}; it must be (H, W, 3) RGB, (H, W, 4) RGBA or "
                f"(H, W) grey.{_shape_hint(shape)}"
            )
        if 0 in shape:
            raise ImageError(f"{label} is empty: its shape is {shape}.")
        check_size(shape[1], shape[0], label, self.max_pixels)
        kind, values = array.dtype.kind, array
        is_uint16 = kind == "u" and array.dtype.itemsize == 2  # of either byte order
        if bits is not None and bits != 8 * array.dtype.itemsize and not is_uint16:
            raise ImageError(
                f"{label} has values of type {array.dtype}; bits={bits} is for uint16."
            )
        if is_uint16:
            most = int(array.max()) if shape[2:] != (4,) else int(array[..., :3].max())
            self._check_depth(most)
            full = 2 ** (bits or 16) - 1
            values = (array.astype(np.uint32) * 510 + full) // (2 * full)
        elif kind == "f":
            values = _scale_floats(array, label)
        elif array.dtype != np.uint8:
            in_range = kind in "iu" and array.min() >= 0 and array.max() <= 255
            hint = " If its values are 0 to 255, pass array.astype(np.uint8)." if in_range else ""
            raise ImageError(f"{label} has the type {array.dtype}; allowed are {_DTYPES}.{hint}")
        rgb = np.empty((*shape[:2], 3), np.uint8)
        rgb[:] = values.reshape(*shape[:2], -1)[..., :3]
        if shape[2:] == (4,):
            is_transparent = array[..., 3] == 0
            if is_transparent.all():
                self.warn("is transparent everywhere. Its transparency was ignored.")
            else:
                rgb[is_transparent] = 0
        return rgb

    def _check_depth(self, most: int) -> None:
        """Raise if 16-bit values exceed the bits; warn if they seem to use fewer than 16."""
        if self.bits is not None and most >= 2**self.bits:
            raise ImageError(
                f"{self.label} has values up to {most}, which {self.bits} bits do not hold."
            )
        likely = next((n for n in (8, 10, 12, 14) if most < 2**n), None)
        if self.bits is None and most and likely:
            self.warn(
                f"has 16-bit values that end at {most}, and is read as a very dark photograph. If "
                f"they use {likely} bits, pass bits={likely} (--bits {likely}); if it is that "
                f"dark, pass bits=16."
            )


def _load_whole(opened: ImageFile.ImageFile, stream: IO[bytes]) -> None:
    """Decode a file; EOFError if it is truncated, whatever ImageFile.LOAD_TRUNCATED_IMAGES is."""
    if ImageFile.LOAD_TRUNCATED_IMAGES and opened.format != "TIFF" and opened.fp is not None:
        opened.fp = cast("IO[bytes]", _Strict(stream))
    opened.load()


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


def _check_reduced(values: NDArray[np.uint8], reader: _Reader) -> None:
    """Warn or raise if Pillow's reduction of a 16-bit RGB file to 8 bits left hardly any."""
    advice = "Read it with tifffile or OpenCV, and pass the array with bits=..."
    if reader.bits not in (None, 16):
        raise ImageError(
            f"{reader.label} is a 16-bit RGB file, of which Pillow keeps the upper 8 bits; "
            f"bits={reader.bits} cannot be applied. {advice}"
        )
    if 0 < values[..., :3].max() < 64:
        reader.warn(
            f"is a 16-bit RGB file whose values end below 2 ** 14. It seems to use fewer bits, and "
            f"is read as a very dark photograph. {advice}"
        )


def _check_opened(image: Image.Image, label: str) -> Image.Image:
    """Return an image; raise ImageError if its file is in another format and not decoded yet.

    Pillow decodes a file when its pixels are first used, which would be in our hands.
    """
    if isinstance(image, TiffImageFile):
        layout = tiff.Layout(image.tag_v2)
        if layout.why_rejected() or layout.needs_tifffile(None) or layout.is_negative:
            raise ImageError(f"{label} comes from a TIFF file that Pillow misreads. Pass the file.")
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


class _Strict(io.BufferedIOBase):
    """A stream that raises EOFError where others return nothing."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int | None = -1, /) -> bytes:
        content = self._stream.read(-1 if size is None else size)
        if not content and size:
            raise EOFError("the file is truncated")
        return content

    def seek(self, position: int, whence: int = 0, /) -> int:
        return self._stream.seek(position, whence)

    def tell(self) -> int:
        return self._stream.tell()


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
