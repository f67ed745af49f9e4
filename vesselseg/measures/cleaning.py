"""What is no vessel in a mask, and what is no gap: specks and pinholes."""

from __future__ import annotations

import numpy as np

from .centrelines import Mask

_SIDES = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=np.uint8)
_AROUND = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=np.uint8)
_RING = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))  # neighbours
_FAR = 4  # pixels; 1 % of salt hardly ever makes a line that long


def clean(vessels: Mask, fov: Mask, *, fill_holes: int, min_size: int) -> Mask:
    """Fill pinholes and remove specks; turns and mirrors of a mask are treated alike.

    Holes of at most `fill_holes` pixels and parts of fewer than `min_size` pixels are noise. A
    hole is background that vessels enclose, without the help of the frame or of the border of the
    field of view; its pixels touch by their sides. The pixels of a part touch by their sides or
    corners. A single pixel that sticks out of a wall is a speck as well, and one that is missing
    in a wall, or in a line, is a pinhole.
    """
    from scipy.ndimage import label

    cleaned = vessels.copy()
    if min_size > 1:
        cleaned &= ~_stick_out(vessels, outside=False)
    if fill_holes > 0:
        cleaned |= (_stick_out(~vessels, outside=True) | _interrupt(cleaned)) & fov
        regions, count = label(np.pad(~cleaned, 1, constant_values=True))
        is_hole = np.bincount(regions.ravel(), minlength=count + 1) <= fill_holes
        is_hole[regions[~np.pad(fov, 1)]] = False
        cleaned |= is_hole[regions[1:-1, 1:-1]]
    if min_size > 1:
        parts, _ = label(cleaned, structure=np.ones((3, 3)))
        cleaned &= (np.bincount(parts.ravel()) >= min_size)[parts]
    return np.asarray(cleaned)


def _stick_out(mask: Mask, *, outside: bool) -> Mask:
    """Which pixels stick out of a wall.

    They have at most three neighbours in the mask, at most one of them at a side, and all of
    these have at least five. The end of a line stays, since it has a neighbour with fewer.
    """
    from scipy.ndimage import convolve, minimum_filter

    padded = np.pad(mask, 2, constant_values=outside)
    sides = convolve(padded.astype(np.uint8), _SIDES)
    around = convolve(padded.astype(np.uint8), _AROUND)
    fewest = minimum_filter(np.where(padded, around, 8), footprint=_AROUND)
    found = padded & (sides <= 1) & (around <= 3) & (fewest >= 5)
    return np.asarray(found[2:-2, 2:-2])


def _interrupt(mask: Mask) -> Mask:
    """Which pixels are missing in a line, or between its end and a vessel.

    Two parts of the mask face each other there, at 135 or 180 degrees, that do not meet within
    `_FAR` pixels. Both reach that far, in opposite directions, and one of them or both as one line
    of at most three pixels.
    """
    from scipy.ndimage import label

    height, width = mask.shape
    padded = np.pad(mask, _FAR)
    ring = [padded[_FAR + y :, _FAR + x :][:height, :width] for y, x in _RING]
    faced = [ring[i] & ring[i - turn] for i in range(8) for turn in (3, 4)]
    places = np.nonzero(~mask & np.any(faced, axis=0))
    side = 2 * _FAR + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))[places]
    in_window = np.zeros((3, 3, 3), dtype=bool)
    in_window[1] = True
    parts, count = label(windows, structure=in_window)
    rows, columns = np.indices((side, side)) - _FAR
    rim = np.argwhere(np.maximum(abs(rows), abs(columns)) == _FAR) - _FAR
    rim = rim[np.argsort(np.arctan2(*rim.T))]  # in order around the window
    far = parts[:, rim[:, 0] + _FAR, rim[:, 1] + _FAR]
    reach = np.bincount(far.ravel(), minlength=count + 1)
    runs = np.bincount(far[far != np.roll(far, 1, axis=1)], minlength=count + 1)
    is_line = (reach >= 1) & (reach <= 3) & (runs == 1)
    way = [np.bincount(far.ravel(), np.tile(each, len(far)), count + 1) for each in rim.T]
    around = np.stack([parts[:, _FAR + y, _FAR + x] for y, x in _RING], axis=1)
    found = np.zeros_like(mask)
    for turn in (3, 4):
        opposite = np.roll(around, turn, axis=1)
        apart = sum(each[around] * each[opposite] for each in way)
        length = np.hypot(*way)[around] * np.hypot(*way)[opposite]
        is_gap = (around > 0) & (opposite > 0) & (is_line[around] | is_line[opposite])
        found[places] |= (is_gap & (apart < -0.5 * length)).any(axis=1)  # 120 degrees and more
    return found
