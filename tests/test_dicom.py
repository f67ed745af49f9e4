"""DICOM: photographs of every kind are read, and masks are written as Segmentation objects."""

from __future__ import annotations

import io
import logging
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from PIL import ImageFile
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.pixels import convert_color_space
from pydicom.tag import Tag
from support.dicom import (
    BASELINE,
    JPEG_2000,
    JPEG_LOSSLESS,
    JPEG_LS,
    RLE,
    SECRET,
    content,
    dataset,
    dicom_file,
    encapsulate,
    encode,
    secret_file,
)  # fmt: skip
from support.drawn import photograph
from support.models import GOLDENS, tiny_model
from support.profiles import SRGB, swapped_profile

from vesselseg import ImageError, MissingExtraError, OutputError, Segmentation, Segmenter
from vesselseg import dicom as dicom_module
from vesselseg.images import to_rgb
from vesselseg.result import read_dicom_source, read_provenance

pytestmark = pytest.mark.usefixtures("one_thread")

RGB = photograph(1)
GREY = RGB[..., 1].copy()
GREY_12 = GREY.astype(np.uint16) * 16  # 12 bits of 16
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def result(tiny: Segmenter) -> Segmentation:
    return tiny(RGB)


def compressed(transfer_syntax: str, values: np.ndarray = RGB) -> bytes:
    source = dataset(values)
    source.compress(transfer_syntax)
    return content(source)


def jpeg_lossless(values: np.ndarray) -> bytes:
    name = "grey" if values.ndim == 2 else "rgb"
    frame = (GOLDENS / f"jpeg-lossless-{name}.jpg").read_bytes()
    return content(encapsulate(dataset(values), JPEG_LOSSLESS, frame))


# Photographs


@pytest.mark.parametrize(
    "make",
    [
        dicom_file,
        lambda values: dicom_file(values, implicit=True),
        lambda values: compressed(RLE, values),
        lambda values: compressed(JPEG_LS, values),
        lambda values: compressed(JPEG_2000, values),
        jpeg_lossless,
    ],
    ids=["explicit", "implicit", "rle", "jpeg-ls", "jpeg-2000", "jpeg-lossless"],
)
@pytest.mark.parametrize("values", [RGB, GREY], ids=["rgb", "grey"])
def test_lossless_photographs_are_read_bit_for_bit(
    make: Callable[[np.ndarray], bytes], values: np.ndarray
) -> None:
    assert np.array_equal(to_rgb(make(values)), to_rgb(values))


@pytest.mark.parametrize(
    ("photometric", "options"),
    [
        ("YBR_FULL_422", {}),
        ("YBR_FULL", {"subsampling": 0}),
        pytest.param(
            "RGB", {}, marks=pytest.mark.filterwarnings("ignore:The .0028,0004.:UserWarning"),
            id="a file that says RGB, but has the JFIF marker",
        ),
    ],
)  # fmt: skip
def test_jpeg_photographs_have_the_colours_of_the_jpeg(
    photometric: str, options: dict[str, Any]
) -> None:
    jpeg = encode(RGB, "JPEG", quality=90, **options)
    file = content(encapsulate(dataset(RGB, photometric=photometric), BASELINE, jpeg))
    deviation = np.abs(to_rgb(file).astype(int) - to_rgb(jpeg))
    assert deviation.max() <= 4
    assert deviation.mean() < 1


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (dicom_file(255 - GREY, photometric="MONOCHROME1"), GREY),
        (dicom_file(GREY_12, bits=12), None),
        (dicom_file(4095 - GREY_12, bits=12, photometric="MONOCHROME1"), None),
        (dicom_file(GREY.astype(np.uint16) * 257), GREY),
        (dicom_file(RGB.astype(np.uint16) * 257), RGB),
        (dicom_file(RGB.astype(np.uint16), bits=8), RGB),
        (dicom_file(RGB.transpose(2, 0, 1).copy().reshape(RGB.shape), PlanarConfiguration=1), RGB),
    ],
    ids=["inverse", "12 bits", "inverse, 12 bits", "16 bits", "rgb, 16 bits", "8 in 16", "planes"],
)  # fmt: skip
def test_brightness_follows_the_header(file: bytes, expected: np.ndarray | None) -> None:
    rgb = to_rgb(file)
    if expected is None:
        expected = np.rint(GREY_12 * 255.0 / 4095).astype(np.uint8)
    assert np.array_equal(rgb, to_rgb(expected))


