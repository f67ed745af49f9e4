"""The field of view of many cameras."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import EXAMPLE

from vesselseg.fov import find_field_of_view, large_regions

SIZE, RADIUS = 600, 280


def iou(found, truth):
    return (found & truth).sum() / (found | truth).sum()


def camera(*, shape=(SIZE, SIZE), centre=(300, 300), radius=RADIUS, brightness=1.0, noise=0.0,
           black=0.0):  # fmt: skip
    """A disc that darkens towards its edge, as photographs do: image, field of view."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    distance = np.hypot(rows - centre[0], columns - centre[1])
    truth = distance < radius
    light = brightness * (1 - 0.5 * (distance / radius) ** 2) * truth
    colour = light[..., None] * np.array([200.0, 110.0, 60.0])
    grain = np.random.default_rng(0).normal(black, noise, colour.shape)
    return np.clip(colour + grain, 0, 255).astype(np.uint8), truth


@pytest.fixture(scope="module")
def example():
    with Image.open(EXAMPLE) as image:
        return np.asarray(image)


class TestExample:
    """The example photograph: a disc of 1,397 pixels with a tab."""

    def test_the_field_of_view_of_the_example_is_found(self, example):
        found = find_field_of_view(example)
        assert found.diameter == pytest.approx(1397, abs=6)
        assert found.mask[705, 705]
        assert found.mask[165, 1180]  # the tab
        assert not found.mask[:80, :80].any()
        assert 0.765 < found.mask.mean() < 0.78

    @pytest.mark.parametrize("factor", [0.2, 0.5, 2])
    def test_the_field_of_view_is_found_at_other_sizes(self, example, factor):
        side = round(1411 * factor)
        image = np.asarray(Image.fromarray(example).resize((side, side)))
        assert find_field_of_view(image).diameter == pytest.approx(1397 * factor, rel=0.01)

    def test_a_disc_cut_at_top_and_bottom_keeps_its_diameter(self, example):
        cut = find_field_of_view(example[150:1250])
        assert cut.diameter == pytest.approx(1397, rel=0.01)
        assert iou(cut.mask, find_field_of_view(example).mask[150:1250]) > 0.99

    def test_a_piece_from_the_middle_has_no_border(self, example):
        piece = find_field_of_view(example[250:1150, 250:1150])
        assert piece.diameter is None
        assert piece.mask.all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"noise": 8, "black": 10},
        {"noise": 20, "black": 25},
        {"brightness": 0.25},
        {"brightness": 0.2, "noise": 2, "black": 4},
        {"shape": (400, 600), "centre": (200, 300)},  # cut at top and bottom
        {"centre": (300, 240)},  # cut at the left
        {"shape": (520, 520), "centre": (260, 260)},  # cut on four sides
        {"shape": (400, 900), "centre": (200, 450), "radius": 190},
    ],
    ids=str,
)
def test_drawn_discs_are_found(options):
    image, truth = camera(**options)
    found = find_field_of_view(image)
    assert iou(found.mask, truth) > 0.98
    assert found.diameter == pytest.approx(2 * options.get("radius", RADIUS), rel=0.02)


def test_a_disc_that_the_frame_cuts_reaches_all_four_sides():
    image, _ = camera(shape=(520, 520), centre=(260, 260))
    mask = find_field_of_view(image).mask
    middle = slice(180, 340)
    for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]):
        assert side[middle].all()
        assert not side[0]
        assert not side[-1]


def test_a_label_in_the_corner_is_not_part_of_the_field_of_view():
    image, truth = camera()
    image[5:25, 5:120] = 255
    assert iou(find_field_of_view(image).mask, truth) > 0.99


def test_a_banner_is_no_second_field_of_view():
    image, truth = camera()
    image = np.pad(image, ((150, 0), (0, 0), (0, 0)))
    image[:130] = 255  # large enough, but too narrow
    found = find_field_of_view(image)
    assert found.warning == ""
    assert iou(found.mask[150:], truth) > 0.98
    assert not found.mask[:130].any()


def test_a_bright_dot_in_the_dark_part_of_a_cut_disc_is_not_warned_of():
    image, _ = camera()
    image[500:] = 0
    assert find_field_of_view(image).warning == ""
    image[530:536, 297:303] = 255
    assert find_field_of_view(image).warning == ""


