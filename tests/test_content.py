"""Warnings about photographs that are damaged, swapped or several in one, and none about others."""

import io

import numpy as np
import pytest
from PIL import Image
from support import EXAMPLE

from vesselseg.familiarity import find_faults
from vesselseg.fov import find_field_of_view
from vesselseg.images import decode

SIZES = (300, 584, 1411)
MISSING = ("is damaged", "is flat, or the same pattern", "is no disc", "fields of view")


def example(side):
    with Image.open(EXAMPLE) as opened:
        return np.array(opened.convert("RGB").resize((side, side), Image.Resampling.LANCZOS))


def doubts(image):
    rgb, said, _ = decode(image)
    fov = find_field_of_view(rgb)
    return " ".join([*said, fov.warning, *find_faults(rgb, fov)]).strip()


def jpeg(image, **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("side", SIZES)
class TestOrdinaryPhotographs:
    def test_are_not_warned_of(self, side):
        image = example(side)
        assert doubts(image) == ""
        assert doubts(np.rot90(image)) == ""
        assert doubts(image // 3) == ""  # dark
        assert doubts(np.dstack([image[..., 1]] * 3)) == ""  # grey, as red-free photographs
        assert doubts(image[side // 9 : -side // 9]) == ""  # cut at top and bottom

    @pytest.mark.parametrize("quality", [95, 50, 20])
    def test_are_not_warned_of_if_they_are_compressed(self, side, quality):
        assert doubts(jpeg(example(side), quality=quality)) == ""

    def test_are_not_warned_of_with_a_banner_and_a_label(self, side):
        image = np.pad(example(side), ((side // 10, 0), (0, 0), (0, 0)), constant_values=255)
        image[-side // 20 :, : side // 5] = 255
        assert "fields of view" not in doubts(image)


def zeros(image):
    image[200:] = 0


def grey(image):
    image[200:] = 128


def repeated(image):
    image[200:] = np.tile(image[100:108, 100:108], (48, 73, 1))[: 584 - 200, :584]


def block(image):
    image[250:330, 250:330] = 77


def strip(image):
    image[320:328] = 0


def tile(image):
    image[:292, :292] = 0


def row(image):
    image[292:296] = (90, 60, 30)


DAMAGE = (zeros, grey, repeated, block, strip, tile, row)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("turns", range(4))
def test_content_that_is_gone_is_warned_of(damage, turns):
    image = np.rot90(example(584), turns).copy()
    damage(image)
    found = doubts(image)
    assert any(word in found for word in MISSING), found


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}], ids=str)
@pytest.mark.parametrize("filler", [0, 0x55, 0xAA])
def test_a_jpeg_file_with_an_overwritten_half_is_warned_of(options, filler):
    content = bytearray(jpeg(example(584), quality=90, **options))
    half = len(content) // 2
    content[half:-2] = bytes([filler]) * (len(content) - 2 - half)
    assert any(word in doubts(bytes(content)) for word in MISSING)


@pytest.mark.parametrize("side", SIZES)
def test_red_and_blue_exchanged_are_warned_of(side):
    assert "are the channels swapped" in doubts(example(side)[..., ::-1])


def montage(eye, rows, columns, gap):
    gaps = ((0, gap), (0, gap), (0, 0))
    return np.tile(np.pad(eye, gaps), (rows, columns, 1))


@pytest.mark.parametrize("gap", [0, 10, 120])
@pytest.mark.parametrize("layout", [(1, 2), (2, 1), (1, 3), (2, 2), (3, 3)])
def test_every_eye_of_a_montage_is_inside_at_the_scale_of_one(layout, gap):
    eye = example(300)
    one = find_field_of_view(eye)
    found = find_field_of_view(montage(eye, *layout, gap))
    assert "fields of view in the picture" in found.warning
    assert found.diameter == pytest.approx(one.diameter, rel=0.08)
    expected = montage(one.mask[..., None], *layout, gap)[..., 0]
    assert (found.mask & expected).sum() > 0.97 * expected.sum()


def test_fields_that_overlap_are_several():
    eye, picture = example(360), np.zeros((700, 760, 3), np.uint8)
    for y, x in ((0, 200), (320, 30), (320, 380)):
        part = picture[y : y + 360, x : x + 360]
        np.maximum(part, eye[: part.shape[0], : part.shape[1]], out=part)
    found = find_field_of_view(picture)
    assert "several fields of view" in found.warning
    assert found.diameter == pytest.approx(356, rel=0.1)
