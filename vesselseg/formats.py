"""The image formats that are read: one table, and the one place that hands a file to Pillow.

To read another format, add a row to `READABLE`. It must be one that Pillow decodes by itself:
EPS, for example, would start Ghostscript.
"""

from __future__ import annotations

import logging
import os
import re
import struct
import threading
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from .errors import ImageError

if TYPE_CHECKING:
    from PIL import ImageFile

MAX_PIXELS = 200_000_000  # default limit on the size of an image: 14,000 x 14,000

READABLE = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "WEBP": (".webp",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif", ".avifs"),
}
"""Pillow's name of each format that Pillow decodes for us -> the endings of its files."""

_DICOM = {"DICOM": (".dcm",)}  # decoded in dicom.py

_DICOM_ELEMENT = (
    rb"[\x02\x08]\x00.\x00(UL|OB|UI|CS|SH|LO|DA|TM)"  # group, number and kind of a value
    rb"|[\x02\x08]\x00.\x00[\x02-\x40]\x00\x00\x00"  # or its length
)

_LONG_RUN = 512  # bytes
_EXTRACT = "Export the photograph from it, for example as PNG"
_UNPACK = "Unpack it first"
_DEVELOP = "Develop it with the camera's software or rawpy, and save it as PNG or TIFF"
_EXPORT = "Export the fundus photograph from the device's software, as DICOM, PNG or TIFF"
_HEIF = (
    "Convert it to JPEG or PNG; or install pillow-heif, call pillow_heif.register_heif_opener(), "
    "and pass PIL.Image.open(file).convert('RGB')"
)
_OTHERS = (
    (rb".{4}ftyp(hei[cmsx]|hev[cx]|mif1|msf1)", "HEIC file", _HEIF),
    (rb".{4}ftypcrx|II\*\0.{4}CR|FUJIFILMCCD-RAW|II(RO|RS|U\0)|MMOR|FOVb|\0MRM",
     "raw file of a camera", _DEVELOP),
    (rb".{4}ftyp(?!avi[fs])|RIFF.{4}AVI |\x1aE\xdf\xa3", "video", _EXTRACT),
    (rb".{0,64}%PDF-", "PDF document", _EXTRACT),
    (rb"PK\x03\x04|PK\x05\x06|\x1f\x8b|Rar!|7z\xbc\xaf|BZh|\xfd7zXZ|.{257}ustar",
     "compressed file or an archive", _UNPACK),
    (rb"FOCTF", "Topcon file (.fda)", _EXPORT),
    (rb"CMDb|MDbM|HSF-(OCT|XXX)-", "Heidelberg file (.e2e, .vol)", _EXPORT),
    (rb"\x93NUMPY", "NumPy array", "Pass numpy.load(file)"),
    (rb"\x89HDF|MATLAB |\x5c\x01\0\0", "file of scientific data (HDF5, MATLAB, NIfTI)",
     "Read it with its own library, and pass the array"),
    (rb"8BPS", "Photoshop file", "Save it as PNG or TIFF"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL file", "Convert it to PNG"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript file", "Convert it to PNG"),
    (rb"version https://git-lfs", "Git LFS pointer, not the image itself", "Run git lfs pull"),
    (rb"(?i)\s*(<!doctype html|<html)", "web page", "Download the image itself"),
    (rb"(?i)\s*(<\?xml|<svg)", "XML or SVG file", "Convert it to PNG"),
)  # fmt: skip
"""What other files begin with, what they are, and what to do with them."""


def formats_with_endings() -> dict[str, tuple[str, ...]]:
    """All formats that are read, DICOM among them, and the endings of their files."""
    return {**READABLE, **_DICOM}


def endings() -> tuple[str, ...]:
    """The endings, in lower case, of the files that are taken from a folder."""
    return tuple(ending for row in formats_with_endings().values() for ending in row)


def check_local(path: str | os.PathLike[str]) -> None:
    """Raise ImageError if what should be a path is an address."""
    text = os.fspath(path)
    if re.match(r"[a-z][a-z0-9+.-]+:/", text, re.IGNORECASE):
        raise ImageError(
            f"{text!r} is an address. Addresses are not read here; download the image first."
        )


def check_size(width: int, height: int, label: str, max_pixels: float) -> None:
    """Raise ImageError if an image is larger than the limit."""
    if width * height > max_pixels:
        raise ImageError(
            f"{label} has {width} x {height} pixels; at most {max_pixels:,} are accepted. If it is "
            f"meant to be that large, raise the limit: load_model(..., max_pixels=...)."
        )


