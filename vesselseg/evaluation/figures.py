"""Figures of evaluations for a page or a paper, as SVG and PDF, one column wide.

They are drawn with matplotlib. Colours are those of Okabe and Ito without yellow, and lines differ
in their dashes too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import metrics
from ..files import whole_file
from ..metrics import Confusion
from .scores import THRESHOLDS, Evaluation, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"]
_DASHES = ("-", "--", "-.", ":")
_MARKERS = "osD^vPX"
_WIDTH = 3.4  # inches, a column of a journal
_CURVE = (
    "At every threshold, all pixels inside the field of view together. Markers: the threshold in "
    "use, or the observer."
)
_DICES = "All pixels inside the field of view together. Markers: the threshold in use."
_BINS = "Share of vessels among pixels of similar probability, in ten bins. The grey line is ideal."
_DIFFERENCES = (
    "Bland-Altman plot, a point for each photograph. Lines: the mean difference, and the 95 % "
    "limits of agreement."
)
_STYLE = {
    "font.size": 8, "axes.linewidth": 0.6, "lines.linewidth": 1.2, "lines.markersize": 4.5,
    "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
    "axes.prop_cycle": f"cycler(color={_COLORS})", "pdf.fonttype": 42,
    "svg.hashsalt": "vesselseg",
}  # fmt: skip


class Drawing(NamedTuple):
    """A figure that was written: name of its files without ending, title, and what it shows."""

    name: str
    title: str
    caption: str


def draw_figures(
    folder: Path, evaluations: Sequence[Evaluation], formats: Sequence[str] = ("svg",)
) -> list[Drawing]:
    """Write all figures of evaluations into a folder that exists, in each of the formats."""
    from matplotlib import rc_context

    drawings = []

    def write(figure: Figure, name: str, title: str, caption: str) -> None:
        for ending in formats:
            with whole_file(folder / f"{name}.{ending}") as part:
                date = {"svg": "Date", "pdf": "CreationDate"}[ending]
                figure.savefig(part, format=ending, metadata={date: None})
        drawings.append(Drawing(name, title, caption))

    with rc_context(_STYLE):  # restored afterwards
        if any(evaluation.total.tally.curve for evaluation in evaluations):
            recall, precision = metrics.sensitivity, metrics.precision
            figure = _draw_curves(evaluations, recall, precision, ("recall", "precision"))
            write(figure, "precision-recall", "Precision and recall", _CURVE)
            axes = "1 - specificity", "sensitivity"
            figure = _draw_curves(evaluations, _false_positives, recall, axes)
            write(figure, "roc", "Receiver operating characteristic", _CURVE)
            write(_draw_thresholds(evaluations), "threshold", "Dice over the threshold", _DICES)
            write(_draw_reliability(evaluations), "reliability", "Reliability", _BINS)
        figure = _draw_agreement(evaluations, "density", "", lambda image: image.densities)
        write(figure, "agreement-density", "Density: agreement of mask and label", _DIFFERENCES)
        figure = _draw_agreement(evaluations, "width", ", pixels", lambda image: image.widths)
        write(figure, "agreement-width", "Mean width: agreement of mask and label", _DIFFERENCES)
    return drawings


def _false_positives(counts: Confusion) -> float:
    """Share of the label's background that the mask calls vessel."""
    return 1 - metrics.specificity(counts)


