"""What the command line was given -> the list of images and where their results go."""

from __future__ import annotations

import glob
import itertools
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError, OptionError

logger = logging.getLogger(__name__)

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings, in any case, of the files that are taken from a folder or a pattern."""

_WILDCARDS = frozenset("*?[")
_MARK = b"tEXtvesselseg\x00"  # the provenance that Segmentation.save writes, close to the start


@dataclass(frozen=True, slots=True)
class Job:
    """One image to segment.

    Parameters
    ----------
    name : str
        The image as it was given; ``-`` is standard input.
    image : Path or bytes
        Where it lies, or its content.
    outputs : dict of str to Path
        Kind of picture, as :meth:`vesselseg.Segmentation.save` names it -> file to write.
    """

    name: str
    image: Path | bytes
    outputs: dict[str, Path]

    @property
    def done(self) -> bool:
        """Whether all outputs exist; they are written atomically, so what exists is whole."""
        return all(path.exists() for path in self.outputs.values())


def make_plan(
    inputs: Sequence[str], out: str, *, kinds: Sequence[str] = ("mask",), recursive: bool = False
) -> list[Job]:
    """List the images and the files that each of them writes.

    Parameters
    ----------
    inputs : sequence of str
        Files, folders, glob patterns, or ``-``. Files are tried whatever their names; from
        folders and patterns files with an ending of `SUFFIXES` are taken, but none that
        vesselseg wrote itself, so that results beside the photographs are not segmented again.
        Hidden files are left out.
    out : str
        A folder; or, for a single image, a file ending in ``.png``. Results of a file go to
        ``out`` itself; those of a folder's or a pattern's files to their place below the
        folder or below the part of the pattern that has no wildcard.
    kinds : sequence of str
        Kinds of pictures: "mask" first; of all others the kind is added to the file's name.
    recursive : bool
        Whether the folders in folders are looked through too.

    Returns
    -------
    list of Job
        Sorted by name.

    Raises
    ------
    OptionError
        If there is no image, two images would write the same file, or an image would be
        overwritten.
    ImageError
        If a folder cannot be read.
    """
    found: list[tuple[Path, Path]] = []
    for text in inputs:
        images = list(_images(text, recursive))
        if not images:
            logger.warning("There are no images in %r.", text)
        found += images
    if not found:
        hint = "" if recursive else " --recursive looks into the folders in folders, too."
        raise OptionError(
            f"There is nothing to segment in {', '.join(map(repr, inputs))}. Of folders and "
            f"patterns these are taken: {' '.join(SUFFIXES)}, but no files written by "
            f"vesselseg.{hint}"
        )
    target = Path(out)
    if target.suffix.lower() == ".png" and not target.is_dir():
        if len(found) > 1 or Path(inputs[0]).is_dir():
            raise OptionError(
                f"OUT is the file {out!r}, which takes the result of a single image file. For "
                f"folders and for several images give the name of a folder."
            )
        jobs = [Job(str(found[0][0]), found[0][0], _outputs(target, kinds))]
    else:
        jobs = [
            Job(str(image), image, _outputs(target / place.parent / f"{place.stem}.png", kinds))
            for image, place in found
        ]
    jobs.sort(key=lambda job: (job.name, str(job.outputs["mask"])))
    return _without_clashes(jobs)


def share(jobs: Sequence[Job], part: int, parts: int) -> list[Job]:
    """Every `parts`-th job, from the `part`-th on, counted from 1."""
    return list(jobs[part - 1 :: parts])


def _images(text: str, recursive: bool) -> Iterator[tuple[Path, Path]]:
    """Images that an argument stands for, each with its place below OUT."""
    path = Path(text)
    if text == "-":
        yield path, Path("stdin")
    elif path.is_dir():
        yield from _folder(path, path, recursive)
    elif path.exists() or not _WILDCARDS & set(text):
        yield path, Path(path.name)  # one that is missing is reported when its turn comes
    else:
        fixed = itertools.takewhile(lambda part: not _WILDCARDS & set(part), path.parts)
        base = Path(*fixed)
        for match in map(Path, sorted(glob.glob(text, recursive=True))):  # noqa: PTH207
            if not match.is_dir():
                yield from _wanted([match], base)
            elif recursive:
                yield from _folder(match, base, recursive)


def _folder(folder: Path, base: Path, recursive: bool) -> Iterator[tuple[Path, Path]]:
    for here, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        yield from _wanted((Path(here, name) for name in names), base)


def _wanted(paths: Iterable[Path], base: Path) -> Iterator[tuple[Path, Path]]:
    for path in paths:
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.suffix.lower() == ".png" and _is_result(path):
            logger.info("%r was written by vesselseg and is left out.", str(path))
            continue
        yield path, path.relative_to(base)


def _is_result(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return _MARK in stream.read(1024)
    except OSError:
        return False  # reported when its turn comes


def _unreadable(error: OSError) -> None:
    raise ImageError(f"The folder {error.filename!r} cannot be read: {error.strerror}.")


def _outputs(mask: Path, kinds: Sequence[str]) -> dict[str, Path]:
    return {
        kind: mask if kind == "mask" else mask.with_name(f"{mask.stem}_{kind}{mask.suffix}")
        for kind in kinds
    }


def _without_clashes(jobs: Iterable[Job]) -> list[Job]:
    """Each job once; refused where one would write what another one writes or reads."""
    kept: list[Job] = []
    readers: dict[str, Job] = {}
    writers: dict[str, tuple[Job, str | None]] = {}
    for job in jobs:
        source = _identity(job.image) if isinstance(job.image, Path) else ""
        places = [_identity(path) for path in job.outputs.values()]
        if all(writers.get(place, (job, None))[1] == source for place in places):
            continue  # the same file was given twice
        for place, path in zip(places, job.outputs.values(), strict=True):
            if place in writers:
                raise OptionError(
                    f"{writers[place][0].name!r} and {job.name!r} would both write "
                    f"{str(path)!r}. Nothing was done. Segment them into folders of their own; "
                    f"or give the folder above both with --recursive, which keeps folders apart."
                )
            writers[place] = (job, source)
        readers[source] = job
        kept.append(job)
    for place in sorted(writers.keys() & readers.keys()):
        raise OptionError(
            f"{readers[place].name!r} would be overwritten by the result of "
            f"{writers[place][0].name!r}. Nothing was done. Choose another folder for OUT."
        )
    return kept


def _identity(path: Path) -> str:
    """The same for all names of a file."""
    real = os.path.realpath(path)
    return real.casefold() if sys.platform in ("darwin", "win32") else real
