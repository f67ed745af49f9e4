"""How well a mask or a probability agrees with a label.

All figures are fractions in [0, 1], and NaN if they are not defined: the Dice of an image without
vessels in both mask and label is NaN, not 0 or 1, while its specificity is still a number.

::

    counts = confusion(mask, label, fov)
    dice(counts), sensitivity(counts), precision(counts), specificity(counts), accuracy(counts)
    auc(probability, label, fov), cldice(mask, label, fov)

Counts of several images can be added to pool their pixels: ``dice(first + second)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import OptionError, require

__all__ = [
    "Confusion",
    "accuracy",
    "auc",
    "cldice",
    "confusion",
    "dice",
    "precision",
    "sensitivity",
    "specificity",
]

Mask: TypeAlias = NDArray[np.bool_]


class Confusion(NamedTuple):
    """Numbers of pixels: true and false positives, false and true negatives."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def __add__(self, other: tuple[int, ...]) -> Confusion:  # type: ignore[override]
        return Confusion(*(a + b for a, b in zip(self, other, strict=True)))

    def __radd__(self, other: object) -> Confusion:
        return self if other == 0 else NotImplemented  # sum() begins with 0


def confusion(mask: ArrayLike, label: ArrayLike, fov: ArrayLike | None = None) -> Confusion:
    """Count the pixels on which mask and label agree and differ.

    Parameters
    ----------
    mask, label : array (H, W)
        Vessel or not: bool, or numbers with one positive value besides 0 (0 and 1, or 0 and 255).
    fov : array (H, W), optional
        Field of view, in the same form; pixels outside are not counted.

    Returns
    -------
    Confusion

    Raises
    ------
    OptionError
        If the arrays differ in shape, or one has more than two values.

    Examples
    --------
    >>> import numpy as np
    >>> from vesselseg import metrics
    >>> counts = metrics.confusion(np.array([[0, 1, 1, 1]]), np.array([[0, 1, 1, 0]]))
    >>> counts
    Confusion(tp=2, fp=1, fn=0, tn=1)
    >>> metrics.dice(counts), metrics.sensitivity(counts), metrics.accuracy(counts)
    (0.8, 1.0, 0.75)
    """
    predicted, actual, inside = _to_masks(mask, label, fov)
    tp = _count(predicted & actual)
    fp = _count(predicted) - tp
    fn = _count(actual) - tp
    return Confusion(tp, fp, fn, _count(inside) - tp - fp - fn)


def dice(counts: Confusion) -> float:
    """Dice coefficient of the vessels, or F1: ``2 TP / (2 TP + FP + FN)``.

    Dice 1945, doi:10.2307/1932409. NaN if neither mask nor label has a vessel.
    """
    return ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def sensitivity(counts: Confusion) -> float:
    """Share of the label's vessels that the mask has: ``TP / (TP + FN)``; NaN without any."""
    return ratio(counts.tp, counts.tp + counts.fn)


def precision(counts: Confusion) -> float:
    """Share of the mask's vessels that the label has: ``TP / (TP + FP)``; NaN without any."""
    return ratio(counts.tp, counts.tp + counts.fp)


def specificity(counts: Confusion) -> float:
    """Share of the label's background that the mask leaves: ``TN / (TN + FP)``; NaN without any."""
    return ratio(counts.tn, counts.tn + counts.fp)


def accuracy(counts: Confusion) -> float:
    """Share of the pixels that agree: ``(TP + TN) / all``; NaN without pixels."""
    return ratio(counts.tp + counts.tn, sum(counts))


def auc(probability: ArrayLike, label: ArrayLike, fov: ArrayLike | None = None) -> float:
    """Area under the receiver operating characteristic, exact.

    Parameters
    ----------
    probability : array of float or int (H, W)
        Any score that is higher where a vessel is more likely.
    label : array (H, W)
        Vessel or not: bool, or numbers with one positive value besides 0.
    fov : array (H, W), optional
        Field of view, in the same form; pixels outside are not counted.

    Returns
    -------
    float
        NaN if the label has only vessels or none.

    Raises
    ------
    OptionError
        If the arrays differ in shape, label or fov have more than two values, or `probability`
        has NaN.

    Notes
    -----
    The area is the probability that a vessel pixel scores higher than a background pixel, with
    ties counting half: the Mann-Whitney U divided by the number of pairs (Hanley and McNeil 1982,
    doi:10.1148/radiology.143.1.7063747). Nothing is binned.

    Examples
    --------
    >>> import numpy as np
    >>> from vesselseg import metrics
    >>> metrics.auc(np.array([[0.1, 0.6, 0.9, 0.7]]), np.array([[0, 1, 1, 0]]))
    0.75
    """
    scores = np.asarray(probability)
    _, actual, inside = _to_masks(label, label, fov)
    _check_shape("probability", scores, actual)
    if np.isnan(scores).any():
        raise OptionError("probability has values that are not numbers (NaN).")
    return auc_of_scores(scores[actual], scores[inside & ~actual])


