"""Save the state of a training to a file, from which an interrupted training resumes.

A state file is written completely or not at all, and reading it executes nothing. It also holds
what it belongs to: photographs, labels, starting model, options and versions. A training never
resumes from the state of a different one.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, OptionError
from ..files import whole_file
from ..safe_load import safe_load

_FORMAT = "vesselseg training state"


def write_state(path: Path, belongs_to: dict[str, Any], state: dict[str, Any]) -> None:
    """Write `state` and what it belongs to; raise OutputError if that is not possible."""
    content = {"format": _FORMAT, "belongs_to": belongs_to, "state": state}
    stream = io.BytesIO()
    torch.save(content, stream)
    with whole_file(path) as part:
        part.write_bytes(stream.getbuffer())


def read_state(path: Path, belongs_to: dict[str, Any]) -> dict[str, Any]:
    """Read the state in a file.

    Raises CheckpointError if the file is damaged or holds no state, and OptionError if the state
    does not belong to `belongs_to`.
    """
    restart = "Start from the beginning (restart), or choose another output."
    try:
        content = safe_load(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"The training state {str(path)!r} is damaged and cannot be read. {restart}"
        ) from error
    if not (
        isinstance(content, dict)
        and content.get("format") == _FORMAT
        and isinstance(content.get("belongs_to"), dict)
        and isinstance(content.get("state"), dict)
    ):
        raise CheckpointError(f"{str(path)!r} is not a training state. {restart}")
    was = content["belongs_to"]
    differences = []
    for key in sorted({*was, *belongs_to}):
        before, now = was.get(key), belongs_to.get(key)
        if before != now and isinstance(before or now, dict):
            differences.append(f"other {key}")
        elif before != now:
            differences.append(f"{key} {before!r} instead of {now!r}")
    if differences:
        raise OptionError(
            f"The interrupted training in {str(path)!r} was started with "
            f"{', '.join(differences)}. Use the same settings to resume it. {restart}"
        )
    state: dict[str, Any] = content["state"]
    return state
