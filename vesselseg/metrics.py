"""How well a mask or a probability agrees with a label.

All figures are fractions in [0, 1], and NaN where they are not defined: a ratio whose denominator
is zero has no value, and no value is made up for it. Of an image without any vessel, in mask and
label alike, Dice is NaN, not 0 or 1; its specificity is still a number.

::

    counts = confusion(mask, label, fov)
    dice(counts), sensitivity(counts), specificity(counts), accuracy(counts)
    auc(probability, label, fov), cldice(mask, label, fov)

Counts of several images can be added, which pools their pixels: ``dice(first + second)``.
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
        Of the mask's skeleton, and those of them that lie in the label.
    label, label_in_mask : int
        Of the label's skeleton, and those of them that lie in the mask.
    """

    mask: int = 0
    mask_in_label: int = 0
    label: int = 0
    label_in_mask: int = 0

    def __add__(self, other: tuple[int, ...]) -> SkeletonOverlap:  # type: ignore[override]
        return SkeletonOverlap(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def cldice(self) -> float:
        """Centreline Dice of these pixels; see :func:`cldice`."""
        if not self.mask and not self.label:
            return float("nan")
        precision = _ratio(self.mask_in_label, self.mask)
        sensitivity = _ratio(self.label_in_mask, self.label)
        product = self.mask_in_label * self.label_in_mask
        return 2 * precision * sensitivity / (precision + sensitivity) if product else 0.0


def confusion(mask: ArrayLike, label: ArrayLike, fov: ArrayLike | None = None) -> Confusion:
    """Count the pixels on which mask and label agree and differ.

    Parameters
    ----------
    mask, label : array (H, W)
        Vessel or not: bool, or numbers of which one value beside 0 occurs (0 and 1, 0 and 255).
    fov : array (H, W), optional
        Field of view, likewise; pixels outside are not counted.

    Returns
    -------
    Confusion

    Raises
    ------
    OptionError
        If the arrays differ in shape, or one has more than two values.
    """
    predicted, actual, inside = _masks(mask, label, fov)
    if inside is not None:
        predicted, actual = predicted[inside], actual[inside]
    tp = int(np.count_nonzero(predicted & actual))
    fp = int(np.count_nonzero(predicted)) - tp
    fn = int(np.count_nonzero(actual)) - tp
    return Confusion(tp, fp, fn, predicted.size - tp - fp - fn)


def dice(counts: Confusion) -> float:
    """Dice coefficient of the vessels, also known as F1: ``2 TP / (2 TP + FP + FN)``.

    Dice 1945, doi:10.2307/1932409. NaN where neither mask nor label has a vessel.
    """
    return _ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def sensitivity(counts: Confusion) -> float:
    """Share of the label's vessels that were found: ``TP / (TP + FN)``; NaN without any."""
    return _ratio(counts.tp, counts.tp + counts.fn)


def specificity(counts: Confusion) -> float:
    """Share of the label's background that was left: ``TN / (TN + FP)``; NaN without any."""
    return _ratio(counts.tn, counts.tn + counts.fp)


def accuracy(counts: Confusion) -> float:
    """Share of the pixels that are right: ``(TP + TN) / all``; NaN of no pixels."""
    return _ratio(counts.tp + counts.tn, sum(counts))


def auc(probability: ArrayLike, label: ArrayLike, fov: ArrayLike | None = None) -> float:
    """Area under the receiver operating characteristic, exact.

    Parameters
    ----------
    probability : array of float or int (H, W)
        Any score that is higher where a vessel is more likely.
    label, fov : array (H, W)
        As for :func:`confusion`.

    Returns
    -------
    float
        NaN where the label has only vessels or none.

    Raises
    ------
    OptionError
        As :func:`confusion`; or if `probability` has NaN.

    Notes
    -----
    The area is the probability that a vessel pixel scores higher than a background pixel, ties
    counting half: the Mann-Whitney U divided by the number of pairs (Hanley and McNeil 1982,
    doi:10.1148/radiology.143.1.7063747). Nothing is binned, and no more than a sorted copy of
    the scores is kept.
    """
    scores = np.asarray(probability)
    _, actual, inside = _masks(label, label, fov)
    if scores.shape != actual.shape:
        raise OptionError(_unequal("probability", scores.shape, actual.shape))
    if scores.dtype.kind == "f" and np.isnan(scores).any():
        raise OptionError("probability has values that are not a number (NaN).")
    background = ~actual
    if inside is not None:
        actual, background = actual & inside, background & inside
    return auc_of_scores(scores[actual], scores[background])


def auc_of_scores(vessel: NDArray[Any], background: NDArray[Any]) -> float:
    """As :func:`auc`, from the scores of the two classes, (N,) and (M,), which are sorted in place.

    For pooling: the scores of several images, one after another.
    """
    if not vessel.size or not background.size:
        return float("nan")
    vessel.sort()  # makes the searches below walk through memory in order
    background.sort()
    lower = int(np.searchsorted(background, vessel, side="left").sum())
    not_higher = int(np.searchsorted(background, vessel, side="right").sum())
    return (lower + not_higher) / (2 * vessel.size * background.size)


def cldice(mask: ArrayLike, label: ArrayLike, fov: ArrayLike | None = None) -> float:
    """Centreline Dice: agreement on the course of the vessels, whatever their width.

    Parameters
    ----------
    mask, label, fov : array (H, W)
        As for :func:`confusion`. Vessels outside the field of view are removed from mask and
        label before their centrelines are drawn.

    Returns
    -------
    float
        NaN where neither has a vessel, 0 where only one has.

    Raises
    ------
    OptionError
        As :func:`confusion`.
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
    """The pixels that clDice is made of; parameters and errors as :func:`cldice`."""
    require_skeletons()
    from skimage.morphology import skeletonize

    predicted, actual, inside = _masks(mask, label, fov)
    if inside is not None:
        predicted, actual = predicted & inside, actual & inside
    of_mask, of_label = (np.asarray(skeletonize(v)) for v in (predicted, actual))  # type: ignore[no-untyped-call]
    return SkeletonOverlap(
        *(int(np.count_nonzero(s))
          for s in (of_mask, of_mask & actual, of_label, of_label & predicted))
    )  # fmt: skip


def require_skeletons() -> None:
    """Raise MissingExtraError if clDice cannot be computed here."""
    try:
        import skimage.morphology  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "clDice draws centrelines with scikit-image, which is not installed. Install it "
            "with: pip install 'vesselseg[eval]'"
        ) from error


def _masks(
    mask: ArrayLike, label: ArrayLike, fov: ArrayLike | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_] | None]:
    label_ = _binary(label, "label")
    mask_ = label_ if mask is label else _binary(mask, "mask")
    fov_ = None if fov is None else _binary(fov, "fov")
    for name, values in (("mask", mask_), ("fov", fov_)):
        if values is not None and values.shape != label_.shape:
            raise OptionError(_unequal(name, values.shape, label_.shape))
    return mask_, label_, fov_


def _binary(values: ArrayLike, name: str) -> NDArray[np.bool_]:
    array = np.asarray(values)
    if array.dtype == np.bool_:
        return array
    true = array != 0
    if array.dtype.kind not in "iuf" or (array.size and (array[true] != array.max()).any()):
        raise OptionError(
            f"{name} has to be bool, or numbers of which one value beside 0 occurs; it is an "
            f"array of {array.dtype} with others. A probability needs a threshold first."
        )
    return np.asarray(true)


def _unequal(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> str:
    return f"{name} has the shape {shape}, the label {expected}; they have to be equal."


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")
