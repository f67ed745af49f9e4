"""The model card of a fine-tuned model: its data, its scores and its options."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .._version import __version__
from ..spec import ModelSpec
from .photographs import Split, Subject, name_in_folder
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
    """Return the text of the card, in Markdown.

    `after` has the scores of the weights in the file, which are the best ones and not always the
    last.
    """
    subjects = (*split.training, *split.held_out)
    samples = [sample for subject in subjects for sample in subject.samples]
    if options["group"] is None:
        grouping = (
            "No `group` was given, so every file counts as a subject of its own. If several "
            "photographs show the same subject, some may be on both sides, and then the figures "
            "below are too high."
        )
    else:
        grouping = f"Subjects were identified by the regular expression `{options['group']}`."
    if after.iteration:
        weights = (
            f"The weights are the moving average after iteration {after.iteration} of "
            f"{iterations}, the best on the held-out photographs."
        )
    else:
        weights = (
            f"No measurement in {iterations} iterations was better than the starting model on the "
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
        f"{_count(samples, 'photograph')} of {_count(subjects, 'subject')}. {grouping}",
        "",
        f"Trained on {_describe_subjects(split.training)}",
        "",
        f"Held out: {_describe_subjects(split.held_out)}",
        "",
    ]
    known = [sample.name for sample in samples if sample.split == "train"]
    if known:
        lines += [
            f"Photographs named like training images of a public data set: {len(known)}, for "
            f"example `{known[0]}`. If the starting model was trained on them, its figures below "
            f"are no test.",
            "",
        ]
    lines += [
        "## Scores",
        "",
        "In percent, over the pixels of all held-out photographs together, whole frames, as "
        "far as their labels are known. "
        "Sensitivity and precision are those at a threshold of 0.5.",
        "",
        "| model | Dice at 0.5 | sensitivity | precision | best threshold | Dice there |",
        "|---|---|---|---|---|---|",
        _describe_scores("before", before),
        _describe_scores("after", after),
        "",
        f"{weights} They were chosen on these photographs, so the figures are slightly too high; "
        f"photographs of other subjects are a better test.",
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


def _describe_subjects(subjects: tuple[Subject, ...]) -> str:
    """Return the numbers of photographs and subjects, and the file names."""
    names = [name_in_folder(sample) for subject in subjects for sample in subject.samples]
    listed = ", ".join(f"`{name}`" for name in names)
    return f"{_count(names, 'photograph')} of {_count(subjects, 'subject')}: {listed}."


def _count(things: Sequence[object], noun: str) -> str:
    """Return a number with its noun, for example "1 subject" or "3 photographs"."""
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _describe_scores(title: str, scores: HeldOutScores) -> str:
    """Return a row of the table of scores."""
    percent = [
        "-" if math.isnan(value) else f"{100 * value:.2f}"
        for value in (scores.dice, scores.sensitivity, scores.precision)
    ]
    best = f"{scores.best_threshold} | {100 * scores.best_dice:.2f}"
    return f"| {title} | {' | '.join(percent)} | {best} |"
