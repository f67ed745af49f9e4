"""Which files of folders and patterns are taken; which are left out, and why."""

from __future__ import annotations

import logging
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePath
from unicodedata import normalize

from .. import dicom
from ..errors import ImageError
from ..files import exists, is_file, is_folder
from ..formats import endings
from ..labels import CORRECTIONS
from ..result import FORMATS, read_provenance

logger = logging.getLogger(__name__)

_WILDCARDS = frozenset("*?[")
_LISTED = 3  # names of each reason

HIDDEN = "hidden"
OURS = "written by vesselseg"
OTHER_ENDING = "of another ending"
CORRECTION = "a correction"
_USUAL = {HIDDEN, OURS, CORRECTION}


class LeftOut:
    """The files that a run does not take, by reason."""

    def __init__(self) -> None:
        self._names: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, path: PurePath, reason: str) -> None:
        """Count a file or folder."""
        self._names[reason].append(path.name)

    def log(self, place: str) -> None:
        """Say what was left out of a place, as a warning if it is more than what always is."""
        if not self._names:
            return
        reasons = []
        for reason, names in self._names.items():
            listed = ", ".join(map(repr, names[:_LISTED]))
            more = ", ..." if len(names) > _LISTED else ""
            reasons.append(f"{len(names)} {reason} ({listed}{more})")
        level = logging.INFO if self._names.keys() <= _USUAL else logging.WARNING
        count = sum(map(len, self._names.values()))
        logger.log(level, "%d left out of %r: %s.", count, place, "; ".join(reasons))


def find_files(text: str, recursive: bool, left_out: LeftOut) -> list[tuple[Path, PurePath]]:
    """The files that a path or pattern means, each with its place below the folder it is in.

    What exists is meant as it is written, so a folder may be called ``scan [2024]``.
    """
    path = Path(text)
    if is_folder(path):
        base = path
        pattern: tuple[str, ...] = ("*",)
    elif os.path.lexists(path) or _WILDCARDS.isdisjoint(text):
        return [(path, PurePath(path.name))]  # a missing file is reported in its turn
    else:
        base = Path(path.anchor)
        for part in path.relative_to(base).parts:
            if not is_folder(base / part):
                break
            base /= part
        pattern = path.relative_to(base).parts
    if recursive:
        pattern += ("**",)  # what is below a folder that matches

    def enters(place: PurePath) -> bool:
        return _matches(place.parts, pattern, is_folder=True)

    files = ((file, file.relative_to(base)) for file in walk(base, left_out, enters))
    return [(file, place) for file, place in files if _matches(place.parts, pattern)]


def walk(folder: Path, left_out: LeftOut, enters: Callable[[PurePath], bool]) -> Iterator[Path]:
    """The files in a folder and in those below it that are entered, by their places.

    Links to folders are followed, after the folders themselves, and none is searched twice. Hidden
    folders are left out. Raises FileNotFoundError if there is no such folder, and ImageError if it
    cannot be read.
    """
    top = Path(os.path.realpath(folder))
    searched: set[Path] = set()
    folders, links = deque([folder]), deque[Path]()
    while folders or links:
        here = (folders or links).popleft()
        real = Path(os.path.realpath(here))
        if real in searched or (here != folder and top.is_relative_to(real)):
            left_out.add(here, "linked to a folder that is searched already")
            continue
        searched.add(real)
        try:
            paths = sorted(here.iterdir())
        except OSError as error:
            reason = error.strerror or error
            if here != folder:
                left_out.add(here, f"unreadable, {reason}")
                continue
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(f"There is no folder {str(here)!r}.") from error
            raise ImageError(f"The folder {str(here)!r} cannot be read: {reason}.") from error
        for path in paths:
            if is_file(path) or not exists(path):  # a link to nothing is reported in its turn
                yield path
            elif not is_folder(path):  # reading it could wait for ever
                left_out.add(path, "not a file but a pipe or a device")
            elif path.name.startswith("."):
                left_out.add(path, HIDDEN)
            elif enters(path.relative_to(folder)):
                (links if path.is_symlink() else folders).append(path)


def _matches(parts: Sequence[str], pattern: Sequence[str], *, is_folder: bool = False) -> bool:
    """Whether a place matches a pattern; of a folder, whether something below it can."""
    if not parts:
        return len(pattern) > 0 if is_folder else all(part == "**" for part in pattern)
    if not pattern:
        return False
    if pattern[0] == "**" and _matches(parts, pattern[1:], is_folder=is_folder):
        return True
    rest = pattern if pattern[0] == "**" else pattern[1:]
    return fnmatch(parts[0], pattern[0]) and _matches(parts[1:], rest, is_folder=is_folder)


def is_photograph(path: Path, left_out: LeftOut, *, or_result: bool = False) -> bool:
    """Whether a file found in a folder is a photograph, and not a result of ours unless allowed.

    This goes by the name; DICOM files often have none that says so.
    """
    suffix, reason = path.suffix.lower(), ""
    if path.name.startswith("."):
        reason = HIDDEN
    elif suffix not in endings() or suffix == ".dcm":
        if not dicom.is_photograph(path):
            reason = "not a photograph by the content" if suffix in endings() else OTHER_ENDING
    elif or_result:
        reason = ""
    elif suffix in FORMATS and read_provenance(path):
        reason = OURS
    elif is_correction(path.absolute()):
        reason = CORRECTION
    if reason:
        left_out.add(path, reason)
    return not reason


def is_correction(path: PurePath, above: Iterable[PurePath] | None = None) -> bool:
    """Whether a file, of any program, is the correction of one in the folder above its own.

    `above` has the files of that folder; if it is None, it is on this machine.
    """
    if path.parent.name != CORRECTIONS or path.suffix.lower() != ".png":
        return False
    others = Path(path).parents[1].iterdir() if above is None else above
    names = (name for other in others for name in (other.name, other.stem))
    return normalize("NFC", path.stem) in (normalize("NFC", name) for name in names)
