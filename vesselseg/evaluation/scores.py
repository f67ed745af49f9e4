"""Score a model on a data set, by the published convention and inside the field of view.

The published convention counts the pixels of all images together, in whole frames; its Dice is
what mmsegmentation reports. It rewards the black border for being black, so most of the
literature counts inside the field of view only, pooled or image by image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import metrics
from ..errors import DatasetError
from ..fov import find_field_of_view
from ..images import RGB
from ..metrics import Confusion, SkeletonOverlap
from ..segmenter import Segmenter
from ..spec import ModelSpec, Scale
from .datasets import Dataset, Sample, read_label, read_photograph

Mask: TypeAlias = NDArray[np.bool_]


class Figures(NamedTuple):
    """Fractions in [0, 1], NaN if not defined; see :mod:`vesselseg.metrics`."""

    dice: float
    sensitivity: float
    specificity: float
    accuracy: float
    auc: float
    cldice: float


class Case(NamedTuple):
    """The pixels of one evaluated photograph, (H, W, 3) uint8 and (H, W) bool."""

    sample: Sample
    photograph: RGB
    mask: Mask
    label: Mask
    fov: Mask


@dataclass(frozen=True)
class ImageResult:
    """Counts of one photograph: `whole` of the whole frame, the others in the field of view."""

    name: str
    whole: Confusion
    inside: Confusion
    skeletons: SkeletonOverlap
    auc: float

    @property
    def figures(self) -> Figures:
        """The figures inside the field of view."""
        return to_figures(self.inside, self.auc, self.skeletons)


@dataclass(frozen=True)
class Evaluation:
    """The results of a model, or of the other observer, on a data set.

    `pooled_auc` is of all pixels inside the fields of view together. `spec` is None for an
    observer. `provenance` has what all images share of :attr:`vesselseg.Segmentation.provenance`.
    """

    name: str
    images: tuple[ImageResult, ...]
    pooled_auc: float
    spec: ModelSpec | None
    provenance: dict[str, Any]

    @property
    def whole(self) -> Confusion:
        """Pixels of all whole frames; their Dice is the published figure."""
        return sum((image.whole for image in self.images), Confusion())

    @property
    def pooled(self) -> Figures:
        """Figures of all pixels inside the fields of view together."""
        inside = sum((image.inside for image in self.images), Confusion())
        skeletons = sum((image.skeletons for image in self.images), SkeletonOverlap())
        return to_figures(inside, self.pooled_auc, skeletons)

    @property
    def mean(self) -> Figures:
        """Mean of the images' figures inside the field of view, leaving out NaN."""
        return Figures(*(mean(values) for values in self.columns()))

    @property
    def std(self) -> Figures:
        """Standard deviation over images (n - 1 in the denominator); NaN for fewer than two."""
        return Figures(*(standard_deviation(values) for values in self.columns()))

    def columns(self) -> Iterator[list[float]]:
        """For each figure, its values over the images, leaving out NaN."""
        for column in zip(*(image.figures for image in self.images), strict=True):
            yield [value for value in column if not math.isnan(value)]


