"""Evaluations as text, JSON and CSV."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from .. import metrics
from .._version import __version__
from ..files import whole_file
from .datasets import Dataset
from .scores import Evaluation, Figures

FIGURES = ("Dice", "sensitivity", "specificity", "accuracy", "AUC", "clDice")
"""Headings of the fields of :class:`vesselseg.evaluation.Figures`."""


_SHOWN = 8  # of the names of missing photographs


class Table:
    """A heading, the names of the columns, and rows of text; the first column is a name."""

    def __init__(self, heading: str, columns: Sequence[str]) -> None:
        self.heading = heading
        self.columns = ["", *columns]
        self.rows: list[list[str]] = []

    def __str__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        text = [self.heading]
        for name, *cells in lines:
            padded = (cell.rjust(n) for cell, n in zip(cells, widths[1:], strict=True))
            text.append("  ".join([name.ljust(widths[0]), *padded]).rstrip())
        return "\n".join(text)


def headline(dataset: Dataset) -> str:
    """What was evaluated against what."""
    view = "the data set's own" if dataset.samples[0].fov else "found in the photographs"
    lines = [dataset.description, f"Labels: first observer. Field of view: {view}."]
    if dataset.missing:
        shown = ", ".join(dataset.missing[:_SHOWN])
        more = len(dataset.missing) - _SHOWN
        lines.append(f"Not in the folder: {shown}{f' and {more} more' if more > 0 else ''}.")
    return "\n".join(lines)


def settings(evaluation: Evaluation) -> str:
    """How a model was run; empty for the second observer."""
    how = evaluation.provenance
    if not how:
        return ""
    return (
        f"{evaluation.name}: weights {how['sha256'][:8]}, scale {how['scale']}, "
        f"{how['precision']} on {how['device']}{_by(how)}, threshold {how['threshold']:g}"
    )


def _by(how: Mapping[str, Any]) -> str:
    return "" if how["backend"] == "torch" else f" by {how['backend']}"


def tables(dataset: Dataset, evaluations: Sequence[Evaluation]) -> list[Table]:
    """The three ways to count, in percent."""
    note = f" ({dataset.caution})" if dataset.caution else ""
    whole = Table(
        f"Whole frames, all pixels together, the published convention, percent{note}",
        ["Dice", "published"],
    )
    pooled = Table(f"Inside the field of view, all pixels together, percent{note}", FIGURES)
    each = Table(
        f"Inside the field of view, mean ± standard deviation over images, percent{note}", FIGURES
    )
    for evaluation in evaluations:
        name = evaluation.name
        published, _ = beside_published(evaluation, dataset)
        dice = metrics.dice(evaluation.whole)
        whole.rows.append([name, percent(dice), percent(published)])
        pooled.rows.append([name, *map(percent, evaluation.pooled)])
        spread = zip(evaluation.mean, evaluation.std, strict=True)
        each.rows.append([name, *(f"{percent(m)} ± {percent(s)}" for m, s in spread)])
    return [whole, pooled, each]


def beside_published(evaluation: Evaluation, dataset: Dataset) -> tuple[float, list[str]]:
    """The published Dice for this data set, NaN if there is none, and what is different here."""
    spec = evaluation.spec
    if spec is None or spec.dice is None or dataset.name != spec.dataset:
        return math.nan, []
    different = []
    if dataset.has_training_images:
        different.append("it is for the test images, not for training images")
    elif dataset.missing:
        different.append(f"it is for {len(dataset.samples) + len(dataset.missing)} test images")
    how = evaluation.provenance
    if how["scale"] != spec.scale:
        different.append(f"it is for scale {spec.scale}")
    if how["threshold"] != 0.5:
        different.append("it is for threshold 0.5")
    known = [known for s in spec.sources for known in (s.sha256, s.digits) if known]
    if not any(how["sha256"].startswith(digits) for digits in known):
        different.append("the digest of these weights is not that of the published file's name")
    return spec.dice / 100, different


def to_text(dataset: Dataset, evaluations: Sequence[Evaluation]) -> str:
    """What ``vesselseg evaluate`` prints."""
    how = [line for evaluation in evaluations if (line := settings(evaluation))]
    blocks = ["\n".join([headline(dataset), *how]), *map(str, tables(dataset, evaluations))]
    blocks += [line for e in evaluations if (line := published_note(e, dataset))]
    return "\n\n".join(blocks)


def published_note(evaluation: Evaluation, dataset: Dataset) -> str:
    """A sentence on what the published figure cannot be compared for; empty if it can."""
    _, different = beside_published(evaluation, dataset)
    if not different:
        return ""
    return (
        f"{evaluation.name}: not to be compared with the published figure: {'; '.join(different)}."
    )


def to_dict(dataset: Dataset, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Plain values for JSON: figures are fractions in [0, 1], null where not defined."""
    return {
        "vesselseg": __version__,
        "dataset": dataset.name,
        "split": dataset.split,
        "description": dataset.description,
        "training_images": dataset.has_training_images,
        "missing": list(dataset.missing),
        "results": [_result(dataset, evaluation) for evaluation in evaluations],
    }


def write_json(
    path: str | os.PathLike[str], dataset: Dataset, evaluations: Sequence[Evaluation]
) -> None:
    """Write :func:`to_dict`; raises OutputError."""
    with whole_file(path) as part:
        text = json.dumps(to_dict(dataset, evaluations), indent=2, allow_nan=False)
        part.write_text(text + "\n", encoding="utf-8")


def write_csv(
    path: str | os.PathLike[str], dataset: Dataset, evaluations: Sequence[Evaluation]
) -> None:
    """Write one row for each image and model; raises OutputError.

    Figures are fractions in [0, 1], empty where not defined; all but ``dice_whole_frame``, and
    the counts, are of the pixels inside the field of view.
    """
    half = {sample.name: sample.split for sample in dataset.samples}
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        counts = metrics.Confusion._fields
        writer.writerow(
            ["dataset", "image", "split", "model", "dice_whole_frame", *Figures._fields, *counts]
        )
        for evaluation in evaluations:
            for image in evaluation.images:
                figures = [metrics.dice(image.whole), *image.figures]
                cells = ["" if math.isnan(value) else repr(value) for value in figures]
                names = [dataset.name, image.name, half[image.name], evaluation.name]
                writer.writerow([*names, *cells, *image.inside])


def percent(fraction: float) -> str:
    """Such as "78.67", or "-" for NaN."""
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def _result(dataset: Dataset, evaluation: Evaluation) -> dict[str, Any]:
    published, different = beside_published(evaluation, dataset)
    result: dict[str, Any] = {"name": evaluation.name}
    if evaluation.provenance:
        result["settings"] = evaluation.provenance
    result["whole_frames"] = {
        **_counted(evaluation.whole),
        "published_dice": _plain(published),
        "published_differs": different,
    }
    result["inside_field_of_view"] = {
        "pooled": _figures(evaluation.pooled),
        "mean": _figures(evaluation.mean),
        "standard_deviation": _figures(evaluation.std),
    }
    result["images"] = [
        {
            "name": image.name,
            "whole_frame": _counted(image.whole),
            "inside_field_of_view": {**_figures(image.figures), **image.inside._asdict()},
        }
        for image in evaluation.images
    ]
    return result


def _counted(counts: metrics.Confusion) -> dict[str, float | None]:
    return {"dice": _plain(metrics.dice(counts)), **counts._asdict()}


def _figures(figures: Figures) -> dict[str, float | None]:
    return {name: _plain(value) for name, value in figures._asdict().items()}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
