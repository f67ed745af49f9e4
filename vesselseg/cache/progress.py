"""What tells a person, or another program, how far a transfer is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

Report: TypeAlias = Callable[[int, "int | None"], None]
"""Told the bytes that are there and, where known, the bytes of the whole file."""


@contextlib.contextmanager
def reporting(progress: bool | Report, name: str) -> Iterator[Report]:
    """What tells of the progress: the caller's function, a bar on a terminal, or nothing."""
    if callable(progress):
        yield progress
    elif progress and sys.stderr is not None and sys.stderr.isatty():
        with contextlib.closing(_Bar(name)) as bar:
            yield bar
    else:
        yield lambda *_: None


class _Bar:
    """A bar of tqdm, drawn anew when a transfer starts over."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Any = None

    def __call__(self, done: int, total: int | None) -> None:
        from tqdm import tqdm

        if self._bar is None or done < self._bar.n or total != self._bar.total:
            self.close()
            self._bar = tqdm(
                desc=self._name, total=total, initial=done, unit="B", unit_scale=True, leave=False
            )
        else:
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
