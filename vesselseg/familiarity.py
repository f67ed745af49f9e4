"""Estimate how similar a photograph is to those that a model was trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .images import RGB
from .spec import ModelSpec

FAMILIARITY_LIMIT = 0.85  # a warning is logged below it; chosen with training/familiarity.py


def familiarity(
    probability: NDArray[np.float32],
    fov: NDArray[np.bool_],
    sharpness: float | None,
    spec: ModelSpec,
) -> float | None:
    """Return how similar a photograph is to the training photographs of a model.

    Parameters
    ----------
    probability : ndarray (H, W)
        The vessel probability of each pixel.
    fov : ndarray (H, W)
        The mask of the field of view.
    sharpness : float or None
        The sharpness of the photograph at the network's scale, from :func:`measure_sharpness`.
    spec : ModelSpec
        The model spec, whose statistics of the training photographs are compared with.

    Returns
    -------
    float or None
        From 0 to 1, the value of `Segmentation.familiarity`; None if the spec has no statistics.
    """
    if spec.expected_dice is None:
        return None
    value = min(expected_dice(probability, fov) / spec.expected_dice, 1.0)
    if sharpness is not None and spec.least_sharpness is not None:
        value *= min(sharpness / spec.least_sharpness, 1.0)
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
