"""Files that are written whole or not at all, their digests, and whether they are there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from .errors import OutputError, VesselsegError

StrPath: TypeAlias = "str | os.PathLike[str]"

_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]


@contextlib.contextmanager
def whole_file(path: StrPath) -> Iterator[Path]:
    """Give a temporary file beside `path`, renamed to `path` if the block succeeds.

    Raises OutputError if it cannot be written; a file that was at `path` is then still there.
    Errors that are not about these two files are passed on.
    """
    path = Path(path)
    if not is_folder(path.parent):
        raise OutputError(
            f"{str(path)!r} cannot be written: its folder does not exist, or you may not enter it."
        )
    if exists(path) and not is_file(path):  # a device would be replaced by a file
        raise OutputError(f"{str(path)!r} cannot be written: it is a folder, a pipe or a device.")
    part = path.parent / f".{_HOST}-{os.getpid()}-{secrets.token_hex(8)}.part"
    try:
        yield part
        replace(part, path)
    except OSError as error:
        is_other = error.filename is not None and Path(error.filename) not in (part, path)
        if is_other or isinstance(error, VesselsegError):
            raise
        reason = error.strerror or error
        hint = ""
        if isinstance(error, PermissionError) and sys.platform == "win32":
            hint = " Close it if another program has it open."
        raise OutputError(f"{str(path)!r} cannot be written: {reason}.{hint}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def replace(part: Path, path: Path) -> None:
    """Rename a file to `path`, where another may be.

    Windows refuses that while a program has the other one open, such as a virus scanner for a
    moment: it is tried again for a second.
    """
    for wait in (0.1, 0.3, 0.6):
        try:
            part.replace(path)
            return
        except PermissionError:
            if sys.platform != "win32":
                raise
            time.sleep(wait)
    part.replace(path)


def remove_abandoned(folder: Path) -> None:
    """Remove parts in a folder whose process, on this machine, was killed."""
    if os.name != "posix" or not is_folder(folder):
        return
    for part in folder.glob(f".{_HOST}-*-*.part"):
        with contextlib.suppress(OSError, ValueError):
            try:
                os.kill(int(part.name.split("-")[1]), 0)  # no signal: asks whether it exists
            except ProcessLookupError:
                part.unlink()


def sha256(path: StrPath) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_file(path: StrPath) -> bool:
    """Whether a path is a file; False also where that cannot be found out."""
    return os.path.isfile(path)  # noqa: PTH113 - pathlib raises for long names and closed folders


def is_folder(path: StrPath) -> bool:
    """Whether a path is a folder; False also where that cannot be found out."""
    return os.path.isdir(path)  # noqa: PTH112


def exists(path: StrPath) -> bool:
    """Whether there is something at a path; False also where that cannot be found out."""
    return os.path.exists(path)  # noqa: PTH110
