"""The model card of a fine-tuned model: its data, its scores and its options."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from .._version import __version__
from ..evaluation.datasets import Sample, find_subject
from .photographs import name_in_folder


def write_card(**facts: Any) -> str:
    """Return the text of the card, in Markdown; `facts` are what the template card.md names.

    `after` has the scores of the weights in the file, which are the best ones and not always the
    last.
    """
    environment = Environment(
        loader=PackageLoader("vesselseg", "finetune"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    versions = {
        "vesselseg": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    return environment.get_template("card.md").render(
        versions=versions, percent=_percent, subjects=_subjects, name=name_in_folder, **facts
    )


def _subjects(samples: Iterable[Sample], group: str | None) -> set[str]:
    return {find_subject(name_in_folder(sample), group) for sample in samples}


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
