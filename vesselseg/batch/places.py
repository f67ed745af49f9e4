"""Places: paths on this machine, and addresses such as ``s3://bucket/folder``, opened by fsspec."""

from __future__ import annotations

import os
import re
import sys
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import normalize

from ..errors import ImageError, MissingExtraError, OptionError, OutputError, redact
from ..files import is_file, is_folder, make_folder, sha256, whole_file


def is_address(place: str) -> bool:
    """Whether a place is an address rather than a path.

    ``C://eyes`` is a path; ``simplecache::s3://eyes`` is an address.
    """
    return re.match(r"[A-Za-z][\w+.-]+:(:.*:)?//", place) is not None


def join(folder: str, *names: str) -> str:
    """A place below a folder."""
    if is_address(folder):
        return "/".join((folder.rstrip("/"), *names))
    return str(Path(folder, *names))


def parent(place: str) -> str:
    """The folder that a place is in."""
    if is_address(place):
        return place.rstrip("/").rpartition("/")[0]
    return str(Path(place).parent)


def suffix_of(place: str) -> str:
    """The ending of a place, in lower case."""
    return PurePosixPath(place).suffix.lower()


def identity(place: str) -> str:
    """The same text for all names of a file."""
    if is_address(place) or place == "-":
        return place
    try:
        real = os.path.realpath(place)
    except ValueError:  # a name with a null character, which no file has
        return place
    if sys.platform == "darwin":  # é is one file, be it one character or two
        real = normalize("NFC", real)
    folder = next(filter(is_folder, Path(real).parents), None)  # the others will be made in it
    return real.casefold() if folder and _ignores_case(folder) else real


@lru_cache(maxsize=1024)
def _ignores_case(folder: Path) -> bool:
    """Whether ``Eye`` and ``eye`` are one file in a folder, as its content or its own name shows.

    A system has file systems of both kinds, such as that of a memory card on Linux.
    """
    try:
        for path in folder.iterdir():
            other = folder / path.name.swapcase()
            if path.name.isascii() and other.name != path.name:
                return os.path.samestat(os.lstat(path), os.lstat(other))
        if folder.stat().st_dev == folder.parent.stat().st_dev and folder != folder.parent:
            return _ignores_case(folder.parent)
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return sys.platform in ("darwin", "win32")


def open_filesystem(place: str) -> tuple[Any, str]:
    """The fsspec filesystem of a path or an address, and the path there."""
    import fsspec

    if not is_address(place):
        return fsspec.filesystem("file"), Path(place).absolute().as_posix()
    try:
        filesystem, path = fsspec.core.url_to_fs(place)
    except ImportError as error:
        raise MissingExtraError(redact(f"{place!r} cannot be opened: {error}.")) from error
    except ValueError as error:
        raise OptionError(
            redact(f"{place!r} is not an address that can be opened: {error}.")
        ) from error
    return filesystem, str(path)


def read_bytes(address: str) -> bytes:
    """Read a file at an address; ImageError or FileNotFoundError if that is impossible."""
    filesystem, path = open_filesystem(address)
    try:
        return bytes(filesystem.cat_file(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(redact(f"There is no image {address!r}.")) from error
    except Exception as error:  # the library behind an address can raise anything
        raise ImageError(redact(f"{address!r} cannot be read: {error}.")) from error


def write_bytes(place: str, content: bytes) -> None:
    """Write a file and its folder; OutputError if that is impossible."""
    if not is_address(place):
        make_folder(Path(place).parent)
        with whole_file(place) as part:
            part.write_bytes(content)
        return
    filesystem, path = open_filesystem(place)
    try:
        filesystem.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
        filesystem.pipe_file(path, content)
    except Exception as error:  # the library behind an address can raise anything
        raise OutputError(redact(f"{place!r} cannot be written: {error}.")) from error


def version_of(place: str) -> str | None:
    """What tells this content of a file from another; None if it cannot be found out.

    That is the SHA-256 of a file on this machine. A file at an address is not read for it: its
    filesystem says what identifies its version, such as an ETag.
    """
    if is_address(place):
        filesystem, path = open_filesystem(place)
        try:
            return str(filesystem.ukey(path))
        except Exception:  # the library behind an address can raise anything
            return None
    try:
        return sha256(place) if is_file(place) else None
    except OSError:
        return None
