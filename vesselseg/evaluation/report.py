"""Evaluations as text, JSON, CSV and an HTML page that stands alone."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import metrics
from .._version import __version__
from ..errors import MissingExtraError, OutputError
from ..files import whole_file
from ..images import RGB
from .datasets import Dataset
from .scores import Case, Evaluation, Figures

HEADINGS = ("Dice", "sensitivity", "specificity", "accuracy", "AUC", "clDice")
"""Headings of the fields of :class:`vesselseg.evaluation.scores.Figures`."""

# White, blue and vermillion on grey differ in lightness, for people who see no colours and in
# print, and on the axis from blue to yellow, which people with red-green blindness see. Blue and
# vermillion come from the palette of Okabe and Ito.
TRUE_POSITIVE = (255, 255, 255)
FALSE_POSITIVE = (213, 94, 0)
FALSE_NEGATIVE = (86, 180, 233)
LEGEND = (
    (TRUE_POSITIVE, "true positive", "vessel in mask and label"),
    (FALSE_POSITIVE, "false positive", "vessel in the mask only"),
    (FALSE_NEGATIVE, "false negative", "vessel in the label only: missed"),
)
_SIDE = 1200  # largest side of the pictures, in pixels
_LISTED = 8  # names of missing photographs that are listed


class Table:
    """A heading, the names of the columns, and rows of text; the first column is a name."""

    def __init__(self, heading: str, columns: Sequence[str]) -> None:
        self.heading = heading
        self.columns = ["", *columns]
        self.rows: list[list[str]] = []

    def __str__(self) -> str:
        rows = [self.columns, *self.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.columns))]
        lines = [self.heading]
        for name, *cells in rows:
            padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *padded]).rstrip())
        return "\n".join(lines)


class Pictures:
    """The pictures of a page, compressed while the evaluation goes on."""

    def __init__(self) -> None:
        self.photographs: dict[str, str] = {}
        self.labels: dict[str, str] = {}
        self.overlays: dict[tuple[int, str], str] = {}

    def add(self, model: int, case: Case) -> None:
        """Keep the pictures of one photograph and the model with this number, from 0."""
        name = case.sample.name
        if name not in self.photographs:
            self.photographs[name] = to_data_uri(case.photograph, quality=85)
            label = np.repeat(case.label[..., None], 3, axis=2).astype(np.uint8) * 255
            self.labels[name] = to_data_uri(label, quality=85)
        self.overlays[model, name] = to_data_uri(draw_overlay(case), quality=90)

    def of_image(self, name: str, evaluations: Sequence[Evaluation]) -> list[tuple[str, str]]:
        """Captions and data URIs: the photograph, the label, and one overlay per model."""
        if name not in self.photographs:
            return []
        shown = [("Photograph", self.photographs[name]), ("Label", self.labels[name])]
        for number, evaluation in enumerate(evaluations):
            if (number, name) in self.overlays:
                shown.append((evaluation.name, self.overlays[number, name]))
        return shown


def draw_overlay(case: Case) -> RGB:
    """True and false positives and false negatives over the photograph in grey.

    Returns
    -------
    ndarray of uint8 (H, W, 3)
        The photograph is stretched to a fixed brightness, so that a false alarm can be judged,
        and darker outside the field of view.
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


