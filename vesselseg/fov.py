"""The field of view: the bright disc that the camera's mask leaves of a retinal photograph.

Found by brightness alone, so that it works for any camera: dark borders with noise, discs cut
by the frame, notches and tabs, bright labels in a corner.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Mask = NDArray[np.bool_]

_SIDE = 512  # of the reduced image that is looked at, in pixels
_CELL = 4  # its pixels per cell when connected regions are sought
_RISE = 0.1  # of the way from the border's brightness to the disc's


class FieldOfView(NamedTuple):
    """What was found in a photograph.

    Attributes
    ----------
    mask : ndarray of bool (H, W)
        True inside; all True where no border was found.
    diameter : float or None
        Of the disc, in pixels of the photograph, also where the frame cuts it; None where no
        plausible disc was found.
    """

    mask: Mask
    diameter: float | None


def find(image: NDArray[np.uint8]) -> FieldOfView:
    """Field of view of an RGB photograph (H, W, 3), uint8."""
    height, width = image.shape[:2]
    everything = FieldOfView(np.ones((height, width), dtype=np.bool_), None)
    if min(height, width) < 16:
        return everything
    factor = max(1, round(max(height, width) / _SIDE))
    bright = _brightness(image, factor)
    level = _threshold(bright)
    if level is None:
        return everything
    inside = _hull(_largest_region(bright > level))
    if inside.mean() < 0.1:
        return everything  # a bright spot, not a field of view
    small = Image.fromarray(inside.astype(np.uint8) * 255)
    box = (0, 0, width / factor, height / factor)  # the last cell may stand for fewer pixels
    large = small.resize((width, height), Image.Resampling.BILINEAR, box=box)
    diameter = _diameter(inside)
    return FieldOfView(np.asarray(large) > 127, diameter and diameter * factor)


def _brightness(image: NDArray[np.uint8], factor: int) -> NDArray[np.float32]:
    """The brightest channel, reduced and smoothed: noise would lift a maximum of single pixels."""
    reduced = Image.fromarray(image).reduce(factor) if factor > 1 else Image.fromarray(image)
    pixels = np.asarray(reduced).astype(np.float32)
    for axis in (0, 1):  # binomial smoothing over three pixels, the edge repeated
        padded = np.pad(pixels, [(1, 1) if i == axis else (0, 0) for i in range(3)], mode="edge")
        n = pixels.shape[axis]
        before, here, after = (np.take(padded, range(i, i + n), axis) for i in range(3))
        pixels = (before + 2 * here + after) / np.float32(4)
    return np.asarray(pixels.max(axis=2))


def _threshold(bright: NDArray[np.float32]) -> float | None:
    """Brightness between border and disc; None where no corner is dark against the middle."""
    height, width = bright.shape
    n = max(2, min(height, width) // 32)
    corners = [bright[:n, :n], bright[:n, -n:], bright[-n:, :n], bright[-n:, -n:]]
    corner = min(corners, key=lambda c: float(c.mean()))
    border, noise = float(np.median(corner)), float(corner.std())
    middle = bright[height // 4 : -(height // 4), width // 4 : -(width // 4)]
    disc = float(np.median(middle))
    level = max(_RISE * (disc - border), 4 * noise, 4.0)
    return border + level if disc - border > max(2 * level, disc / 2) else None


def _largest_region(mask: Mask) -> Mask:
    """The largest connected region of True, found on cells of which most pixels are True."""
    height, width = mask.shape
    rows, columns = -(-height // _CELL), -(-width // _CELL)
    padded = np.pad(mask, ((0, rows * _CELL - height), (0, columns * _CELL - width)), mode="edge")
    cells = padded.reshape(rows, _CELL, columns, _CELL).mean(axis=(1, 3)) > 0.5
    # Every cell starts with its own number and takes the largest of its neighbours' until
    # nothing changes; then a region is the cells of one number.
    labels = np.where(cells, np.arange(1, cells.size + 1).reshape(cells.shape), 0)
    while True:
        spread = _spread(labels)
        spread[~cells] = 0
        if np.array_equal(spread, labels):
            break
        labels = spread
    numbers, counts = np.unique(labels[cells], return_counts=True)
    if not len(numbers):
        return np.zeros_like(mask)
    region = _spread(labels == numbers[counts.argmax()])  # and the cells at its edge
    fine = region.repeat(_CELL, axis=0).repeat(_CELL, axis=1)[:height, :width]
    return np.asarray(mask & fine)


def _spread(values: NDArray[Any]) -> NDArray[Any]:
    """The largest of each cell and its eight neighbours."""
    padded = np.pad(values, 1)
    tall = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    return np.asarray(np.maximum(np.maximum(tall[:, :-2], tall[:, 1:-1]), tall[:, 2:]))


def _hull(mask: Mask) -> Mask:
    """Everything between True and True, both along its row and along its column."""

    def between(axis: int) -> Mask:
        ahead = np.maximum.accumulate(mask, axis=axis)
        behind = np.flip(np.maximum.accumulate(np.flip(mask, axis), axis=axis), axis)
        return np.asarray(ahead & behind)

    return np.asarray(between(0) & between(1))


def _diameter(mask: Mask) -> float | None:
    """Diameter of the circle through the mask's outline, in pixels of the mask.

    Algebraic least squares (Kasa 1976, doi:10.1109/TIM.1976.6312298), repeated without the
    points that lie off the circle: straight cuts, notches and tabs. Where the frame cuts the
    disc there is no outline to fit.
    """
    height, width = mask.shape
    points = []
    for lines, across, length in ((mask, 1, width), (mask.T, 0, height)):
        filled = np.flatnonzero(lines.any(axis=1))
        first = lines.argmax(axis=1)[filled]
        last = length - 1 - lines[:, ::-1].argmax(axis=1)[filled]
        for ends, edge, shift in ((first, 0, 0.0), (last, length - 1, 1.0)):
            free = ends != edge
            pair = [filled[free] + 0.5, ends[free] + shift]
            points.append(np.stack(pair if across else pair[::-1], axis=1))
    outline = np.concatenate(points)  # (N, 2) rows and columns
    extent = max(np.ptp(np.flatnonzero(mask.any(axis=0))), np.ptp(np.flatnonzero(mask.any(axis=1))))
    kept = outline
    for _ in range(8):
        if len(kept) < max(16, len(outline) / 4):
            return None
        system = np.concatenate([2 * kept, np.ones((len(kept), 1))], axis=1)
        (y, x, c), *_ = np.linalg.lstsq(system, (kept**2).sum(axis=1), rcond=None)
        radius = float(np.sqrt(max(c + y * y + x * x, 0.0)))
        off = np.abs(np.hypot(outline[:, 0] - y, outline[:, 1] - x) - radius)
        limit = max(2.5 * float(np.median(off)), 1.0)
        kept = outline[off <= limit]
    # A disc is not smaller than what is seen of it, nor a shallow arc of something huge.
    return 2 * radius if 0.9 * extent <= 2 * radius <= 3 * extent else None
