"""The note beside a weights file: where it came from, and the digest that it had."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..files import whole_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Note:
    """What was noted of a file when it was obtained.

    Parameters
    ----------
    sha256 : str
        Its digest. Whoever gets a file of this name later must get the same.
    size, mtime_ns : int
        As the file stood in the folder then; if they differ now, it is hashed again.
    model, address : str
        The record it was obtained for, and the address in that record.
    obtained_from : str
        Where it really came from, perhaps a mirror.
    date : str
        When, in UTC.
    """

    sha256: str
    size: int = -1
    mtime_ns: int = -1
    model: str = ""
    address: str = ""
    obtained_from: str = ""
    date: str = ""

    def describes(self, file: Path) -> bool:
        """Whether the file's size and time are those noted."""
        stat = file.stat()
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)

    def write(self, file: Path) -> None:
        """Put the note beside `file`; OSError where that cannot be done."""
        with whole_file(path_of(file)) as part:
            part.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def path_of(file: Path) -> Path:
    """Where the note of `file` stands."""
    return file.with_name(f"{file.name}.json")


def read(file: Path, *, warn: bool = True) -> Note | None:
    """The note beside `file`, which itself need not exist."""
    path = path_of(file)
    try:
        content = path.read_bytes()
    except OSError:
        return None
    note = parse(content)
    if note is None and warn:
        logger.warning("%s is not a note of a weights file and is ignored.", path)
    return note


def parse(content: bytes) -> Note | None:
    """A note from JSON; None for anything else. All but the digest may be missing."""
    try:
        values = json.loads(content)
    except ValueError:
        return None
    if not isinstance(values, dict) or not re.fullmatch(
        "[0-9a-fA-F]{64}", str(values.get("sha256"))
    ):
        return None
    known: dict[str, Any] = {}
    for field in fields(Note):
        value = values.get(field.name)
        if isinstance(value, int if field.type == "int" else str):
            known[field.name] = value
    return Note(**{**known, "sha256": known["sha256"].lower()})
