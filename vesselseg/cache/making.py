"""Files that are made here from a model's weights, and can be made again.

Each lies beside the weights as ``FILE.KEY.KIND.made``: the SHA-256 of its key and its content,
in 64 hexadecimal digits, then the content. Whatever does not fit its digest is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Callable
from pathlib import Path

from ..errors import OutputError
from ..files import whole_file
from ..spec import ModelSpec
from .locks import CANNOT_LOCK, lock
from .places import cache_folder

logger = logging.getLogger(__name__)

PATTERN = re.compile(r"(.+)\.[0-9a-f]{12}\.\w+\.made")
_DIGITS = 64


def made(spec: ModelSpec, key: str, kind: str, make: Callable[[], bytes]) -> bytes:
    """What `make` gives, from the cache folder where it is there.

    Parameters
    ----------
    spec : ModelSpec
        The model that it is made from: ``vesselseg cache --clear NAME`` removes it.
    key : str
        64 hexadecimal digits of everything that it depends on.
    kind : str
        What it is, a word.
    make : callable
        Called where it is not there, or damaged; by one process at a time.

    Returns
    -------
    bytes

    Notes
    -----
    Where the folder cannot be written, it is made each time, and a warning says so.
    """
    file = cache_folder() / f"{spec.filename}.{key[:12]}.{kind}.made"
    content = _read(file, key)
    if content is not None:
        return content
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(file.parent, file.name).acquire())
        except CANNOT_LOCK as error:
            logger.warning("%s cannot be written (%s) and is made each time.", file, error)
            return make()
        content = _read(file, key)  # somebody else may have been faster
        if content is None:
            content = make()
            _write(file, key, content)
        return content


def _read(file: Path, key: str) -> bytes | None:
    try:
        whole = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s cannot be read (%s) and is made anew.", file, error)
        return None
    content = whole[_DIGITS:]
    if whole[:_DIGITS].decode("ascii", "replace") == _digest(key, content):
        return content
    logger.warning("%s is damaged and is made anew.", file)
    return None


def _write(file: Path, key: str, content: bytes) -> None:
    try:
        with whole_file(file) as part:
            part.write_bytes(_digest(key, content).encode() + content)
    except OutputError as error:
        logger.warning("%s It is made each time.", error)


def _digest(key: str, content: bytes) -> str:
    return hashlib.sha256(key.encode() + content).hexdigest()
