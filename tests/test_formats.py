"""Which image formats are read, and that no file of another one reaches a decoder."""

import io
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, TgaImagePlugin, features

import vesselseg
from vesselseg import DatasetError, ImageError, formats, pictures
from vesselseg.batch.jobs import plan_jobs
from vesselseg.evaluation.datasets import read_label, read_pairs
from vesselseg.images import to_rgb
from vesselseg.result import read_dicom_source, read_provenance

PACKAGE = Path(vesselseg.__file__).parent
GREY = np.zeros((16, 16), np.uint8)
GREY[4:12, 4:12] = 255
PICTURE = Image.fromarray(GREY)


def file_of(format_: str) -> bytes:
    """A white square on black, as near to lossless as the format is."""
    stream = io.BytesIO()
    options = {"quality": 100} if format_ in ("JPEG", "AVIF") else {}
    PICTURE.convert("RGB").save(stream, format_, **options)
    return stream.getvalue()


EPS = file_of("EPS")
WMF = struct.pack("<6s4hH6x4s", b"\xd7\xcd\xc6\x9a", 0, 0, 16, 16, 72, b"\x01\0\t\0") + bytes(99)
EMF = struct.pack("<II4l4l4s", 1, 88, 0, 0, 16, 16, 0, 0, 500, 500, b" EMF") + bytes(99)
OTHERS = {
    "EPS": EPS,
    "EPS in a DOS header": struct.pack("<4sII", b"\xc5\xd0\xd3\xc6", 32, len(EPS)).ljust(32) + EPS,
    "PostScript": b"%!PS-Adobe-3.0\n/a {(b) run} def\n",
    "PDF": b"%PDF-1.4\n",
    "WMF": WMF,
    "EMF": EMF,
    "OLE, as FPX and MIC": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
    "PSD": b"8BPS" + bytes(100),
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    **{name: file_of(name) for name in ("TGA", "PCX", "ICO", "ICNS", "DDS", "SGI")},
}

ROWS = [
    pytest.param(
        name,
        ending,
        id=ending,
        marks=pytest.mark.skipif(
            name == "AVIF" and not ("AVIF" in Image.SAVE and features.check("avif")),
            reason="this Pillow has no AVIF",
        ),
    )
    for name, endings in formats.READABLE.items()
    for ending in endings
]


def accepted_everywhere(name: str, ending: str, folder: Path) -> bool:
    """Whether a file is read by `segment`, taken from folders, and read as a label."""
    photograph = folder / "photographs" / f"eye{ending}"
    label = folder / "labels" / f"eye{ending.upper()}"
    for path in (photograph, label):
        path.parent.mkdir()
        path.write_bytes(file_of(name))
    for given in (photograph, photograph.read_bytes(), Image.open(io.BytesIO(file_of(name)))):
        assert abs(to_rgb(given).astype(int) - GREY[..., None]).max() < 64
    assert np.array_equal(read_label(label), GREY > 0)
    (job,) = plan_jobs([str(folder / "photographs")], "out")
    (sample,) = read_pairs(photograph.parent, label.parent).samples
    return (job.name, sample.image, sample.label) == (str(photograph), photograph, label)


@pytest.mark.parametrize(("name", "ending"), ROWS)
def test_each_format_is_read_as_photograph_and_label_and_taken_from_folders(name, ending, tmp_path):
    assert accepted_everywhere(name, ending, tmp_path)


def test_every_ending_that_pillow_knows_of_a_format_is_listed():
    for ending, name in Image.registered_extensions().items():
        if name in (*formats.READABLE, "MPO"):
            assert ending in formats.endings()


def test_a_row_of_the_table_is_all_that_a_format_needs(tmp_path, monkeypatch):
    assert TgaImagePlugin.TgaImageFile.format not in formats.READABLE
    monkeypatch.setitem(formats.READABLE, "TGA", (".tga",))
    assert accepted_everywhere("TGA", ".tga", tmp_path)


@pytest.fixture
def no_ghostscript(monkeypatch):
    """A call of Ghostscript, or of any other program, fails the test."""

    def fail(*_, **__):
        pytest.fail("a program was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", fail)
    monkeypatch.setattr("subprocess.Popen", fail)
    monkeypatch.setattr("os.system", fail)


