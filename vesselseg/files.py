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
    """Give a temporary file beside `path`, renamed to `path` if the block succeeds.

    Raises
    ------
    OutputError
        If the file cannot be written. A file that was at `path` before is then still there.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise OutputError(f"{str(path)!r} cannot be written: its folder does not exist. Create it.")
    part = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        yield part
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{str(path)!r} cannot be written: {reason}.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with Path(path).open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
