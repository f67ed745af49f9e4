"""Sidecars of weights files, and what a file must be before it is used."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import CheckpointError
from ..files import whole_file
from ..spec import ModelSpec, Source

logger = logging.getLogger(__name__)

Verify: TypeAlias = Callable[[Path, ModelSpec], Any]
"""Reads a weights file of a model; raises CheckpointError if it is not one."""


class SourceError(Exception):
    """A source has no file that can be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What is recorded beside a weights file, in ``NAME.json``.

    Parameters
    ----------
    sha256 : str
        Digest of the file. A later file of this name must have the same.
    size, mtime_ns : int
        Size and time of the file in the folder. While they agree, it is not hashed again.
    model, address : str
        The model spec that the file was downloaded for, and the address in it.
    obtained_from : str
        Where the file really came from, for example a mirror.
    date : str
        Time of the download, in UTC.
    """

    sha256: str
    size: int = -1
    mtime_ns: int = -1
    model: str = ""
    address: str = ""
    obtained_from: str = ""
    date: str = ""

    def describes(self, file: Path) -> bool:
        """Whether the file has the recorded size and time."""
        stat = file.stat()
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)

    def write(self, file: Path) -> None:
        """Write the sidecar of `file`; raise OSError if that is impossible."""
        with whole_file(sidecar_path(file)) as part:
            part.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


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
    """A sidecar from JSON, or None. Only the digest is required."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    if not re.fullmatch("[0-9a-fA-F]{64}", str(values.get("sha256"))):
        return None
    known: dict[str, Any] = {}
    for field in fields(Sidecar):
        value = values.get(field.name)
        if isinstance(value, int if field.type == "int" else str):
            known[field.name] = value
    known["sha256"] = known["sha256"].lower()
    return Sidecar(**known)


def matches_name(digest: str, source: Source) -> bool:
    """Whether a digest agrees with the pinned one or, as weaker evidence, with the file's name."""
    return digest.startswith((source.sha256 or source.digits).lower())


def check_digest(
    digest: str,
    source: Source,
    spec: ModelSpec,
    addresses: Iterable[str],
    sidecars: Iterable[tuple[str, Sidecar]],
) -> None:
    """Raise SourceError if a pinned or recorded digest differs.

    Parameters
    ----------
    digest : str
        Of the file.
    source : Source
        Its pinned digest, if it has one, is the only one that counts.
    spec : ModelSpec
    addresses : iterable of str
        Of all sources of `spec`, without passwords: one file may serve several specs.
    sidecars : iterable of (str, Sidecar)
        Recorded for files of this name, with the file that each belongs to.
    """
    if source.sha256:
        pinned = source.sha256.lower()
        if digest != pinned:
            raise SourceError(f"Its SHA-256 is {digest}, but the model spec pins {pinned}.")
        return
    for file, sidecar in sidecars:
        if sidecar.model not in ("", spec.name) and sidecar.address not in addresses:
            raise SourceError(
                f"{file}.json records a file of the same name for another model, "
                f"{sidecar.model!r} from {sidecar.address}. Rename yours, or set another "
                f"VESSELSEG_HOME."
            )
        if digest != sidecar.sha256:
            when = f" on {sidecar.date[:10]}" if sidecar.date else ""
            raise SourceError(
                f"Its SHA-256 is {digest}, but {file}.json recorded {sidecar.sha256}{when}. If a "
                f"new file was published and you trust it, remove the old one first: "
                f"vesselseg cache --clear {spec.name}"
            )


def check_content(path: Path, source: Source, spec: ModelSpec, verify: Verify) -> Any:
    """Verify a new file and return what `verify` makes of it; SourceError if it is a wrong one."""
    try:
        return verify(path, spec)
    except CheckpointError as error:
        raise SourceError(str(error).replace(repr(str(path)), repr(source.filename))) from error


def check_not_a_page(path: Path) -> None:
    """Raise SourceError if a server sent a web page in place of the file."""
    with path.open("rb") as stream:
        if stream.read(512).lstrip()[:1] == b"<":
            raise SourceError("It is a page of text (HTML or XML) instead of the weights.")