def test_palettes_and_ybr_become_rgb() -> None:
    ramp = np.arange(256, dtype=np.uint16) * 257
    palette = dataset(GREY, photometric="PALETTE COLOR")
    for channel, factor in (("Red", 1), ("Green", 0), ("Blue", 0)):
        name = f"{channel}PaletteColorLookupTable"
        setattr(palette, f"{name}Descriptor", [256, 0, 16])
        setattr(palette, f"{name}Data", (ramp * factor).tobytes())
    red = to_rgb(content(palette))
    assert np.array_equal(red[..., 0], GREY)
    assert not red[..., 1:].any()
    ybr = convert_color_space(RGB, "RGB", "YBR_FULL")
    rgb = to_rgb(dicom_file(ybr, photometric="YBR_FULL"))
    assert np.abs(rgb.astype(int) - RGB).max() <= 2


def test_the_first_frame_of_several_is_used_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    frames = np.stack([RGB, 255 - RGB])
    native = dataset(frames, frames=2)
    assert np.array_equal(to_rgb(content(native)), RGB)
    assert "has 2 pages; the first is used" in caplog.text
    native.compress(JPEG_2000)
    assert np.array_equal(to_rgb(content(native)), RGB)


def test_bits_of_the_caller_override_the_header() -> None:
    wrong, right = dicom_file(GREY_12, bits=16), dicom_file(GREY_12, bits=12)
    assert np.array_equal(to_rgb(wrong, bits=12), to_rgb(right))


