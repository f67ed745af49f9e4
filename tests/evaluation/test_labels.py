"""Labels of every kind that data sets come with, from file to True and False."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from PIL import Image
from support import drawn

from vesselseg import DatasetError
from vesselseg.evaluation.datasets import read_label, read_photograph

LABEL = drawn.vessels(0)
WHITE = LABEL.astype(np.uint8) * 255


def palette(first, second):
    """Indices 0 and 1 with a colour for each."""
    image = Image.fromarray(LABEL.astype(np.uint8)).copy()
    image.putpalette([*first, *second])
    return image


@pytest.mark.parametrize(
    ("picture", "ending"),
    [
        (Image.fromarray(WHITE), "png"),
        (Image.fromarray(WHITE), "gif"),
        (Image.fromarray(WHITE), "tif"),
        (Image.fromarray(WHITE).convert("1"), "png"),
        (Image.fromarray(WHITE).convert("1"), "tif"),
        (Image.fromarray(WHITE).convert("RGB"), "ppm"),
        (Image.fromarray(WHITE).convert("RGBA"), "png"),
        (Image.fromarray(LABEL.astype(np.uint8)), "png"),
        (Image.fromarray(LABEL.astype(np.uint16) * 65535), "png"),
        (Image.fromarray(LABEL.astype(np.uint16)), "png"),
        (palette((0, 0, 0), (255, 255, 255)), "png"),
        (palette((0, 0, 0), (255, 255, 255)), "gif"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.mode,
)
def test_black_and_white_in_any_form(tmp_path, picture, ending):
    picture.save(tmp_path / f"label.{ending}")

    label = read_label(tmp_path / f"label.{ending}")

    assert label.dtype == np.bool_
    assert np.array_equal(label, LABEL)


def test_128_and_above_is_vessel(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], dtype=np.uint8)).save(tmp_path / "label.png")

    assert read_label(tmp_path / "label.png").tolist() == [[False, False, True, True]]


def test_an_image_may_have_no_vessel(tmp_path):
    drawn.write(tmp_path / "label.png", np.zeros((5, 6), dtype=bool))

    assert not read_label(tmp_path / "label.png").any()


def test_values_of_neither_convention_are_rejected_not_read_as_background(tmp_path):
    palette((0, 0, 0), (128, 0, 0)).save(tmp_path / "label.png")

    with pytest.raises(DatasetError, match="values up to 38; black and white must be"):
        read_label(tmp_path / "label.png")


def test_files_that_are_damaged_or_missing(tmp_path):
    (tmp_path / "label.png").write_bytes(b"no picture")
    (tmp_path / "label.ppm.gz").write_bytes(gzip.compress(b"P6 5 5 255 ")[:-4])

    with pytest.raises(DatasetError, match=r"label\.png' could not be decoded"):
        read_label(tmp_path / "label.png")
    with pytest.raises(DatasetError, match="cannot be read or unpacked"):
        read_label(tmp_path / "label.ppm.gz")
    with pytest.raises(FileNotFoundError, match=r"label\.gif"):
        read_label(tmp_path / "label.gif")


@pytest.mark.parametrize("name", ["im0001.ppm", "im0001.ppm.gz"])
def test_photographs_gzipped_or_not(tmp_path, name):
    drawn.write(tmp_path / name, drawn.photograph(3))

    assert np.array_equal(read_photograph(tmp_path / name), drawn.photograph(3))
