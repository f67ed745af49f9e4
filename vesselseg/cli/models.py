"""``vesselseg models``: what can be loaded by name."""

from __future__ import annotations

import argparse
from typing import Any


def add_parsers(commands: Any) -> None:
    """Add the parsers of this module's commands."""
    parser = commands.add_parser("models", help="list the models that can be loaded by name")
    parser.set_defaults(run=_models)


def _models(_: argparse.Namespace) -> int:
    from ..checkpoints import list_models

    for record in list_models():
        dice = f"{record.dice:6.2f}" if record.dice else "     -"
        print(f"{record.name:42} {record.dataset:14} {dice} {record.crop:4} / {record.stride}")
    return 0