def test_a_notch_and_dark_vessels_do_not_matter():
    image, truth = camera()
    image[560:, 280:320] = 0  # a notch in the border
    image[290:310, 100:500] = 5  # something dark across the middle
    found = find_field_of_view(image)
    assert iou(found.mask, truth) > 0.98
    assert found.mask[300, 300]
    assert found.diameter == pytest.approx(2 * RADIUS, rel=0.02)


@pytest.mark.parametrize(
    "black",
    [(slice(None, 100), slice(500, None)), (slice(None, 60),), (slice(480, None),)],
    ids=["top and bottom", "a little at the top", "bottom"],
)
@pytest.mark.parametrize("across", [False, True])
def test_straight_cuts_inside_the_frame_do_not_change_the_diameter(black, across):
    image, _ = camera()
    for part in black:
        image[part] = 0
    found = find_field_of_view(image.transpose(1, 0, 2) if across else image)
    assert found.diameter == pytest.approx(2 * RADIUS, rel=0.01)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((100, 120, 3), np.uint8),
        np.full((100, 120, 3), 180, np.uint8),
        np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8),
        np.zeros((1, 1, 3), np.uint8),
        np.full((1, 900, 3), 9, np.uint8),
        np.full((15, 15, 3), 200, np.uint8),
    ],
    ids=["black", "bright", "noise", "one pixel", "one row", "tiny"],
)
def test_without_a_border_all_pixels_are_inside(image):
    found = find_field_of_view(image)
    assert found.diameter is None
    assert found.mask.shape == image.shape[:2]
    assert found.mask.all()


HRF = os.environ.get("VESSELSEG_TEST_HRF")


@pytest.mark.skipif(HRF is None, reason="VESSELSEG_TEST_HRF names no folder of HRF")
def test_the_fields_of_view_of_hrf_are_found():
    """Every photograph of HRF (folders images and masks or mask): IoU of at least 0.98."""
    folder = Path(str(HRF))
    masks = {p.stem.removesuffix("_mask"): p for p in folder.glob("mask*/*.tif")}
    images = sorted((folder / "images").iterdir())
    assert images
    for path in images:
        with Image.open(path) as image, Image.open(masks[path.stem]) as mask:
            truth = np.asarray(mask.convert("L")) > 127
            assert iou(find_field_of_view(np.asarray(image)).mask, truth) >= 0.98, path.name


@pytest.mark.parametrize("size", [(16, 20_000), (20_000, 16)])
def test_a_strip_has_no_border(size):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert find_field_of_view(noise).mask.all()


def test_a_winding_region_is_a_single_region():
    # It goes back and forth between the edges, which takes many steps to follow.
    mask = np.zeros((160, 160), dtype=bool)
    for number, top in enumerate(range(0, 160, 16)):
        mask[top : top + 8] = True
        turn = slice(152, 160) if number % 2 else slice(0, 8)
        mask[top : top + 24, turn] = True
    (region,) = large_regions(mask)
    assert np.array_equal(region, mask)
    mask[:, 40:48] = False  # cuts every line
    largest, *others = large_regions(mask)
    assert 0 < largest.sum() < mask.sum()
    assert all(0 < region.sum() <= largest.sum() for region in others)


def resized(image, side):
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


def montage(eye, rows, columns, gap):
    gaps = ((0, gap), (0, gap), (0, 0))
    return np.tile(np.pad(eye, gaps), (rows, columns, 1))


@pytest.mark.parametrize(
    ("layout", "gap"),
    [((1, 2), 0), ((1, 2), 120), *(((rows, 3), 10) for rows in (1, 3)), ((2, 1), 10), ((2, 2), 10)],
)
def test_every_eye_of_a_montage_is_inside_at_the_scale_of_one(layout, gap, example):
    eye = resized(example, 300)
    one = find_field_of_view(eye)
    found = find_field_of_view(montage(eye, *layout, gap))
    assert "fields of view in the picture" in found.warning
    assert found.diameter == pytest.approx(one.diameter, rel=0.08)
    expected = montage(one.mask[..., None], *layout, gap)[..., 0]
    assert (found.mask & expected).sum() > 0.97 * expected.sum()


def test_fields_that_overlap_are_several(example):
    eye, picture = resized(example, 360), np.zeros((700, 760, 3), np.uint8)
    for y, x in ((0, 200), (320, 30), (320, 380)):
        part = picture[y : y + 360, x : x + 360]
        np.maximum(part, eye[: part.shape[0], : part.shape[1]], out=part)
    found = find_field_of_view(picture)
    assert "several fields of view" in found.warning
    assert found.diameter == pytest.approx(356, rel=0.1)