def evaluate(
    model: Segmenter,
    dataset: Dataset,
    *,
    scale: Scale | None = None,
    threshold: float = 0.5,
    on_case: Callable[[Case], None] | None = None,
) -> Evaluation:
    """Segment the photographs of a data set and compare the masks with their labels.

    Parameters
    ----------
    model : Segmenter
    dataset : Dataset
        From ``read_dataset`` or ``read_pairs``.
    scale : {"fit", "native", "fov"}, float or None
        How to bring the photographs to the network's scale; None uses the model's own rule.
    threshold : float
        Pixels with a higher probability are vessel, in [0, 1].
    on_case : callable, optional
        Called after each photograph with its pixels.

    Returns
    -------
    Evaluation

    Raises
    ------
    DatasetError
        If a label cannot be read or differs in size from its photograph.
    MissingExtraError
        If scikit-image, which computes the skeletons for clDice, is not installed.
    FileNotFoundError, ImageError
        If a photograph cannot be read.
    OptionError
        If `scale` or `threshold` is outside what is described here.

    Notes
    -----
    The field of view is the data set's own if it has one, else that of
    :func:`vesselseg.field_of_view`.
    """
    metrics.require_skeletons()  # now rather than after the first photograph

    def photographs() -> Iterator[tuple[tuple[Sample, RGB], RGB]]:
        for sample in dataset.samples:
            photograph = read_photograph(sample.image)
            yield (sample, photograph), photograph

    results, vessel_scores, background_scores = [], [], []
    provenance: dict[str, Any] = {}
    segmented = model.segment_keyed(photographs(), scale=scale, threshold=threshold)
    for (sample, photograph), result in segmented:
        case = to_case(sample, photograph, result.mask, result.field_of_view)
        # The pooled curve needs all scores: 4 bytes for each pixel of the data set.
        vessel_scores.append(result.probability[case.label & case.fov])
        background_scores.append(result.probability[~case.label & case.fov])
        auc = metrics.auc_of_scores(vessel_scores[-1], background_scores[-1])
        results.append(score(case, auc))
        provenance = result.provenance
        if on_case is not None:
            on_case(case)
    vessel, background = np.concatenate(vessel_scores), np.concatenate(background_scores)
    vessel_scores.clear()
    background_scores.clear()
    shared = {k: v for k, v in provenance.items() if k not in ("network_size", "fov_diameter")}
    pooled_auc = metrics.auc_of_scores(vessel, background)
    return Evaluation(model.spec.name, tuple(results), pooled_auc, model.spec, shared)


def evaluate_other_observer(dataset: Dataset) -> Evaluation | None:
    """Compare the other observer's labels, if there are any, with those that count as the truth.

    Raises
    ------
    DatasetError, MissingExtraError, FileNotFoundError, ImageError
        For the reasons that :func:`evaluate` has.
    """
    metrics.require_skeletons()
    results = []
    for sample in dataset.samples:
        if sample.second is None:
            continue
        photograph = read_photograph(sample.image)
        other = read_label(sample.second)
        check_same_size(other, photograph, sample, sample.second.name)
        fov = None if sample.fov else find_field_of_view(photograph).mask
        results.append(score(to_case(sample, photograph, other, fov), math.nan))
    if not results:
        return None
    name = "first observer" if dataset.observer == 2 else "second observer"
    return Evaluation(name, tuple(results), math.nan, None, {})


def to_case(sample: Sample, photograph: RGB, mask: Mask, fov: Mask | None) -> Case:
    """Read the label and the data set's own field of view; `fov` is used if there is none."""
    label = read_label(sample.label)
    check_same_size(label, photograph, sample, sample.label.name)
    if sample.fov is not None:
        fov = read_label(sample.fov)
        check_same_size(fov, photograph, sample, sample.fov.name)
    assert fov is not None
    return Case(sample, photograph, mask, label, fov)


def score(case: Case, auc: float) -> ImageResult:
    """Count the pixels of one photograph."""
    return ImageResult(
        case.sample.name,
        metrics.confusion(case.mask, case.label),
        metrics.confusion(case.mask, case.label, case.fov),
        metrics.skeleton_overlap(case.mask, case.label, case.fov),
        auc,
    )


def to_figures(inside: Confusion, auc: float, skeletons: SkeletonOverlap) -> Figures:
    """Figures from counts."""
    return Figures(
        metrics.dice(inside),
        metrics.sensitivity(inside),
        metrics.specificity(inside),
        metrics.accuracy(inside),
        auc,
        skeletons.cldice,
    )


def check_same_size(mask: Mask, photograph: RGB, sample: Sample, file: str) -> None:
    """Raise DatasetError if a label or field of view differs in size from its photograph."""
    if mask.shape != photograph.shape[:2]:
        (height, width), (rows, columns) = photograph.shape[:2], mask.shape
        raise DatasetError(
            f"{file!r} is {columns} x {rows} pixels, but its photograph {sample.image.name!r} is "
            f"{width} x {height}; they must have the same size."
        )


def mean(values: list[float]) -> float:
    """Mean of numbers; NaN if there are none."""
    return math.fsum(values) / len(values) if values else math.nan


def standard_deviation(values: list[float]) -> float:
    """Standard deviation with n - 1 in the denominator; NaN for fewer than two numbers."""
    if len(values) < 2:
        return math.nan
    center = mean(values)
    return math.sqrt(math.fsum((value - center) ** 2 for value in values) / (len(values) - 1))
