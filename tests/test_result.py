"""Overlays and files of a result."""

import json

import numpy as np
import pytest
from PIL import Image

from vesselseg import OptionError, OutputError, Segmentation


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
        before = np.asarray(result.overlay())
        assert np.array_equal(np.asarray(result.overlay()), before)

    @pytest.mark.parametrize(
        ("option", "match"),
        [
            ({"style": "fill"}, "'tint' and 'outline'"),
            ({"opacity": 1.5}, "from 0 to 1"),
            ({"color": (1, 2)}, "three numbers"),
            ({"color": (1, 2, 300)}, "three numbers from 0 to 255"),
        ],
    )
    def test_wrong_options(self, option, match, result):
        with pytest.raises(OptionError, match=match):
            result.overlay(**option)


class TestSave:
    def test_mask_is_0_and_255(self, result, tmp_path):
        result.save(tmp_path / "mask.png")
        with Image.open(tmp_path / "mask.png") as image:
            assert image.mode == "L"
            assert np.array_equal(np.asarray(image), result.mask * np.uint8(255))

    def test_probability_has_16_bits(self, result, tmp_path):
        result.save(tmp_path / "p.png", "probability")
        with Image.open(tmp_path / "p.png") as image:
            values = np.asarray(image).astype(float) / 65535
        assert np.abs(values - result.probability).max() <= 0.5 / 65535

    def test_field_of_view_and_overlay(self, result, tmp_path):
        result.save(tmp_path / "fov.png", "fov")
        result.save(tmp_path / "overlay.png", "overlay")
        with Image.open(tmp_path / "fov.png") as image:
            assert np.array_equal(np.asarray(image) == 255, result.field_of_view)
        with Image.open(tmp_path / "overlay.png") as image:
            assert np.array_equal(np.asarray(image), np.asarray(result.overlay()))

    def test_carries_its_provenance(self, result, tmp_path):
        result.save(tmp_path / "mask.png")
        with Image.open(tmp_path / "mask.png") as image:
            assert image.text["Software"] == "vesselseg 9.9"
            assert json.loads(image.text["vesselseg"]) == {"kind": "mask", **result.provenance}

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

    @pytest.mark.parametrize("name", ["mask.jpg", "mask", "mask.tif"])
    def test_other_formats_are_rejected(self, name, result, tmp_path):
        with pytest.raises(OptionError, match=r"must end in \.png"):
            result.save(tmp_path / name)

    def test_unknown_kind(self, result, tmp_path):
        with pytest.raises(OptionError, match="allowed are 'mask', 'probability'"):
            result.save(tmp_path / "mask.png", "edges")

    def test_missing_folder(self, result, tmp_path):
        with pytest.raises(OutputError, match="folder does not exist"):
            result.save(tmp_path / "absent" / "mask.png")

    def test_a_full_disk_leaves_the_older_file(self, result, tmp_path, monkeypatch):
        target = tmp_path / "mask.png"
        target.write_bytes(b"older")

        def full(_, path, **__):
            path.write(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Image.Image, "save", full)
        with pytest.raises(OutputError, match="No space left"):
            result.save(target)
        assert target.read_bytes() == b"older"
        assert list(tmp_path.iterdir()) == [target]
