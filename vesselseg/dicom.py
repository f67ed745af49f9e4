"""Photographs stored as DICOM, and DICOM Segmentation objects (extra ``dicom``).

What a header says about a patient goes into Segmentation objects and nowhere else. Messages here
quote no header, and what pydicom says about a damaged one is not passed on.
"""

from __future__ import annotations

import io
import json
import logging
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import ImageError, require
from .formats import dicom_start, is_dicom

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydicom import Dataset

_PHOTOGRAPHS = {
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture",
    "1.2.840.10008.5.1.4.1.1.7.2": "Multi-frame Grayscale Byte Secondary Capture",
    "1.2.840.10008.5.1.4.1.1.7.3": "Multi-frame Grayscale Word Secondary Capture",
    "1.2.840.10008.5.1.4.1.1.7.4": "Multi-frame True Color Secondary Capture",
    "1.2.840.10008.5.1.4.1.1.77.1.4": "VL Photographic",
    "1.2.840.10008.5.1.4.1.1.77.1.5.1": "Ophthalmic Photography 8 Bit",
    "1.2.840.10008.5.1.4.1.1.77.1.5.2": "Ophthalmic Photography 16 Bit",
    "1.2.840.10008.5.1.4.1.1.77.1.5.5": "Wide Field Ophthalmic Photography Stereographic",
    "1.2.840.10008.5.1.4.1.1.77.1.5.6": "Wide Field Ophthalmic Photography 3D Coordinates",
}
"""SOP classes that are read (DICOM PS3.4, B.5)."""

_PLAIN = "1.2.840.10008.5.1.4.1.1.77.1.4"
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_LOSSLESS_JPEG = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_DECODERS = {
    "1.2.840.10008.1.2": "",  # not compressed
    "1.2.840.10008.1.2.1": "",
    "1.2.840.10008.1.2.2": "",
    "1.2.840.10008.1.2.5": "pydicom",  # RLE
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG
    "1.2.840.10008.1.2.4.51": "pillow",
    **dict.fromkeys(_LOSSLESS_JPEG, "pillow"),
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg",  # high-throughput JPEG 2000
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
}
"""Transfer syntax -> pydicom's decoder. It has gdcm too, whose errors can end the process."""
_GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_CHANNELS = ("Red", "Green", "Blue")
_LUT = "PaletteColorLookupTable"
_PIXEL_ELEMENTS = [
    "SOPClassUID", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows",
    "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "ICCProfile",
    "OpticalPathSequence",
    *(f"{color}{_LUT}{part}" for color in _CHANNELS for part in ("Data", "Descriptor")),
    *(f"Segmented{color}{_LUT}Data" for color in _CHANNELS),
]  # fmt: skip
_STUDY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
    "StudyDate", "StudyTime",
)  # fmt: skip
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_GROUPS = (0x0008, 0x0010, 0x0012, 0x0020, 0x0028)  # of patient, trial, study and pixel spacing
_THICKNESS = 1  # mm; a photograph has none, but highdicom reads no pixel spacing without it
_CYAN = (0, 220, 255)  # in which viewers show the vessels, as overlays do


@dataclass(frozen=True)
class _Photograph:
    """The header of a photograph, as far as its pixels need it."""

    header: Dataset
    transfer_syntax: str
    width: int
    height: int
    pages: int
    color_profile: bytes


def open_photograph(stream: IO[bytes], label: str) -> _Photograph:
    """Read the header of a photograph; ImageError if it is damaged or no photograph."""
    require("pydicom", "dicom")
    from pydicom import dcmread

    try:
        transfer_syntax = _text(_read_meta(stream), "TransferSyntaxUID")
        if transfer_syntax == _DEFLATED:  # pydicom would unpack it whole, to whatever size
            raise ImageError(
                f"{label} is a deflated DICOM file, which vesselseg does not read. Convert it, for "
                f"example with dcmconv of DCMTK."
            )
        stream.seek(0)
        header = dcmread(stream, force=True, specific_tags=[*_PIXEL_ELEMENTS])
        if not transfer_syntax:  # a file that begins with group 8 does not say it
            transfer_syntax = (
                "1.2.840.10008.1.2" if header.is_implicit_VR else "1.2.840.10008.1.2.1"
            )
        sop_class = _text(header, "SOPClassUID")
        if sop_class and sop_class not in _PHOTOGRAPHS:
            kind = "with a segmentation" if sop_class == _SEGMENTATION else "of another kind"
            raise ImageError(
                f"{label} is a DICOM file {kind}, not a photograph. These are read: "
                f"{', '.join(_PHOTOGRAPHS.values())}."
            )
        photograph = _Photograph(
            header=header,
            transfer_syntax=transfer_syntax,
            width=header.Columns,
            height=header.Rows,
            pages=int(_text(header, "NumberOfFrames") or 1),
            color_profile=_find_color_profile(header),
        )
        _check_pixels(photograph, label)
    except ImageError:
        raise
    except Exception:  # a header from outside can make pydicom raise anything
        raise ImageError(
            f"{label} is a DICOM file whose header cannot be read. It may be truncated or damaged."
        ) from None
    return photograph


