"""Evaluations as text, JSON, CSV and an HTML page that stands alone."""

from __future__ import annotations

import base64
import io
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import numpy as np
from jinja2 import Environment, PackageLoader
from numpy.typing import NDArray
from PIL import Image

from .. import metrics
from .._version import __version__
from ..batch.table import encode_csv
from ..errors import OutputError
from ..files import whole_file
from ..images import RGB
from .datasets import Dataset
from .scores import THRESHOLDS, Case, Evaluation, Figures

Pictures: TypeAlias = dict[str, list[tuple[str, str]]]
"""Name of an image -> captions and data URIs: the photograph, the label, an overlay per model."""

_HEADINGS = ("Dice", "sensitivity", "specificity", "accuracy", "AUC", "clDice")
"""Headings of the fields of :class:`vesselseg.evaluation.scores.Figures`."""

# White, blue and vermillion on grey differ in lightness, for people who see no colours and in
# print, and on the axis from blue to yellow, which people with red-green blindness see. Blue and
# vermillion come from the palette of Okabe and Ito.
TRUE_POSITIVE = (255, 255, 255)
FALSE_POSITIVE = (213, 94, 0)
FALSE_NEGATIVE = (86, 180, 233)
_LEGEND = (
    (TRUE_POSITIVE, "true positive", "vessel in mask and label"),
    (FALSE_POSITIVE, "false positive", "vessel in the mask only"),
    (FALSE_NEGATIVE, "false negative", "vessel in the label only: missed"),
)
_SIDE = 1200  # largest side of the pictures, in pixels
_LISTED = 8  # names of missing photographs that are listed


class _Table:
    """A heading, the names of the columns, and rows of text; the first column is a name."""

    def __init__(self, heading: str, columns: Sequence[str]) -> None:
        self.heading = heading
        self.columns = ["", *columns]
        self.rows: list[list[str]] = []

    def __str__(self) -> str:
        rows = [self.columns, *self.rows]
        first, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [self.heading]
        for name, *cells in rows:
            padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
            lines.append("  ".join([name.ljust(first), *padded]).rstrip())
        return "\n".join(lines)


def add_pictures(pictures: Pictures, model: str, case: Case) -> None:
    """Add a model's overlay, compressed, and before the first one the photograph and its label."""
    shown = pictures.setdefault(case.sample.name, [])
    if not shown:
        label = case.label.astype(np.uint8) * 255
        shown.append(("Photograph", _to_data_uri(case.photograph, quality=85)))
        shown.append(("Label", _to_data_uri(label, quality=85)))
    shown.append((model, _to_data_uri(draw_overlay(case), quality=90)))


def draw_overlay(case: Case) -> RGB:
    """True and false positives and false negatives over the photograph in grey.

    The photograph is stretched to a fixed brightness, so that a false alarm can be judged, and
    darker outside the field of view.
    """
    grey = np.asarray(Image.fromarray(case.photograph).convert("L")).astype(np.float32)
    inside = grey[case.fov]
    brightest = max(float(np.percentile(inside, 99)) if inside.size else 255.0, 1.0)
    dimmed = np.where(case.fov, 1.0, 0.5) * np.clip(grey / brightest, 0, 1) * 100
    pixels = np.repeat(dimmed.astype(np.uint8)[..., None], 3, axis=2)
    pixels[case.mask & case.label] = TRUE_POSITIVE
    pixels[case.mask & ~case.label] = FALSE_POSITIVE
    pixels[~case.mask & case.label] = FALSE_NEGATIVE
    return pixels


