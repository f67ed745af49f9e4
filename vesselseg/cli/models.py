"""``vesselseg models``: what can be loaded by name."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..spec import ModelSpec

_PUBLISHED = 116_300_000  # bytes, whichever head


def add_parsers(commands: Any) -> None:
    """Add the parsers of this module's commands."""
    parser = commands.add_parser(
        "models",
        help="list the models that can be loaded by name",
        description="List the models that can be loaded by name. Dice is the published score in "
        "percent, windows are the side and the stride in pixels.",
    )
    parser.add_argument(
        "--json", action="store_true", help="write a JSON list with all that is known (default: no)"
    )
    parser.set_defaults(run=_models)


def _models(options: argparse.Namespace) -> int:
    from ..registry import list_models

    if options.json:
        print(json.dumps([_values(record) for record in list_models()], indent=1))
        return 0
    titles = ("model", "data set", "Dice", "windows", "size", "on this machine")
    rows = [titles, *(_row(record) for record in list_models())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        print("  ".join(cell.ljust(width) for cell, width in cells).rstrip())
    return 0


def _row(record: ModelSpec) -> tuple[str, ...]:
    values = _values(record)
    size = values["size"]
    about = f"~{_PUBLISHED / 1e6:.0f} MB" if record.width == 64 else "-"
    return (
        record.name,
        record.dataset,
        f"{record.dice:.2f}" if record.dice else "-",
        f"{record.crop:3} / {record.stride}",
        f"{size / 1e6:.1f} MB" if size else about,
        values["state"],
    )


def _values(record: ModelSpec) -> dict[str, Any]:
    """All that is known of a model, for programs."""
    from .. import cache
    from ..cache import notes, places

    path = cache.cached(record)
    note = notes.read(path) if path else None
    packaged = places.packaged(record)
    return {
        **record.to_dict(),
        "sources": [
            {"url": source.url, "digits": source.digits, "sha256": source.sha256}
            for source in record.sources
        ],
        "state": "not cached" if path is None else "part of the package" if packaged else "cached",
        "path": str(path) if path else None,
        "size": path.stat().st_size if path else None,
        "sha256": note.sha256 if note else None,
    }
