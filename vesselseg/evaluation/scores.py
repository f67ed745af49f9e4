"""Score a model on a data set, by the published convention and inside the field of view.

The published convention counts the pixels of all images together, in whole frames; its Dice is
what mmsegmentation reports. It rewards the black border for being black, so most of the
literature counts inside the field of view only, pooled or image by image. Pixels whose label is
not known are left out of both.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import metrics
from ..batch.engine import run
from ..errors import DatasetError, OptionError
from ..files import sha256
from ..fov import find_field_of_view
from ..images import RGB
from ..metrics import Confusion, Mask
from ..process import progress_bar
from ..result import Segmentation
from ..segmenter import Segmenter
from ..spec import ModelSpec, Scale
from .datasets import Dataset, Label, Sample, read_photograph, read_sample_fov, read_sample_label
from .statistics import RESAMPLES, Agreement, Difference, Interval, agree, bootstrap

__all__ = [
    "THRESHOLDS",
    "Bin",
    "Case",
    "Comparison",
    "Evaluation",
    "Figures",
    "Result",
    "Tally",
    "evaluate",
    "evaluate_other_observer",
]

_Scored: TypeAlias = "tuple[Case, Result, dict[str, Any]]"  # the last one is its provenance

THRESHOLDS = np.linspace(0, 1, 101, dtype=np.float32)
"""Of the curves over the threshold: 0, 0.01, ... 1."""

# Probabilities are counted between these values. Networks give most pixels one close to 0 or 1,
# where even steps of the logit tell them apart.
_LOGITS = np.linspace(-40, 16, 225)
_EDGES = np.union1d(THRESHOLDS, (1 / (1 + np.exp(-_LOGITS))).astype(np.float32))
_THRESHOLD_PLACES = np.searchsorted(_EDGES, THRESHOLDS)
# The first of ten bins of equal width starts at 0, which exceeds no threshold.
_RELIABILITY_PLACES = [0, *(_THRESHOLD_PLACES[10:100:10] + 1)]


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
    known: Mask | None = None
    """Where the label is known; None is everywhere. Elsewhere the masks are False."""


@dataclass(frozen=True, eq=False)
class Tally:
    """How the probabilities of vessel and background are distributed, in 5 kB.

    Counts at `THRESHOLDS` and reliability are exact. The area under the curve takes pixels between
    two of some 320 thresholds as ties, which changes it by about 0.0001 at most if probabilities
    are spread as those of trained networks are.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, len(_EDGES)), np.int64))
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(_RELIABILITY_PLACES)))

    @classmethod
    def count(cls, vessel: NDArray[np.float32], background: NDArray[np.float32]) -> Tally:
        """Count the probabilities of the pixels that the label calls vessel, and of the others."""
        counts = np.zeros((2, len(_EDGES)), np.int64)
        sums = np.zeros(len(_EDGES))
        for place, scores in enumerate((vessel, background)):
            above = np.searchsorted(_EDGES, scores)  # how many of the values it exceeds
            counts[place] = np.bincount(above, minlength=len(_EDGES))
            sums += np.bincount(above, weights=scores, minlength=len(_EDGES))
        return cls(counts, np.add.reduceat(sums, _RELIABILITY_PLACES))

    @property
    def auc(self) -> float:
        """Area under the receiver operating characteristic."""
        vessel, background = self.counts.astype(np.float64)
        pairs = vessel.sum() * background.sum()
        lower = np.cumsum(background) - background / 2
        return float((vessel * lower).sum() / pairs) if pairs else math.nan

    @property
    def detailed_curve(self) -> tuple[Confusion, ...]:
        """The counts at some 320 thresholds from 0 to 1, for precision-recall and ROC curves."""
        # Above value t are the pixels that exceed more than t values.
        missed, right = np.cumsum(self.counts, axis=1).tolist()
        vessels, others = self.counts.sum(axis=1).tolist()
        if not vessels + others:
            return ()
        return tuple(
            Confusion(tp=vessels - fn, fp=others - tn, fn=fn, tn=tn)
            for fn, tn in zip(missed, right, strict=True)
        )

    @property
    def curve(self) -> tuple[Confusion, ...]:
        """The counts at each of `THRESHOLDS`."""
        detailed = self.detailed_curve
        return tuple(detailed[place] for place in _THRESHOLD_PLACES) if detailed else ()

    @property
    def reliability(self) -> tuple[Bin, ...]:
        """Ten bins of equal width, those without pixels left out."""
        vessels = np.add.reduceat(self.counts[0], _RELIABILITY_PLACES)
        pixels = np.add.reduceat(self.counts.sum(axis=0), _RELIABILITY_PLACES)
        return tuple(
            Bin(int(n), float(total / n), int(v))
            for n, total, v in zip(pixels, self.sums, vessels, strict=True)
            if n
        )


