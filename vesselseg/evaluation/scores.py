"""Score a model on a data set, by the published convention and inside the field of view.

The published convention counts the pixels of all images together, in whole frames; its Dice is
what mmsegmentation reports. It rewards the black border for being black, so most of the
literature counts inside the field of view only, pooled or image by image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import metrics
from ..errors import DatasetError
from ..fov import find_field_of_view
from ..images import RGB
from ..metrics import Confusion, Mask
from ..segmenter import Segmenter
from ..spec import ModelSpec, Scale
from .datasets import Dataset, Sample, read_label, read_photograph

Scores: TypeAlias = NDArray[np.float32]

THRESHOLDS = np.linspace(0, 1, 101, dtype=np.float32)


class Figures(NamedTuple):
    """Fractions in [0, 1], NaN if not defined; see :mod:`vesselseg.metrics`."""

    dice: float
    sensitivity: float
    specificity: float
    accuracy: float
    auc: float
    cldice: float


class Bin(NamedTuple):
    """Pixels of similar probability: how many, their mean probability, and how many are vessel."""

    pixels: int
    probability: float
    vessels: int


class Case(NamedTuple):
    """The pixels of one evaluated photograph, (H, W, 3) uint8 and (H, W) bool."""

    sample: Sample
    photograph: RGB
    mask: Mask
    label: Mask
    fov: Mask


@dataclass(frozen=True)
class Result:
    """Counts of an image, or of all together: `whole` of whole frames, the rest inside the fov."""

    name: str
    whole: Confusion
    inside: Confusion
    mask_skeleton: Confusion
    label_skeleton: Confusion
    auc: float

    @property
    def figures(self) -> Figures:
        """The figures inside the field of view."""
        return Figures(
            metrics.dice(self.inside),
            metrics.sensitivity(self.inside),
            metrics.specificity(self.inside),
            metrics.accuracy(self.inside),
            self.auc,
            metrics.cldice_of_counts(self.mask_skeleton, self.label_skeleton),
        )

    @property
    def centreline_precision(self) -> float:
        """Share of the mask's skeleton that lies in the label's vessels."""
        return metrics.sensitivity(self.mask_skeleton)

    @property
    def centreline_recall(self) -> float:
        """Share of the label's skeleton that lies in the mask's vessels."""
        return metrics.sensitivity(self.label_skeleton)

    @property
    def widths(self) -> tuple[float, float]:
        """Mean widths of mask and label in pixels: vessel pixels over pixels of the skeleton."""
        inside, mask, label = self.inside, self.mask_skeleton, self.label_skeleton
        return (
            metrics.ratio(inside.tp + inside.fp, mask.tp + mask.fn),
            metrics.ratio(inside.tp + inside.fn, label.tp + label.fn),
        )


@dataclass(frozen=True)
class Evaluation:
    """The results of a model, or of the other observer, whose `spec` is None, on a data set.

    `provenance` has what all images share of ``Segmentation.provenance``. All pixels inside the
    fields of view together give `pooled_auc`, `curve` and `reliability`: the counts at each of
    `THRESHOLDS`, and ten bins of equal width. Of an observer the last two are empty.
    """

    name: str
    images: tuple[Result, ...]
    pooled_auc: float
    spec: ModelSpec | None
    provenance: dict[str, Any]
    curve: tuple[Confusion, ...] = ()
    reliability: tuple[Bin, ...] = ()

    @property
    def total(self) -> Result:
        """Pixels of all images together; the Dice of their whole frames is the published figure."""
        return Result(
            self.name,
            sum((image.whole for image in self.images), Confusion()),
            sum((image.inside for image in self.images), Confusion()),
            sum((image.mask_skeleton for image in self.images), Confusion()),
            sum((image.label_skeleton for image in self.images), Confusion()),
            self.pooled_auc,
        )

    @property
    def best_threshold(self) -> tuple[float, float]:
        """Of `THRESHOLDS`, that of the highest Dice inside the field of view, and this Dice."""
        dices = [metrics.dice(counts) for counts in self.curve]
        defined = [(value, -place) for place, value in enumerate(dices) if not math.isnan(value)]
        if not defined:
            return math.nan, math.nan
        best, place = max(defined)
        return float(THRESHOLDS[-place]), best

    @property
    def calibration_error(self) -> float:
        """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 5)."""
        total = sum(each.pixels for each in self.reliability)
        error = sum(abs(each.vessels - each.pixels * each.probability) for each in self.reliability)
        return error / total if total else math.nan

    def mean_and_std(self) -> tuple[Figures, Figures]:
        """Of the images' figures inside the field of view, leaving out NaN.

        The standard deviation has n - 1 in its denominator; it is NaN for fewer than two values.
        """
        columns = [
            [value for value in column if not math.isnan(value)]
            for column in zip(*(image.figures for image in self.images), strict=True)
        ]
        means = [fmean(values) if values else math.nan for values in columns]
        stds = [stdev(values) if len(values) > 1 else math.nan for values in columns]
        return Figures(*means), Figures(*stds)


def evaluate(
    model: Segmenter,
    samples: Iterable[Sample],
    *,
    scale: Scale | None = None,
    threshold: float = 0.5,
    on_case: Callable[[Case], None] | None = None,
) -> Evaluation:
    """Segment photographs and compare the masks with their labels.

    `on_case` is called after each photograph. The field of view is the data set's own if it has
    one, else the one found in the photograph. Raises DatasetError for a label that cannot be read
    or differs in size from its photograph.
    """
    metrics.require_skeletons()  # now rather than after the first photograph

    def photographs() -> Iterator[tuple[tuple[Sample, RGB], RGB]]:
        for sample in samples:
            photograph = read_photograph(sample)
            yield (sample, photograph), photograph

    results, vessel_scores, background_scores = [], [], []
    segmented = model.segment_keyed(photographs(), scale=scale, threshold=threshold)
    for (sample, photograph), found in segmented:
        case = to_case(sample, photograph, found.mask, found.field_of_view)
        # The pooled curve needs all scores: 4 bytes for each pixel of the data set.
        vessel_scores.append(found.probability[case.label & case.fov])
        background_scores.append(found.probability[~case.label & case.fov])
        auc = metrics.auc_of_scores(vessel_scores[-1], background_scores[-1])
        results.append(score(case, auc))
        if on_case is not None:
            on_case(case)
    vessel, background = np.concatenate(vessel_scores), np.concatenate(background_scores)
    vessel_scores.clear()
    background_scores.clear()
    vessel.sort()
    background.sort()
    pooled_auc = metrics.auc_of_scores(vessel, background)
    shared = found.provenance.copy()
    for name in ("size", "network_size", "fov_diameter", "vessel_bias", "familiarity", "warning"):
        del shared[name]  # of one photograph
    shared["bits"] = sample.bits  # photographs were decoded before the model got them
    return Evaluation(
        model.spec.name, tuple(results), pooled_auc, model.spec, shared,
        to_curve(vessel, background), to_reliability(vessel, background),
    )  # fmt: skip


def to_curve(vessel: Scores, background: Scores) -> tuple[Confusion, ...]:
    """The counts at each of `THRESHOLDS`, from the sorted probabilities of both classes."""
    missed = np.searchsorted(vessel, THRESHOLDS, side="right").tolist()
    right = np.searchsorted(background, THRESHOLDS, side="right").tolist()
    return tuple(
        Confusion(tp=vessel.size - fn, fp=background.size - tn, fn=fn, tn=tn)
        for fn, tn in zip(missed, right, strict=True)
    )


def to_reliability(vessel: Scores, background: Scores) -> tuple[Bin, ...]:
    """Ten bins of equal width, from the sorted probabilities of both classes."""
    edges = THRESHOLDS[10:-1:10]
    parts = zip(
        np.split(vessel, np.searchsorted(vessel, edges, side="right")),
        np.split(background, np.searchsorted(background, edges, side="right")),
        strict=True,
    )
    bins = []
    for positive, negative in parts:
        pixels = positive.size + negative.size
        total = float(positive.sum(dtype=np.float64) + negative.sum(dtype=np.float64))
        bins.append(Bin(pixels, total / pixels if pixels else math.nan, positive.size))
    return tuple(bin for bin in bins if bin.pixels)


def evaluate_other_observer(dataset: Dataset) -> Evaluation | None:
    """Compare the other observer's labels, if there are any, with those that count as the truth."""
    results = []
    for sample in dataset.samples:
        if sample.second is not None:
            photograph = read_photograph(sample)
            other = read_mask(sample.second, sample, photograph)
            case = to_case(sample, photograph, other, find_field_of_view(photograph).mask)
            results.append(score(case, math.nan))
    if not results:
        return None
    name = "first observer" if dataset.observer == 2 else "second observer"
    return Evaluation(name, tuple(results), math.nan, None, {})


def to_case(sample: Sample, photograph: RGB, mask: Mask, fov: Mask) -> Case:
    """Read the label, and the data set's own field of view to be used instead of `fov`."""
    label = read_mask(sample.label, sample, photograph)
    if sample.fov is not None:
        fov = read_mask(sample.fov, sample, photograph)
    return Case(sample, photograph, mask, label, fov)


def read_mask(path: Path, sample: Sample, photograph: RGB) -> Mask:
    """Read a label or field of view; DatasetError if it differs in size from its photograph."""
    mask = read_label(path)
    if mask.shape != photograph.shape[:2]:
        (height, width), (rows, columns) = photograph.shape[:2], mask.shape
        raise DatasetError(
            f"{path.name!r} is {columns} x {rows} pixels, but its photograph "
            f"{sample.image.name!r} is {width} x {height}; they must have the same size."
        )
    return mask


def score(case: Case, auc: float) -> Result:
    """Count the pixels of one photograph."""
    return Result(
        case.sample.name,
        metrics.confusion(case.mask, case.label),
        metrics.confusion(case.mask, case.label, case.fov),
        *metrics.skeleton_counts(case.mask, case.label, case.fov),
        auc,
    )
