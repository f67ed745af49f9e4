"""Score a model on a data set, by the published convention and inside the field of view.

The published convention counts the pixels of all images together, in whole frames; its Dice is
what mmsegmentation reports. It rewards the black border for being black, so most of the
literature counts inside the field of view only, pooled or image by image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import metrics
from ..batch.engine import run
from ..errors import DatasetError, OptionError
from ..fov import find_field_of_view
from ..images import RGB
from ..metrics import Confusion, Mask
from ..process import progress_bar
from ..result import Segmentation
from ..segmenter import Segmenter
from ..spec import ModelSpec, Scale
from .datasets import Dataset, Sample, read_label, read_photograph

__all__ = [
    "THRESHOLDS",
    "Bin",
    "Case",
    "Evaluation",
    "Figures",
    "Result",
    "Tally",
    "evaluate",
    "evaluate_other_observer",
]

Scores: TypeAlias = NDArray[np.float32]

THRESHOLDS = np.linspace(0, 1, 101, dtype=np.float32)
"""Of the curves: 0, 0.01, ... 1."""


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
    `THRESHOLDS`, and ten bins of equal width. Of an observer the last two are empty. `failed` has
    the photographs that could not be used, and why.
    """

    name: str
    images: tuple[Result, ...]
    pooled_auc: float
    spec: ModelSpec | None
    provenance: dict[str, Any]
    curve: tuple[Confusion, ...] = ()
    reliability: tuple[Bin, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)

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
    on_error: Literal["continue", "raise"] = "continue",
    progress: bool = True,
) -> Evaluation:
    """Segment photographs and compare the masks with their labels.

    The field of view is the data set's own if it has one, else the one found in the photograph.
    The memory does not grow with the number of photographs.

    Parameters
    ----------
    model : Segmenter
    samples : iterable of Sample
        Photographs and their labels, such as ``read_dataset(...).samples``.
    scale : {"fit", "native", "fov"}, float or None
        How to bring photographs to the network's scale; None uses the model's own rule.
    threshold : float
        Pixels with a higher probability are vessel, in [0, 1].
    on_case : callable, optional
        Called after each photograph with its pixels.
    on_error : {"continue", "raise"}
        What to do about a photograph or label that cannot be used: leave it out and name it in
        `Evaluation.failed`, or raise its error.
    progress : bool
        Whether to show a bar if standard error is a terminal.

    Returns
    -------
    Evaluation

    Raises
    ------
    DatasetError
        If there are no samples, or none that can be used.
    OptionError
        If another argument is outside what is described here.
    """
    metrics.require_skeletons()  # now rather than after the first photograph
    tally = Tally()
    shared: dict[str, Any] = {}

    def read(sample: Sample) -> tuple[RGB, RGB]:
        photograph = read_photograph(sample)
        return photograph, photograph

    def finish(sample: Sample, photograph: RGB, found: Segmentation, _: float) -> _Scored:
        case = _to_case(sample, photograph, found.mask, found.field_of_view)
        vessel = found.probability[case.label & case.fov]
        background = found.probability[~case.label & case.fov]
        part = Tally()
        part.add(vessel, background)
        auc = metrics.auc_of_scores(vessel, background)
        return _Scored(case, score(case, auc), {**found.provenance, "bits": sample.bits}, part)

    def add(scored: _Scored) -> None:
        tally.merge(scored.tally)
        shared.update(scored.provenance)
        if on_case is not None:
            on_case(scored.case)

    results, failed = _run(
        samples, model, read, finish, add, on_error, scale=scale, threshold=threshold,
        progress=progress, name=model.spec.name,
    )  # fmt: skip
    for name in ("size", "network_size", "fov_diameter", "vessel_bias", "familiarity", "warning"):
        del shared[name]  # of one photograph
    return Evaluation(
        model.spec.name, results, tally.auc(), model.spec, shared, tally.curve(),
        tally.reliability(), failed,
    )  # fmt: skip


def evaluate_other_observer(
    dataset: Dataset, *, on_error: Literal["continue", "raise"] = "continue"
) -> Evaluation | None:
    """Compare the other observer's labels, if there are any, with those that count as the truth."""

    def read(sample: Sample) -> tuple[Mask, RGB]:
        assert sample.second is not None
        photograph = read_photograph(sample)
        return read_mask(sample.second, sample, photograph), photograph

    def finish(sample: Sample, photograph: RGB, other: Mask, _: float) -> _Scored:
        case = _to_case(sample, photograph, other, find_field_of_view(photograph).mask)
        return _Scored(case, score(case, math.nan), {}, Tally())

    samples = [sample for sample in dataset.samples if sample.second is not None]
    if not samples:
        return None
    results, failed = _run(samples, None, read, finish, lambda _: None, on_error)
    name = "first observer" if dataset.observer == 2 else "second observer"
    return Evaluation(name, results, math.nan, None, {}, failed=failed)