@dataclass(frozen=True)
class Result:
    """Counts of an image, or of all together: `whole` of whole frames, the rest inside the fov.

    Of an observer `tally`, and what comes from it, is empty or NaN. `digests` has the SHA-256 of
    the files: "photograph", "label", "fov" and "mask", as far as there are any.
    """

    name: str
    whole: Confusion
    inside: Confusion
    mask_skeleton: Confusion
    label_skeleton: Confusion
    auc: float
    subject: str = ""
    tally: Tally = field(default_factory=Tally, repr=False, compare=False)
    digests: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

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
    def densities(self) -> tuple[float, float]:
        """Shares of the field of view that are vessel in mask and label."""
        inside, area = self.inside, sum(self.inside)
        return (
            metrics.ratio(inside.tp + inside.fp, area),
            metrics.ratio(inside.tp + inside.fn, area),
        )

    @property
    def widths(self) -> tuple[float, float]:
        """Mean widths of mask and label in pixels: vessel pixels over pixels of the skeleton."""
        inside, mask, label = self.inside, self.mask_skeleton, self.label_skeleton
        return (
            metrics.ratio(inside.tp + inside.fp, mask.tp + mask.fn),
            metrics.ratio(inside.tp + inside.fn, label.tp + label.fn),
        )

    @property
    def best_threshold(self) -> tuple[float, float]:
        """Of `THRESHOLDS`, that of the highest Dice inside the field of view, and this Dice."""
        dices = [metrics.dice(counts) for counts in self.tally.curve]
        if all(map(math.isnan, dices)):
            return math.nan, math.nan
        best = int(np.nanargmax(dices))
        return round(float(THRESHOLDS[best]), 2), dices[best]

    @property
    def calibration_error(self) -> float:
        """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 5)."""
        bins = self.tally.reliability
        total = sum(each.pixels for each in bins)
        error = sum(abs(each.vessels - each.pixels * each.probability) for each in bins)
        return error / total if total else math.nan


