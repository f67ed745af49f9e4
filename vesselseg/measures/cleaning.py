"""What is no vessel in a mask, and what is no gap: specks and pinholes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .centrelines import Mask

_SIDES = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=np.uint8)
_AROUND = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=np.uint8)
_RING = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))  # neighbours
_FAR = 4  # pixels; 1 % of salt hardly ever makes a line that long
_AT_ONCE = 20_000  # windows


def clean(vessels: Mask, fov: Mask, *, fill_holes: int, min_size: int) -> Mask:
    """Fill pinholes and remove specks, as the notes on :func:`vesselseg.measure` say.

    Turns and mirrors of a mask are treated alike.
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
    """Which pixels are missing in a line, or between its end and a vessel."""
    height, width = mask.shape
    padded = np.pad(mask, _FAR)
    ring = [padded[_FAR + y :, _FAR + x :][:height, :width] for y, x in _RING]
    faced = np.zeros_like(mask)
    for i in range(8):
        faced |= ring[i] & (ring[i - 3] | ring[i - 4])
    rows, columns = np.nonzero(~mask & faced)
    side = 2 * _FAR + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    found = np.zeros_like(mask)
    for start in range(0, len(rows), _AT_ONCE):  # noise has millions of places
        places = rows[start : start + _AT_ONCE], columns[start : start + _AT_ONCE]
        found[places] = _are_gaps(windows[places])
    return found


def _are_gaps(windows: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the middle pixel of each window, (N, side, side), is a gap in a line.

    Two parts of the mask face each other there, at 135 or 180 degrees, that do not meet inside the
    window. Both reach its border, in opposite directions, and one of them or both as one line of
    at most three pixels.
    """
    from scipy.ndimage import label

    in_window = np.zeros((3, 3, 3), dtype=bool)
    in_window[1] = True
    parts, count = label(windows, structure=in_window)
    rows, columns = np.indices(windows.shape[1:]) - _FAR
    border = np.argwhere(np.maximum(abs(rows), abs(columns)) == _FAR) - _FAR
    border = border[np.argsort(np.arctan2(*border.T))]  # in order around the window
    far = parts[:, border[:, 0] + _FAR, border[:, 1] + _FAR]
    reach = np.bincount(far.ravel(), minlength=count + 1)
    runs = np.bincount(far[far != np.roll(far, 1, axis=1)], minlength=count + 1)
    is_line = (reach >= 1) & (reach <= 3) & (runs == 1)
    way = [np.bincount(far.ravel(), np.tile(each, len(far)), count + 1) for each in border.T]
    around = np.stack([parts[:, _FAR + y, _FAR + x] for y, x in _RING], axis=1)
    found = np.zeros(len(windows), dtype=bool)
    for turn in (3, 4):
        opposite = np.roll(around, turn, axis=1)
        apart = sum(each[around] * each[opposite] for each in way)
        length = np.hypot(*way)[around] * np.hypot(*way)[opposite]
        is_gap = (around > 0) & (opposite > 0) & (is_line[around] | is_line[opposite])
        found |= (is_gap & (apart < -0.5 * length)).any(axis=1)  # 120 degrees and more
    return found
