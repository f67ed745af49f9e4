"""DICOM files of drawn photographs."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pydicom.encaps
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import generate_uid

from .drawn import photograph

OPHTHALMIC = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
IMPLICIT = "1.2.840.10008.1.2"
NATIVE = "1.2.840.10008.1.2.1"  # Explicit VR Little Endian
BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
RLE = "1.2.840.10008.1.2.5"
SECRET = b"SECRET7"


def dataset(
    values: NDArray[Any],
    *,
    photometric: str = "",
    bits: int = 0,
    frames: int = 1,
    implicit: bool = False,
    **attributes: Any,
) -> Any:
    """A photograph (H, W), (H, W, 3), or with `frames`, (N, H, W, 3)."""
    shape = values.shape[1:] if frames > 1 else values.shape
    result = Dataset()
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = IMPLICIT if implicit else NATIVE
    result.SOPClassUID = OPHTHALMIC
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(result, keyword, generate_uid(entropy_srcs=[keyword]))
    result.Modality = "OP"
    result.NumberOfFrames = frames
    result.Rows, result.Columns = shape[:2]
    result.SamplesPerPixel = len(shape[2:]) * 2 + 1
    if shape[2:]:
        result.PlanarConfiguration = 0
    result.PhotometricInterpretation = photometric or ("RGB" if shape[2:] else "MONOCHROME2")
    result.BitsAllocated = 8 * values.dtype.itemsize
    result.BitsStored = bits or result.BitsAllocated
    result.HighBit = result.BitsStored - 1
    result.PixelRepresentation = 0
    result.PixelData = values.tobytes()
    for keyword, value in attributes.items():
        setattr(result, keyword, value)
    return result


def encapsulate(photograph: Any, transfer_syntax: str, *frames: bytes) -> Any:
    """Give a dataset encoded frames as its pixels; return it."""
    photograph.PixelData = pydicom.encaps.encapsulate(list(frames))
    photograph["PixelData"].VR = "OB"
    photograph.file_meta.TransferSyntaxUID = transfer_syntax
    return photograph


def encode(values: NDArray[np.uint8], file_format: str, **options: Any) -> bytes:
    """The content of a JPEG or JPEG 2000 file."""
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, file_format, **options)
    return stream.getvalue()


def content(photograph: Any) -> bytes:
    """The content of the DICOM file; what is not valid in it is written as it is."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        photograph.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def dicom_file(values: NDArray[Any], **options: Any) -> bytes:
    """The content of an uncompressed DICOM file; options as for :func:`dataset`."""
    return content(dataset(values, **options))


def secret_file() -> bytes:
    """A photograph that is as usual, but for a text in every element that can hold one."""
    source = dataset(photograph(1))
    used = {"SOPClassUID", "PhotometricInterpretation", "NumberOfFrames"}
    for number, (vr, _, _, _, keyword) in DicomDictionary.items():
        tag = Tag(number)
        is_text = vr in {
            "AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC",
            "UI", "UR", "UT",
        }  # fmt: skip
        if is_text and tag.group not in (0, 2, 4, 0xFFFE) and keyword not in used:
            source[tag] = RawDataElement(tag, vr, 8, SECRET + b" ", 0, False, True)
    source.SpecificCharacterSet = "ISO_IR 192"
    source.add_new(Tag(0x00090010), "LO", SECRET.decode())
    return content(source)
