"""What no camera makes: areas without a trace of the retina, and red and blue exchanged."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .fov import FieldOfView

_SAMPLES = 512  # rows and columns, about, that are looked at
_LAG = 16  # pixels: what a decoder fills in repeats itself within a block of a JPEG file
_BLOCK = 8  # samples per side of a square
_AREA = 5  # squares per side of the smallest area that counts
_MORE_BLUE = 1.1  # times as much as red
_WHITE = 0xFFFFFF


def find_faults(rgb: NDArray[np.uint8], fov: FieldOfView) -> list[str]:
    """Warnings about an RGB photograph (H, W, 3), uint8, that looks damaged or wrongly read."""
    # The distance of samples is a power of 2, so that the lag is a whole number of them.
    step = min(1 << max(0, round(math.log2(max(rgb.shape[:2]) / _SAMPLES))), _LAG)
    inside = np.ascontiguousarray(fov.mask[::step, ::step])
    red, green, blue = rgb[::step, ::step].transpose(2, 0, 1).astype(np.uint32, order="C")
    faults = []
    colors = red << 16 | green << 8 | blue
    if _has_flat_area(colors, inside, _LAG // step) or _has_flat_rows(colors, inside):
        faults.append(
            "Part of the field of view is flat, or the same pattern again and again, as in no "
            "photograph. The file may be damaged, or parts of it blanked. Look at the overlay."
        )
    if (blue * inside).sum() > _MORE_BLUE * (red * inside).sum() + np.count_nonzero(inside):
        faults.append(
            "Blue exceeds red, as in no photograph of a retina: are the channels swapped? OpenCV "
            "reads images as BGR; turn them into RGB with image[..., ::-1]."
        )
    return faults


def _has_flat_area(colors: NDArray[np.uint32], inside: NDArray[np.bool_], lag: int) -> bool:
    """Whether a large area equals what is beside and below it, `lag` samples away.

    Strong compression makes small flat areas, which do not count. White does not count either,
    since lamps saturate sensors.
    """
    height, width = colors.shape[0] - lag, colors.shape[1] - lag
    rows, columns = height // _BLOCK, width // _BLOCK
    if min(rows, columns) < _AREA:
        return False
    here = colors[:height, :width]
    is_flat = (here == colors[:height, lag:]) & (here == colors[lag:, :width])
    is_flat &= (here != _WHITE) & inside[:height, :width]
    squares = is_flat[: rows * _BLOCK, : columns * _BLOCK]
    squares = squares.reshape(rows, _BLOCK, columns, _BLOCK).all(axis=(1, 3))
    areas = np.lib.stride_tricks.sliding_window_view(squares, (_AREA, _AREA))
    return bool(areas.all(axis=(2, 3)).any())


def _has_flat_rows(colors: NDArray[np.uint32], inside: NDArray[np.bool_]) -> bool:
    """Whether a row has one colour all the way through the field of view, as missing strips do."""
    wide = inside.sum(axis=1) > max(inside.shape[1] // 4, _BLOCK)
    values, mask = colors[wide], inside[wide]
    highest = np.where(mask, values, 0).max(axis=1)
    lowest = np.where(mask, values, _WHITE).min(axis=1)
    return bool(((highest == lowest) & (lowest != _WHITE)).any())
