"""Evaluations as text, JSON, CSV and an HTML page with its pictures and figures beside it."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from jinja2 import Environment, PackageLoader
from numpy.typing import NDArray
from PIL import Image

from .. import metrics
from .._version import __version__
from ..batch.table import encode_csv
from ..files import make_folder, whole_file
from ..images import RGB
from .datasets import Dataset
from .figures import draw_figures
from .scores import THRESHOLDS, Case, Comparison, Evaluation, Figures, Result
from .statistics import RELIABLE_SUBJECTS, RESAMPLES

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
_MISSING = ["-"] * len(_HEADINGS)  # of a photograph that an evaluation does not have
_SETTINGS = ("threshold", "scale", "precision", "device", "backend", "vesselseg", "spec")
_FILES = ("photograph", "label", "fov", "mask")


class _Cell(NamedTuple):
    """A figure as text, and its interval, if there is one."""

    text: str
    interval: str = ""


@dataclass
class _Table:
    """A heading, the names of the columns, and rows of cells, each with its name."""

    heading: str
    columns: Sequence[str]
    rows: list[tuple[str, list[_Cell]]] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [["", *self.columns]]
        for name, cells in self.rows:
            rows.append([name, *(cell.text for cell in cells)])
            if any(cell.interval for cell in cells):
                rows.append(["  95 % interval", *(cell.interval for cell in cells)])
        first, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [self.heading]
        for name, *texts in rows:
            padded = [text.rjust(width) for text, width in zip(texts, widths, strict=True)]
            lines.append("  ".join([name.ljust(first), *padded]).rstrip())
        return "\n".join(lines)


class _Picture(NamedTuple):
    """A picture of the page, its address relative to it, and its size in pixels."""

    caption: str
    address: str
    width: int
    height: int


class Pictures:
    """The pictures of the page, written into its folder as they come.

    The folder is made if necessary. A page that is there already is removed, since its pictures
    are overwritten. Raises OutputError if the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._of_image: dict[str, list[_Picture]] = {}
        for name in ("pictures", "figures"):
            make_folder(folder / name)
        (folder / "index.html").unlink(missing_ok=True)

    def __getitem__(self, name: str) -> Sequence[_Picture]:
        return self._of_image.get(name, ())

    def add(self, model: str, case: Case) -> None:
        """Add a model's overlay, and before the first one the photograph and its label."""
        name = case.sample.name
        if name not in self._of_image:
            self._of_image[name] = []
            label = case.label.astype(np.uint8) * 255
            self._write(name, "Photograph", case.photograph, quality=85)
            self._write(name, "Label", label, quality=85)
        self._write(name, model, draw_overlay(case), quality=90)

    def _write(self, name: str, caption: str, pixels: NDArray[np.uint8], quality: int) -> None:
        """Write a picture as a JPEG whose name is unique and plain, whatever the image's is."""
        pictures = self._of_image[name]
        number = 1 + list(self._of_image).index(name)
        words = f"{number:04}-{name}-{len(pictures)}-{caption}"
        address = f"pictures/{re.sub(r'[^A-Za-z0-9._-]+', '_', words)[:120]}.jpg"
        picture = Image.fromarray(pixels)
        picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
        with whole_file(self._folder / address) as part:
            picture.save(part, format="JPEG", quality=quality, subsampling=0, optimize=True)
        pictures.append(_Picture(caption, address, *picture.size))


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


def _describe(dataset: Dataset, evaluations: Sequence[Evaluation]) -> list[str]:
    """What was evaluated against what, and how each model was run."""
    fov = "the data set's own" if dataset.samples[0].fov else "found in the photographs"
    observer = "first" if dataset.observer == 1 else "second"
    lines = [dataset.description, f"Labels: {observer} observer. Field of view: {fov}."]
    failed = sorted({name for evaluation in evaluations for name in evaluation.failed})
    for what, names in (("Not evaluated", dataset.missing), ("Could not be used", failed)):
        if names:
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            lines.append(f"{what}: {', '.join(names[:_LISTED])}{more}.")
    lines.append(_describe_subjects(evaluations[0]))
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


