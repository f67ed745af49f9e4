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
from typing import Any, NamedTuple

import numpy as np

from .. import metrics
from ..errors import DatasetError
from ..fov import find_field_of_view
from ..images import RGB
from ..metrics import Confusion, Mask
from ..segmenter import Segmenter
from ..spec import ModelSpec, Scale
from .datasets import Dataset, Sample, read_label, read_photograph


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


@dataclass(frozen=True)
class Evaluation:
    """The results of a model, or of the other observer, whose `spec` is None, on a data set.

    `pooled_auc` is of all pixels inside the fields of view together. `provenance` has what all
    images share of ``Segmentation.provenance``.
    """

    name: str
    images: tuple[Result, ...]
    pooled_auc: float
    spec: ModelSpec | None
    provenance: dict[str, Any]

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
    bits: int | None = None,
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
            photograph = read_photograph(sample.image, bits)
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
    pooled_auc = metrics.auc_of_scores(vessel, background)
    shared = found.provenance.copy()
    for name in ("size", "network_size", "fov_diameter", "vessel_bias", "warning"):
        del shared[name]  # of one photograph
    shared["bits"] = bits  # photographs were decoded before the model got them
    return Evaluation(model.spec.name, tuple(results), pooled_auc, model.spec, shared)


def evaluate_other_observer(dataset: Dataset) -> Evaluation | None:
    """Compare the other observer's labels, if there are any, with those that count as the truth."""
    results = []
    for sample in dataset.samples:
        if sample.second is not None:
            photograph = read_photograph(sample.image)
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
