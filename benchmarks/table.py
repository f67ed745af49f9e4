"""Rows of figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A heading, the key of the values below it, and their format."""

    heading: str
    key: str
    form: str = "{}"


def markdown(rows: Iterable[Mapping[str, Any]], columns: Sequence[Column]) -> str:
    """A table. The cell of a value that is missing or None stays empty."""
    headings = " | ".join(column.heading for column in columns)
    lines = [f"| {headings} |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = " | ".join(cell(row.get(column.key), column.form) for column in columns)
        lines.append(f"| {cells} |")
    return "\n".join(lines)


def cell(value: Any, form: str) -> str:
    """One value as text; a size as HEIGHT x WIDTH."""
    if value is None:
        return ""
    if isinstance(value, (tuple, list)):
        return " x ".join(map(str, value))
    return form.format(value)