def to_data_uri(pixels: RGB, quality: int) -> str:
    """A picture as a JPEG that an HTML page can hold."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=quality, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def describe(dataset: Dataset, evaluations: Sequence[Evaluation]) -> list[str]:
    """What was evaluated against what, and how each model was run."""
    fov = "the data set's own" if dataset.samples[0].fov else "found in the photographs"
    observer = "first" if dataset.observer == 1 else "second"
    lines = [dataset.description, f"Labels: {observer} observer. Field of view: {fov}."]
    if dataset.missing:
        listed = ", ".join(dataset.missing[:_LISTED])
        more = len(dataset.missing) - _LISTED
        lines.append(f"Not evaluated: {listed}{f' and {more} more' if more > 0 else ''}.")
    for evaluation in evaluations:
        how = evaluation.provenance
        if how:
            backend = "" if how["backend"] == "torch" else f" with {how['backend']}"
            lines.append(
                f"{evaluation.name}: weights {how['sha256'][:8]}, scale {how['scale']}, "
                f"{how['precision']} on {how['device']}{backend}, threshold {how['threshold']:g}"
            )
    return lines


def to_tables(dataset: Dataset, evaluations: Sequence[Evaluation]) -> list[Table]:
    """The three ways of counting, in percent."""
    caution = f" ({dataset.caution})" if dataset.caution else ""
    whole = Table(
        f"Whole frames, all pixels together, the published convention, percent{caution}",
        ["Dice", "published"],
    )
    pooled = Table(f"Inside the field of view, all pixels together, percent{caution}", HEADINGS)
    each = Table(
        f"Inside the field of view, mean ± standard deviation over images, percent{caution}",
        HEADINGS,
    )
    for evaluation in evaluations:
        published, _ = compare_with_published(evaluation, dataset)
        dice = metrics.dice(evaluation.whole)
        whole.rows.append([evaluation.name, percent(dice), percent(published)])
        pooled.rows.append([evaluation.name, *map(percent, evaluation.pooled)])
        cells = []
        for mean, std in zip(evaluation.mean, evaluation.std, strict=True):
            cells.append(percent(mean) if math.isnan(std) else f"{percent(mean)} ± {percent(std)}")
        each.rows.append([evaluation.name, *cells])
    return [whole, pooled, each]


def compare_with_published(evaluation: Evaluation, dataset: Dataset) -> tuple[float, list[str]]:
    """The published Dice for this data set, NaN if there is none, and what differs here."""
    spec = evaluation.spec
    if spec is None or spec.dice is None or dataset.name != spec.dataset:
        return math.nan, []
    differences = []
    if dataset.has_training_images:
        differences.append("it is for the test images, not for training images")
    elif dataset.missing:
        total = len(dataset.samples) + len(dataset.missing)
        differences.append(f"it is for {total} test images")
    if dataset.observer != 1:
        differences.append("it is for the labels of the first observer")
    how = evaluation.provenance
    if how["scale"] != spec.scale:
        differences.append(f"it is for scale {spec.scale}")
    if how["threshold"] != 0.5:
        differences.append("it is for threshold 0.5")
    known = [digits for s in spec.sources for digits in (s.sha256, s.digits) if digits]
    if not any(how["sha256"].startswith(digits) for digits in known):
        differences.append("the digest of these weights differs from the published file's name")
    return spec.dice / 100, differences


def to_notes(dataset: Dataset, evaluations: Sequence[Evaluation]) -> list[str]:
    """A sentence for each published figure that cannot be compared."""
    notes = []
    for evaluation in evaluations:
        _, differences = compare_with_published(evaluation, dataset)
        if differences:
            notes.append(
                f"{evaluation.name}: the published figure cannot be compared: "
                f"{'; '.join(differences)}."
            )
    return notes


def to_text(dataset: Dataset, evaluations: Sequence[Evaluation]) -> str:
    """What ``vesselseg evaluate`` prints."""
    blocks = ["\n".join(describe(dataset, evaluations))]
    blocks += [str(table) for table in to_tables(dataset, evaluations)]
    return "\n\n".join([*blocks, *to_notes(dataset, evaluations)])


def to_dict(dataset: Dataset, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Plain values for JSON: figures are fractions in [0, 1], null if not defined."""
    results = []
    for evaluation in evaluations:
        published, differences = compare_with_published(evaluation, dataset)
        settings: dict[str, Any] = {}
        if evaluation.provenance:
            settings["settings"] = evaluation.provenance
        images = [
            {
                "name": image.name,
                "whole_frame": to_counts(image.whole),
                "inside_field_of_view": {**to_values(image.figures), **image.inside._asdict()},
            }
            for image in evaluation.images
        ]
        results.append(
            {
                "name": evaluation.name,
                **settings,
                "whole_frames": dict[str, Any](
                    to_counts(evaluation.whole),
                    published_dice=or_none(published),
                    published_differs=differences,
                ),
                "inside_field_of_view": {
                    "pooled": to_values(evaluation.pooled),
                    "mean": to_values(evaluation.mean),
                    "standard_deviation": to_values(evaluation.std),
                },
                "images": images,
            }
        )
    return {
        "vesselseg": __version__,
        "dataset": dataset.name,
        "split": dataset.split,
        "observer": dataset.observer,
        "description": dataset.description,
        "training_images": dataset.has_training_images,
        "missing": list(dataset.missing),
        "results": results,
    }


