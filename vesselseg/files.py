"""Files that are written whole or not at all, their digests, and whether they are there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import TypeAlias, TypeVar

from .errors import OutputError, VesselsegError

StrPath: TypeAlias = "str | os.PathLike[str]"

_T = TypeVar("_T")

_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_NOT_ON_WINDOWS = re.compile(
    r'[<>:"|?*\x00-\x1f]|[. ]$|'
    r"^(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)",
    re.IGNORECASE,
)
_LONGEST_ON_WINDOWS = 259  # characters, unless the system is set to allow more


@contextlib.contextmanager
def whole_file(path: StrPath) -> Iterator[Path]:
    """Give a temporary file beside `path`, renamed to `path` if the block succeeds.

    Raises OutputError if it cannot be written; a file that was at `path` is then still there.
    Errors that are not about these two files are passed on.
    """
    path = Path(path)
    part = path.parent / f".{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.part"
    _check_names(path)
    if not is_folder(path.parent):
        raise OutputError(
            f"{str(path)!r} cannot be written: its folder does not exist, or you may not enter it."
            f"{windows_hint(path, part)}"
        )
    if exists(path) and not is_file(path):  # a device would be replaced by a file
        raise OutputError(f"{str(path)!r} cannot be written: it is a folder, a pipe or a device.")
    try:
        yield part
        replace(part, path)
    except OSError as error:
        is_other = error.filename is not None and Path(error.filename) not in (part, path)
        if is_other or isinstance(error, VesselsegError):
            raise
        hint = windows_hint(path, part)
        if isinstance(error, PermissionError) and sys.platform == "win32":
            hint = " Close it if another program has it open."
        raise OutputError(
            f"{str(path)!r} cannot be written: {error.strerror or error}.{hint}"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or cannot be removed
            part.unlink()


def make_folder(folder: Path) -> None:
    """Create a folder and those above it; OutputError if that is impossible."""
    _check_names(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        in_the_way = isinstance(error, FileExistsError)
        reason = "there is a file of that name" if in_the_way else error.strerror or error
        raise OutputError(
            f"The folder {str(folder)!r} cannot be created: {reason}.{windows_hint(folder)}"
        ) from error


def _check_names(path: Path) -> None:
    """Raise OutputError if Windows would take a path for another one, or for a device.

    There ``scan 10:30.png`` is hidden data of ``scan 10``, and ``sub.`` is ``sub``.
    """
    if sys.platform != "win32":
        return
    windows = PureWindowsPath(path)
    for name in windows.parts[len(windows.anchor) > 0 :]:
        if name != ".." and _NOT_ON_WINDOWS.search(name):
            raise OutputError(
                f"{str(path)!r} cannot be written: Windows has no files and folders named "
                f'{name!r}. Names such as CON and NUL are reserved, none has <>:"|?*, and none '
                f"ends in a dot or a space. Rename the input, or choose another output."
            )


def windows_hint(*paths: Path) -> str:
    """What to do about a path that is longer than Windows allows; "" if none is.

    A second path is that of a temporary file.
    """
    length = max(len(os.path.abspath(path)) for path in paths)  # noqa: PTH100
    if sys.platform != "win32" or length <= _LONGEST_ON_WINDOWS:
        return ""
    temporary = ", or that of the temporary file beside it," if len(paths) > 1 else ""
    return (
        f" Its path{temporary} has {length} characters; Windows allows {_LONGEST_ON_WINDOWS} "
        f"unless long paths are enabled. Choose a shorter folder."
    )


def insist(action: Callable[[], _T]) -> _T:
    """Replace, remove or open a file.

    Windows refuses that while a program has it open, such as a virus scanner for a moment: it is
    tried again for a second.
    """
    for wait in (0.1, 0.3, 0.6):
        try:
            return action()
        except PermissionError:
            if sys.platform != "win32":
                raise
            time.sleep(wait)
    return action()


def replace(part: Path, path: Path) -> None:
    """Rename a file to `path`, where another may be."""
    insist(lambda: part.replace(path))


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
