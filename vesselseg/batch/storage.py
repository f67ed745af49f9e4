"""Files on this machine or behind an address such as ``s3://bucket/folder``.

Addresses are opened by pyarrow where it knows the scheme (s3, gs, abfs, hdfs, file) and by fsspec
for all others that are installed. What has no ``://`` in it is a path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import MissingExtraError, OptionError
from .plan import SUFFIXES, make_plan


@dataclass(frozen=True, slots=True)
class Task:
    """One image to segment, all of it text, so that it can be sent to another machine.

    Parameters
    ----------
    name : str
        The image as it was given: a path or an address.
    outputs : mapping of str to str
        Kind of picture -> path or address to write.
    """

    name: str
    outputs: Mapping[str, str]


def is_address(place: str) -> bool:
    """Whether a text is an address rather than a path."""
    return "://" in place


def is_below(address: str, folder: str) -> bool:
    """Whether an address lies in a folder, or in a folder in it."""
    return _bare(address).startswith(_bare(folder) + "/")


def join(folder: str, *names: str) -> str:
    """A place in a folder; a query such as ``?region=...`` stays at the end."""
    if not is_address(folder):
        return str(Path(folder, *names))
    query = folder.partition("?")[2]
    return "/".join((_bare(folder), *names)) + (f"?{query}" if query else "")


def find_filesystem(place: str) -> tuple[Any, str]:
    """The pyarrow filesystem that holds a place, and its path there.

    Raises
    ------
    MissingExtraError
        If pyarrow is not installed, or what the address's scheme needs.
    OptionError
        If the scheme is not known.
    """
    try:
        from pyarrow import ArrowInvalid, fs
    except ImportError as error:
        raise MissingExtraError(
            "Addresses and Parquet files need pyarrow: pip install 'vesselseg[ray]'."
        ) from error
    if not is_address(place):
        return fs.LocalFileSystem(), Path(place).absolute().as_posix()
    try:
        filesystem, path = fs.FileSystem.from_uri(place)
        return filesystem, str(path)
    except ArrowInvalid as error:
        reason = error
    try:
        from fsspec.core import url_to_fs

        other, path = url_to_fs(place)
    except ImportError as error:
        raise MissingExtraError(f"{place!r} cannot be opened: {error}.") from error
    except ValueError as error:
        raise OptionError(f"{place!r} is no address that can be opened: {reason}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(other)), str(path)


def read_bytes(place: str) -> bytes:
    """The content of a file; raises OSError if it cannot be had."""
    filesystem, path = find_filesystem(place)
    with filesystem.open_input_stream(path) as stream:
        return bytes(stream.read())


def write_bytes(place: str, content: bytes) -> None:
    """Write a file in a single piece, its folder too; raises OSError if it cannot be written."""
    filesystem, path = find_filesystem(place)
    filesystem.create_dir(str(PurePosixPath(path).parent), recursive=True)
    with filesystem.open_output_stream(path) as stream:
        stream.write(content)


def make_tasks(
    inputs: Sequence[str], out: str, *, kinds: Sequence[str] = ("mask",), recursive: bool = False
) -> list[Task]:
    """List the images and the files that each of them writes, as :func:`make_plan` does.

    Parameters
    ----------
    inputs : sequence of str
        Files, folders and glob patterns; addresses of files and folders.
    out : str
        A folder, or its address. A single image may also be given a path ending in ``.png``.
    kinds, recursive
        As for :func:`make_plan`.

    Returns
    -------
    list of Task
        Sorted by name.

    Raises
    ------
    OptionError, ImageError
        As :func:`make_plan`; and OptionError if an address cannot be opened.
    """
    if "-" in inputs:
        raise OptionError("Standard input stays on this machine; give files or folders.")
    paths = [place for place in inputs if not is_address(place)]
    tasks: list[Task] = []
    if paths or not inputs:
        root = "" if is_address(out) else out
        for job in make_plan(paths, root or "/", kinds=kinds, recursive=recursive):
            outputs = {
                kind: str(path) if root else join(out, *path.parts[1:])
                for kind, path in job.outputs.items()
            }
            tasks.append(Task(job.name, outputs))
    for address in inputs:
        if is_address(address):
            tasks += _found(address, out, kinds, recursive)
    if not tasks:
        raise OptionError(
            f"There is nothing to segment in {', '.join(map(repr, inputs))}. Of folders these are "
            f"taken: {' '.join(SUFFIXES)}, and those in folders in folders if it is recursive."
        )
    return sorted(_without_clashes(tasks), key=lambda task: task.name)


def _found(address: str, out: str, kinds: Sequence[str], recursive: bool) -> Iterator[Task]:
    from pyarrow import fs

    filesystem, base = find_filesystem(address)
    try:
        if filesystem.get_file_info(base).type != fs.FileType.Directory:
            yield Task(address, _outputs(out, PurePosixPath(PurePosixPath(base).name), kinds))
            return
        found = filesystem.get_file_info(fs.FileSelector(base, recursive=recursive))
    except OSError as error:
        raise OptionError(f"{address!r} cannot be read: {error}.") from error
    for info in found:
        place = PurePosixPath(info.path).relative_to(base)
        name = join(address, *place.parts)
        hidden = any(part.startswith(".") for part in place.parts)
        # Results of an earlier run are no input, where OUT lies among the photographs.
        if hidden or not info.is_file or is_below(name, out):
            continue
        if place.suffix.lower() in SUFFIXES:
            yield Task(name, _outputs(out, place, kinds))


def _outputs(out: str, place: PurePosixPath, kinds: Sequence[str]) -> dict[str, str]:
    return {
        kind: join(
            out,
            *place.parent.parts,
            f"{place.stem}.png" if kind == "mask" else f"{place.stem}_{kind}.png",
        )
        for kind in kinds
    }


def _without_clashes(tasks: Iterable[Task]) -> Iterator[Task]:
    writers: dict[str, str] = {}
    for task in tasks:
        places = list(task.outputs.values())
        if all(writers.get(place) == task.name for place in places):
            continue  # the same file was given twice
        for place in places:
            if place in writers:
                raise OptionError(
                    f"{writers[place]!r} and {task.name!r} would both write {place!r}. Nothing "
                    f"was done. Segment them into folders of their own."
                )
            if place == task.name:
                raise OptionError(f"{place!r} would be overwritten by its own result.")
            writers[place] = task.name
        yield task


def _bare(address: str) -> str:
    return address.partition("?")[0].rstrip("/")
