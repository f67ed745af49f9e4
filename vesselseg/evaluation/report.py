"""The evaluation as one HTML page that stands alone: figures, photographs, overlays."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from ..errors import OutputError
from ..files import whole_file
from ..images import RGB
from .datasets import Dataset
from .scores import Case, Evaluation, ImageResult
from .summary import FIGURES, Table, headline, percent, published_note, settings, tables

# White, blue and vermillion on dark grey: they differ in lightness, for those who see no colours
# and in print, and on the axis from blue to yellow, which people with red-green blindness see.
# Blue and vermillion are of the palette of Okabe and Ito.
TRUE_POSITIVE = (255, 255, 255)
FALSE_POSITIVE = (213, 94, 0)
FALSE_NEGATIVE = (86, 180, 233)
_MEANINGS = (
    (TRUE_POSITIVE, "true positive", "vessel in mask and label"),
    (FALSE_POSITIVE, "false positive", "vessel in the mask only"),
    (FALSE_NEGATIVE, "false negative", "vessel in the label only: missed"),
)
_SIDE = 1200  # of the pictures, in pixels at most


def overlay(case: Case) -> RGB:
    """True and false positives and false negatives over the dimmed photograph, grey.

    Returns
    -------
    ndarray of uint8 (H, W, 3)
        Darker outside the field of view.
    """
    grey = np.asarray(Image.fromarray(case.photograph).convert("L"))
    dimmed = np.where(case.fov, grey * 0.35, grey * 0.15).astype(np.uint8)
    pixels = np.repeat(dimmed[..., None], 3, axis=2)
    pixels[case.mask & case.label] = TRUE_POSITIVE
    pixels[case.mask & ~case.label] = FALSE_POSITIVE
    pixels[~case.mask & case.label] = FALSE_NEGATIVE
    return pixels


class Pictures:
    """The pictures of a report, kept small while an evaluation goes on."""

    def __init__(self) -> None:
        self._photographs: dict[str, str] = {}
        self._overlays: dict[tuple[int, str], str] = {}

    def add(self, model: int, case: Case) -> None:
        """Keep the pictures of one photograph and the model of that number, from 0."""
        name = case.sample.name
        if name not in self._photographs:
            self._photographs[name] = _data_uri(case.photograph, quality=85)
        self._overlays[model, name] = _data_uri(overlay(case), quality=90)

    def html(self, name: str, evaluations: Sequence[Evaluation]) -> str:
        """The photograph and its overlays."""
        shown = [(self._photographs.get(name), "Photograph")]
        shown += [(self._overlays.get((i, name)), e.name) for i, e in enumerate(evaluations)]
        return "".join(
            f'<figure><img src="{uri}" alt="{escape(f"{name}: {caption}")}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
            for uri, caption in shown
            if uri
        )


def write(
    folder: str | os.PathLike[str],
    dataset: Dataset,
    evaluations: Sequence[Evaluation],
    pictures: Pictures,
) -> Path:
    """Write ``index.html`` into a folder, which is made if it does not exist.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{str(folder)!r} cannot be made: {error.strerror}.") from error
    page = Path(folder) / "index.html"
    with whole_file(page) as part:
        part.write_text(render(dataset, evaluations, pictures), encoding="utf-8")
    return page


def render(dataset: Dataset, evaluations: Sequence[Evaluation], pictures: Pictures) -> str:
    """The page: HTML with its style and pictures inside, no script, nothing from elsewhere."""
    template = resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    lines = headline(dataset).splitlines()[1:] + [  # the first is the title
        s for e in evaluations if (s := settings(e))
    ]
    notes = [note for e in evaluations if (note := published_note(e, dataset))]
    caution = dataset.caution.capitalize()
    return Template(template).substitute(
        title=escape(f"Vessels of {dataset.description}"),
        warning=f'<p class="warning">{caution}.</p>' if caution else "",
        lines="".join(f"<p>{escape(line)}</p>" for line in lines),
        tables="".join(_table(table) for table in tables(dataset, evaluations)),
        notes="".join(f"<p>{escape(note)}</p>" for note in notes),
        legend="".join(
            f'<li><span style="background: rgb{color}"></span><b>{name}</b>: {meaning}</li>'
            for color, name, meaning in _MEANINGS
        ),
        images="".join(
            f'<article id="{escape(name)}"><h3>{escape(name)}</h3>'
            f"{_table(_of_image(name, evaluations))}"
            f'<div class="pictures">{pictures.html(name, evaluations)}</div></article>\n'
            for name in worst_first(evaluations)
        ),
    )


def worst_first(evaluations: Sequence[Evaluation]) -> list[str]:
    """Names of the images by Dice inside the field of view, the lowest first.

    Of several models the mean counts, the second observer not at all. Images whose Dice is not
    defined come last.
    """

    def mean_dice(name: str) -> float:
        values = [
            image.figures.dice
            for evaluation in evaluations
            if evaluation.spec is not None
            for image in _named(name, evaluation)
        ]
        mean = sum(values) / len(values)
        return math.inf if math.isnan(mean) else mean

    return sorted((image.name for image in evaluations[0].images), key=mean_dice)


def _of_image(name: str, evaluations: Sequence[Evaluation]) -> Table:
    table = Table("", FIGURES)
    for evaluation in evaluations:
        for image in _named(name, evaluation):
            table.rows.append([evaluation.name, *map(percent, image.figures)])
    return table


def _named(name: str, evaluation: Evaluation) -> Iterable[ImageResult]:
    return (image for image in evaluation.images if image.name == name)


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in table.rows
    )
    caption = f"<caption>{escape(table.heading)}</caption>" if table.heading else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _data_uri(pixels: RGB, quality: int) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=quality, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