def to_counts(counts: metrics.Confusion) -> dict[str, float | None]:
    """Dice and the counts that it comes from."""
    return {"dice": or_none(metrics.dice(counts)), **counts._asdict()}


def to_values(figures: Figures) -> dict[str, float | None]:
    """Figures by name."""
    return {name: or_none(value) for name, value in figures._asdict().items()}


def or_none(value: float) -> float | None:
    """The value, or None for NaN."""
    return None if math.isnan(value) else value


def percent(fraction: float) -> str:
    """For example "78.67", or "-" for NaN."""
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def write_json(
    path: str | os.PathLike[str], dataset: Dataset, evaluations: Sequence[Evaluation]
) -> None:
    """Write :func:`to_dict`; raise OutputError if that is impossible."""
    with whole_file(path) as part:
        text = json.dumps(to_dict(dataset, evaluations), indent=2, allow_nan=False)
        part.write_text(text + "\n", encoding="utf-8")


def write_csv(
    path: str | os.PathLike[str], dataset: Dataset, evaluations: Sequence[Evaluation]
) -> None:
    """Write one row for each image and model; raise OutputError if that is impossible.

    Figures are fractions in [0, 1], empty if not defined. All except ``dice_whole_frame`` are of
    the pixels inside the field of view, and so are the counts.
    """
    splits = {sample.name: sample.split for sample in dataset.samples}
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        columns = ["dataset", "image", "split", "model", "dice_whole_frame"]
        writer.writerow([*columns, *Figures._fields, *metrics.Confusion._fields])
        for evaluation in evaluations:
            for image in evaluation.images:
                figures = [metrics.dice(image.whole), *image.figures]
                cells = ["" if math.isnan(value) else repr(value) for value in figures]
                names = [dataset.name, image.name, splits[image.name], evaluation.name]
                writer.writerow([*names, *cells, *image.inside])


def write_page(
    folder: str | os.PathLike[str],
    dataset: Dataset,
    evaluations: Sequence[Evaluation],
    pictures: Pictures,
) -> Path:
    """Write ``index.html`` into a folder, which is created if necessary.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    OutputError
        If it cannot be written.
    MissingExtraError
        If Jinja2 is not installed.
    """
    html = render_page(dataset, evaluations, pictures)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{str(folder)!r} cannot be created: {error.strerror}.") from error
    page = Path(folder) / "index.html"
    with whole_file(page) as part:
        part.write_text(html, encoding="utf-8")
    return page


def render_page(dataset: Dataset, evaluations: Sequence[Evaluation], pictures: Pictures) -> str:
    """The page: HTML with its style and pictures inside, no script, nothing from elsewhere."""
    try:
        from jinja2 import Environment, PackageLoader
    except ImportError as error:
        raise MissingExtraError(
            "The report needs Jinja2, which is not installed. Install it: "
            'pip install "vesselseg[eval]".'
        ) from error
    environment = Environment(loader=PackageLoader("vesselseg", "evaluation"), autoescape=True)
    title, *lines = describe(dataset, evaluations)
    images = []
    for name in worst_first(evaluations):
        table = Table("", HEADINGS)
        for evaluation in evaluations:
            for image in evaluation.images:
                if image.name == name:
                    table.rows.append([evaluation.name, *map(percent, image.figures)])
        images.append((name, table, pictures.of_image(name, evaluations)))
    return environment.get_template("report.html").render(
        title=f"Vessels of {title}",
        caution=dataset.caution.capitalize(),
        lines=lines,
        tables=to_tables(dataset, evaluations),
        notes=to_notes(dataset, evaluations),
        legend=LEGEND,
        images=images,
    )


def worst_first(evaluations: Sequence[Evaluation]) -> list[str]:
    """Names of the images by Dice inside the field of view, the lowest first.

    With several models their mean counts; an observer does not. Images whose Dice is not defined
    come last.
    """

    def mean_dice(name: str) -> float:
        values = [
            image.figures.dice
            for evaluation in evaluations
            for image in evaluation.images
            if evaluation.spec is not None and image.name == name
        ]
        average = sum(values) / len(values)
        return math.inf if math.isnan(average) else average

    return sorted((image.name for image in evaluations[0].images), key=mean_dice)