def damaged(*, without: str = "", transfer_syntax: str = "", **attributes: Any) -> bytes:
    """A file with other attributes than the pixels have."""
    source = dataset(RGB)
    if without:
        del source[without]
    if transfer_syntax:
        source = encapsulate(source, transfer_syntax, encode(RGB, "JPEG"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in attributes.items():
            setattr(source, keyword, value)
    return content(source)


def larger(transfer_syntax: str) -> bytes:
    """A file whose pixels unpack to 81 times the size that the header has."""
    tiles = np.tile(RGB, (9, 9, 1))
    if transfer_syntax == BASELINE:
        source = encapsulate(dataset(tiles), BASELINE, encode(tiles, "JPEG"))
    else:
        source = dataset(tiles)
        source.compress(transfer_syntax)
    source.Rows, source.Columns = GREY.shape
    return content(source)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            damaged(SOPClassUID="1.2.840.10008.5.1.4.1.1.2"),
            "of another kind, not a photograph. The",
        ),
        (
            damaged(SOPClassUID="secret"),
            "of another kind, not a photograph. These are read: Second",
        ),
        (damaged(PixelRepresentation=1), "has signed values"),
        (damaged(BitsAllocated=32, BitsStored=32), "does not have 8 to 16 bits"),
        (damaged(BitsStored=1), "does not have 8 to 16 bits"),
        (damaged(PhotometricInterpretation="HSV"), "has other colours than MONOCHROME1, "),
        (damaged(SamplesPerPixel=1), "has other colours than MONOCHROME1, "),
        (damaged(Rows=0), "is empty"),
        (damaged(NumberOfFrames=-1), "is empty"),
        (damaged(without="Rows"), "header cannot be read"),
        (damaged(without="PixelData"), "has no pixels"),
        (damaged(Rows=99), "pixels cannot be decoded"),
        (damaged(transfer_syntax="1.2.840.10008.1.2.4.100"), "Convert it, .* dcmdjpeg"),
        (
            damaged().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"),
            "encoded in a way that vesselseg does not read",
        ),
        (
            content(encapsulate(dataset(GREY_12, bits=12), JPEG_LOSSLESS, b"\0\0")),
            "encoded in a way that vesselseg does not read",
        ),
        (larger(BASELINE), "pixels cannot be decoded"),
        (larger(JPEG_2000), "pixels cannot be decoded"),
        (larger(JPEG_LS), "pixels cannot be decoded"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_other_than_photographs_are_rejected_with_a_reason(file: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=f"bytes given is a DICOM file .*{said}") as caught:
        to_rgb(file)
    assert "secret" not in str(caught.value)


def test_deflated_and_truncated_files_and_segmentation_objects_are_rejected(
    result: Segmentation,
) -> None:
    source = dataset(RGB)
    source.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    with pytest.raises(ImageError, match=r"deflated DICOM file.*dcmconv"):
        to_rgb(content(source))
    file = dicom_file(RGB)
    for length in (132, 140, 300, 700, len(file) - 100):
        with pytest.raises(ImageError, match="is a DICOM file"):
            to_rgb(file[:length])
    with pytest.raises(ImageError, match="is a DICOM file with a segmentation"):
        to_rgb(segmentation(result, file))


@pytest.mark.parametrize("is_allowed", [False, True])
def test_truncated_frames_are_rejected_even_if_a_program_lets_pillow_load_them(
    is_allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", is_allowed)
    frame = encode(RGB, "JPEG")
    source = encapsulate(dataset(RGB, photometric="YBR_FULL_422"), BASELINE, frame)
    assert to_rgb(content(source)).shape == RGB.shape
    encapsulate(source, BASELINE, frame[:-200])
    with pytest.raises(ImageError, match="pixels cannot be decoded"):
        to_rgb(content(source))


def test_the_size_is_checked_before_pixels_are_decoded() -> None:
    source = dataset(RGB, Rows=60000, Columns=60000)
    with pytest.raises(ImageError, match="has 60000 x 60000 pixels; at most"):
        to_rgb(content(source))


@pytest.mark.parametrize("module", ["pydicom", "highdicom"])
def test_a_missing_package_is_named(
    module: str, monkeypatch: pytest.MonkeyPatch, result: Segmentation
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    file = dicom_file(RGB)
    with pytest.raises(MissingExtraError, match=rf"needs {module}, .*pip install .*\[dicom\]"):
        result.save_dicom(io.BytesIO(), file)
    if module == "pydicom":
        with pytest.raises(MissingExtraError, match="pydicom"):
            to_rgb(file)


class Stream(io.BytesIO):
    """It returns bytes of another kind."""

    def read(self, size: int | None = -1) -> Any:
        return bytearray(super().read(size))


def test_a_file_is_taken_in_every_form(result: Segmentation, tmp_path: Path) -> None:
    file = compressed(JPEG_LS)
    path = tmp_path / "IM000001"  # DICOM files often have no ending
    path.write_bytes(file)
    for given in (
        path, str(path), file, bytearray(file), memoryview(file), io.BytesIO(file), Stream(file)
    ):  # fmt: skip
        assert np.array_equal(to_rgb(given), RGB)
        written = io.BytesIO()
        result.save_dicom(written, given)  # also the stream that was just read
        assert pydicom.dcmread(io.BytesIO(written.getvalue())).Modality == "SEG"


# Segmentation objects


def segmentation(result: Segmentation, source: bytes) -> bytes:
    stream = io.BytesIO()
    result.save_dicom(stream, source)
    return stream.getvalue()


def patient_file(values: np.ndarray = RGB, **attributes: Any) -> bytes:
    return dicom_file(
        values,
        **{
            "PatientName": "Doe^Jane", "PatientID": "4711", "PatientBirthDate": "19700203",
            "PatientSex": "F", "StudyDate": "20260102", "StudyTime": "101112", "StudyID": "S1",
            "AccessionNumber": "A1", "ReferringPhysicianName": "Roe^Richard",
            "StudyDescription": "Both eyes", "PatientAge": "056Y", "ImageLaterality": "L",
            "PixelSpacing": [0.008, 0.009], "PatientOrientation": ["L", "F"],
            "LossyImageCompression": "01", "LossyImageCompressionRatio": 12,
            "LossyImageCompressionMethod": "ISO_10918_1", **attributes,
        },
    )  # fmt: skip


def test_highdicom_reads_the_mask_back(result: Segmentation, tmp_path: Path) -> None:
    source, target = tmp_path / "eye.dcm", tmp_path / "vessels.dcm"
    source.write_bytes(patient_file())
    result.save_dicom(target, source)
    back = highdicom.seg.segread(target)
    uid = dataset(RGB).SOPInstanceUID
    mask = back.get_pixels_by_source_instance([uid])[0, :, :, 0] > 0
    assert np.array_equal(mask, result.mask)
    assert mask.any()
    [segment] = back.SegmentSequence
    assert segment.SegmentLabel == "Retinal vessels"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Blood Vessel"
    assert segment.AnatomicRegionSequence[0].CodeMeaning == "Retina"
    assert read_provenance(target) == result.provenance
    with source.open("rb") as stream:
        again = io.BytesIO()
        result.save_dicom(again, stream)
    assert np.array_equal(pydicom.dcmread(io.BytesIO(again.getvalue())).pixel_array > 0, mask)


def test_the_object_has_the_attributes_of_patient_study_and_pixels(result: Segmentation) -> None:
    source = pydicom.dcmread(io.BytesIO(patient_file()))
    back = pydicom.dcmread(io.BytesIO(segmentation(result, patient_file())))
    for keyword in (
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyDate",
        "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription",
        "StudyInstanceUID", "ImageLaterality", "PatientOrientation", "LossyImageCompression",
        "LossyImageCompressionRatio", "LossyImageCompressionMethod",
    ):  # fmt: skip
        assert back[keyword].value == source[keyword].value, keyword
    [region] = back.SegmentSequence[0].AnatomicRegionSequence
    assert region.AnatomicRegionModifierSequence[0].CodeMeaning == "Left"
    [groups] = back.SharedFunctionalGroupsSequence
    assert groups.PixelMeasuresSequence[0].PixelSpacing == [0.008, 0.009]
    [series] = back.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    [reference] = series.ReferencedInstanceSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == source.SOPClassUID
    assert back.SeriesInstanceUID != source.SeriesInstanceUID
    assert back.Modality == "SEG"


def test_photographs_of_several_frames_and_empty_masks_are_written(result: Segmentation) -> None:
    frames = np.stack([RGB, RGB])
    back = pydicom.dcmread(io.BytesIO(segmentation(result, dicom_file(frames, frames=2))))
    [frame] = back.PerFrameFunctionalGroupsSequence
    [image] = frame.DerivationImageSequence[0].SourceImageSequence
    assert image.ReferencedFrameNumber == 1
    nothing = segmentation(result.at_threshold(1), dicom_file(RGB))
    assert not pydicom.dcmread(io.BytesIO(nothing)).pixel_array.any()


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 192", "Müller^Žofie"),
        ("ISO_IR 100", "Müller^Jürgen"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
    ],
)
def test_names_of_patients_keep_their_character_set(
    result: Segmentation, character_set: str | list[str], name: str
) -> None:
    source = dataset(RGB, SpecificCharacterSet=character_set, PatientName=name)
    back = pydicom.dcmread(io.BytesIO(segmentation(result, content(source))))
    assert str(back.PatientName) == name
    assert back.SpecificCharacterSet == source.SpecificCharacterSet


def set_raw(source: Any, keyword: str, value: bytes) -> None:
    """Give a dataset an element that need not be valid."""
    tag = Tag(keyword)
    source[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)


def test_invalid_elements_are_left_out_but_uids_are_kept(result: Segmentation) -> None:
    source = dataset(RGB, PatientID="4711")
    set_raw(source, "PixelSpacing", b"unknown\\unknown ")
    set_raw(source, "PatientWeight", b"heavy ")
    set_raw(source, "StudyInstanceUID", b"1.02.003")
    file = content(source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = segmentation(result, file)
    back = pydicom.dcmread(io.BytesIO(written))
    assert back.get_item("StudyInstanceUID").value.strip(b"\0") == b"1.02.003"
    assert "PatientWeight" not in back
    assert "PixelMeasuresSequence" not in back.SharedFunctionalGroupsSequence[0]
    assert back.PatientID == "4711"


def test_sources_that_cannot_be_referred_to_are_rejected(
    result: Segmentation, tmp_path: Path
) -> None:
    target = tmp_path / "vessels.dcm"
    incomplete = dataset(RGB)
    del incomplete.StudyInstanceUID
    for source, error, said in [
        (tmp_path / "absent.dcm", FileNotFoundError, "There is no image"),
        (tmp_path, ImageError, "is a folder"),
        (encode(RGB, "PNG"), ImageError, "is no DICOM file. A Segmentation object refers to"),
        (io.BytesIO(b""), ImageError, "is no DICOM file"),
        (dicom_file(RGB[:-1]), ImageError, "44 x 39 pixels, and the mask has 44 x 40"),
        (content(incomplete), ImageError, "does not have what a Segmentation object needs"),
        (RGB, ImageError, "the DICOM file of the photograph: a path, its bytes"),
        (None, ImageError, "the DICOM file of the photograph: a path, its bytes"),
        (io.StringIO("eye"), ImageError, "open it in binary mode"),
        ("a\0.dcm", ImageError, "cannot be opened: .*null"),
    ]:
        with pytest.raises(error, match=said):
            result.save_dicom(target, source)
    assert not list(tmp_path.iterdir())
    with pytest.raises(OutputError, match="folder does not exist"):
        result.save_dicom(tmp_path / "no" / "vessels.dcm", dicom_file(RGB))


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy (Debian: dicom3tools)")
@pytest.mark.parametrize(
    "source",
    [patient_file(), patient_file(GREY_12), patient_file(SOPClassUID=SECONDARY)],
    ids=["8 bits", "16 bits", "secondary capture"],
)  # fmt: skip
def test_dciodvfy_finds_no_error(result: Segmentation, source: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vessels.dcm"
    path.write_bytes(segmentation(result, source))
    answer = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    assert "Segmentation" in answer.stderr
    assert "Error" not in answer.stderr, answer.stderr
    assert answer.returncode == 0


# Privacy


def test_patient_data_is_not_in_logs_warnings_errors_or_pictures(
    tiny: Segmenter, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder,
    tmp_path: Path, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    warnings.simplefilter("always")
    file = secret_file()
    assert SECRET in file
    caplog.clear()
    recwarn.clear()
    result = tiny(file)
    for kind in ("mask", "probability", "overlay", "fov"):
        for suffix in (".png", ".tif", ".npy"):
            result.save(tmp_path / f"{kind}{suffix}", kind)
    assert SECRET in segmentation(result, file)
    for length in range(200, len(file) - RGB.size, 4001):
        with pytest.raises(ImageError) as caught:
            tiny(file[:length])
        assert SECRET.decode() not in str(caught.value)
    written = [path.read_bytes() for path in tmp_path.iterdir()]
    said = [str(warning.message) for warning in recwarn] + [*capfd.readouterr(), caplog.text]
    texts = [*(text.encode() for text in said), *written, repr(result.provenance).encode()]
    assert [text for text in texts if SECRET in text] == []


class TestWithoutPreamble:
    """Files that begin with their first element."""

    @pytest.mark.parametrize("has_meta", [True, False], ids=["group 2", "group 8"])
    def test_are_read_and_found_in_folders(self, has_meta: bool, tmp_path: Path) -> None:
        whole = content(dataset(RGB))
        bare = whole[132:]
        if not has_meta:
            bare = bare[12 + int.from_bytes(bare[8:12], "little") :]
        assert np.array_equal(to_rgb(bare), RGB)
        path = tmp_path / "eye"
        path.write_bytes(bare)
        assert np.array_equal(to_rgb(path), RGB)
        assert read_dicom_source(path)[0] == bare
        if has_meta:
            assert dicom_module.is_photograph(path)

    def test_objects_refer_to_them(self, result: Segmentation) -> None:
        bare = content(dataset(RGB))[132:]
        stream = io.BytesIO()
        result.save_dicom(stream, bare)
        assert stream.getvalue()[128:132] == b"DICM"


def test_colours_with_a_profile_are_converted() -> None:
    source = dataset(RGB)
    source.ICCProfile = swapped_profile()
    deviation = np.abs(to_rgb(content(source)).astype(int) - RGB[..., [1, 0, 2]])
    assert deviation.max() <= 3
    source.ICCProfile = SRGB
    assert np.array_equal(to_rgb(content(source)), RGB)