def _read_meta(stream: IO[bytes]) -> Dataset:
    """The file meta information (PS3.10, 7.1)."""
    from pydicom.filereader import read_dataset

    stream.seek(0)
    stream.seek(dicom_start(stream.read(132)) or 0)
    return read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)


def _find_color_profile(header: Dataset) -> bytes:
    """The ICC profile of colours, or b"" (PS3.3, C.11.15)."""
    for dataset in (header, *header.get("OpticalPathSequence", ())):
        profile = dataset.get("ICCProfile")
        if profile:
            return bytes(profile)
    return b""


def _text(dataset: Dataset, keyword: str) -> str:
    """The text of an element as it is in the file, or ""; no converter warns by quoting it."""
    from pydicom.tag import Tag

    tag = Tag(keyword)
    value = dataset.get_item(tag).value if tag in dataset else b""
    return value.decode("ascii").strip(" \0") if isinstance(value, bytes) else str(value or "")


def _check_pixels(photograph: _Photograph, label: str) -> None:
    """Raise ImageError if the pixels are of a kind that photographs do not have."""
    header = photograph.header
    problem = ""
    if "PixelData" not in header:
        problem = "has no pixels"
    elif photograph.width < 1 or photograph.height < 1 or photograph.pages < 1:
        problem = "is empty"
    elif header.PhotometricInterpretation not in (_GREY if header.SamplesPerPixel == 1 else _COLOR):
        problem = f"has other colours than {', '.join(_GREY + _COLOR)}"
    elif header.BitsAllocated not in (8, 16) or not 8 <= header.BitsStored <= header.BitsAllocated:
        problem = "does not have 8 to 16 bits per value"
    elif header.PixelRepresentation != 0:
        problem = "has signed values"
    if problem:
        raise ImageError(f"{label} is a DICOM file that {problem}.")


def decode(photograph: _Photograph, label: str) -> tuple[NDArray[Any], int]:
    """Decode the first frame: values (H, W) or (H, W, 3), and the bits that they use."""
    from pydicom.pixels import apply_color_lut

    header = photograph.header
    bits = int(header.BitsStored)
    decoder = _DECODERS.get(photograph.transfer_syntax)
    if decoder is None or (decoder == "pillow" and bits > 8):
        raise ImageError(
            f"{label} is a DICOM file whose pixels are encoded in a way that vesselseg does not "
            f"read. Convert it, for example with dcmdjpeg of DCMTK."
        )
    try:
        values = _decode_frame(photograph, decoder)
        if header.PhotometricInterpretation == "PALETTE COLOR":
            values = apply_color_lut(values, header)
            bits = 8 * values.dtype.itemsize
        elif header.PhotometricInterpretation == "MONOCHROME1":
            values = values.dtype.type(2**bits - 1) - values
    except Exception:  # pixels from outside can make a decoder raise anything
        raise ImageError(
            f"{label} is a DICOM file whose pixels cannot be decoded. They may be truncated or "
            f"damaged."
        ) from None
    return values, bits


