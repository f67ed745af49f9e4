"""Locks in the cache folder, which the system itself releases when their holder dies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock


CANNOT_LOCK = (OSError, NotImplementedError)
"""What acquiring a lock raises; the latter where the file system has no locks."""


def lock(folder: Path, name: str) -> BaseFileLock:
    """The lock of a file in the cache folder; the lock's own file stays."""
    from filelock import FileLock

    (folder / ".locks").mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".locks" / f"{name}.lock")