def auc_of_scores(vessel: NDArray[Any], background: NDArray[Any]) -> float:
    """Like :func:`auc`, from all scores of the two classes, (N,) and (M,), sorted in place."""
    if not vessel.size or not background.size:
        return math.nan
    vessel.sort()  # sorted scores make the searches below walk through memory in order
    background.sort()
    lower = int(np.searchsorted(background, vessel, side="left").sum())
    not_higher = int(np.searchsorted(background, vessel, side="right").sum())
    return (lower + not_higher) / (2 * vessel.size * background.size)


def cldice(mask: ArrayLike, label: ArrayLike, fov: ArrayLike | None = None) -> float:
    """Centreline Dice: agreement on the course of the vessels, whatever their width.

    Parameters
    ----------
    mask, label : array (H, W)
        Vessel or not: bool, or numbers with one positive value besides 0.
    fov : array (H, W), optional
        Field of view, in the same form. Vessels outside it are removed before skeletons are
        computed.

    Returns
    -------
    float
        NaN if neither has a vessel, 0 if only one has.

    Raises
    ------
    OptionError
        If the arrays differ in shape, or one has more than two values.
    MissingExtraError
        If scikit-image is not installed.

    Notes
    -----
    Shit et al. 2021, doi:10.1109/CVPR46437.2021.01629. With the vessels V, their skeletons S,
    P for the mask and L for the label::

        precision   = |S_P and V_L| / |S_P|
        sensitivity = |S_L and V_P| / |S_L|
        clDice      = 2 precision sensitivity / (precision + sensitivity)

    Examples
    --------
    A mask that is too wide follows the course of the label nevertheless:

    >>> import numpy as np
    >>> from vesselseg import metrics
    >>> label, mask = np.zeros((2, 9, 30), dtype=bool)
    >>> label[4, 2:28] = True
    >>> mask[3:6, 1:29] = True
    >>> round(metrics.cldice(mask, label), 2)
    0.96
    >>> round(metrics.dice(metrics.confusion(mask, label)), 2)
    0.47
    """
    return cldice_of_counts(*skeleton_counts(mask, label, fov))


def skeleton_counts(
    mask: ArrayLike, label: ArrayLike, fov: ArrayLike | None = None
) -> tuple[Confusion, Confusion]:
    """What :func:`cldice` counts: the mask's skeleton in the label, the label's in the mask."""
    skeletonize = require_skeletons()
    predicted, actual, _ = _to_masks(mask, label, fov)
    return confusion(actual, skeletonize(predicted)), confusion(predicted, skeletonize(actual))


def cldice_of_counts(mask_skeleton: Confusion, label_skeleton: Confusion) -> float:
    """Like :func:`cldice`, from the counts of one image, or the sums of several to pool them."""
    in_label, in_mask = sensitivity(mask_skeleton), sensitivity(label_skeleton)
    if math.isnan(in_label) and math.isnan(in_mask):
        return math.nan
    if not mask_skeleton.tp or not label_skeleton.tp:
        return 0.0
    return 2 * in_label * in_mask / (in_label + in_mask)


def require_skeletons() -> Callable[[Mask], Mask]:
    """The function that computes skeletons, or MissingExtraError."""
    return cast("Callable[[Mask], Mask]", require("skimage.morphology", "eval").skeletonize)


def _to_masks(mask: ArrayLike, label: ArrayLike, fov: ArrayLike | None) -> tuple[Mask, Mask, Mask]:
    """Mask and label inside the field of view, and the field of view, all of one shape."""
    actual = to_bool(label, "label")
    predicted = to_bool(mask, "mask")
    inside = np.ones_like(actual) if fov is None else to_bool(fov, "fov")
    _check_shape("mask", predicted, actual)
    _check_shape("fov", inside, actual)
    return predicted & inside, actual & inside, inside


def to_bool(values: ArrayLike, name: str) -> Mask:
    """An array of bool; OptionError if it has anything but 0 and one positive value."""
    array = np.asarray(values)
    if array.dtype == np.bool_:
        return array
    true = array != 0
    highest = array.max(initial=0) if array.dtype.kind in "iuf" else 0
    if array.dtype.kind not in "iuf" or (array[true] != highest).any():
        raise OptionError(
            f"{name} must be bool, or numbers with one positive value besides 0; it is an array of "
            f"{array.dtype} with others. A probability needs a threshold first."
        )
    return np.asarray(true)


def _check_shape(name: str, array: NDArray[Any], label: Mask) -> None:
    """Raise OptionError if an array differs in shape from the label."""
    if array.shape != label.shape:
        raise OptionError(
            f"{name} has the shape {array.shape}, but the label {label.shape}; they must be equal."
        )


def _count(mask: Mask) -> int:
    """The number of pixels that are True."""
    return int(np.count_nonzero(mask))


def ratio(numerator: int, denominator: int) -> float:
    """A ratio, or NaN if the denominator is zero."""
    return numerator / denominator if denominator else math.nan
