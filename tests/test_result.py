"""Overlays and files of a result."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vesselseg import OptionError, OutputError, Segmentation
from vesselseg.result import is_whole, read_provenance


@pytest.fixture
def result():
    mask = np.zeros((6, 8), dtype=bool)
    mask[1:5, 2:6] = True
    probability = np.where(mask, 0.75, 0.125).astype(np.float32)
    view = np.ones((6, 8), dtype=bool)
    view[:, 0] = False
    photograph = np.full((6, 8, 3), 100, dtype=np.uint8)
    provenance = {"vesselseg": "9.9", "model": "some model", "threshold": 0.5}
    return Segmentation(mask, probability, view, provenance, photograph)


class TestOverlay:
    def test_tints_the_vessels(self, result):
        pixels = np.asarray(result.overlay(color=(200, 0, 50), opacity=0.5))
        assert (pixels[result.mask] == (150, 50, 75)).all()
        assert (pixels[~result.mask] == 100).all()

    def test_outlines_them(self, result):
        pixels = np.asarray(result.overlay(style="outline", color=(1, 2, 3), opacity=1))
        drawn = (pixels == (1, 2, 3)).all(axis=2)
        inner = np.zeros_like(result.mask)
        inner[2:4, 3:5] = True
        assert np.array_equal(drawn, result.mask & ~inner)

    def test_leaves_the_result_as_it_is(self, result):
        assert result.overlay() == result.overlay()

    @pytest.mark.parametrize(
        ("option", "match"),
        [
            ({"style": "fill"}, "'tint' and 'outline'"),
            ({"opacity": 1.5}, "from 0 to 1"),
            ({"color": (1, 2)}, "three numbers"),
            ({"color": (1, 2, 300)}, "three numbers from 0 to 255"),
            ({"color": "red"}, "three numbers from 0 to 255"),
            ({"opacity": "half"}, "from 0 to 1"),
        ],
    )
    def test_wrong_options(self, option, match, result):
        with pytest.raises(OptionError, match=match):
            result.overlay(**option)


class TestSave:
    def test_overlays_look_as_chosen_and_say_how(self, result, tmp_path):
        look = {"style": "outline", "color": (255, 128, 0), "opacity": 0.5}
        result.save(tmp_path / "eye.png", "overlay", **look)
        with Image.open(tmp_path / "eye.png") as image:
            np.testing.assert_array_equal(image, result.overlay(**look))
        provenance = read_provenance(tmp_path / "eye.png")
        assert {**look, "color": [255, 128, 0]}.items() <= provenance.items()

    @pytest.mark.parametrize("kind", ["mask", "fov", "overlay", "probability"])
    @pytest.mark.parametrize("ending", [".png", ".tif", ".TIFF", ".npy"])
    def test_holds_the_pixels(self, kind, ending, result, tmp_path):
        file = tmp_path / f"saved{ending}"
        result.save(file, kind)
        values = np.load(file) if ending == ".npy" else np.asarray(Image.open(file))
        white = 1 if ending == ".npy" else 255
        expected = {
            "mask": result.mask * np.uint8(white),
            "fov": result.field_of_view * np.uint8(white),
            "overlay": np.asarray(result.overlay()),
            "probability": result.probability,
        }[kind]
        if (kind, ending) == ("probability", ".png"):
            expected = np.rint(result.probability.astype(float) * 65535).astype(np.uint16)
            values = values.astype(np.uint16)  # older Pillow opens 16-bit PNG as 32-bit integers
        assert values.dtype == expected.dtype
        np.testing.assert_array_equal(values, expected)

    @pytest.mark.parametrize("ending", [".png", ".tiff"])
    def test_holds_the_provenance(self, ending, result, tmp_path):
        file = tmp_path / f"saved{ending}"
        result.save(file, "fov")
        provenance = read_provenance(file)
        assert isinstance(provenance.pop("crc32", 0), int)  # of the pixels, in a TIFF file
        assert provenance == {"kind": "fov", **result.provenance}
        with Image.open(file) as image:
            texts = image.text if ending == ".png" else image.tag_v2
            assert "vesselseg 9.9" in (texts.get("Software"), texts.get(305))

    @pytest.mark.parametrize("content", [b"", b"no image", b"II*\0 damaged"])
    def test_other_files_have_no_provenance(self, content, tmp_path):
        file = tmp_path / "file.tif"
        file.write_bytes(content)
        assert read_provenance(file) == {}
        Image.new("L", (4, 4)).save(file, description='{"of": "others"}')
        assert read_provenance(file) == {}

    @pytest.mark.parametrize("name", ["png", "tiff", "npy"])
    def test_streams_take_the_same_bytes(self, name, result, tmp_path):
        stream = io.BytesIO()
        result.save(stream, "probability", format=name)
        result.save(tmp_path / f"file.{name}", "probability")
        assert stream.getvalue() == (tmp_path / f"file.{name}").read_bytes()

    @pytest.mark.parametrize("option", [{}, {"format": "jpeg"}])
    def test_a_stream_needs_a_format(self, option, result):
        with pytest.raises(OptionError, match="a stream needs format='png', 'tiff' or 'npy'"):
            result.save(io.BytesIO(), **option)

    @pytest.mark.parametrize(
        ("name", "format"),
        [("a.tif", "png"), ("a.png", "tiff"), ("a.NPY", "png"), ("a.png", "npy"), ("a.jpg", "png"),
         ("a.dcm", "png")],
    )  # fmt: skip
    def test_an_ending_that_contradicts_the_format_is_rejected(
        self, name, format, result, tmp_path
    ):
        with pytest.raises(OptionError, match=f"ends in .*, but format is '{format}'"):
            result.save(tmp_path / name, format=format)
        assert list(tmp_path.iterdir()) == []

    def test_a_format_goes_with_its_own_ending_and_with_unknown_ones(self, result, tmp_path):
        for name in ("a.TIF", "a.tiff", "a.part", "a"):
            result.save(tmp_path / name, format="tiff")
            assert (tmp_path / name).read_bytes()[:2] in (b"II", b"MM")

    def test_a_dicom_object_is_not_named_like_a_picture(self, result, tmp_path):
        with pytest.raises(OptionError, match=r"name of a picture, which save\(\) writes"):
            result.save_dicom(tmp_path / "mask.png", b"")

    def test_same_result_same_bytes(self, result, tmp_path):
        for name in ("a.png", "b.png"):
            result.save(tmp_path / name)
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

    @pytest.mark.parametrize(
        "name", ["with space.png", "größe 血管.PNG", "-dash.png", "x" * 251 + ".png"]
    )
    def test_unusual_names(self, name, result, tmp_path):
        result.save(tmp_path / name)
        assert [path.name for path in tmp_path.iterdir()] == [name]

    @pytest.mark.parametrize(
        ("name", "kind", "error", "match"),
        [
            ("mask.jpg", "mask", OptionError, r"must end in \.png, \.tif, \.tiff, \.npy"),
            ("mask", "mask", OptionError, r"must end in \.png"),
            ("mask.png", "edges", OptionError, "allowed are 'mask', 'probability'"),
            ("absent/mask.png", "mask", OutputError, "folder does not exist"),
        ],
    )
    def test_other_formats_kinds_and_folders(self, name, kind, error, match, result, tmp_path):
        with pytest.raises(error, match=match):
            result.save(tmp_path / name, kind)
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_leaves_the_older_file(self, result, tmp_path, monkeypatch):
        target = tmp_path / "mask.png"
        target.write_bytes(b"older")

        def full(path, _):
            path.touch()
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match="No space left"):
            result.save(target)
        assert target.read_bytes() == b"older"
        assert list(tmp_path.iterdir()) == [target]


class TestArray:
    @pytest.mark.parametrize("dtype", [None, bool, np.bool_, "?", np.dtype(bool)])
    def test_an_array_that_shares_its_memory_is_shared_or_copied_as_asked(self, dtype, result):
        assert np.shares_memory(result.__array__(dtype, copy=False), result.mask)
        assert np.shares_memory(np.asarray(result, dtype=dtype), result.mask)
        copied = np.array(result, dtype=dtype, copy=True)
        assert not np.shares_memory(copied, result.mask)
        assert np.array_equal(copied, result.mask)

    @pytest.mark.parametrize("dtype", [np.uint8, float, "int64"])
    def test_an_array_of_another_type_is_a_copy(self, dtype, result):
        with pytest.raises(ValueError, match="without a copy"):
            result.__array__(dtype, copy=False)
        for copy in (True, None):
            values = result.__array__(dtype, copy=copy)
            assert values.dtype == np.dtype(dtype)
            assert np.array_equal(values, result.mask)

    @pytest.mark.skipif(np.__version__ < "2", reason="copy=False had another meaning")
    def test_numpy_gets_no_copy_where_it_asks_for_none(self, result):
        assert np.shares_memory(np.array(result, dtype=bool, copy=False), result.mask)
        with pytest.raises(ValueError, match="without a copy"):
            np.array(result, dtype=np.uint8, copy=False)

    def test_is_the_mask(self, result):
        assert np.asarray(result) is result.mask
        assert result.shape == (6, 8)
        assert np.asarray(result, dtype=np.float32).sum() == result.mask.sum()
        assert np.logical_and(result, ~result.mask).sum() == 0


def test_without_a_field_of_view_no_pixel_of_it_is_vessel(result):
    result.field_of_view[:] = False
    assert result.vessel_fraction() is None
    assert repr(result) == (
        "<Segmentation of 8 x 6 pixels by some model: 0.0 % of the field of view is vessel>"
    )
    assert "<td style='text-align:left'>-</td>" in result._repr_html_()


class TestNotebook:
    def test_shows_a_small_overlay(self, result):
        with Image.open(io.BytesIO(result._repr_png_())) as picture:
            assert picture.size == (8, 6)
            assert picture.convert("RGB").getpixel((0, 0)) == (100, 100, 100)

    def test_shows_the_main_figures(self, result):
        page = result._repr_html_()
        for text in ("some model", "8 x 6 pixels", "38.1 % of the field of view", "not found"):
            assert text in page
        assert "<img src='data:image/png;base64," in page

    def test_texts_are_escaped(self, result):
        result.provenance.update(model="<script>", warning="a < b", fov_diameter=5.7)
        page = result._repr_html_()
        assert "&lt;script&gt;" in page
        assert "a &lt; b" in page
        assert "6 pixels across" in page


@pytest.mark.parametrize("kind", ["mask", "probability", "overlay"])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_damage_to_a_file_is_seen_unless_its_pixels_are_right(kind, ending, result, tmp_path):
    file = tmp_path / f"saved{ending}"
    result.save(file, kind)
    whole = file.read_bytes()
    with Image.open(file) as opened:
        right = np.asarray(opened)
    assert is_whole(file)
    chance = random.Random(0)
    for number in range(60):
        content = bytearray(whole)
        place = chance.randrange(len(whole))
        if number % 3 == 0:
            del content[place:]
        elif number % 3 == 1:
            content[place] ^= 1 << chance.randrange(8)
        else:
            content[place : place + 20] = bytes(len(content[place : place + 20]))
        file.write_bytes(content)
        if is_whole(file):
            with Image.open(file) as opened:
                assert np.array_equal(np.asarray(opened), right)
