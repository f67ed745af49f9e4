"""How well a mask or a probability agrees with a label.

All figures are fractions in [0, 1], and NaN if they are not defined: the Dice of an image without
vessels in both mask and label is NaN, not 0 or 1, while its specificity is still a number.

::

    counts = confusion(mask, label, fov)
    dice(counts), sensitivity(counts), specificity(counts), accuracy(counts)
    auc(probability, label, fov), cldice(mask, label, fov)

Counts of several images can be added to pool their pixels: ``dice(first + second)``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import MissingExtraError, OptionError


class Confusion(NamedTuple):
    """Numbers of pixels: true and false positives, false and true negatives."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def __add__(self, other: tuple[int, ...]) -> Confusion:  # type: ignore[override]
        return Confusion(*(a + b for a, b in zip(self, other, strict=True)))


class SkeletonOverlap(NamedTuple):
    """Numbers of pixels of the two skeletons that clDice compares; see :func:`cldice`.

    Attributes
    ----------
    mask, mask_in_label : int
        Pixels of the mask's skeleton, and those of them inside the label.
    label, label_in_mask : int
        Pixels of the label's skeleton, and those of them inside the mask.
    """

    mask: int = 0
    mask_in_label: int = 0
    label: int = 0
    label_in_mask: int = 0

    def __add__(self, other: tuple[int, ...]) -> SkeletonOverlap:  # type: ignore[override]
        return SkeletonOverlap(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def cldice(self) -> float:
        """Centreline Dice of these pixels."""
        if not self.mask and not self.label:
            return float("nan")
        precision = ratio(self.mask_in_label, self.mask)
        sensitivity = ratio(self.label_in_mask, self.label)
        if not self.mask_in_label * self.label_in_mask:
            return 0.0
        return 2 * precision * sensitivity / (precision + sensitivity)


def confusion(mask: ArrayLike, label: ArrayLike, fov: ArrayLike | None = None) -> Confusion:
    """Count the pixels on which mask and label agree and differ.

    Parameters
    ----------
    mask, label : array (H, W)
        Vessel or not: bool, or numbers with one value besides 0 (0 and 1, or 0 and 255).
    fov : array (H, W), optional
        Field of view, in the same form; pixels outside are not counted.

    Returns
    -------
    Confusion

    Raises
    ------
    OptionError
        If the arrays differ in shape, or one has more than two values.
    """
    predicted, actual, inside = to_masks(mask, label, fov)
    if inside is not None:
        predicted, actual = predicted[inside], actual[inside]
    tp = int(np.count_nonzero(predicted & actual))
    fp = int(np.count_nonzero(predicted)) - tp
    fn = int(np.count_nonzero(actual)) - tp
    return Confusion(tp, fp, fn, predicted.size - tp - fp - fn)


def dice(counts: Confusion) -> float:
    """Dice coefficient of the vessels, or F1: ``2 TP / (2 TP + FP + FN)``.

    Dice 1945, doi:10.2307/1932409. NaN if neither mask nor label has a vessel.
    """
    return ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def sensitivity(counts: Confusion) -> float:
    """Share of the label's vessels that the mask has: ``TP / (TP + FN)``; NaN without any."""
    return ratio(counts.tp, counts.tp + counts.fn)


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
        Vessel or not: bool, or numbers with one value besides 0.
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
    doi:10.1148/radiology.143.1.7063747). Nothing is binned, and only a sorted copy of the scores
    is kept.
    """
    scores = np.asarray(probability)
    _, actual, inside = to_masks(label, label, fov)
    check_shape("probability", scores, actual)
    if scores.dtype.kind == "f" and np.isnan(scores).any():
        raise OptionError("probability has values that are not numbers (NaN).")
    background = ~actual
    if inside is not None:
        actual, background = actual & inside, background & inside
    return auc_of_scores(scores[actual], scores[background])


def auc_of_scores(vessel: NDArray[Any], background: NDArray[Any]) -> float:
    """Like :func:`auc`, from the scores of the two classes, (N,) and (M,), sorted in place.

    Use it to pool several images: join their scores.
    """
    if not vessel.size or not background.size:
        return float("nan")
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
        Vessel or not: bool, or numbers with one value besides 0.
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
    """
    return skeleton_overlap(mask, label, fov).cldice


def skeleton_overlap(
    mask: ArrayLike, label: ArrayLike, fov: ArrayLike | None = None
) -> SkeletonOverlap:
    """Count the pixels that :func:`cldice` is made of; it has the same parameters and errors."""
    require_skeletons()
    from skimage.morphology import skeletonize

    predicted, actual, inside = to_masks(mask, label, fov)
    if inside is not None:
        predicted, actual = predicted & inside, actual & inside
    of_mask = np.asarray(skeletonize(predicted))  # type: ignore[no-untyped-call]
    of_label = np.asarray(skeletonize(actual))  # type: ignore[no-untyped-call]
    return SkeletonOverlap(
        int(np.count_nonzero(of_mask)),
        int(np.count_nonzero(of_mask & actual)),
        int(np.count_nonzero(of_label)),
        int(np.count_nonzero(of_label & predicted)),
    )


def require_skeletons() -> None:
    """Raise MissingExtraError if skeletons cannot be computed here."""
    try:
        import skimage.morphology  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "clDice needs scikit-image for skeletons, which is not installed. Install it: "
            "pip install 'vesselseg[eval]'"
        ) from error


def to_masks(
    mask: ArrayLike, label: ArrayLike, fov: ArrayLike | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_] | None]:
    """Arrays of bool of one shape."""
    actual = to_bool(label, "label")
    predicted = actual if mask is label else to_bool(mask, "mask")
    check_shape("mask", predicted, actual)
    if fov is None:
        return predicted, actual, None
    inside = to_bool(fov, "fov")
    check_shape("fov", inside, actual)
    return predicted, actual, inside


def to_bool(values: ArrayLike, name: str) -> NDArray[np.bool_]:
    """An array of bool; OptionError if it has more than one value besides 0."""
    array = np.asarray(values)
    if array.dtype == np.bool_:
        return array
    true = array != 0
    if array.dtype.kind not in "iuf" or (array.size and (array[true] != array.max()).any()):
        raise OptionError(
            f"{name} must be bool, or numbers with one value besides 0; it is an array of "
            f"{array.dtype} with others. A probability needs a threshold first."
        )
    return np.asarray(true)


def check_shape(name: str, array: NDArray[Any], label: NDArray[Any]) -> None:
    """Raise OptionError if an array differs in shape from the label."""
    if array.shape != label.shape:
        raise OptionError(
            f"{name} has the shape {array.shape}, but the label {label.shape}; they must be equal."
        )


def ratio(numerator: int, denominator: int) -> float:
    """A ratio, or NaN if the denominator is zero."""
    return numerator / denominator if denominator else float("nan")
