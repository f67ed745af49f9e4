"""Jobs: which photographs to segment, and where their results go.

Places are paths or addresses such as ``s3://bucket/folder``, which fsspec opens.
"""

from __future__ import annotations

import glob
import itertools
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import ImageError, MissingExtraError, OptionError, OutputError

logger = logging.getLogger(__name__)

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings, in any case, of the files that are taken from a folder or a pattern."""

_WILDCARDS = frozenset("*?[")
_MARK = b"tEXtvesselseg\x00"  # in the first bytes of every PNG file of ours


@dataclass(frozen=True, slots=True)
class Job:
    """One photograph to segment. It is plain text, so that it can be sent to another machine.

    Parameters
    ----------
    name : str
        Path or address of the photograph as it was given; ``-`` is standard input.
    outputs : dict of str to str
        Kind of picture, as :meth:`vesselseg.Segmentation.save` takes it -> path or address.
    """

    name: str
    outputs: dict[str, str]

    @property
    def is_done(self) -> bool:
        """Whether all outputs exist. They are written atomically, so what exists is whole."""
        return all(Path(place).exists() for place in self.outputs.values())


def is_address(place: str) -> bool:
    """Whether a place is an address rather than a path."""
    return "://" in place


def join(folder: str, *names: str) -> str:
    """A place below a folder."""
    if is_address(folder):
        return "/".join((folder.rstrip("/"), *names))
    return str(Path(folder, *names))


def plan_jobs(
    inputs: Sequence[str], out: str, *, kinds: Sequence[str] = ("mask",), recursive: bool = False
) -> list[Job]:
    """List the photographs and the files to write for each.

    Parameters
    ----------
    inputs : sequence of str
        Files, folders, glob patterns, addresses of files and folders, or ``-``. Files are tried
        whatever their names. From folders and patterns, files with one of `SUFFIXES` are taken,
        but no hidden ones and none that vesselseg wrote, so that results beside the photographs
        are not segmented again.
    out : str
        A folder or its address; or, for a single photograph, a file ending in ``.png``. Results
        of a file go to `out` itself; those of a folder or pattern keep their place below the
        folder, or below the part of the pattern without wildcards.
    kinds : sequence of str
        Kinds of pictures. Except for "mask", the kind is added to the file's name.
    recursive : bool
        Whether to search the folders in folders.

    Returns
    -------
    list of Job
        Sorted by name.

    Raises
    ------
    OptionError
        If there is no photograph, two would write the same file, one would be overwritten, or an
        address cannot be opened.
    ImageError
        If a folder cannot be read.
    """
    found: list[tuple[str, PurePosixPath]] = []  # the photograph, and its place below `out`
    for text in inputs:
        photographs = list(find_remote(text, out, recursive) if is_address(text)
                           else find_local(text, recursive))  # fmt: skip
        if not photographs:
            logger.warning("There are no photographs in %r.", text)
        found += photographs
    if not found:
        hint = "" if recursive else " --recursive searches the folders in folders as well."
        raise OptionError(
            f"There is nothing to segment in {', '.join(map(repr, inputs))}. From folders and "
            f"patterns these files are taken: {' '.join(SUFFIXES)}, but none written by "
            f"vesselseg.{hint}"
        )
    suffix = PurePosixPath(out).suffix.lower()
    is_file = suffix == ".png" and not (not is_address(out) and Path(out).is_dir())
    if is_file and (len(found) > 1 or Path(inputs[0]).is_dir()):
        raise OptionError(
            f"OUT is the file {out!r}, which takes the result of a single photograph. For folders "
            f"and for several photographs, name a folder."
        )
    if suffix in SUFFIXES and suffix != ".png" and not Path(out).is_dir():
        raise OptionError(f"OUT is {out!r}, but results are written as .png. Name a .png file.")
    jobs = []
    for name, place in found:
        outputs = {}
        for kind in kinds:
            ending = ".png" if kind == "mask" else f"_{kind}.png"
            if is_file:
                outputs[kind] = out if kind == "mask" else f"{out[: -len('.png')]}{ending}"
            else:
                outputs[kind] = join(out, *place.parent.parts, f"{place.stem}{ending}")
        jobs.append(Job(name, outputs))
    return without_clashes(sorted(jobs, key=lambda job: (job.name, job.outputs["mask"])))


def share(jobs: Sequence[Job], part: int, parts: int) -> list[Job]:
    """Every `parts`-th job, starting with the `part`-th, counted from 1."""
    return list(jobs[part - 1 :: parts])


def find_local(text: str, recursive: bool) -> Iterator[tuple[str, PurePosixPath]]:
    """The photographs that a path or pattern means, each with its place below OUT."""
    path = Path(text)
    if text == "-":
        yield text, PurePosixPath("stdin")
    elif path.is_dir():
        yield from walk(path, path, recursive)
    elif path.exists() or not _WILDCARDS & set(text):
        yield str(path), PurePosixPath(path.name)  # a missing file is reported in its turn
    else:
        base = Path(*itertools.takewhile(lambda part: not _WILDCARDS & set(part), path.parts))
        for match in map(Path, sorted(glob.glob(text, recursive=True))):  # noqa: PTH207
            if match.is_dir() and recursive:
                yield from walk(match, base, recursive)
            elif is_photograph(match):
                yield str(match), PurePosixPath(match.relative_to(base).as_posix())


def walk(folder: Path, base: Path, recursive: bool) -> Iterator[tuple[str, PurePosixPath]]:
    """The photographs in a folder, each with its place below `base`."""

    def fail(error: OSError) -> None:
        raise ImageError(f"The folder {error.filename!r} cannot be read: {error.strerror}.")

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        for path in (Path(parent, name) for name in names):
            if is_photograph(path):
                yield str(path), PurePosixPath(path.relative_to(base).as_posix())


def is_photograph(path: Path) -> bool:
    """Whether a file found in a folder is a photograph, by its name, and not a result of ours."""
    if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or path.is_dir():
        return False
    if path.suffix.lower() != ".png":
        return True
    try:
        with path.open("rb") as stream:
            is_result = _MARK in stream.read(1024)
    except OSError:
        return True  # reported in its turn
    if is_result:
        logger.info("%r was written by vesselseg and is left out.", str(path))
    return not is_result


def find_remote(address: str, out: str, recursive: bool) -> Iterator[tuple[str, PurePosixPath]]:
    """The photographs at an address, each with its place below OUT."""
    filesystem, base = open_filesystem(address)
    try:
        if not filesystem.isdir(base):
            yield address, PurePosixPath(PurePosixPath(base).name)
            return
        found = filesystem.find(base, maxdepth=None if recursive else 1)
    except OSError as error:
        raise OptionError(f"{address!r} cannot be read: {error}.") from error
    for path in found:
        place = PurePosixPath(path).relative_to(base)
        name = join(address, *place.parts)
        is_hidden = any(part.startswith(".") for part in place.parts)
        is_result = name.startswith(out.rstrip("/") + "/")  # of an earlier run
        if place.suffix.lower() in SUFFIXES and not is_hidden and not is_result:
            yield name, place


def without_clashes(jobs: Iterable[Job]) -> list[Job]:
    """Each job once; OptionError if one would write what another one writes or reads."""
    kept: list[Job] = []
    readers: dict[str, Job] = {}
    writers: dict[str, tuple[Job, str]] = {}
    for job in jobs:
        source = identity(job.name)
        targets = {identity(place): place for place in job.outputs.values()}
        if all(key in writers and writers[key][1] == source for key in targets):
            continue  # the same file was given twice
        for key, place in targets.items():
            if key in writers:
                raise OptionError(
                    f"{writers[key][0].name!r} and {job.name!r} would both write {place!r}. "
                    f"Nothing was done. Segment them into folders of their own, or pass the "
                    f"folder above both with --recursive, which keeps folders apart."
                )
            writers[key] = (job, source)
        readers[source] = job
        kept.append(job)
    for key in sorted(writers.keys() & readers.keys()):
        raise OptionError(
            f"{readers[key].name!r} would be overwritten by the result of "
            f"{writers[key][0].name!r}. Nothing was done. Choose another folder for OUT."
        )
    return kept


def identity(place: str) -> str:
    """The same text for all names of a file."""
    if is_address(place) or place == "-":
        return place
    real = os.path.realpath(place)
    return real.casefold() if sys.platform in ("darwin", "win32") else real


def open_filesystem(address: str) -> tuple[Any, str]:
    """The fsspec filesystem of an address, and the path there.

    Raises
    ------
    MissingExtraError
        If the package that opens such addresses is not installed.
    OptionError
        If nothing opens such addresses.
    """
    from fsspec.core import url_to_fs

    try:
        filesystem, path = url_to_fs(address)
    except ImportError as error:
        raise MissingExtraError(f"{address!r} cannot be opened: {error}.") from error
    except ValueError as error:
        raise OptionError(f"{address!r} is not an address that can be opened: {error}.") from error
    return filesystem, str(path)


def read_bytes(address: str) -> bytes:
    """Read a file at an address; ImageError or FileNotFoundError if that is impossible."""
    filesystem, path = open_filesystem(address)
    try:
        return bytes(filesystem.cat_file(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no image {address!r}.") from error
    except Exception as error:  # the library behind an address can raise anything
        raise ImageError(f"{address!r} cannot be read: {error}.") from error


def write_bytes(place: str, content: bytes) -> None:
    """Write a file and its folder at an address; OutputError if that is impossible."""
    filesystem, path = open_filesystem(place)
    try:
        filesystem.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
        filesystem.pipe_file(path, content)
    except Exception as error:  # the library behind an address can raise anything
        raise OutputError(f"{place!r} cannot be written: {error}.") from error