class Comparison(NamedTuple):
    """Differences of two evaluations by the names of figures, on the photographs in both."""

    photographs: int
    subjects: int
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Evaluation:
    """The results of a model, or of the other observer, whose `spec` is None, on a data set.

    `provenance` has what all images share of ``Segmentation.provenance``. `failed` has the
    photographs that could not be used, and why.
    """

    name: str
    images: tuple[Result, ...]
    spec: ModelSpec | None
    provenance: dict[str, Any]
    failed: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def total(self) -> Result:
        """Pixels of all images together; the Dice of their whole frames is the published figure."""
        return _from_counts(np.sum([_to_counts(image) for image in self.images], axis=0), self.name)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects whose photographs were evaluated, sorted by name."""
        return tuple(sorted({image.subject for image in self.images}))

    @property
    def data_digest(self) -> str:
        """SHA-256 over names and digests of all photographs, labels and fields of view."""
        lines = [
            f"{image.name} {kind} {digest}\n"
            for image in self.images
            for kind, digest in image.digests.items()
            if kind != "mask"
        ]
        return hashlib.sha256("".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()

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

    def agreement(self) -> dict[str, Agreement]:
        """Bland-Altman agreement of mask and label in "density" and mean "width", in pixels."""
        return {
            "density": agree([image.densities for image in self.images]),
            "width": agree([image.widths for image in self.images]),
        }

    def summary(self) -> dict[str, float]:
        """All figures of the evaluation by name.

        ``dice_whole_frame`` counts whole frames, the others are inside the field of view. The
        fields of :class:`Figures`, ``centreline_precision``, ``centreline_recall``,
        ``mask_width``, ``label_width`` and ``calibration_error`` count the pixels of all images
        together. Those that start with ``mean_`` are means over images, and so are
        ``density_difference`` and ``width_difference``, of mask minus label.
        """
        (values,) = _summarise(self.images, np.ones((1, len(self.images)))).tolist()
        return dict(zip(_NAMES, values, strict=True))

    def intervals(self, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Interval]:
        """95 % confidence intervals of :meth:`summary`: the percentile bootstrap over subjects.

        Each resample draws as many subjects as there are, with replacement, and computes every
        figure from their photographs as :meth:`summary` does. Intervals of fewer than
        ``RELIABLE_SUBJECTS`` subjects are too narrow. :mod:`vesselseg.evaluation.statistics` names
        the sources.

        Parameters
        ----------
        resamples : int
            How often subjects are drawn.
        seed : int
            Of the random numbers: the same seed gives the same intervals.

        Returns
        -------
        dict of str to Interval
            NaN if there is only one subject, or if a figure is not defined.

        Raises
        ------
        OptionError
            If `resamples` is not a positive integer, or `seed` is negative.
        """
        subjects = [image.subject for image in self.images]
        return bootstrap(_NAMES, partial(_summarise, self.images), subjects, resamples, seed)

    def compare(
        self, other: Evaluation, *, resamples: int = RESAMPLES, seed: int = 0
    ) -> Comparison:
        """Differences of all figures from those of another evaluation, with 95 % intervals.

        They are paired: each resample draws the same subjects for both evaluations, and only
        photographs that are in both count.

        Parameters
        ----------
        other : Evaluation
            What to subtract, on the same data set.
        resamples, seed : int
            As in :meth:`intervals`.

        Returns
        -------
        Comparison
            Positive differences mean that this evaluation has the higher figure.

        Raises
        ------
        OptionError
            If the evaluations share no photograph or have different files of one, `resamples` is
            not a positive integer, or `seed` is negative.

        Examples
        --------
        ::

            first, second = (evaluate(model, dataset.samples) for model in models)
            print(second.compare(first).differences["dice"])
        """
        theirs = {image.name: image for image in other.images}
        pairs = [(image, theirs[image.name]) for image in self.images if image.name in theirs]
        if not pairs:
            raise OptionError(
                f"The evaluations {self.name!r} and {other.name!r} share no photograph. Evaluate "
                f"both on the same data set."
            )
        for mine, their in pairs:
            for kind in ("photograph", "label", "fov"):
                if mine.digests.get(kind) != their.digests.get(kind):
                    raise OptionError(
                        f"{self.name!r} and {other.name!r} were evaluated with different files of "
                        f"{mine.name!r} ({kind}). Evaluate both on the same data set."
                    )
        first, second = zip(*pairs, strict=True)
        subjects = [image.subject for image in first]

        def subtract(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            return _summarise(first, weights) - _summarise(second, weights)

        (values,) = subtract(np.ones((1, len(pairs)))).tolist()
        intervals = bootstrap(_NAMES, subtract, subjects, resamples, seed)
        differences = {
            name: Difference(value, *intervals[name])
            for name, value in zip(_NAMES, values, strict=True)
        }
        return Comparison(len(pairs), len(set(subjects)), differences)


_POOLED_NAMES = (
    "dice_whole_frame", *Figures._fields, "centreline_precision", "centreline_recall",
    "mask_width", "label_width", "calibration_error",
)  # fmt: skip
_MEAN_NAMES = (
    *(f"mean_{name}" for name in Figures._fields), "density_difference", "width_difference"
)  # fmt: skip
_NAMES = _POOLED_NAMES + _MEAN_NAMES


def _summarise(images: Sequence[Result], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The figures of `_NAMES` where each photograph counts as often as a row of weights says.

    From weights (R, N) for N photographs to figures (R, number of names).
    """
    pooled = []
    for counts in weights @ np.stack([_to_counts(image) for image in images]):
        total = _from_counts(counts)
        pooled.append([
            metrics.dice(total.whole), *total.figures, total.centreline_precision,
            total.centreline_recall, *total.widths, total.calibration_error,
        ])  # fmt: skip
    each = np.array([
        [*image.figures, image.densities[0] - image.densities[1], image.widths[0] - image.widths[1]]
        for image in images
    ])  # fmt: skip
    defined = ~np.isnan(each)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        means = (weights @ np.where(defined, each, 0)) / (weights @ defined)
    return np.concatenate([pooled, means], axis=1)


def _to_counts(image: Result) -> NDArray[np.float64]:
    """All counts of a photograph in one array; those of several add up to those of all pixels."""
    tally = image.tally
    confusions = (image.whole, image.inside, image.mask_skeleton, image.label_skeleton)
    return np.concatenate([*confusions, tally.counts.ravel(), tally.sums]).astype(np.float64)


def _from_counts(counts: NDArray[np.float64], name: str = "") -> Result:
    """The result whose counts these are."""
    confusions, of_tally, sums = np.split(counts, [16, len(counts) - len(_RELIABILITY_PLACES)])
    whole, inside, mask, label = (Confusion(*map(int, part)) for part in confusions.reshape(4, 4))
    tally = Tally(of_tally.reshape(2, -1).astype(np.int64), sums)
    return Result(name, whole, inside, mask, label, tally.auc, tally=tally)


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
    Of each photograph only counts are kept, 5 kB.

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

    def read(sample: Sample) -> tuple[RGB, RGB]:
        photograph = read_photograph(sample)
        return photograph, photograph

    def finish(sample: Sample, photograph: RGB, found: Segmentation, _: float) -> _Scored:
        case = _to_case(sample, photograph, found.mask, found.field_of_view)
        vessel = found.probability[case.label & case.fov]
        background = found.probability[~case.label & case.fov]
        tally = Tally.count(vessel, background)
        auc = metrics.auc_of_scores(vessel, background)
        provenance = {
            name: value for name, value in found.provenance.items() if name not in _OF_PHOTOGRAPHS
        }
        result = score(case, auc, tally, _digest_files(sample))
        return case, result, {**provenance, "bits": sample.bits}

    return _run(
        model.spec.name, samples, model, read, finish, on_error,
        on_case=on_case, progress=progress, scale=scale, threshold=threshold,
    )  # fmt: skip


