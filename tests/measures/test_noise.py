"""Pinholes and specks in a mask, which fill_holes and min_size take out."""

import tracemalloc

import numpy as np
import pytest
from support import EXAMPLE, shapes

import vesselseg
from vesselseg import measure
from vesselseg.measures.cleaning import clean

pytest.importorskip("skan", reason='pip install "vesselseg[measure]"')


def add_salt(mask, share, *, seed=0, pepper=0.0):
    """A share of the pixels turned white, and one turned black."""
    chance = np.random.default_rng(seed).random((2, *mask.shape))
    return (mask | (chance[0] < share)) & (chance[1] >= pepper)


def make_pinholes(mask, side, count=8):
    """Square holes within the vessels, one pixel or more from their walls."""
    padded = np.pad(mask, 1)
    inner = np.lib.stride_tricks.sliding_window_view(padded, (side + 2, side + 2)).all(axis=(2, 3))
    corners = np.argwhere(inner)
    holes = mask.copy()
    for row, column in corners[np.random.default_rng(0).choice(len(corners), count)]:
        holes[row : row + side, column : column + side] = False
    return holes


def assert_alike(measures, expected):
    for name, value in expected.to_dict().items():
        if name in ("branch_points", "end_points"):
            assert abs(getattr(measures, name) - value) <= 1, name
        elif value is not None:
            assert getattr(measures, name) == pytest.approx(value, rel=0.01), name


@pytest.fixture(scope="module")
def example(windows_once):  # noqa: ARG001
    return vesselseg.segment(EXAMPLE, device="cpu")


@pytest.fixture(scope="module")
def tree():
    """The mask of a tree, and its measures."""
    mask = shapes.tree(23, 9).mask
    return mask, measure(mask)


class TestSteadyMeasures:
    @pytest.mark.slow
    @pytest.mark.parametrize("side", [1, 3])
    def test_pinholes_change_nothing(self, side, tree):
        mask, measures = tree
        assert measure(make_pinholes(mask, side)).to_dict() == measures.to_dict()

    @pytest.mark.slow
    def test_unless_holes_are_left_as_loops(self, tree):
        mask, measures = tree
        pierced = measure(make_pinholes(mask, 3), fill_holes=0)
        assert pierced.branch_points >= measures.branch_points + 8

    @pytest.mark.slow
    @pytest.mark.parametrize("shape", ["line", "comb", "tree", "arc", "ring"])
    def test_one_percent_of_noise_changes_drawn_shapes_by_less_than_one_percent(self, shape):
        mask = getattr(shapes, shape)(23, 9).mask
        assert_alike(measure(add_salt(mask, 0.01, pepper=0.01)), measure(mask))

    @pytest.mark.slow
    def test_and_a_real_mask(self, example):
        clean = example.measure()
        fov = example.field_of_view
        assert_alike(measure(add_salt(example.mask, 0.01, seed=1), fov=fov), clean)
        assert_alike(measure(make_pinholes(example.mask, 3), fov=fov), clean)

    def test_salt_that_is_left_counts_as_vessel(self):
        mask = shapes.line(23, 9).mask
        salted = measure(add_salt(mask, 0.01), min_size=0)
        assert salted.density > 1.5 * measure(mask).density


class TestHoles:
    @staticmethod
    def pierced(rows, columns):
        mask = np.zeros((60, 60), dtype=bool)
        mask[20:40, 10:50] = True
        mask[25 : 25 + rows, 15 : 15 + columns] = False
        return mask

    def test_up_to_so_many_pixels_are_filled_and_larger_ones_are_loops(self):
        assert measure(self.pierced(4, 5)).mask[20:40, 10:50].all()
        assert not measure(self.pierced(3, 7)).mask[25:28, 15:22].any()
        assert measure(self.pierced(3, 7), fill_holes=21).mask[20:40, 10:50].all()

    def test_none_is_filled_with_0(self):
        mask = self.pierced(1, 1)
        assert np.array_equal(measure(mask, fill_holes=0).mask, mask)

    def test_what_the_frame_or_the_border_of_the_field_of_view_closes_is_no_hole(self):
        mask = np.ones((40, 40), dtype=bool)
        mask[:2, 10:14] = False
        assert np.array_equal(measure(mask).mask, mask)
        fov = np.zeros_like(mask)
        fov[:, :30] = True
        mask[20:24, 28:30] = False
        assert np.array_equal(measure(mask, fov=fov).mask, mask & fov)

    def test_one_pixel_missing_in_a_wall_is_filled(self):
        mask = np.zeros((60, 60), dtype=bool)
        mask[20:30] = True
        notched = mask.copy()
        notched[20, 30] = notched[29, 10] = False
        assert np.array_equal(measure(notched).mask, mask)
        assert np.array_equal(measure(notched, fill_holes=0).mask, notched)


