"""The state of a training in a file, from which an interrupted one goes on.

It is written whole or not at all, and read without executing anything in it. What it belongs to
(photographs, labels, starting model, options, versions) is stored with it, so that no training goes
on from the state of another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, OptionError
from ..files import whole_file
from ..safe_load import safe_load

_FORMAT = "vesselseg training state"


def write_state(path: Path, belongs_to: dict[str, Any], state: dict[str, Any]) -> None:
    """Write `state`, and what it belongs to; OutputError if it cannot be written."""
    content = {"format": _FORMAT, "belongs_to": belongs_to, "state": state}
    with whole_file(path) as part, part.open("wb") as stream:
        torch.save(content, stream)


def read_state(path: Path, belongs_to: dict[str, Any]) -> dict[str, Any]:
    """Read the state in a file.

    Raises CheckpointError if it is damaged or no state, and OptionError if it belongs to something
    else than `belongs_to`.
    """
    restart = (
        "Pass restart=True (on the command line --restart) to start from the beginning, or choose "
        "another output."
    )
    try:
        content = safe_load(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"The state of a training in {str(path)!r} cannot be read; it is damaged. {restart}"
        ) from error
    if not (
        isinstance(content, dict)
        and content.get("format") == _FORMAT
        and isinstance(content.get("belongs_to"), dict)
        and isinstance(content.get("state"), dict)
    ):
        raise CheckpointError(f"{str(path)!r} does not hold the state of a training. {restart}")
    was = content["belongs_to"]
    differences = []
    for key in sorted({*was, *belongs_to}):
        before, now = was.get(key), belongs_to.get(key)
        if before == now:
            continue
        if isinstance(before, dict) or isinstance(now, dict):
            differences.append(f"other {key}")
        else:
            differences.append(f"{key} {before!r} instead of {now!r}")
    if differences:
        raise OptionError(
            f"An interrupted training in {str(path)!r} was started with {', '.join(differences)}. "
            f"Repeat its command to go on with it. {restart}"
        )
    state: dict[str, Any] = content["state"]
    return state
