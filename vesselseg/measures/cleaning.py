"""What is no vessel in a mask, and what is no gap: specks and pinholes."""

from __future__ import annotations

import numpy as np

from .centrelines import Mask

_SIDES = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=np.uint8)
_AROUND = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=np.uint8)


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
        cleaned |= _stick_out(~vessels, outside=True) & fov
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
