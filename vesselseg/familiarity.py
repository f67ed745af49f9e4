"""How like those that a model was trained on a photograph is, from its sharpness and its result."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .images import RGB
from .spec import ModelSpec

FAMILIARITY_LIMIT = 0.85  # a photograph below is warned of; chosen with training/familiarity.py


def familiarity(
    probability: NDArray[np.float32],
    fov: NDArray[np.bool_],
    sharpness: float | None,
    spec: ModelSpec,
) -> float | None:
    """The value of `Segmentation.familiarity`; `sharpness` is that at the network's scale."""
    if spec.expected_dice is None:
        return None
    value = min(expected_dice(probability, fov) / spec.expected_dice, 1.0)
    if sharpness is not None and spec.least_sharpness is not None:
        value *= min(sharpness / spec.least_sharpness, 1.0)
    return value


def expected_dice(probability: NDArray[np.float32], fov: NDArray[np.bool_]) -> float:
    """The Dice of the mask at 0.5, inside the field of view, if the probabilities are right.

    This is 2 sum(p m) / (sum(p) + sum(m)) for the mask m, and 0 without vessels. Some 400 rows
    are enough.
    """
    step = 1 + len(fov) // 400
    inside = probability[::step][fov[::step]]
    vessels = inside[inside > 0.5]
    total = inside.sum(dtype=np.float64) + vessels.size
    return float(2 * vessels.sum(dtype=np.float64) / total) if total > 0 else 0.0


def measure_sharpness(rgb: RGB, fov: NDArray[np.bool_]) -> float:
    """How fine what the green channel shows inside the field of view is, whatever its contrast.

    The mean second difference over 8 pixels divided by that over 16: about 1 for noise, 1/4 for
    what is smooth, and 0 where nothing can be measured. Reducing to a quarter first takes out the
    noise of single pixels.
    """
    green = np.asarray(Image.fromarray(rgb[..., 1]).convert("F").reduce(4))
    inside = np.asarray(Image.fromarray(fov).resize(green.shape[::-1], Image.Resampling.NEAREST))
    fine, coarse = (mean_second_difference(green, inside, distance) for distance in (2, 4))
    return fine / coarse if coarse > 0 else 0.0


def mean_second_difference(
    image: NDArray[np.float32], inside: NDArray[np.bool_], distance: int
) -> float:
    """Mean of |f(x - d) - 2 f(x) + f(x + d)| along rows and columns, both ends being inside."""
    total, count = 0.0, 0
    for values, mask in ((image, inside), (image.T, inside.T)):
        before, after = values[: -2 * distance], values[2 * distance :]
        differences = np.abs(before - 2 * values[distance:-distance] + after)
        differences = differences[mask[: -2 * distance] & mask[2 * distance :]]
        total += float(differences.sum(dtype=np.float64))
        count += differences.size
    return total / count if count else 0.0
