"""The image formats that are read: one table, and what other files are told by.

To read another format, add a row to `READABLE`. It must be one that Pillow decodes by itself:
EPS, for example, would start Ghostscript.
"""

from __future__ import annotations

import re

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

_EXTRACT = "Export the photograph from it, for example as PNG"
_UNPACK = "Unpack it first"
_DEVELOP = "Develop it with the camera's software or rawpy, and save it as PNG or TIFF"
_EXPORT = "Export the fundus photograph from the device's software, as DICOM, PNG or TIFF"
_HEIF = (
    "Convert it to JPEG or PNG; or, in Python, install pillow-heif, call "
    "pillow_heif.register_heif_opener(), and pass PIL.Image.open(file).convert('RGB')"
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
    (rb"\x93NUMPY", "NumPy array", "In Python, pass numpy.load(file)"),
    (rb"\x89HDF|MATLAB |\x5c\x01\0\0", "file of scientific data (HDF5, MATLAB, NIfTI)",
     "In Python, read it with its own library, and pass the array"),
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


def describe_unknown(head: bytes, note: str) -> str:
    """Why a file that begins so is not read, and what to do; the note is on the formats."""
    formats = f"the formats that vesselseg reads: {', '.join(formats_with_endings())}{note}"
    for pattern, kind, advice in _OTHERS:
        if re.match(pattern, head, re.DOTALL):
            return f"it is a {kind}, which is in none of {formats}. {advice}"
    return (
        f"it is in none of {formats}. Convert it, for example to PNG; or, in Python, decode it "
        f"yourself and pass the array. It may also be truncated, damaged or no image"
    )
