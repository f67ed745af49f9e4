"""The image formats that are read: one table, and the one place that hands a file to Pillow.

To read another format, add a row to `READABLE`. It must be one that Pillow decodes by itself:
EPS, for example, would start Ghostscript.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import ImageFile

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
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def formats_with_endings() -> dict[str, tuple[str, ...]]:
    """All formats that are read, DICOM among them, and the endings of their files."""
    return {**READABLE, **_DICOM}


def endings() -> tuple[str, ...]:
    """The endings, in lower case, of the files that are taken from a folder."""
    return tuple(ending for row in formats_with_endings().values() for ending in row)


def open_picture(stream: IO[bytes], formats: Collection[str] = ()) -> ImageFile.ImageFile:
    """Open an image file with Pillow, which sees no decoder but those of `READABLE`.

    `formats` restricts it further, to some of the table's. Raises PIL.UnidentifiedImageError,
    whose message says what is read, for every other file, and whatever a decoder raises.
    """
    from PIL import Image, UnidentifiedImageError

    formats = tuple(formats or READABLE)
    try:
        try:
            return Image.open(stream, formats=formats)
        except KeyError:  # Pillow lacks one of them; those before 11.3 have no AVIF
            return Image.open(stream, formats=[name for name in formats if name in Image.OPEN])
    except UnidentifiedImageError as error:
        raise UnidentifiedImageError(_describe_unknown(stream)) from error


def is_dicom(head: bytes) -> bool:
    """Whether the first 132 bytes of a file are those of a DICOM file (PS3.10, 7.1)."""
    return head[128:132] == b"DICM"


def _describe_unknown(stream: IO[bytes]) -> str:
    """Why a file is not read, and what to do."""
    import PIL
    from PIL import Image

    stream.seek(0)
    head = stream.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return (
            "it is a HEIC file, which vesselseg does not read. Convert it to JPEG or PNG; or "
            "install pillow-heif, call pillow_heif.register_heif_opener(), and pass "
            "PIL.Image.open(file).convert('RGB')"
        )
    if head[:4] in (b"II*\0", b"MM\0*"):
        return (
            "Pillow does not read this kind of TIFF file. If it has 32-bit or float RGB values, "
            "read it with tifffile and pass the array: uint16, or float in [0, 1]"
        )
    missing = [name for name in READABLE if name not in Image.OPEN]
    lacks = f" (this Pillow, {PIL.__version__}, lacks {', '.join(missing)})" if missing else ""
    return (
        f"it is in none of the formats that vesselseg reads: "
        f"{', '.join(formats_with_endings())}{lacks}. Convert it, for example to PNG; or decode "
        f"it yourself and pass the array. It may also be truncated, damaged or no image"
    )
