"""Labels of every kind that data sets come with, from file to True and False."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from PIL import Image
from support import drawn

from vesselseg import DatasetError
from vesselseg.evaluation.datasets import Sample, read_label, read_photograph

LABEL = drawn.vessels(0)
WHITE = Image.fromarray(LABEL.astype(np.uint8) * 255)


def palette(first, second):
    """Indices 0 and 1 with a colour for each."""
    image = Image.fromarray(LABEL.astype(np.uint8)).copy()
    image.putpalette([*first, *second])
    return image


@pytest.mark.parametrize(
    ("picture", "ending"),
    [
        (WHITE, "png"),
        (WHITE, "gif"),
        (WHITE, "tif"),
        (WHITE.convert("1"), "png"),
        (WHITE.convert("1"), "tif"),
        (WHITE.convert("RGB"), "ppm"),
        (WHITE.convert("RGBA"), "png"),
        (WHITE.convert("I"), "tif"),
        (WHITE.convert("F"), "tif"),
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


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 127, 128, 255], np.uint8, [False, False, True, True]),
        ([0, 32767, 32768, 65535], np.uint16, [False, False, True, True]),
        ([0, 0, 0], np.uint8, [False, False, False]),
    ],
)
def test_the_upper_half_is_vessel_and_may_be_empty(tmp_path, values, dtype, expected):
    Image.fromarray(np.array([values], dtype=dtype)).save(tmp_path / "label.png")

    assert read_label(tmp_path / "label.png").tolist() == [expected]


def test_values_of_neither_convention_are_rejected_not_read_as_background(tmp_path):
    palette((0, 0, 0), (128, 0, 0)).save(tmp_path / "label.png")

    with pytest.raises(DatasetError, match="values up to 38; black and white must be"):
        read_label(tmp_path / "label.png")


def test_files_that_are_damaged_or_missing(tmp_path):
    (tmp_path / "label.png").write_bytes(b"no picture")
    (tmp_path / "label.ppm.gz").write_bytes(gzip.compress(b"P6 5 5 255 ")[:-4])

    for name, error, message in [
        ("label.png", DatasetError, r"label\.png' could not be decoded"),
        ("label.ppm.gz", DatasetError, "cannot be read or unpacked"),
        ("label.gif", FileNotFoundError, r"label\.gif"),
    ]:
        with pytest.raises(error, match=message):
            read_label(tmp_path / name)


@pytest.mark.parametrize("name", ["im0001.ppm", "im0001.ppm.gz"])
def test_photographs_gzipped_or_not(tmp_path, name):
    drawn.write(tmp_path / name, drawn.photograph(3))

    sample = Sample("im0001", "", tmp_path / name, tmp_path / "label.png")
    assert np.array_equal(read_photograph(sample), drawn.photograph(3))
