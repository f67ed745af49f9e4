"""Sidecars: what is recorded beside each weights file."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ..files import whole_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What is recorded beside a weights file, in ``NAME.json``; only the digest is required."""

    sha256: str = ""  # a later file of this name must have the same
    size: int = -1
    mtime_ns: int = -1  # while time and size of the file agree, it is not hashed again
    model: str = ""
    address: str = ""  # in the model spec
    obtained_from: str = ""  # where the file really came from, for example a mirror
    date: str = ""  # in UTC

    def write(self, target: Path, file: Path) -> None:
        """Write the sidecar of `target` with the size and time of `file`, or raise OSError."""
        stat = file.stat()
        values = asdict(self) | {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        with whole_file(sidecar_path(target)) as part:
            part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def sidecar_path(file: Path) -> Path:
    """Path of the sidecar of `file`."""
    return file.with_name(f"{file.name}.json")


def read_sidecar(file: Path) -> Sidecar | None:
    """The sidecar of `file`, which itself need not exist."""
    path = sidecar_path(file)
    if not path.is_file():
        return None
    try:
        sidecar = parse_sidecar(path.read_bytes())
    except OSError:
        return None
    if sidecar is None:
        logger.warning("%s is not the sidecar of a weights file and is ignored.", path)
    return sidecar


def parse_sidecar(content: bytes) -> Sidecar | None:
    """A sidecar from JSON, or None."""
    try:
        values = json.loads(content)
        if not re.fullmatch("[0-9a-f]{64}", values["sha256"], re.IGNORECASE):
            return None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    values["sha256"] = values["sha256"].lower()
    known = {
        field.name: values[field.name]
        for field in fields(Sidecar)
        if isinstance(values.get(field.name), type(field.default))
    }
    return Sidecar(**known)