def open_picture(
    stream: IO[bytes],
    formats: Collection[str] = (),
    max_pixels: float = MAX_PIXELS,
    label: str = "The image",
) -> ImageFile.ImageFile:
    """Open an image file with Pillow, which sees no decoder but those of `READABLE`.

    `formats` restricts it further, to some of the table's. `max_pixels` is the limit, whatever
    PIL.Image.MAX_IMAGE_PIXELS is: ImageError above it. Raises PIL.UnidentifiedImageError, whose
    message says what is read, for every other file, and whatever a decoder raises.
    """
    from PIL import Image, UnidentifiedImageError

    Image.preinit()
    stream.seek(0)
    head = stream.read(16)
    for name in formats or READABLE:
        if name not in Image.OPEN:
            Image.init()
        if name not in Image.OPEN:  # Pillow before 11.3 has no AVIF
            continue
        opener, accepts = Image.OPEN[name]
        # What follows is PIL.Image.open without the limit that all users of Pillow share.
        if accepts is not None and accepts(head) is not True:
            continue
        stream.seek(0)
        try:
            opened = opener(stream, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
        check_size(opened.width, opened.height, label, max_pixels)
        if name == "TIFF" and Image.MAX_IMAGE_PIXELS is not None:
            _reserve_pixels(opened)
        return opened
    raise UnidentifiedImageError(_describe_unknown(stream))


def _reserve_pixels(opened: Any) -> None:
    """Give a large TIFF file its pixels, for which Pillow would apply its own limit."""
    from PIL import Image

    if opened.width * opened.height > Image.MAX_IMAGE_PIXELS:
        opened.im = Image.new(opened.mode, (opened.tag_v2[256], opened.tag_v2[257])).im


class _Complaints(logging.Filter):
    """What Pillow and tifffile warn of and log, in the threads that are decoding.

    Python's warning filters belong to the whole process, so they are changed when the first
    thread begins to decode and restored when the last one is done. Warnings of other modules and
    in other threads go where they went before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.said: dict[int, list[str]] = {}  # of each thread that is decoding
        self.caught = warnings.catch_warnings()

    def filter(self, record: logging.LogRecord) -> bool:
        said = self.said.get(threading.get_ident())
        if said is not None and record.levelno >= logging.WARNING:
            said.append(record.getMessage())
        return said is None

    def begin(self) -> list[str]:
        with self.lock:
            if not self.said:
                self.caught = warnings.catch_warnings()
                self.caught.__enter__()
                show = warnings.showwarning
                warnings.filterwarnings("always", module=r"PIL\.")

                def show_others(message: Any, category: Any, *place: Any, **options: Any) -> None:
                    said = self.said.get(threading.get_ident())
                    if said is None:
                        show(message, category, *place, **options)
                    elif "Bomb" not in category.__name__:  # `max_pixels` has decided
                        said.append(str(message))

                warnings.showwarning = show_others
                for name in _LOGGERS:
                    logging.getLogger(name).addFilter(self)
            return self.said.setdefault(threading.get_ident(), [])

    def end(self) -> None:
        with self.lock:
            del self.said[threading.get_ident()]
            if not self.said:
                self.caught.__exit__(None, None, None)
                for name in _LOGGERS:
                    logging.getLogger(name).removeFilter(self)


_LOGGERS = ("PIL.TiffImagePlugin", "tifffile")
_complaints = _Complaints()


@contextmanager
def collect_complaints() -> Iterator[list[str]]:
    """Collect what decoders warn of in this thread, instead of letting it through."""
    said = _complaints.begin()
    try:
        yield said
    finally:
        _complaints.end()


def without_metadata(stream: IO[bytes], most: float) -> bytes | None:
    """A PNG or JPEG file of at most so many bytes without its metadata; None for other files.

    Pixels, palette and transparency stay.
    """
    stream.seek(0)
    content = stream.read(int(min(most, 2**40)))
    kept, position = [], 0
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        kept, position = [content[:8]], 8
        while position + 8 <= len(content):
            length = int.from_bytes(content[position : position + 4], "big")
            name = content[position + 4 : position + 8]
            if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
                kept.append(content[position : position + length + 12])
            position += length + 12
        return b"".join(kept)
    if not content.startswith(b"\xff\xd8"):
        return None
    return b"".join(
        content[start:end]
        for start, end in _jpeg_segments(content)
        if not (content[start + 1] == 0xFE or 0xE1 <= content[start + 1] <= 0xED)
    )


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each part of a JPEG file; the last is its pixels with all that follows."""
    yield 0, 2
    start = 2
    while content[start : start + 1] == b"\xff" and content[start + 1 : start + 2] not in (
        b"",
        b"\xda",
    ):
        end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        yield start, end
        start = end
    if start + 1 < len(content):
        yield start, len(content)


def is_overwritten(stream: IO[bytes]) -> bool:
    """Whether a JPEG file repeats one byte in a tenth of its pixels, as damaged files do.

    libjpeg decodes such a file to something, and Pillow does not pass on its warnings.
    """
    import numpy as np

    stream.seek(0)
    content = stream.read()
    *_, (start, _) = _jpeg_segments(content)
    end = content.rfind(b"\xff\xd9")  # what follows is padding
    values = np.frombuffer(content, np.uint8)[start:end]
    changes = np.flatnonzero(values[1:] != values[:-1])
    longest = np.diff(changes, prepend=0, append=len(values)).max()
    return bool(longest > max(_LONG_RUN, len(values) / 10))


def is_tiff(head: bytes) -> bool:
    """Whether the first 4 bytes of a file are those of a TIFF file, or of a BigTIFF."""
    return head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_dicom(head: bytes) -> bool:
    """Whether the first 132 bytes of a file are those of a DICOM file (PS3.10, 7.1).

    Some files lack the preamble and begin with their first element, in group 2 or 8.
    """
    return dicom_start(head) is not None


def dicom_start(head: bytes) -> int | None:
    """Where the first element of a DICOM file begins, or None if it is none."""
    if head[128:132] == b"DICM":
        return 132
    begins = re.match(_DICOM_ELEMENT, head, re.DOTALL)
    return 0 if begins else None


def _describe_unknown(stream: IO[bytes]) -> str:
    """Why a file is not read, and what to do."""
    import PIL
    from PIL import Image

    stream.seek(0)
    head = stream.read(512)
    missing = [name for name in READABLE if name not in Image.OPEN]
    lacks = f" (this Pillow, {PIL.__version__}, lacks {', '.join(missing)})" if missing else ""
    formats = f"the formats that vesselseg reads: {', '.join(formats_with_endings())}{lacks}"
    for pattern, kind, advice in _OTHERS:
        if re.match(pattern, head, re.DOTALL):
            return f"it is a {kind}, which is in none of {formats}. {advice}"
    return (
        f"it is in none of {formats}. Convert it, for example to PNG; or decode it yourself and "
        f"pass the array. It may also be truncated, damaged or no image"
    )
