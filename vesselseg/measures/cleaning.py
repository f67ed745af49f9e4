"""What is no vessel in a mask, and what is no gap: specks and pinholes."""

from __future__ import annotations

import numpy as np

from .centrelines import Mask

_SIDES = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=np.uint8)
_AROUND = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=np.uint8)
_RING = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))  # neighbours
_FAR = 4  # pixels; 1 % of salt makes a line that long about once along 600,000 pixels of wall


def clean(vessels: Mask, fov: Mask, *, fill_holes: int, min_size: int) -> Mask:
    """Fill pinholes and remove specks; turns and mirrors of a mask are treated alike.

    Holes of at most `fill_holes` pixels and parts of fewer than `min_size` pixels are noise. A
    hole is background that vessels enclose, without the help of the frame or of the border of the
    field of view; its pixels touch by their sides. The pixels of a part touch by their sides or
    corners. A single pixel that sticks out of a wall is a speck as well, and one that is missing
    in a wall is a pinhole.
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
    `_FAR` pixels. Both are that long, and at that distance one of them is at most three pixels
    wide.
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
    rim = np.concatenate([parts[:, [0, -1]].ravel(), parts[:, 1:-1, [0, -1]].ravel()])
    reach = np.bincount(rim, minlength=count + 1)
    around = np.stack([parts[:, _FAR + y, _FAR + x] for y, x in _RING], axis=1)
    found = np.zeros_like(mask)
    for turn in (3, 4):
        opposite = np.roll(around, turn, axis=1)
        fewest = np.minimum(reach[around], reach[opposite])
        is_gap = (around != opposite) & (fewest >= 1) & (fewest <= 3)
        found[places] |= (is_gap & (around > 0) & (opposite > 0)).any(axis=1)
    return found