def _decode_frame(photograph: _Photograph, decoder: str) -> Any:
    """The first frame, grey or RGB. A frame that unpacks to another size is an error before."""
    import numpy as np
    from PIL import ImageFile
    from pydicom.encaps import get_frame
    from pydicom.pixels import pixel_array

    from .pictures import load_whole, open_picture  # the command looks here before it needs Pillow

    header = photograph.header
    header.file_meta.TransferSyntaxUID = photograph.transfer_syntax
    if decoder in ("", "pydicom"):
        return pixel_array(header, index=0, decoding_plugin=decoder)
    offsets = None
    if "ExtendedOffsetTable" in header:
        offsets = header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths
    frame = get_frame(
        header.PixelData, 0, number_of_frames=photograph.pages, extended_offsets=offsets
    )
    if decoder == "pyjpegls":  # Pillow does not know JPEG-LS
        start = 2
        while frame[start + 1] != 0xF7:  # the frame header, ISO 14495-1, C.2.2
            start += 2 + int.from_bytes(frame[start + 2 : start + 4], "big")
        height, width = struct.unpack(">HH", frame[start + 5 : start + 9])
        size = (width, height)
    else:
        stream = io.BytesIO(frame)
        opened = open_picture(stream, ("JPEG", "JPEG2000"))
        size = opened.size
    if size != (photograph.width, photograph.height):
        raise ValueError("The frame has another size than the header says.")
    if decoder == "pillow" and ImageFile.LOAD_TRUNCATED_IMAGES:
        load_whole(opened, stream)  # pydicom would take a truncated frame
    if photograph.transfer_syntax in _LOSSLESS_JPEG:
        return np.asarray(opened)
    return pixel_array(header, index=0, decoding_plugin=decoder)


def encode_segmentation(
    content: bytes, label: str, mask: NDArray[np.bool_], provenance: dict[str, Any]
) -> bytes:
    """A DICOM Segmentation object with a mask (PS3.3, A.51), which refers to its photograph.

    It has the patient's and the study's attributes, the laterality and the pixel spacing. The
    provenance is in the parameters of the algorithm.
    """
    photograph = open_photograph(io.BytesIO(content), label)
    require("highdicom", "dicom")
    if mask.shape != (photograph.height, photograph.width):
        raise ImageError(
            f"{label} has {photograph.width} x {photograph.height} pixels, and the mask has "
            f"{mask.shape[1]} x {mask.shape[0]}. Pass the photograph that was segmented."
        )
    try:
        return _segmentation_object(content, photograph, mask, provenance)
    except Exception:  # a header from outside can make both libraries raise anything
        raise ImageError(
            f"The header of {label} does not have what a Segmentation object needs: the UIDs of "
            f"study, series and instance, and text in a known character set."
        ) from None


def _segmentation_object(
    content: bytes, photograph: _Photograph, mask: NDArray[np.bool_], provenance: dict[str, Any]
) -> bytes:
    """The content of the file; see :func:`encode_segmentation`."""
    from highdicom import PixelMeasuresSequence
    from highdicom.seg import Segmentation
    from pydicom import config, dcmread
    from pydicom.uid import generate_uid

    header = dcmread(io.BytesIO(content), force=True, stop_before_pixels=True)
    attributes = _copy_valid(header)
    laterality = _text(header, "ImageLaterality") or _text(header, "Laterality")
    spacing = attributes.get("PixelSpacing")
    reference, uids = _stand_in(header, attributes)
    result = Segmentation(
        source_images=[reference],
        pixel_array=mask[None].astype("uint8"),
        segmentation_type="BINARY",
        segment_descriptions=[_describe_vessels(provenance, laterality)],
        series_instance_uid=generate_uid(prefix=None),
        series_number=1,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer="vesselseg",
        manufacturer_model_name=provenance["model"],
        software_versions=provenance["vesselseg"],
        device_serial_number=provenance["sha256"],
        content_label="VESSELS",
        content_description="Retinal vessels",
        series_description="Retinal vessels, vesselseg: research only",
        pixel_measures=PixelMeasuresSequence(spacing, _THICKNESS) if spacing else None,
    )
    if photograph.pages > 1:
        [frame] = result.PerFrameFunctionalGroupsSequence
        [image] = frame.DerivationImageSequence[0].SourceImageSequence
        image.ReferencedFrameNumber = 1
    attributes.SOPClassUID, attributes.SOPInstanceUID = result.SOPClassUID, result.SOPInstanceUID
    result.copy_patient_and_study_information(attributes)
    result.PatientOrientation = attributes.get("PatientOrientation")
    if laterality in ("R", "L"):
        result.ImageLaterality = laterality
    if "SpecificCharacterSet" in attributes:
        result.SpecificCharacterSet = attributes.SpecificCharacterSet
    for element in result.iterall():
        if element.VR == "UI" and element.value in uids:
            element.validation_mode = config.IGNORE
            element.value = uids[element.value]
    stream = io.BytesIO()
    result.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _stand_in(header: Dataset, attributes: Dataset) -> tuple[Dataset, dict[str, str]]:
    """What highdicom gets in place of the photograph, and the true UID for each that it has.

    highdicom logs the names and UIDs that it is given, and looks for volumes in multi-frame images.
    """
    from pydicom import Dataset
    from pydicom.uid import generate_uid

    reference = Dataset()
    reference.SOPClassUID = _PLAIN
    uids = {_PLAIN: _text(header, "SOPClassUID")}
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        uid = generate_uid(prefix=None)
        setattr(reference, keyword, uid)
        uids[uid] = _text(header, keyword)
    if not all(uids.values()):
        raise ValueError("A UID is missing.")
    for keyword in _STUDY:
        setattr(reference, keyword, "")
    for keyword in ("Rows", "Columns", *_LOSSY):
        if keyword in attributes:
            reference[keyword] = attributes[keyword]
    return reference, uids


