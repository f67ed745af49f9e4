"""The card that is written beside a fine-tuned model: what it was made from, and what it can do."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .._version import __version__
from ..spec import ModelSpec
from .photographs import Person, Split
from .scores import HeldOutScores


def write_card(
    *,
    spec: ModelSpec,
    sha256: str,
    filename: str,
    start: ModelSpec,
    start_sha256: str,
    split: Split,
    options: Mapping[str, Any],
    before: HeldOutScores,
    after: HeldOutScores,
    iterations: int,
) -> str:
    """The text of the card, in Markdown.

    `after` belongs to the weights in the file, which need not be those after all `iterations`.
    """
    persons = (*split.training, *split.held_out)
    samples = [sample for person in persons for sample in person.samples]
    if options["group"] is None:
        grouping = (
            "No `group` was given, so every file counts as another person's. If there are several "
            "photographs of one person, some may be on both sides, and the figures below are too "
            "high."
        )
    else:
        grouping = f"Persons were recognised by the regular expression `{options['group']}`."
    if after.iteration:
        weights = (
            f"The weights are the moving average after iteration {after.iteration} of "
            f"{iterations}, the best on the held-out photographs."
        )
    else:
        weights = (
            f"No evaluation in {iterations} iterations was better than the starting model on the "
            f"held-out photographs, so the file holds the weights of the starting model unchanged."
        )
    lines = [
        f"# {spec.name}",
        "",
        "| | |",
        "|---|---|",
        f"| file | `{filename}`, float32 |",
        f"| SHA-256 | `{sha256}` |",
        f"| fine-tuned from | `{start.name}` |",
        f"| its SHA-256 | `{start_sha256}` |",
        f"| its licence | {start.license or 'not stated'} |",
        "",
        "This is research software and not a medical device. Do not use it for diagnosis, "
        "screening or decisions about a patient.",
        "",
        "## Data",
        "",
        f"{count(samples, 'photograph')} of {count(persons, 'person')}. {grouping}",
        "",
        f"Trained on {describe_persons(split.training)}",
        "",
        f"Held out: {describe_persons(split.held_out)}",
        "",
    ]
    known = [sample.name for sample in samples if sample.split == "train"]
    if known:
        lines += [
            f"Named like training images of a public data set: {len(known)} of them, for "
            f"example `{known[0]}`. The starting model may have been trained on them, and then its "
            f"figures below are no test.",
            "",
        ]
    lines += [
        "## What was measured",
        "",
        "Pixels of all held-out photographs together, whole frames, in percent; sensitivity and "
        "precision at a threshold of 0.5.",
        "",
        "| model | Dice at 0.5 | sensitivity | precision | best threshold | Dice there |",
        "|---|---|---|---|---|---|",
        describe_scores("before", before),
        describe_scores("after", after),
        "",
        f"{weights} It was chosen on these photographs, so the figures are a little too "
        f"favourable; photographs of other persons are a better test.",
        "",
        "## Options",
        "",
        "| option | value |",
        "|---|---|",
        *(f"| {key} | `{value}` |" for key, value in options.items()),
        "",
        f"vesselseg {__version__}, PyTorch {torch.__version__}, NumPy {np.__version__}, Python "
        f"{platform.python_version()}.",
        "",
    ]
    return "\n".join(lines)


def describe_persons(persons: tuple[Person, ...]) -> str:
    """How many photographs of how many persons, and their file names."""
    names = [sample.image.name for person in persons for sample in person.samples]
    listed = ", ".join(f"`{name}`" for name in names)
    return f"{count(names, 'photograph')} of {count(persons, 'person')}: {listed}."


def count(things: Sequence[object], noun: str) -> str:
    """For example "1 person" or "3 photographs"."""
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def describe_scores(title: str, scores: HeldOutScores) -> str:
    """A row of the table of figures."""
    percent = [
        "-" if math.isnan(value) else f"{100 * value:.2f}"
        for value in (scores.dice, scores.sensitivity, scores.precision)
    ]
    best = f"{scores.best_threshold} | {100 * scores.best_dice:.2f}"
    return f"| {title} | {' | '.join(percent)} | {best} |"
