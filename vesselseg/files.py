"""Files that are written whole or not at all, and their digests."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from .errors import OutputError


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` when the block ends without an error.

    Raises
    ------
    OutputError
        If the file cannot be written. What stood at `path` before is still there then.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise OutputError(f"{str(path)!r} cannot be written: its folder does not exist. Create it.")
    part = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        yield part
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise OutputError(f"{str(path)!r} cannot be written: {error}.") from error
    finally:
        part.unlink(missing_ok=True)


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
