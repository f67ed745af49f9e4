"""The field of view: the bright disc of a fundus photograph inside its dark border.

It is found by brightness alone, so that it works for any camera: with noisy borders, discs cut
by the frame, notches and tabs, and bright labels in a corner.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Mask = NDArray[np.bool_]

_SIDE = 512  # pixels of the longer side of the reduced image that is analysed
_CELL = 4  # pixels of it per side of the cells in which connected regions are searched
_SIMILAR = 0.25  # the least share of the largest region's size in that of another field of view
_BEYOND = 0.03  # of a region, at most outside the circle that fits it
_MISSING = 0.2  # of the circle, at most not in the region
_DROPPED = 0.01  # of the circle, at most bright and not in the region
_COARSE = 128  # pixels of the longer side of the mask in which inscribed discs are sought
_CORE = 0.75  # of the largest distance to the outside: what is left separates discs that touch
_RISE = 0.1  # the threshold's position between the brightness of the border and of the disc


class FieldOfView(NamedTuple):
    """The field of view of a photograph."""

    mask: Mask
    """bool (H, W), True inside; all True if no border was found."""
    diameter: float | None
    """Of the disc, in pixels, also if the frame cuts it; None if no plausible disc was found."""
    warning: str = ""
    """That it is not a single disc, or ""."""


class _Circle(NamedTuple):
    """A circle in a mask, in pixels."""

    y: float
    x: float
    diameter: float


def find_field_of_view(image: NDArray[np.uint8]) -> FieldOfView:
    """Find the field of view of an RGB photograph (H, W, 3), uint8.

    Of several regions of similar size, such as two eyes in one picture, all are inside.
    """
    height, width = image.shape[:2]
    everything = FieldOfView(np.ones((height, width), dtype=np.bool_), None)
    if min(height, width) < 16:
        return everything
    factor = max(1, round(max(height, width) / _SIDE))
    bright = _smooth_brightness(image, factor)
    level, least = _border_level(bright, _middle_brightness(bright)), 1
    if level is None:  # between the pictures of a montage the middle is dark
        level, least = _border_level(bright, float(np.percentile(bright, 90))), 2
    if level is None:
        return everything
    is_bright = bright > level
    found = large_regions(is_bright)
    regions = [_fill_between(region) for region in found]
    inside = np.logical_or.reduce(regions)
    if inside.mean() < 0.1 or len(regions) < least:
        return everything  # a bright spot, not a field of view
    small = Image.fromarray(inside.astype(np.uint8) * 255)
    box = (0, 0, width / factor, height / factor)  # the last pixels may stand for fewer
    large = small.resize((width, height), Image.Resampling.BILINEAR, box=box)
    circle = _fit_circle(regions[0])
    diameter = None if circle is None else circle.diameter
    count, warning = len(regions), ""
    if not _is_disc(regions[0], circle, is_bright):
        radius, joined = _inscribed_discs(found[0])
        if joined > 1:
            diameter, count = 2 * radius, count - 1 + joined
        elif count == 1 and circle is not None:
            warning = (
                "The field of view is no disc: part of it is dark, cut off or missing, or "
                "something beside it is bright. Look at the overlay."
            )
    if diameter is not None:
        diameter *= factor
    if count > 1:
        size = "" if diameter is None else f", {diameter:.0f} pixels wide"
        warning = (
            f"There seem to be several fields of view in the picture, such as both eyes, a stereo "
            f"pair or a montage. All were segmented at the scale of one{size}. Measures are of all "
            f"of them together: cut the picture up to have each for itself."
        )
    return FieldOfView(np.asarray(large) > 127, diameter, warning)


def _is_disc(inside: Mask, circle: _Circle | None, is_bright: Mask) -> bool:
    """Whether a region is all of the visible part of a circle, with cuts, a notch or a tab."""
    if circle is None:
        return False
    rows, columns = np.ogrid[: inside.shape[0], : inside.shape[1]]
    disc = np.hypot(rows + 0.5 - circle.y, columns + 0.5 - circle.x) < circle.diameter / 2
    outside = disc & ~inside
    is_one = inside[~disc].sum() <= _BEYOND * inside.sum()
    is_whole = outside.sum() <= _MISSING * disc.sum()
    return bool(is_one and is_whole and is_bright[outside].sum() <= _DROPPED * disc.sum())


def _inscribed_discs(region: Mask) -> tuple[float, int]:
    """Radius of the largest disc inside a region, and how many discs nearly as large it joins."""
    step = max(1, round(max(region.shape) / _COARSE))
    small = np.pad(region[step // 2 :: step, step // 2 :: step], 1)
    # Squared distance to the nearest pixel outside: along the columns, then over the rows.
    height, width = small.shape
    rows = np.arange(height)
    outside = np.where(small, np.inf, 0.0)
    along = np.minimum.reduce(
        [outside[i] + (rows[:, None] - i) ** 2 for i in range(height)]
    )  # (H, W)
    columns = np.arange(width)
    squared = np.minimum.reduce([along[:, i : i + 1] + (columns - i) ** 2 for i in range(width)])
    distance = np.sqrt(squared)[1:-1, 1:-1]
    radius = float(distance.max())
    cores = distance > _CORE * radius
    large = cores.repeat(_CELL, axis=0).repeat(_CELL, axis=1)  # a pixel becomes a cell
    return radius * step, len(large_regions(large))


def _smooth_brightness(image: NDArray[np.uint8], factor: int) -> NDArray[np.float32]:
    """The brightest channel of the reduced image, smoothed, since noise raises a maximum."""
    reduced = Image.fromarray(image).reduce(factor)
    channels = np.asarray(reduced).transpose(2, 0, 1).astype(np.uint16, order="C")
    # Binomial smoothing over three pixels, the edge repeated: down the columns, along the rows.
    padded = np.pad(channels, ((0, 0), (1, 1), (0, 0)), mode="edge")
    channels = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    padded = np.pad(channels, ((0, 0), (0, 0), (1, 1)), mode="edge")
    channels = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return np.asarray(channels.max(axis=0) / np.float32(16))


def _middle_brightness(bright: NDArray[np.float32]) -> float:
    """Brightness of the middle of the picture, where the disc of most photographs is."""
    height, width = bright.shape
    middle = bright[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return float(np.median(middle))


def _border_level(bright: NDArray[np.float32], disc: float) -> float | None:
    """Threshold between border and disc; None if no corner is much darker than the disc."""
    height, width = bright.shape
    n = max(2, min(height, width) // 32)
    corners = [bright[:n, :n], bright[:n, -n:], bright[-n:, :n], bright[-n:, -n:]]
    corner = min(corners, key=lambda c: float(c.mean()))
    border, noise = float(np.median(corner)), float(corner.std())
    level = max(_RISE * (disc - border), 4 * noise, 4.0)
    return border + level if disc - border > max(2 * level, disc / 2) else None


def large_regions(mask: Mask) -> list[Mask]:
    """The largest connected region of True pixels, and others of similar size, largest first.

    Regions are searched in cells of several pixels. A strip beside the largest one, such as a
    banner with text, does not count.
    """
    height, width = mask.shape
    rows, columns = -(-height // _CELL), -(-width // _CELL)
    padded = np.pad(mask, ((0, rows * _CELL - height), (0, columns * _CELL - width)), mode="edge")
    filled = padded.reshape(rows, _CELL, columns, _CELL).sum(axis=1, dtype=np.uint8).sum(axis=2)
    cells = filled > _CELL**2 / 2
    # Each cell starts with a number of its own and takes the largest number of its neighbours and
    # of its row and column until nothing changes. Then the cells of a region share one number.
    labels = np.where(cells, np.arange(1, cells.size + 1).reshape(cells.shape), 0)
    while True:
        spread = _spread_along_rows(_spread_labels(labels) * cells, cells)
        spread = _spread_along_rows(spread.T, cells.T).T
        if np.array_equal(spread, labels):
            break
        labels = spread
    counts = np.bincount(labels[cells])
    if not len(counts):
        return [np.zeros_like(mask)]
    regions, least_side = [], 0
    for number in np.argsort(counts, kind="stable")[::-1]:
        if counts[number] < _SIMILAR * counts.max():
            break
        is_region = labels == number
        side = min(np.count_nonzero(is_region.any(axis=0)), np.count_nonzero(is_region.any(axis=1)))
        if side < least_side:
            continue
        least_side = least_side or side // 2
        region = _spread_labels(is_region)  # with the cells at its edge
        pixels = region.repeat(_CELL, axis=0).repeat(_CELL, axis=1)[:height, :width]
        regions.append(np.asarray(mask & pixels))
    return regions


def _spread_labels(values: NDArray[Any]) -> NDArray[Any]:
    """Replace each cell by the largest value among itself and its eight neighbours."""
    padded = np.pad(values, 1)
    tall = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    return np.asarray(np.maximum(np.maximum(tall[:, :-2], tall[:, 1:-1]), tall[:, 2:]))


def _spread_along_rows(values: NDArray[Any], cells: Mask) -> NDArray[Any]:
    """Replace each value by the largest of its run, which ends where `cells` change in its row."""
    is_start = np.ones_like(cells)
    is_start[:, 1:] = cells[:, 1:] != cells[:, :-1]
    starts = np.flatnonzero(is_start)
    lengths = np.diff(starts, append=cells.size)
    return np.maximum.reduceat(values.ravel(), starts).repeat(lengths).reshape(cells.shape)


def _fill_between(mask: Mask) -> Mask:
    """Fill what lies between True pixels both along its row and along its column."""

    def between(lines: Mask) -> Mask:
        """What lies between the first and the last True of each row."""
        column = np.arange(lines.shape[1])
        first = lines.argmax(axis=1, keepdims=True)
        last = column[-1] - lines[:, ::-1].argmax(axis=1, keepdims=True)
        is_filled = lines.any(axis=1, keepdims=True)
        return np.asarray((first <= column) & (column <= last) & is_filled)

    return np.asarray(between(mask) & between(mask.T).T)


def _fit_circle(mask: Mask) -> _Circle | None:
    """The circle fitted to the mask's outline.

    Algebraic least squares (Kasa 1976, doi:10.1109/TIM.1976.6312298), repeated without the
    points that lie off the circle: straight cuts, notches and tabs. The frame is no outline.
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
    # The disc is not smaller than its visible part, and not a shallow arc of something huge.
    if not 0.9 * extent <= 2 * radius <= 3 * extent:
        return None
    return _Circle(float(y), float(x), 2 * radius)
