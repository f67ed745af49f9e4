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
        assert result.overlay() == result.overlay()

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
    @pytest.mark.parametrize("kind", ["mask", "fov", "overlay", "probability"])
    def test_holds_the_pixels_and_the_provenance(self, kind, result, tmp_path):
        result.save(tmp_path / "saved.png", kind)
        with Image.open(tmp_path / "saved.png") as image:
            values = np.asarray(image)
            assert image.text["Software"] == "vesselseg 9.9"
            assert json.loads(image.text["vesselseg"]) == {"kind": kind, **result.provenance}
        expected = {
            "mask": result.mask * np.uint8(255),
            "fov": result.field_of_view * np.uint8(255),
            "overlay": np.asarray(result.overlay()),
            "probability": np.rint(result.probability.astype(float) * 65535),
        }[kind]
        np.testing.assert_array_equal(values, expected)

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
            ("mask.jpg", "mask", OptionError, r"must end in \.png"),
            ("mask", "mask", OptionError, r"must end in \.png"),
            ("mask.tif", "mask", OptionError, r"must end in \.png"),
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

        def full(_, path, **__):
            path.write(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Image.Image, "save", full)
        with pytest.raises(OutputError, match="No space left"):
            result.save(target)
        assert target.read_bytes() == b"older"
        assert list(tmp_path.iterdir()) == [target]
