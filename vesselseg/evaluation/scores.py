"""A model and a data set -> figures, by the published convention and inside the field of view.

The published convention counts the pixels of all images together, whole frames; its Dice is what
papers of mmsegmentation report. It rewards the black border for being black, so most of the
literature counts inside the field of view only, pooled or image by image.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import fov as fields_of_view
from .. import metrics
from ..errors import DatasetError
from ..images import RGB
from ..metrics import Confusion, SkeletonOverlap
from ..spec import ModelSpec
from ..segmenter import Segmenter
from .datasets import Dataset, Sample
from .labels import read_label, read_photograph

SECOND_OBSERVER = "second observer"
Mask: TypeAlias = NDArray[np.bool_]


class Figures(NamedTuple):
    """Fractions in [0, 1], NaN where not defined; see :mod:`vesselseg.metrics`."""

    dice: float
    sensitivity: float
    specificity: float
    accuracy: float
    auc: float
    cldice: float


class Case(NamedTuple):
    """The pixels of one evaluated photograph.

    Attributes
    ----------
    sample : Sample
    photograph : ndarray of uint8 (H, W, 3)
    mask, label, fov : ndarray of bool (H, W)
    """

    sample: Sample
    photograph: RGB
    mask: Mask
    label: Mask
    fov: Mask


@dataclass(frozen=True)
class ImageResult:
    """Counts and figures of one photograph.

    Attributes
    ----------
    name : str
    whole : Confusion
        Of the whole frame.
    inside : Confusion
        Inside the field of view, as all that follows.
    skeletons : SkeletonOverlap
    auc : float
    """

    name: str
    whole: Confusion
    inside: Confusion
    skeletons: SkeletonOverlap
    auc: float

    @property
    def figures(self) -> Figures:
        """Its figures inside the field of view."""
        return _figures(self.inside, self.auc, self.skeletons)


@dataclass(frozen=True)
class Evaluation:
    """How a model, or a second observer, did on a data set.

    Attributes
    ----------
    name : str
        Of the model, or "second observer".
    images : tuple of ImageResult
    pooled_auc : float
        Of all pixels inside the fields of view together.
    spec : ModelSpec or None
        The model's record.
    provenance : dict
        What :attr:`vesselseg.Segmentation.provenance` says of all images alike.
    """

    name: str
    images: tuple[ImageResult, ...]
    pooled_auc: float
    spec: ModelSpec | None
    provenance: dict[str, Any]

    @property
    def whole(self) -> Confusion:
        """Pixels of all whole frames; its Dice is the figure that is published."""
        return sum((image.whole for image in self.images), Confusion())

    @property
    def pooled(self) -> Figures:
        """Of all pixels inside the fields of view together."""
        inside = sum((image.inside for image in self.images), Confusion())
        skeletons = sum((image.skeletons for image in self.images), SkeletonOverlap())
        return _figures(inside, self.pooled_auc, skeletons)

    @property
    def mean(self) -> Figures:
        """Mean over images of the figures inside the field of view, NaN left out."""
        return Figures(*(_mean(values) for values in self._columns()))

    @property
    def std(self) -> Figures:
        """Standard deviation over images, with n - 1 in the denominator; NaN of fewer than two."""
        return Figures(*(_std(values) for values in self._columns()))

    def _columns(self) -> Iterator[list[float]]:
        for column in zip(*(image.figures for image in self.images), strict=True):
            yield [value for value in column if not math.isnan(value)]


def evaluate(
    model: Segmenter,
    dataset: Dataset,
    *,
    scale: str | float | None = None,
    threshold: float = 0.5,
    on_case: Callable[[Case, ImageResult], None] | None = None,
) -> Evaluation:
    """Segment the photographs of a data set and compare with their labels.

    Parameters
    ----------
    model : Segmenter
    dataset : Dataset
        From ``datasets.read_dataset`` or ``pairs.read_pairs``.
    scale, threshold
        As for :meth:`Segmenter.__call__`.
    on_case : callable, optional
        Called after each photograph with its pixels and its figures.

    Returns
    -------
    Evaluation

    Raises
    ------
    DatasetError
        If a label cannot be read or has another size than its photograph.
    MissingExtraError
        If scikit-image, which draws the centrelines for clDice, is not installed.
    FileNotFoundError, ImageError, OptionError
        As :meth:`Segmenter.__call__`.

    Notes
    -----
    The field of view is the data set's own where it has one, else that of
    :func:`vesselseg.field_of_view`.
    """
    metrics.require_skeletons()  # now, not after the first photograph
    waiting: deque[tuple[Sample, RGB]] = deque()

    def photographs() -> Iterator[RGB]:
        for sample in dataset.samples:
            photograph = read_photograph(sample.image)
            waiting.append((sample, photograph))
            yield photograph

    results, vessel, background = [], [], []
    provenance: dict[str, Any] = {}
    one_image_only = ("network_size", "fov_diameter")
    for found in model.segment_many(photographs(), scale=scale, threshold=threshold):
        sample, photograph = waiting.popleft()
        case = _case(sample, photograph, found.mask, found.field_of_view)
        # The scores are kept for the pooled curve: 4 bytes for each pixel of the data set.
        vessel.append(found.probability[case.label & case.fov])
        background.append(found.probability[~case.label & case.fov])
        auc = metrics.auc_of_scores(vessel[-1], background[-1])
        results.append(_result(case, auc))
        provenance = {k: v for k, v in found.provenance.items() if k not in one_image_only}
        if on_case is not None:
            on_case(case, results[-1])
    pooled = metrics.auc_of_scores(_joined(vessel), _joined(background))
    spec = model.spec
    return Evaluation(spec.name, tuple(results), pooled, spec, provenance)


def evaluate_second_observer(dataset: Dataset) -> Evaluation | None:
    """The second observer's labels compared with the first's, where there are any.

    Raises
    ------
    DatasetError, MissingExtraError, FileNotFoundError, ImageError
        As :func:`evaluate`.
    """
    metrics.require_skeletons()
    results = []
    for sample in dataset.samples:
        if sample.second is None:
            continue
        photograph = read_photograph(sample.image)
        second = read_label(sample.second)
        _require_size(second, photograph, sample, sample.second.name)
        view = None if sample.fov else fields_of_view.find(photograph).mask
        results.append(_result(_case(sample, photograph, second, view), math.nan))
    return Evaluation(SECOND_OBSERVER, tuple(results), math.nan, None, {}) if results else None


def _case(sample: Sample, photograph: RGB, mask: Mask, found_fov: Mask | None) -> Case:
    label = read_label(sample.label)
    _require_size(label, photograph, sample, sample.label.name)
    if sample.fov is not None:
        view = read_label(sample.fov)
        _require_size(view, photograph, sample, sample.fov.name)
    else:
        assert found_fov is not None
        view = found_fov
    return Case(sample, photograph, mask, label, view)


def _result(case: Case, auc: float) -> ImageResult:
    return ImageResult(
        case.sample.name,
        metrics.confusion(case.mask, case.label),
        metrics.confusion(case.mask, case.label, case.fov),
        metrics.skeleton_overlap(case.mask, case.label, case.fov),
        auc,
    )


def _figures(inside: Confusion, auc: float, skeletons: SkeletonOverlap) -> Figures:
    return Figures(
        metrics.dice(inside),
        metrics.sensitivity(inside),
        metrics.specificity(inside),
        metrics.accuracy(inside),
        auc,
        skeletons.cldice,
    )


def _require_size(mask: Mask, photograph: RGB, sample: Sample, file: str) -> None:
    if mask.shape != photograph.shape[:2]:
        (height, width), (rows, columns) = photograph.shape[:2], mask.shape
        raise DatasetError(
            f"{file!r} is {columns} x {rows} pixels, its photograph {sample.image.name!r} "
            f"{width} x {height}; they have to be of one size."
        )


def _joined(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """All scores in one array; the parts are let go."""
    joined = np.concatenate(parts)
    parts.clear()
    return joined


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values) if values else math.nan


def _std(values: list[float]) -> float:
    if len(values) < 2:
        return math.nan
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