class _Scored(NamedTuple):
    """What is kept of a photograph until it is added to the others."""

    case: Case
    result: Result
    provenance: dict[str, Any]
    tally: Tally


def _run(
    samples: Iterable[Sample],
    model: Segmenter | None,
    read: Callable[[Sample], tuple[Any, Any]],
    finish: Callable[[Sample, Any, Any, float], _Scored],
    add: Callable[[_Scored], None],
    on_error: str,
    *,
    scale: Scale | None = None,
    threshold: float = 0.5,
    progress: bool = False,
    name: str = "",
) -> tuple[tuple[Result, ...], dict[str, str]]:
    """The results of all samples, and the errors of those that could not be used."""
    if on_error not in ("continue", "raise"):
        raise OptionError(f"on_error is {on_error!r}; allowed are 'continue' and 'raise'.")
    samples = list(samples)
    if not samples:
        raise DatasetError("There are no photographs to evaluate on.")
    results: list[Result] = []
    failed: dict[str, str] = {}
    with progress_bar(shown=progress, desc=name, total=len(samples)) as bar:

        def record(sample: Sample, outcome: _Scored | Exception) -> None:
            bar.update()
            if not isinstance(outcome, Exception):
                results.append(outcome.result)
                add(outcome)
                return
            failed[sample.name] = str(outcome) or type(outcome).__name__
            if on_error == "raise" and len(failed) == 1:
                raise outcome

        run(samples, model, read, finish, record, scale=scale, threshold=threshold)
    if not results:
        raise DatasetError(
            f"None of the {len(samples)} photographs could be used. {next(iter(failed.values()))}"
        )
    return tuple(results), failed


class Tally:
    """How the probabilities of vessel and background are distributed, in bounded memory.

    Counts and sums between two of `THRESHOLDS` are exact. The area under the curve comes from a
    histogram, whose bins are narrower than what can be told from the exact area.
    """

    _BINS = 2**16

    def __init__(self) -> None:
        self.counts = np.zeros((2, len(THRESHOLDS) + 1), np.int64)  # vessel, background
        self.sums = np.zeros(len(THRESHOLDS) + 1)
        self.histogram = np.zeros((2, self._BINS), np.int64)

    def add(self, vessel: Scores, background: Scores) -> None:
        """Count the probabilities of one photograph."""
        for place, scores in enumerate((vessel, background)):
            above = np.searchsorted(THRESHOLDS, scores)  # how many thresholds it exceeds
            self.counts[place] += np.bincount(above, minlength=len(self.sums))
            self.sums += np.bincount(above, weights=scores, minlength=len(self.sums))
            bins = (scores * self._BINS).astype(np.int64).clip(max=self._BINS - 1)
            self.histogram[place] += np.bincount(bins, minlength=self._BINS)

    def merge(self, other: Tally) -> None:
        """Add what another one counted."""
        self.counts += other.counts
        self.sums += other.sums
        self.histogram += other.histogram

    def auc(self) -> float:
        """Area under the curve; pixels of one bin are ties."""
        vessel, background = self.histogram.astype(np.float64)
        pairs = vessel.sum() * background.sum()
        lower = np.cumsum(background) - background / 2
        return float((vessel * lower).sum() / pairs) if pairs else math.nan

    def curve(self) -> tuple[Confusion, ...]:
        """The counts at each of `THRESHOLDS`."""
        # Above threshold t are the pixels that exceed more than t thresholds.
        missed, right = np.cumsum(self.counts, axis=1)[:, :-1].tolist()
        vessels, others = self.counts.sum(axis=1).tolist()
        return tuple(
            Confusion(tp=vessels - fn, fp=others - tn, fn=fn, tn=tn)
            for fn, tn in zip(missed, right, strict=True)
        )

    def reliability(self) -> tuple[Bin, ...]:
        """Ten bins of equal width, those without pixels left out."""
        # A probability of 0 exceeds no threshold and belongs to the first bin.
        edges = [0, *range(11, len(THRESHOLDS), 10)]
        vessels = np.add.reduceat(self.counts[0], edges)
        pixels = np.add.reduceat(self.counts.sum(axis=0), edges)
        sums = np.add.reduceat(self.sums, edges)
        return tuple(
            Bin(int(n), float(total / n), int(v))
            for n, total, v in zip(pixels, sums, vessels, strict=True)
            if n
        )


def _to_case(sample: Sample, photograph: RGB, mask: Mask, fov: Mask) -> Case:
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
