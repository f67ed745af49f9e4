"""What a photograph is unlike: those that a model was trained on, or any that a camera takes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .fov import FieldOfView
from .images import RGB
from .spec import ModelSpec

FAMILIARITY_LIMIT = 0.85  # a warning is logged below it; chosen with training/familiarity.py

_SAMPLES = 512  # rows and columns, about, that faults are looked for in
_LAG = 16  # pixels: what a decoder fills in repeats itself within a block of a JPEG file
_BLOCK = 8  # samples per side of a square
_AREA = 5  # squares per side of the smallest area that counts
_MORE_BLUE = 1.1  # times as much as red
_WHITE = 0xFFFFFF


def familiarity(
    probability: NDArray[np.float32], scaled: RGB, fov: NDArray[np.bool_], spec: ModelSpec
) -> float | None:
    """Return how similar a photograph is to the training photographs of a model, from 0 to 1.

    None if the spec has no statistics of them. `scaled` is the photograph at the network's scale.
    """
    if spec.expected_dice is None:
        return None
    value = min(expected_dice(probability, fov) / spec.expected_dice, 1.0)
    if spec.least_sharpness is not None:
        value *= min(measure_sharpness(scaled, fov) / spec.least_sharpness, 1.0)
    return value


def expected_dice(probability: NDArray[np.float32], fov: NDArray[np.bool_]) -> float:
    """Return the expected Dice of the mask at a threshold of 0.5, if the probabilities are right.

    For probabilities p and the mask m, this is 2 sum(p m) / (sum(p) + sum(m)) over the field of
    view, or 0 if there are no vessels. To save time, at most 400 rows are used.
    """
    step = 1 + len(fov) // 400
    inside = probability[::step][fov[::step]]
    vessels = inside[inside > 0.5]
    total = inside.sum(dtype=np.float64) + vessels.size
    return float(2 * vessels.sum(dtype=np.float64) / total) if total > 0 else 0.0


def undecided_fraction(probability: NDArray[np.float32], fov: NDArray[np.bool_]) -> float | None:
    """Return the share of the field of view with a probability from 0.25 to 0.75.

    None if the field of view has no pixel. To save time, at most 400 rows are used.
    """
    step = 1 + len(fov) // 400
    inside = probability[::step][fov[::step]]
    return float(((inside >= 0.25) & (inside <= 0.75)).mean()) if inside.size else None


def measure_sharpness(rgb: RGB, fov: NDArray[np.bool_]) -> float:
    """Return the sharpness of the green channel inside the field of view.

    The photograph is reduced to a quarter, which removes the noise of single pixels. Sharpness is
    its mean second difference over 2 pixels divided by that over 4, which are 8 and 16 pixels of
    the photograph. It is about 1 for noise and 1/4 for smooth images, and does not depend on
    contrast. If the field of view is too small to measure it, 0 is returned.
    """
    green = np.asarray(Image.fromarray(rgb[..., 1]).convert("F").reduce(4))
    inside = np.asarray(Image.fromarray(fov).resize(green.shape[::-1], Image.Resampling.NEAREST))
    fine, coarse = (_mean_second_difference(green, inside, distance) for distance in (2, 4))
    return fine / coarse if coarse > 0 else 0.0


def _mean_second_difference(
    image: NDArray[np.float32], inside: NDArray[np.bool_], distance: int
) -> float:
    """Return the mean of |f(x - d) - 2 f(x) + f(x + d)| along rows and columns.

    Only positions with both ends inside the mask count.
    """
    total, count = 0.0, 0
    for values, mask in ((image, inside), (image.T, inside.T)):
        before, after = values[: -2 * distance], values[2 * distance :]
        differences = np.abs(before - 2 * values[distance:-distance] + after)
        differences = differences[mask[: -2 * distance] & mask[2 * distance :]]
        total += float(differences.sum(dtype=np.float64))
        count += differences.size
    return total / count if count else 0.0


def find_faults(rgb: RGB, fov: FieldOfView) -> list[str]:
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