def _describe_subjects(evaluation: Evaluation) -> str:
    """How intervals were computed, and whether there are enough subjects for them."""
    number, photographs = len(evaluation.subjects), len(evaluation.images)
    if number == 1:
        return "There are no confidence intervals, since all photographs are of one subject."
    line = (
        f"95 % intervals: percentile bootstrap over {number} subjects ({photographs} photographs), "
        f"{RESAMPLES} resamples."
    )
    if number == photographs:
        line += " Every photograph counts as a subject of its own."
    if number < RELIABLE_SUBJECTS:
        line += (
            f" These intervals are not reliable: with fewer than {RELIABLE_SUBJECTS} subjects they "
            f"are clearly too narrow."
        )
    return line


def _to_tables(dataset: Dataset, evaluations: Sequence[Evaluation]) -> list[_Table]:
    """The three ways of counting, centrelines and widths, agreement, and differences."""
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
    agreement = _Table(
        "Inside the field of view, mean difference of mask minus label over images, and 95 % "
        f"limits of agreement (Bland-Altman): density in {end}, mean width in pixels",
        ["density", "limits", "width", "limits"],
    )
    for evaluation in evaluations:
        name, total, limits = evaluation.name, evaluation.total, evaluation.agreement()
        intervals = evaluation.intervals()
        cells = {
            figure: _to_cell(value, intervals[figure], _number if "width" in figure else percent)
            for figure, value in evaluation.summary().items()
        }
        published, _ = compare_with_published(evaluation, dataset)
        whole.rows.append((name, [cells["dice_whole_frame"], _Cell(percent(published))]))
        pooled.rows.append((name, [cells[figure] for figure in Figures._fields]))
        _, stds = evaluation.mean_and_std()
        means = [cells[f"mean_{figure}"] for figure in Figures._fields]
        each.rows.append((name, [
            mean if math.isnan(std) else _Cell(f"{mean.text} ± {percent(std)}", mean.interval)
            for mean, std in zip(means, stds, strict=True)
        ]))  # fmt: skip
        threshold, best = total.best_threshold
        more.rows.append((name, [
            cells["centreline_precision"], cells["centreline_recall"], cells["mask_width"],
            cells["label_width"], _Cell(_number(threshold)), _Cell(percent(best)),
            cells["calibration_error"],
        ]))  # fmt: skip
        agreement.rows.append((name, [
            cells["density_difference"], _Cell(_to_range(limits["density"][2:], percent)),
            cells["width_difference"], _Cell(_to_range(limits["width"][2:], _number)),
        ]))  # fmt: skip
    tables = [whole, pooled, each, more, agreement]
    if len(evaluations) > 1:
        tables.append(_to_differences(evaluations, dataset))
    return tables


def _compare_with_first(evaluations: Sequence[Evaluation]) -> dict[str, Comparison]:
    """What each further evaluation differs by from the first one, by its name."""
    first, *others = evaluations
    common = {image.name for image in first.images}
    return {
        other.name: other.compare(first)
        for other in others
        if any(image.name in common for image in other.images)
    }


def _to_differences(evaluations: Sequence[Evaluation], dataset: Dataset) -> _Table:
    """Figures of each further evaluation minus those of the first one."""
    caution = f" ({dataset.caution})" if dataset.caution else ""
    table = _Table(
        f"Differences from {evaluations[0].name}, in pairs of the same photographs, all pixels "
        f"together, percentage points{caution}",
        ["Dice, whole frames", *_HEADINGS],
    )
    for name, comparison in _compare_with_first(evaluations).items():
        cells = []
        for figure in ("dice_whole_frame", *Figures._fields):
            value, *ends = comparison.differences[figure]
            sign = "+" if value > 0 else ""
            cell = _to_cell(value, ends, percent)
            cells.append(_Cell(sign + cell.text, cell.interval))
        table.rows.append((name, cells))
    return table


def _to_cell(value: float, ends: Sequence[float], show: Callable[[float], str]) -> _Cell:
    """A value and its interval, if it has one."""
    return _Cell(show(value), "" if math.isnan(ends[0]) else _to_range(ends, show))


def _to_range(ends: Sequence[float], show: Callable[[float], str]) -> str:
    """For example "78.67 to 80.12", or "-" if it is not defined."""
    return "-" if math.isnan(ends[0]) else f"{show(ends[0])} to {show(ends[1])}"


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
    return "-" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"  # no "-0.00"