def _to_data_uri(pixels: NDArray[np.uint8], quality: int) -> str:
    """A picture as a JPEG that an HTML page can hold."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=quality, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def _describe(dataset: Dataset, evaluations: Sequence[Evaluation]) -> list[str]:
    """What was evaluated against what, and how each model was run."""
    fov = "the data set's own" if dataset.samples[0].fov else "found in the photographs"
    observer = "first" if dataset.observer == 1 else "second"
    lines = [dataset.description, f"Labels: {observer} observer. Field of view: {fov}."]
    if dataset.missing:
        listed = ", ".join(dataset.missing[:_LISTED])
        more = len(dataset.missing) - _LISTED
        lines.append(f"Not evaluated: {listed}{f' and {more} more' if more > 0 else ''}.")
    failed = sorted({name for evaluation in evaluations for name in evaluation.failed})
    if failed:
        listed = ", ".join(failed[:_LISTED])
        more = len(failed) - _LISTED
        lines.append(f"Could not be used: {listed}{f' and {more} more' if more > 0 else ''}.")
    for evaluation in evaluations:
        how = evaluation.provenance
        if how:
            backend = "" if how["backend"] == "torch" else f" with {how['backend']}"
            mark = " (unverified)" if how["unverified"] else ""
            lines.append(
                f"{evaluation.name}: weights {how['sha256'][:8]}{mark}, scale {how['scale']}, "
                f"{how['precision']} on {how['device']}{backend}, threshold {how['threshold']:g}"
            )
    return lines


def _to_tables(dataset: Dataset, evaluations: Sequence[Evaluation]) -> list[_Table]:
    """The three ways of counting, and a table of centrelines, widths and thresholds."""
    end = f"percent ({dataset.caution})" if dataset.caution else "percent"
    whole = _Table(
        f"Whole frames, all pixels together, the published convention, {end}",
        ["Dice", "published"],
    )
    pooled = _Table(f"Inside the field of view, all pixels together, {end}", _HEADINGS)
    each = _Table(
        f"Inside the field of view, mean ± standard deviation over images, {end}", _HEADINGS
    )
    more = _Table(
        "Inside the field of view, all pixels together: precision and recall of the centrelines, "
        "mean widths of mask and label in pixels, the threshold of the highest Dice, this Dice, "
        f"expected calibration error, {end}",
        ["precision", "recall", "width", "label", "threshold", "Dice there", "calibration error"],
    )
    for evaluation in evaluations:
        name, total = evaluation.name, evaluation.total
        published, _ = compare_with_published(evaluation, dataset)
        whole.rows.append([name, percent(metrics.dice(total.whole)), percent(published)])
        pooled.rows.append([name, *map(percent, total.figures)])
        cells = []
        for mean, std in zip(*evaluation.mean_and_std(), strict=True):
            cells.append(percent(mean) if math.isnan(std) else f"{percent(mean)} ± {percent(std)}")
        each.rows.append([name, *cells])
        threshold, best = evaluation.best_threshold
        mask_width, label_width = total.widths
        more.rows.append([
            name, percent(total.centreline_precision), percent(total.centreline_recall),
            _number(mask_width), _number(label_width), _number(threshold), percent(best),
            percent(evaluation.calibration_error),
        ])  # fmt: skip
    return [whole, pooled, each, more]


def compare_with_published(evaluation: Evaluation, dataset: Dataset) -> tuple[float, list[str]]:
    """The published Dice for this data set, NaN if there is none, and what differs here."""
    spec, how = evaluation.spec, evaluation.provenance
    if spec is None or spec.dice is None or dataset.name != spec.dataset:
        return math.nan, []
    differences = []
    if dataset.caution:
        differences.append("it is for the test images, not for training images")
    elif dataset.missing or evaluation.failed:
        total = len(dataset.samples) + len(dataset.missing)
        differences.append(f"it is for {total} test images")
    if dataset.observer != 1:
        differences.append("it is for the labels of the first observer")
    if how["scale"] != spec.scale:
        differences.append(f"it is for scale {spec.scale}")
    if how["threshold"] != 0.5:
        differences.append("it is for threshold 0.5")
    if how["unverified"]:
        differences.append("the digest of these weights differs from the published file's name")
    return spec.dice / 100, differences


def _to_charts(evaluation: Evaluation) -> list[dict[str, Any]]:
    """What the page draws of a model: curves over the threshold, and the reliability curve.

    Points are (x, y) from 0 to 100, with y downwards. A value that is not defined has none.
    """
    if not evaluation.curve:
        return []
    measures = {
        "Dice": metrics.dice, "sensitivity": metrics.sensitivity, "precision": metrics.precision
    }  # fmt: skip
    lines = {
        name: [
            (100 * float(threshold), 100 - 100 * measure(counts))
            for threshold, counts in zip(THRESHOLDS, evaluation.curve, strict=True)
            if not math.isnan(measure(counts))
        ]
        for name, measure in measures.items()
    }
    reliability = [
        (100 * each.probability, 100 - 100 * each.vessels / each.pixels)
        for each in evaluation.reliability
    ]
    share = {"vessels": reliability, "ideal": [(0, 100), (100, 0)]}
    return [
        {"title": f"{evaluation.name}: threshold", "axis": "threshold", "lines": lines},
        {"title": f"{evaluation.name}: reliability", "axis": "probability", "lines": share},
    ]


def _to_notes(dataset: Dataset, evaluations: Sequence[Evaluation]) -> list[str]:
    """A sentence for each published figure that cannot be compared."""
    notes = []
    for evaluation in evaluations:
        _, differences = compare_with_published(evaluation, dataset)
        if differences:
            reasons = "; ".join(differences)
            notes.append(f"{evaluation.name}: the published figure cannot be compared: {reasons}.")
    return notes


def to_text(dataset: Dataset, evaluations: Sequence[Evaluation]) -> str:
    """What ``vesselseg evaluate`` prints."""
    head = "\n".join(_describe(dataset, evaluations))
    tables = map(str, _to_tables(dataset, evaluations))
    return "\n\n".join([head, *tables, *_to_notes(dataset, evaluations)])


def _number(value: float) -> str:
    """For example "4.50", or "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def percent(fraction: float) -> str:
    """For example "78.67", or "-" for NaN."""
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def write_json(path: Path, dataset: Dataset, evaluations: Sequence[Evaluation]) -> None:
    """Write all results as JSON: figures are fractions in [0, 1], null if not defined."""
    content = {
        "vesselseg": __version__,
        "dataset": dataset.name,
        "split": dataset.split,
        "observer": dataset.observer,
        "description": dataset.description,
        "training_images": bool(dataset.caution),
        "missing": list(dataset.missing),
        "failed": {
            name: why for evaluation in evaluations for name, why in evaluation.failed.items()
        },
        "results": [_to_dict(evaluation, dataset) for evaluation in evaluations],
    }
    with whole_file(path) as part:
        text = json.dumps(content, indent=2, allow_nan=False)
        part.write_text(text + "\n", encoding="utf-8")