class TestLinesOfOnePixel:
    """What is missing in a line, or at its end, is filled if it is one pixel."""

    @staticmethod
    def line(rise, *missing):
        """A line through (40, 40) that falls by a pixel in so many columns, without some of it."""
        mask = np.zeros((80, 80), dtype=bool)
        columns = np.arange(10, 71)
        mask[40 + np.floor((columns - 40) * rise).astype(int), columns] = True
        for column in missing:
            mask[:, column] = False
        return mask

    @pytest.mark.parametrize("rise", [0, 1, 0.5, 0.3])
    def test_one_missing_pixel_does_not_break_it(self, rise):
        whole = measure(self.line(rise))
        for column in (39, 40, 41):
            broken = measure(self.line(rise, column))
            assert (broken.branch_points, broken.end_points) == (0, 2)
            assert broken.length_px == pytest.approx(whole.length_px, rel=0.01)
        assert measure(self.line(rise, 40), fill_holes=0).end_points == 4

    def test_two_missing_pixels_do(self):
        assert measure(self.line(0, 40, 41)).end_points == 4

    def test_its_end_is_joined_to_the_vessel_that_it_misses_by_a_pixel(self):
        mask = np.zeros((60, 80), dtype=bool)
        mask[10:20] = mask[21:50, 40] = True
        joined = measure(mask)
        assert joined.mask[20].nonzero()[0].tolist() == [39, 40, 41]
        assert (joined.branch_points, joined.end_points) == (1, 1)  # the frame cuts the vessel

    @pytest.mark.parametrize(("rise", "apart"), [(0, 2), (1, 3), (0.5, 3), (0.3, 3)])
    def test_parallel_lines_a_pixel_apart_stay_apart(self, rise, apart):
        mask = self.line(rise) | np.roll(self.line(rise), apart, axis=0)
        assert np.array_equal(measure(mask).mask, mask)

    @pytest.mark.slow
    @pytest.mark.parametrize("shape", ["line", "comb", "tree", "ring"])
    def test_one_percent_of_pepper_changes_neither_counts_nor_lengths(self, shape):
        mask = getattr(shapes, shape)(23, 1.5).mask
        clean, noisy = measure(mask), measure(add_salt(mask, 0, pepper=0.01))
        for name in ("branch_points", "end_points"):
            assert abs(getattr(noisy, name) - getattr(clean, name)) <= 1
        for name in ("length_px", "width_median_px", "box_dimension"):
            assert getattr(noisy, name) == pytest.approx(getattr(clean, name), rel=0.01)


class TestSpecks:
    @staticmethod
    def with_speck(rows, columns):
        mask = np.zeros((60, 60), dtype=bool)
        mask[20:30] = True
        mask[50 : 50 + rows, 30 : 30 + columns] = True
        return mask

    def test_parts_of_fewer_pixels_are_removed(self):
        assert not measure(self.with_speck(1, 19)).mask[50:].any()
        assert measure(self.with_speck(4, 5)).mask[50:].sum() == 20
        assert not measure(self.with_speck(4, 5), min_size=21).mask[50:].any()

    def test_none_is_removed_with_0(self):
        mask = self.with_speck(1, 1)
        assert np.array_equal(measure(mask, min_size=0).mask, mask)

    def test_pixels_that_touch_at_corners_are_one_part(self):
        mask = np.eye(40, dtype=bool)
        assert np.array_equal(measure(mask).mask, mask)

    def test_one_pixel_on_a_wall_is_removed(self):
        mask = self.with_speck(0, 0)
        bumpy = mask.copy()
        bumpy[19, 30] = bumpy[30, 10] = True
        assert np.array_equal(measure(bumpy).mask, mask)
        assert np.array_equal(measure(bumpy, min_size=0).mask, bumpy)

    @pytest.mark.parametrize("width", [1, 2, 3])
    def test_ends_and_corners_of_thin_lines_stay(self, width):
        mask = np.zeros((60, 60), dtype=bool)
        mask[20 : 20 + width, 10:50] = mask[20:50, 10 : 10 + width] = True
        assert np.array_equal(measure(mask).mask, mask)

    def test_a_short_branch_stays_if_it_is_longer_than_its_vessel_is_wide(self):
        mask = np.zeros((100, 200), dtype=bool)
        mask[45:52, 20:180] = True
        mask[52:62, 100:103] = True
        assert measure(mask).branch_points == 1


@pytest.mark.slow
def test_noise_all_over_a_mask_takes_little_memory():
    mask = np.random.default_rng(0).random((1000, 1000)) < 0.5
    tracemalloc.start()
    try:
        clean(mask, np.ones_like(mask), fill_holes=20, min_size=20)
        assert tracemalloc.get_traced_memory()[1] < 150 * mask.size
    finally:
        tracemalloc.stop()