def percent(fraction: float) -> str:
    """For example "78.67", or "-" for NaN."""
    return _number(100 * fraction)


def describe_run(evaluations: Sequence[Evaluation], command: str) -> dict[str, str]:
    """When, how, with what and on which machine evaluations were made, ready to be written."""
    machine = f"{platform.platform()}, {os.cpu_count()} processors"
    devices = {evaluation.provenance.get("device", "cpu") for evaluation in evaluations}
    for device in sorted(devices):
        if device.startswith("cuda"):
            machine += f", {device}: {torch.cuda.get_device_name(device)}"
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "vesselseg": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "machine": machine,
        "data_sha256": evaluations[0].data_digest,
        "command": command,
    }


def write_json(
    path: Path, dataset: Dataset, evaluations: Sequence[Evaluation], run: Mapping[str, str]
) -> None:
    """Write all results as JSON: figures are fractions in [0, 1], null if not defined.

    `run` comes from :func:`describe_run`.
    """
    differences = {
        name: {
            "photographs": comparison.photographs,
            "subjects": comparison.subjects,
            "figures": {
                figure: _to_values(**difference._asdict())
                for figure, difference in comparison.differences.items()
            },
        }
        for name, comparison in _compare_with_first(evaluations).items()
    }
    content = {
        "vesselseg": __version__,
        "run": dict(run),
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
        "differences": {"from": evaluations[0].name, "of": differences},
    }
    with whole_file(path) as part:
        text = json.dumps(content, indent=2, allow_nan=False)
        part.write_text(text + "\n", encoding="utf-8")


def _to_dict(evaluation: Evaluation, dataset: Dataset) -> dict[str, Any]:
    """The figures and counts of an evaluation as plain values."""
    published, differences = compare_with_published(evaluation, dataset)
    total, (mean, std) = evaluation.total, evaluation.mean_and_std()
    curve = total.tally.curve
    return {
        "name": evaluation.name,
        **({"settings": evaluation.provenance} if evaluation.provenance else {}),
        "data_sha256": evaluation.data_digest,
        "whole_frames": {
            **_to_pixels(total.whole),
            **_to_values(published_dice=published),
            "published_differs": differences,
        },
        "inside_field_of_view": {
            "pooled": _to_values(**total.figures._asdict()),
            "mean": _to_values(**mean._asdict()),
            "standard_deviation": _to_values(**std._asdict()),
            **_to_values(**_to_details(total)),
            "thresholds": [
                {"threshold": round(float(threshold), 2), **_to_pixels(counts)}
                for threshold, counts in zip(THRESHOLDS, curve, strict=False)
            ],
            "reliability": [each._asdict() for each in total.tally.reliability],
            "agreement": {
                name: _to_values(**agreement._asdict())
                for name, agreement in evaluation.agreement().items()
            },
        },
        "intervals": {
            "level": 0.95,
            "method": "percentile bootstrap over subjects",
            "resamples": RESAMPLES,
            "seed": 0,
            "subjects": len(evaluation.subjects),
            "reliable": len(evaluation.subjects) >= RELIABLE_SUBJECTS,
            "figures": {
                name: _to_values(**interval._asdict())
                for name, interval in evaluation.intervals().items()
            },
        },
        "images": [
            {
                "name": image.name,
                "subject": image.subject,
                "sha256": dict(image.digests),
                "whole_frame": _to_pixels(image.whole),
                "inside_field_of_view": {
                    **_to_values(**image.figures._asdict(), **_to_details(image)),
                    **image.inside._asdict(),
                },
            }
            for image in evaluation.images
        ],
    }


def _to_details(result: Result) -> dict[str, float]:
    """What is told of a photograph, or of all, besides its :class:`Figures`."""
    mask_width, label_width = result.widths
    mask_density, label_density = result.densities
    best_threshold, best_dice = result.best_threshold
    return {
        "centreline_precision": result.centreline_precision,
        "centreline_recall": result.centreline_recall,
        "mask_width": mask_width,
        "label_width": label_width,
        "mask_density": mask_density,
        "label_density": label_density,
        "best_threshold": best_threshold,
        "best_dice": best_dice,
        "expected_calibration_error": result.calibration_error,
    }


