"""What was measured, drawn over the photograph."""

import numpy as np
import pytest
from PIL import Image
from support.drawn import disc, photograph, vessels

from vesselseg import ImageError, OptionError, measure

pytest.importorskip("skan", reason='pip install "vesselseg[measure]"')


@pytest.fixture(scope="module")
def measures():
    """Of a wide vessel and a thin one that cross in a disc."""
    rows, columns = np.indices((200, 300))
    mask = np.zeros((200, 300), dtype=bool)
    mask[95:107] = mask[:, 200:203] = True
    return measure(mask, fov=np.hypot(rows - 100, columns - 150) < 95, mm_per_pixel=0.02)


PHOTOGRAPH = np.full((200, 300, 3), (200, 80, 40), np.uint8)


def colors(picture):
    """The colours of a picture that at least ten pixels have."""
    pixels = np.asarray(Image.fromarray(np.asarray(picture)).convert("RGBA")).view(np.uint32)
    values, counts = np.unique(pixels, return_counts=True)
    return {tuple(value) for value in values[counts >= 10, None].view(np.uint8)[:, :3].tolist()}


def changed(drawn):
    """Where a drawing of the whole photograph, at its own size, differs from it."""
    return (np.asarray(drawn)[:200, :300] != PHOTOGRAPH).any(axis=2)


def longest_bar(drawn):
    """The longest run of white pixels in the rows of the legend of a drawing of 800 rows."""
    rows = (np.asarray(drawn)[800:] == 255).all(axis=2)
    texts = ("".join(".#"[pixel] for pixel in row) for row in rows.astype(int))
    return max(len(run) for text in texts for run in text.split("."))


class TestPicture:
    def test_lines_points_and_the_border_are_drawn_and_the_rest_is_the_photograph(self, measures):
        drawn = measures.overlay(PHOTOGRAPH, zoom=1)
        left = (drawn.width - 300) // 2
        there = changed(drawn.crop((left, 0, left + 300, 200)))
        assert there[101, 70:190].all()  # the centreline
        assert there[60, 201]
        assert there[101, 201]  # the branch point
        assert there[[5, 6, 7]][:, 150].any()  # the border of the field of view
        assert 0.01 < there.mean() < 0.1

    def test_the_legend_is_below_and_does_not_cover_the_photograph(self, measures):
        drawn = measures.overlay(PHOTOGRAPH, zoom=4)
        assert drawn.width == 1200
        assert drawn.height > 800
        panel = np.asarray(drawn)[800:]
        assert (panel == panel[0, 0]).all(axis=2).mean() > 0.5
        assert not (panel == PHOTOGRAPH[0, 0]).all(axis=2).any()

    def test_the_scale_bar_has_its_length_and_is_left_out_without_a_scale(self, measures):
        assert longest_bar(measures.overlay(PHOTOGRAPH, zoom=4)) == 1 / 0.02 * 4  # 1 mm
        unknown = measure(measures.mask, fov=measures.field_of_view)
        assert longest_bar(unknown.overlay(PHOTOGRAPH, zoom=4)) < 30

    def test_by_width_wide_and_thin_vessels_have_the_colours_of_both_ends_of_the_scale(
        self, measures
    ):
        found = colors(measures.overlay(PHOTOGRAPH, zoom=4).crop((0, 0, 1200, 800)))
        assert {(255, 255, 190), (150, 140, 255)} <= found

    def test_by_segment_those_that_meet_differ(self, measures):
        plain = colors(measures.overlay(PHOTOGRAPH, zoom=4, color_by="segment"))
        assert len(plain - colors(PHOTOGRAPH)) >= 4 + 2

    def test_a_crop_is_that_part_enlarged(self, measures):
        drawn = measures.overlay(PHOTOGRAPH, crop=(120, 40, 300, 180), zoom=5)
        part = np.asarray(drawn)[:700, :900]
        whole = np.asarray(measures.overlay(PHOTOGRAPH, zoom=5))[200:900, 600:1500]
        assert drawn.width == 900
        assert (part == whole).all(axis=2).mean() > 0.99  # but for the rim

    @pytest.mark.slow
    def test_small_photographs_are_enlarged_and_large_ones_are_not(self):
        small = measure(vessels(1), fov=disc()).overlay(photograph(1))
        assert small.width == 16 * 44
        large = measure(np.zeros((1000, 1200), bool)).overlay()
        assert large.width == 1200

    def test_without_a_photograph_the_mask_is_under_the_lines(self, measures):
        pixels = np.asarray(measures.overlay(zoom=4))[:800, :1200]
        assert (pixels[4 * 97, 300] == 110).all()
        assert (pixels[40, 500] == 0).all()

    def test_a_mask_without_vessels_can_be_drawn(self):
        drawn = measure(np.zeros((50, 60), bool), mm_per_pixel=0.01).overlay(zoom=2)
        assert isinstance(drawn, Image.Image)

    def test_files_and_pil_images_are_photographs(self, measures, tmp_path):
        Image.fromarray(PHOTOGRAPH).save(tmp_path / "eye.png")
        expected = measures.overlay(PHOTOGRAPH, zoom=1)
        assert measures.overlay(tmp_path / "eye.png", zoom=1) == expected
        assert measures.overlay(Image.fromarray(PHOTOGRAPH), zoom=1) == expected


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"color_by": "length"}, "'width' and 'segment'"),
            ({"crop": (0, 0, 10)}, "left, top, right and bottom"),
            ({"crop": (0, 0, 10.5, 20)}, "whole pixels"),
            ({"crop": (0, 0, 300, 201)}, "within the 300 x 200 pixels"),
            ({"crop": (50, 0, 50, 20)}, "within the 300 x 200 pixels"),
            ({"zoom": 0}, "from 1 to 16"),
            ({"zoom": 1.5}, "from 1 to 16"),
            ({"photograph": np.zeros((300, 200, 3), np.uint8)}, "has 200 x 300 pixels"),
        ],
    )
    def test_wrong_ones_raise_errors_that_say_what_is_allowed(self, measures, options, match):
        with pytest.raises(OptionError, match=match):
            measures.overlay(**options)

    def test_what_is_no_photograph_raises_an_image_error(self, measures):
        with pytest.raises(ImageError):
            measures.overlay(b"no image")