def _new_figure(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """A square plot of two fractions with a legend below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, 3.9), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal", xlabel=xlabel, ylabel=ylabel)
    axes.grid(color="#dddddd", linewidth=0.4)
    return figure, axes


def _label(evaluation: Evaluation) -> str:
    """The name as matplotlib shows it: "$" starts a formula there, and "_" hides a label."""
    name = evaluation.name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def _style(place: int) -> dict[str, Any]:
    """Colour and dashes of the evaluation at a place."""
    return {"color": f"C{place}", "linestyle": _DASHES[place % len(_DASHES)]}


def _draw_points(axes: Axes, place: int, x: float, y: float, label: str = "") -> None:
    """A marker of the evaluation at a place."""
    axes.plot(
        [x], [y], marker=_MARKERS[place % len(_MARKERS)], linestyle="none", zorder=3,
        markeredgecolor="white", markeredgewidth=0.6, color=f"C{place}", label=label, clip_on=False,
    )  # fmt: skip


def _draw_curves(
    evaluations: Sequence[Evaluation],
    x: Callable[[Confusion], float],
    y: Callable[[Confusion], float],
    labels: tuple[str, str],
) -> Figure:
    """Two measures against each other at every threshold, and where the masks are."""
    figure, axes = _new_figure(*labels)
    for place, evaluation in enumerate(evaluations):
        total = evaluation.total
        points = [(x(counts), y(counts)) for counts in total.tally.detailed_curve]
        points = [point for point in points if not any(map(math.isnan, point))]
        if points:
            axes.plot(*zip(*points, strict=True), **_style(place), label=_label(evaluation))
        _draw_points(
            axes, place, x(total.inside), y(total.inside), "" if points else _label(evaluation)
        )
    figure.legend(loc="outside lower left")
    return figure


def _draw_thresholds(evaluations: Sequence[Evaluation]) -> Figure:
    figure, axes = _new_figure("threshold", "Dice")
    for place, evaluation in enumerate(evaluations):
        total = evaluation.total
        if not total.tally.curve:
            continue
        dices = [metrics.dice(counts) for counts in total.tally.curve]
        axes.plot(THRESHOLDS, dices, **_style(place), label=_label(evaluation))
        _draw_points(axes, place, evaluation.provenance["threshold"], metrics.dice(total.inside))
    figure.legend(loc="outside lower left")
    return figure


def _draw_reliability(evaluations: Sequence[Evaluation]) -> Figure:
    """Share of vessels over the mean probability in each bin."""
    figure, axes = _new_figure("probability", "share of vessels")
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    for place, evaluation in enumerate(evaluations):
        bins = evaluation.total.tally.reliability
        if bins:
            axes.plot(
                [each.probability for each in bins],
                [each.vessels / each.pixels for each in bins],
                **_style(place), marker=_MARKERS[place % len(_MARKERS)], label=_label(evaluation),
                clip_on=False,
            )  # fmt: skip
    figure.legend(loc="outside lower left")
    return figure


def _draw_agreement(
    evaluations: Sequence[Evaluation],
    name: str,
    unit: str,
    pair: Callable[[Result], tuple[float, float]],
) -> Figure:
    """Differences over means of a measure, a plot for each evaluation."""
    from matplotlib.figure import Figure

    number = len(evaluations)
    figure = Figure(figsize=(_WIDTH, 2.3 * number), layout="constrained")
    all_axes = figure.subplots(number, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for place, (axes, evaluation) in enumerate(zip(all_axes, evaluations, strict=True)):
        pairs = [pair(image) for image in evaluation.images]
        axes.plot(
            [(mask + label) / 2 for mask, label in pairs],
            [mask - label for mask, label in pairs],
            marker=_MARKERS[place % len(_MARKERS)], linestyle="none", alpha=0.7, color=f"C{place}",
            markeredgecolor="none",
        )  # fmt: skip
        agreement = evaluation.agreement()[name]
        axes.axhline(0, color="#999999", linewidth=0.6)
        for value, dashes in zip(agreement[1:], ("-", "--", "--"), strict=True):
            if not math.isnan(value):
                axes.axhline(value, color="black", linewidth=0.8, linestyle=dashes)
        _, bias, low, high = (f"{value:+.2g}" for value in agreement)
        title = f"{_label(evaluation)}\nbias {bias}, limits {low} to {high}"
        axes.set_title(title, loc="left", fontsize=8)
        axes.set_ylabel(f"mask - label{unit}")
    all_axes[-1].set_xlabel(f"mean of mask and label{unit}")
    return figure
