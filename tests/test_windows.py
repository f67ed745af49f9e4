"""Where the windows lie."""

import numpy as np
import pytest

from vesselseg.registry import find_spec
from vesselseg.windows import round_up, starts, windows


@pytest.mark.parametrize(
    ("length", "crop", "stride", "expected"),
    [
        (64, 64, 42, [0]),  # exactly one window
        (40, 64, 42, [0]),  # shorter than the crop: one window of that length
        (65, 64, 42, [0, 1]),  # one pixel more: the second is shifted back
        (106, 64, 42, [0, 42]),
        (131, 64, 42, [0, 42, 67]),
        (1, 64, 42, [0]),
        (10, 4, 4, [0, 4, 6]),
    ],
)
def test_starts(length, crop, stride, expected):
    assert starts(length, crop, stride) == expected


def test_windows_go_row_by_row_and_have_one_size():
    grid = windows(10, 7, crop=4, stride=3)
    assert [(w.top, w.left) for w in grid] == [(t, x) for t in (0, 3, 6) for x in (0, 3)]
    assert {(w.bottom - w.top, w.right - w.left) for w in grid} == {(4, 4)}


def test_short_sides_shorten_the_windows():
    assert windows(3, 9, crop=4, stride=4) == [(0, 3, 0, 4), (0, 3, 4, 8), (0, 3, 5, 9)]


@pytest.mark.parametrize(
    ("name", "count"), [("drive", 182), ("stare", 56), ("chase_db1", 132), ("hrf", 294)]
)
def test_published_grids(name, count):
    record = find_spec(f"unet_s5-d16_{name}")
    assert len(windows(*record.fit_size, record.crop, record.stride)) == count


def mmsegmentation_starts(length, crop, stride):
    """The grid as mmsegmentation writes it down: a count, then a shift of what hangs over."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    ends = [min(i * stride + crop, length) for i in range(count)]
    return [max(end - crop, 0) for end in ends]


def test_equal_to_mmsegmentation_for_every_stride_up_to_the_crop():
    for crop in (1, 5, 16, 64):
        for stride in range(1, crop + 1):
            for length in range(1, 3 * crop + 2):
                assert starts(length, crop, stride) == mmsegmentation_starts(length, crop, stride)


def test_every_pixel_is_covered():
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width, crop = (int(x) for x in rng.integers(1, 60, 3))
        stride = int(rng.integers(1, crop + 1))
        covered = np.zeros((height, width), dtype=bool)
        for window in windows(height, width, crop, stride):
            covered[window.top : window.bottom, window.left : window.right] = True
        assert covered.all()


def test_round_up():
    assert [round_up(n, 16) for n in (1, 15, 16, 17, 32)] == [16, 16, 16, 32, 32]