def _to_pixels(counts: metrics.Confusion) -> dict[str, float | None]:
    """Dice and the counts that it comes from."""
    return _to_values(dice=metrics.dice(counts), **counts._asdict())


def _to_values(**values: float) -> dict[str, float | None]:
    """Values by name, None for NaN."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def write_csv(path: Path, dataset: Dataset, evaluations: Sequence[Evaluation]) -> None:
    """Write one row for each image and model.

    Figures are fractions in [0, 1], empty if not defined. All except ``dice_whole_frame`` are of
    the pixels inside the field of view, and so are the counts. Widths are in pixels.
    """
    splits = {sample.name: sample.split for sample in dataset.samples}
    rows = []
    for evaluation in evaluations:
        how = evaluation.provenance
        for image in evaluation.images:
            figures = {
                "dice_whole_frame": metrics.dice(image.whole),
                **image.figures._asdict(),
                **_to_details(image),
            }
            rows.append({
                "dataset": dataset.name,
                "image": image.name,
                "subject": image.subject,
                "split": splits[image.name],
                "model": evaluation.name,
                **{name: "" if math.isnan(value) else value for name, value in figures.items()},
                **image.inside._asdict(),
                **{name: how.get(name, "") for name in _SETTINGS},
                "weights_sha256": how.get("sha256", ""),
                **{f"{kind}_sha256": image.digests.get(kind, "") for kind in _FILES},
            })  # fmt: skip
    with whole_file(path) as part:
        part.write_bytes(encode_csv([list(rows[0]), *(list(row.values()) for row in rows)]))


def write_page(
    folder: Path,
    dataset: Dataset,
    evaluations: Sequence[Evaluation],
    pictures: Pictures,
    run: Mapping[str, str],
    *,
    formats: Sequence[str] = ("svg",),
) -> Path:
    """Write ``index.html`` into the folder of the pictures and return its path.

    Beside it are ``evaluation.csv``, ``evaluation.json``, and the figures in `formats`, of which
    "svg" is what the page shows. Images come sorted by Dice inside the field of view, the lowest
    first and those without a defined Dice last. With several models their mean counts; an observer
    does not.
    """
    results = [{image.name: image for image in evaluation.images} for evaluation in evaluations]
    rows: list[tuple[float, dict[str, Any]]] = []  # with what they are sorted by
    for name in dict.fromkeys(image for each in results for image in each):
        of_name = [each.get(name) for each in results]
        dices = [
            image.figures.dice
            for image, evaluation in zip(of_name, evaluations, strict=True)
            if image is not None and evaluation.spec is not None
        ]
        dice = fmean([dice for dice in dices if not math.isnan(dice)] or [math.inf])
        subject = next(image.subject for image in of_name if image is not None)
        figures = [list(map(percent, image.figures)) if image else _MISSING for image in of_name]
        row = {"name": name, "subject": subject, "figures": figures, "pictures": pictures[name]}
        rows.append((dice, row))
    title, *lines = _describe(dataset, evaluations)
    write_csv(folder / "evaluation.csv", dataset, evaluations)
    write_json(folder / "evaluation.json", dataset, evaluations, run)
    drawings = draw_figures(folder / "figures", evaluations, formats)
    environment = Environment(loader=PackageLoader("vesselseg", "evaluation"), autoescape=True)
    script = environment.get_template("report.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = environment.get_template("report.html").render(
        title=f"Vessels of {title}",
        caution=dataset.caution.capitalize(),
        lines=lines,
        tables=_to_tables(dataset, evaluations),
        notes=_to_notes(dataset, evaluations),
        drawings=drawings,
        formats=formats,
        legend=_LEGEND,
        names=[evaluation.name for evaluation in evaluations],
        columns=_HEADINGS,
        rows=[row for _, row in sorted(rows, key=lambda row: row[0])],
        run=run,
        digests=[
            (evaluation.name, evaluation.provenance["sha256"], evaluation.provenance["spec"])
            for evaluation in evaluations
            if evaluation.provenance
        ],
        script=script,
        script_digest=digest,
    )
    page = folder / "index.html"
    with whole_file(page) as part:
        part.write_text(html, encoding="utf-8", errors="backslashreplace")
    return page