def evaluate_other_observer(
    dataset: Dataset, *, on_error: Literal["continue", "raise"] = "continue"
) -> Evaluation | None:
    """Compare the other observer's labels, if there are any, with those that count as the truth."""

    def read(sample: Sample) -> tuple[Label, RGB]:
        assert sample.second is not None
        photograph = read_photograph(sample)
        return read_sample_label(sample, sample.second, photograph), photograph

    def finish(sample: Sample, photograph: RGB, other: Label, _: float) -> _Scored:
        fov = find_field_of_view(photograph).mask
        case = _to_case(sample, photograph, other.vessels, fov, other.known)
        return case, score(case, digests=_digest_files(sample, sample.second)), {}

    samples = [sample for sample in dataset.samples if sample.second is not None]
    if not samples:
        return None
    name = "first observer" if dataset.observer == 2 else "second observer"
    return _run(name, samples, None, read, finish, on_error)


_OF_PHOTOGRAPHS = (
    "size", "network_size", "fov_diameter", "vessel_bias", "familiarity", "undecided_fraction",
    "warning",
)  # fmt: skip
"""What the provenance says of one photograph, rather than of all."""


def _run(
    name: str,
    samples: Iterable[Sample],
    model: Segmenter | None,
    read: Callable[[Sample], tuple[Any, Any]],
    finish: Callable[[Sample, Any, Any, float], _Scored],
    on_error: str,
    *,
    on_case: Callable[[Case], None] | None = None,
    progress: bool = False,
    scale: Scale | None = None,
    threshold: float = 0.5,
) -> Evaluation:
    """Evaluate all samples; note the errors of those that cannot be used."""
    if on_error not in ("continue", "raise"):
        raise OptionError(f"on_error is {on_error!r}; allowed are 'continue' and 'raise'.")
    samples = list(samples)
    if not samples:
        raise DatasetError("There are no photographs to evaluate on.")
    results: list[Result] = []
    provenance: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with progress_bar(shown=progress, desc=name, total=len(samples)) as bar:

        def record(sample: Sample, outcome: _Scored | Exception) -> None:
            bar.update()
            if isinstance(outcome, Exception):
                failed[sample.name] = str(outcome) or type(outcome).__name__
                if on_error == "raise" and len(failed) == 1:
                    raise outcome
                return
            case, result, how = outcome
            results.append(result)
            provenance.update(how)
            if on_case is not None:
                on_case(case)

        run(samples, model, read, finish, record, scale=scale, threshold=threshold)
    if not results:
        raise DatasetError(
            f"None of the {len(samples)} photographs could be used. {next(iter(failed.values()))}"
        )
    spec = None if model is None else model.spec
    return Evaluation(name, tuple(results), spec, provenance, failed)


def _to_case(
    sample: Sample, photograph: RGB, mask: Mask, fov: Mask, is_known: Mask | None = None
) -> Case:
    """Read the label, and the data set's own field of view to be used instead of `fov`.

    What the label does not know, or what `is_known` leaves out, is in no mask.
    """
    label, known = read_sample_label(sample, sample.label, photograph)
    if sample.fov is not None:
        fov = read_sample_fov(sample, sample.fov, photograph)
    if is_known is not None:
        known = known & is_known
    return Case(sample, photograph, mask & known, label & known, fov & known, known)


def _digest_files(sample: Sample, mask: Path | None = None) -> dict[str, str]:
    """SHA-256 of the files that a result comes from, as they lie on the disk."""
    files = {"photograph": sample.image, "label": sample.label, "fov": sample.fov, "mask": mask}
    return {kind: sha256(path) for kind, path in files.items() if path is not None}


def score(
    case: Case,
    auc: float = math.nan,
    tally: Tally | None = None,
    digests: Mapping[str, str] | None = None,
) -> Result:
    """Count the pixels of one photograph."""
    return Result(
        case.sample.name,
        metrics.confusion(case.mask, case.label, case.known),
        metrics.confusion(case.mask, case.label, case.fov),
        *metrics.skeleton_counts(case.mask, case.label, case.fov),
        auc,
        case.sample.subject or case.sample.name,
        tally or Tally(),
        digests or {},
    )