@pytest.mark.usefixtures("no_ghostscript")
class TestOtherFormats:
    @pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
    def test_are_rejected_with_what_is_read(self, content):
        with pytest.raises(ImageError, match=r"none of the formats .*JPEG, PNG, TIFF.*DICOM"):
            to_rgb(content)

    @pytest.mark.parametrize("name", ["eye.eps", "eye.jpg", "eye.png", "eye.tif", "eye"])
    def test_an_eps_file_is_rejected_under_any_name(self, name, tmp_path):
        path = tmp_path / name
        path.write_bytes(EPS)
        with path.open("rb") as stream:
            for given in (path, str(path), stream, EPS):
                with pytest.raises(ImageError, match="none of the formats"):
                    to_rgb(given)
        with pytest.raises(DatasetError, match=r"Label .* none of the formats"):
            read_label(path)
        assert read_provenance(path) == {}

    @pytest.mark.parametrize("syntax", ["BASELINE", "JPEG_LOSSLESS", "JPEG_LS", "JPEG_2000"])
    def test_an_eps_file_is_rejected_as_the_frame_of_a_dicom_file(self, syntax):
        pytest.importorskip("pydicom", reason="the extra dicom is not installed")
        from support import dicom

        photograph = dicom.dataset(np.dstack([GREY] * 3))
        frame = dicom.encapsulate(photograph, getattr(dicom, syntax), EPS)
        with pytest.raises(ImageError, match="pixels cannot be decoded"):
            to_rgb(dicom.content(frame))

    def test_an_eps_image_that_was_opened_but_not_decoded_is_rejected(self):
        with Image.open(io.BytesIO(EPS)) as opened:
            with pytest.raises(ImageError, match=r"format EPS.*pass image\.convert\('RGB'\)"):
                to_rgb(opened)
            assert opened.tile  # still not decoded

    @pytest.mark.parametrize("content", [WMF, EMF, OTHERS["ICNS"]], ids=["WMF", "EMF", "ICNS"])
    def test_one_that_names_no_decoder_is_rejected_before_it_is_decoded(self, content):
        with Image.open(io.BytesIO(content)) as opened:
            assert not opened.tile
            with pytest.raises(ImageError, match=r"format \w+, which vesselseg does not decode"):
                to_rgb(opened)

    def test_one_that_the_caller_could_not_decode_is_not_tried_again(self):
        with Image.open(io.BytesIO(OTHERS["TGA"][:-100])) as opened:
            with pytest.raises(OSError, match="truncated"):
                opened.load()
            with pytest.raises(ImageError, match="format TGA, which vesselseg does not decode"):
                to_rgb(opened)

    def test_an_image_that_the_caller_decoded_is_taken(self):
        with Image.open(io.BytesIO(OTHERS["TGA"])) as opened:
            with pytest.raises(ImageError, match="format TGA"):
                to_rgb(opened)
            opened.load()
            assert np.array_equal(to_rgb(opened)[..., 0], GREY)
        with Image.open(io.BytesIO(OTHERS["TGA"])) as opened:
            assert np.array_equal(to_rgb(opened.convert("RGB"))[..., 0], GREY)


def test_a_jpeg_file_with_several_pictures_is_a_jpeg_file():
    stream = io.BytesIO()
    PICTURE.save(stream, "MPO", save_all=True, append_images=[PICTURE])
    with Image.open(stream) as opened:
        assert opened.format == "MPO"
        assert to_rgb(opened).shape == (16, 16, 3)
    assert to_rgb(stream.getvalue()).shape == (16, 16, 3)


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_a_heic_file_is_rejected_with_what_reads_it(brand):
    content = struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1heic" + bytes(100)
    with pytest.raises(
        ImageError, match=r"HEIC.*Convert it to JPEG or PNG; or, in Python, install pillow-heif"
    ):
        to_rgb(content)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"%PDF-1.7\n", "a PDF document.* Export the photograph"),
        (b"PK\x03\x04" + bytes(99), "an archive.* Unpack it first"),
        (b"\x1f\x8b\x08" + bytes(99), "a compressed file.* Unpack it first"),
        (b"FOCTFDA" + bytes(99), r"Topcon file \(\.fda\).* Export the fundus photograph"),
        (b"CMDb" + bytes(99), r"Heidelberg file \(\.e2e"),
        (b"FUJIFILMCCD-RAW " + bytes(99), "raw file of a camera.* Develop it"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(99), "raw file of a camera|could not be decoded"),
        (b"\0\0\0\x18ftypcrx " + bytes(99), "raw file of a camera"),
        (b"\0\0\0\x18ftypmp42" + bytes(99), "a video"),
        (b"\x93NUMPY\x01\0" + bytes(99), r"NumPy array.* numpy\.load"),
        (b"<!DOCTYPE html><html>", "a web page.* Download the image itself"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_other_files_are_named_with_what_to_do(content, match):
    with pytest.raises(ImageError, match=match):
        to_rgb(content)


@pytest.mark.parametrize("address", ["https://host.invalid/eye.jpg", "s3://bucket/eye.jpg"])
def test_addresses_are_no_images(address):
    calls = [
        to_rgb,
        vesselseg.segment,
        vesselseg.field_of_view,
        read_dicom_source,
        lambda name: to_rgb(Path(name)),
    ]
    for call in calls:
        with pytest.raises(ImageError, match=r"is an address.* download the image first"):
            call(address)


def test_a_format_that_this_pillow_lacks_is_named_and_the_others_are_read(monkeypatch):
    monkeypatch.setattr(pictures, "READABLE", {"NONESUCH": (".none",), **formats.READABLE})
    assert np.array_equal(to_rgb(file_of("PNG"))[..., 0], GREY)
    with pytest.raises(ImageError, match=r"this Pillow, [\d.]+, lacks NONESUCH"):
        to_rgb(EPS)


def test_only_one_module_hands_a_file_to_pillow():
    for path in PACKAGE.rglob("*.py"):
        if path != PACKAGE / "pictures.py":
            assert not re.search(r"(?<!PIL\.)Image\.open\(", path.read_text()), path