def _describe_vessels(provenance: dict[str, Any], laterality: str) -> Dataset:
    """The segment: blood vessels of the retina, of the right or left eye, and their algorithm."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    algorithm = AlgorithmIdentificationSequence(
        name=f"vesselseg {provenance['model']}",
        family=codes.DCM.ArtificialIntelligence,
        version=provenance["vesselseg"],
    )
    algorithm[0].AlgorithmParameters = json.dumps(provenance)
    segment = SegmentDescription(
        segment_number=1,
        segment_label="Retinal vessels",
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.BloodVessel,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        anatomic_regions=[codes.SCT.Retina],
        display_color=CIELabColor.from_rgb(*_CYAN),
    )
    side = {"R": codes.SCT.Right, "L": codes.SCT.Left}.get(laterality)
    if side:
        [region] = segment.AnatomicRegionSequence
        region.AnatomicRegionModifierSequence = [CodedConcept.from_code(side)]
    return segment


def _copy_valid(dataset: Dataset) -> Dataset:
    """The elements that a Segmentation object can take over, without those that are not valid.

    pydicom warns of UIDs and numbers that are not valid by quoting them.
    """
    from pydicom import DataElement, Dataset, config
    from pydicom.datadict import dictionary_VR
    from pydicom.valuerep import validate_value

    valid = Dataset()
    for tag in dataset.keys():  # noqa: SIM118
        if tag.group not in _GROUPS:
            continue
        raw = dataset.get_item(tag)
        try:
            vr = raw.VR or dictionary_VR(tag)
            if vr in ("UI", "DS", "IS") and isinstance(raw.value, bytes):
                for part in raw.value.decode("ascii").strip(" \0").split("\\"):
                    validate_value(vr, part.strip(), config.RAISE)
            element = dataset[tag]
            if vr == "SQ":
                element = DataElement(tag, vr, [_copy_valid(item) for item in element.value])
            valid.add(element)
        except Exception:  # an element from outside can make pydicom raise anything
            continue
    return valid


def read_provenance(path: Path) -> dict[str, Any]:
    """The provenance in a Segmentation object that vesselseg wrote."""
    from pydicom import dcmread

    header = dcmread(path, specific_tags=["SegmentSequence"], stop_before_pixels=True)
    [segment] = header.SegmentSequence
    [algorithm] = segment.SegmentationAlgorithmIdentificationSequence
    provenance: dict[str, Any] = json.loads(algorithm.AlgorithmParameters)
    return provenance


def is_whole(path: Path) -> bool:
    """Whether a Segmentation object that vesselseg wrote has all of its pixels, of a bit each."""
    from pydicom import dcmread

    header = dcmread(path)
    return bool(8 * len(header.PixelData) >= header.Rows * header.Columns)


def is_photograph(path: Path) -> bool:
    """Whether a file in a folder is a DICOM photograph, by the class that it begins with.

    If that cannot be read, the name decides: segmenting the file then says why.
    """
    try:
        with path.open("rb") as stream:
            if is_dicom(stream.read(132)):
                return _text(_read_meta(stream), "MediaStorageSOPClassUID") in _PHOTOGRAPHS
    except Exception:  # damaged, or pydicom is missing
        pass
    return path.suffix.lower() == ".dcm"


def silence() -> None:
    """Keep pydicom and highdicom from quoting headers, in a process that is vesselseg's own."""
    for module in ("pydicom", "highdicom"):
        warnings.filterwarnings("ignore", module=module)
        logging.getLogger(module).setLevel(logging.CRITICAL)