def _to_dict(evaluation: Evaluation, dataset: Dataset) -> dict[str, Any]:
    """The figures and counts of an evaluation as plain values."""
    published, differences = compare_with_published(evaluation, dataset)
    total, (mean, std) = evaluation.total, evaluation.mean_and_std()
    return {
        "name": evaluation.name,
        **({"settings": evaluation.provenance} if evaluation.provenance else {}),
        "whole_frames": {
            **_to_counts(total.whole),
            **_to_values(published_dice=published),
            "published_differs": differences,
        },
        "inside_field_of_view": {
            "pooled": _to_values(**total.figures._asdict()),
            "mean": _to_values(**mean._asdict()),
            "standard_deviation": _to_values(**std._asdict()),
            **_to_values(
                centreline_precision=total.centreline_precision,
                centreline_recall=total.centreline_recall,
                mask_width=total.widths[0],
                label_width=total.widths[1],
                best_threshold=evaluation.best_threshold[0],
                best_dice=evaluation.best_threshold[1],
                expected_calibration_error=evaluation.calibration_error,
            ),
            "thresholds": [
                {"threshold": round(float(threshold), 2), **_to_counts(counts)}
                for threshold, counts in zip(THRESHOLDS, evaluation.curve, strict=False)
            ],
            "reliability": [each._asdict() for each in evaluation.reliability],
        },
        "images": [
            {
                "name": image.name,
                "whole_frame": _to_counts(image.whole),
                "inside_field_of_view": {
                    **_to_values(**image.figures._asdict()),
                    **image.inside._asdict(),
                },
            }
            for image in evaluation.images
        ],
    }


def _to_counts(counts: metrics.Confusion) -> dict[str, float | None]:
    """Dice and the counts that it comes from."""
    return _to_values(dice=metrics.dice(counts), **counts._asdict())


def _to_values(**values: float) -> dict[str, float | None]:
    """Values by name, None for NaN."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def write_csv(path: Path, dataset: Dataset, evaluations: Sequence[Evaluation]) -> None:
    """Write one row for each image and model.

    Figures are fractions in [0, 1], empty if not defined. All except ``dice_whole_frame`` are of
    the pixels inside the field of view, and so are the counts.
    """
    splits = {sample.name: sample.split for sample in dataset.samples}
    columns = ["dataset", "image", "split", "model", "dice_whole_frame"]
    lines: list[list[Any]] = [[*columns, *Figures._fields, *metrics.Confusion._fields]]
    for evaluation in evaluations:
        for image in evaluation.images:
            names = [dataset.name, image.name, splits[image.name], evaluation.name]
            figures = [metrics.dice(image.whole), *image.figures]
            cells = ["" if math.isnan(value) else value for value in figures]
            lines.append([*names, *cells, *image.inside])
    with whole_file(path) as part:
        part.write_bytes(encode_csv(lines))


def write_page(
    folder: Path, dataset: Dataset, evaluations: Sequence[Evaluation], pictures: Pictures
) -> Path:
    """Write ``index.html`` into a folder, which is created if necessary, and return its path.

    The page stands alone. Images come sorted by Dice inside the field of view, the lowest first
    and those without a defined Dice last. With several models their mean counts; an observer does
    not.
    """
    tables: defaultdict[str, _Table] = defaultdict(lambda: _Table("", _HEADINGS))
    dices: defaultdict[str, list[float]] = defaultdict(list)
    for evaluation in evaluations:
        for image in evaluation.images:
            tables[image.name].rows.append([evaluation.name, *map(percent, image.figures)])
            if evaluation.spec is not None:
                dices[image.name].append(image.figures.dice)
    means = {name: fmean(values) for name, values in dices.items()}
    worst_first = sorted(means, key=lambda name: (math.isnan(means[name]), means[name]))
    title, *lines = _describe(dataset, evaluations)
    environment = Environment(loader=PackageLoader("vesselseg", "evaluation"), autoescape=True)
    html = environment.get_template("report.html").render(
        title=f"Vessels of {title}",
        caution=dataset.caution.capitalize(),
        lines=lines,
        tables=_to_tables(dataset, evaluations),
        charts=[chart for evaluation in evaluations for chart in _to_charts(evaluation)],
        notes=_to_notes(dataset, evaluations),
        legend=_LEGEND,
        images=[(name, tables[name], pictures.get(name, [])) for name in worst_first],
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{str(folder)!r} cannot be created: {error.strerror}.") from error
    page = folder / "index.html"
    with whole_file(page) as part:
        part.write_text(html, encoding="utf-8", errors="backslashreplace")
    return page
