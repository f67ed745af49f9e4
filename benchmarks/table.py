"""Rows of figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A heading, and how the value of `key` is written below it."""

    heading: str
    key: str
    form: str = "{}"


def markdown(rows: Iterable[Mapping[str, Any]], columns: Sequence[Column]) -> str:
    """A table; a value that is missing or None leaves its cell empty."""
    lines = [_line(column.heading for column in columns), "|" + "---|" * len(columns)]
    lines += [_line(cell(row.get(c.key), c.form) for c in columns) for row in rows]
    return "\n".join(lines)


def cell(value: Any, form: str = "{}") -> str:
    """One value as text; a pair of sides as HEIGHT x WIDTH."""
    if value is None:
        return ""
    if isinstance(value, (tuple, list)):
        value = " x ".join(map(str, value))
    return form.format(value)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
