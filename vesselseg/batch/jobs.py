"""Jobs: which photographs to segment, and where their results go."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from ..errors import OptionError, redact, require
from ..files import is_folder
from ..formats import endings
from ..result import FORMATS, read_provenance
from ..result import KINDS as PICTURES
from .places import identity, is_address, join, open_filesystem, parent, suffix_of
from .search import (
    CORRECTION,
    HIDDEN,
    OTHER_ENDING,
    OURS,
    LeftOut,
    find_files,
    is_correction,
    is_photograph,
)

logger = logging.getLogger(__name__)

KINDS = (*PICTURES, "dicom")
"""What can be written for a photograph: pictures, and a DICOM Segmentation object."""

MEASURES_OVERLAY = "measures_overlay"
"""The picture of what was measured, which only ``vesselseg measure`` writes."""


@dataclass(frozen=True, slots=True)
class Job:
    """One photograph to segment, as plain text that can be sent to another machine.

    `name` is its path or address as it was given, or ``-`` for standard input. `outputs` has the
    path or address of each kind of file to write.
    """

    name: str
    outputs: dict[str, str]


def plan_jobs(
    inputs: Sequence[str],
    out: str,
    *,
    kinds: Sequence[str] = (),
    recursive: bool = False,
    keep_endings: bool = False,
) -> list[Job]:
    """List the photographs and the files to write for each, sorted by name.

    Inputs are files, folders, patterns, addresses of files and folders, or ``-``. From folders and
    patterns, files with one of the `endings` and DICOM photographs of any name are taken, but no
    hidden ones and none that vesselseg wrote.

    `out` is a folder; or, for a single photograph, a file in one of `FORMATS` or a DICOM file.
    Results of files go to `out` itself; those of a folder or pattern keep their place below the
    folder, or below the part of the pattern without wildcards. The mask is always written; other
    `kinds` are added to its name.
    """
    kinds = _check_kinds(kinds)
    if not all((*inputs, out)):
        raise OptionError("A path is empty text. For the working directory, pass '.'.")
    found: list[tuple[str, PurePath]] = []  # the photograph, and its place below `out`
    searched: list[str] = []
    for text in inputs:
        photographs = find_photographs(text, out, recursive)
        if photographs:
            searched.append(text)
        elif len(inputs) > 1:  # without any photograph an error follows
            logger.warning("There are no photographs in %s.", _shown(text))
        found += photographs
    if "dicom" in kinds or suffix_of(out) == ".dcm":
        require("highdicom", "dicom")
    if not found:
        hint = "" if recursive else " --recursive also searches subfolders."
        if any("[" in text for text in inputs):
            hint += " In a pattern, [[] means the character [."
        raise OptionError(
            f"There is nothing to segment in {', '.join(map(_shown, inputs))}. From folders and "
            f"patterns these files are taken: {' '.join(endings())}, but none written by "
            f"vesselseg.{hint}"
        )
    # A folder that holds one photograph is a folder; one that holds none does not count.
    is_single = len(found) == 1 and not any(map(is_folder, searched))
    is_file = _names_file(out, is_single=is_single)
    jobs = []
    for name, place in found:
        mask = out if is_file else f"{_name_result(out, place, keep_endings)}.png"
        jobs.append(Job(name, _name_outputs(mask, kinds)))
    return _without_clashes(jobs)


def results_folder(jobs: Sequence[Job], out: str) -> str:
    """The folder of the results: `out`, or the one that it is in if it is a file."""
    return parent(out) if jobs[0].outputs["mask"] == out else out


def plan_overlays(
    found: Iterable[tuple[str, PurePath]], out: str, *, keep_endings: bool
) -> list[Job]:
    """Jobs that write what was measured on photographs or masks to a folder, sorted by name.

    The places below the folder, and the names, are as :func:`plan_jobs` gives them, with
    ``_measures`` added.
    """
    jobs = [
        Job(name, {MEASURES_OVERLAY: f"{_name_result(out, place, keep_endings)}_measures.png"})
        for name, place in found
    ]
    return _without_clashes(jobs)


def _name_result(out: str, place: PurePath, keep_endings: bool) -> str:
    """The path of a photograph's results, to which their endings are added."""
    is_numbered = place.suffix[1:].isdecimal()  # DICOM files are often named after a UID
    ending = "" if keep_endings or is_numbered else place.suffix
    return join(out, *place.parts).removesuffix(ending)


def _shown(place: str) -> str:
    """A place as messages have it, in quotes: addresses without passwords."""
    return repr(redact(place) if is_address(place) else place)


def _check_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """The kinds of files to write, the mask first; OptionError for one that there is not."""
    if isinstance(kinds, str):
        raise OptionError(f"kinds is {kinds!r}; it must be a sequence, such as ({kinds!r},).")
    kinds = tuple(kinds)
    for kind in kinds:
        if kind not in KINDS:
            raise OptionError(f"kinds has {kind!r}; allowed are {', '.join(map(repr, KINDS))}.")
    return ("mask", *(kind for kind in kinds if kind != "mask"))


def _names_file(out: str, *, is_single: bool) -> bool:
    """Whether `out` is a file, not a folder; OptionError if it is one that cannot be written.

    A file takes the result of a single photograph, passed by its own name.
    """
    suffix = "" if is_folder(out) else suffix_of(out)
    is_file = suffix in (*FORMATS, ".dcm")
    if is_file and not is_single:
        raise OptionError(
            f"{_shown(out)} is a file, which takes the result of a single photograph. For folders "
            f"and for several photographs, name a folder."
        )
    if suffix in endings() and not is_file:
        raise OptionError(
            f"{_shown(out)} cannot be written: results are {', '.join(FORMATS)} or .dcm. Name "
            f"such a file."
        )
    return is_file


def _name_outputs(mask: str, kinds: Sequence[str]) -> dict[str, str]:
    """The file of each kind, named after that of the mask."""
    stem, suffix = os.path.splitext(mask)  # noqa: PTH122
    picture_suffix = ".png" if suffix.lower() == ".dcm" else suffix
    outputs = {kind: f"{stem}_{kind}{picture_suffix}" for kind in kinds}
    outputs["mask"] = mask
    if "dicom" in kinds:
        outputs["dicom"] = f"{stem}_seg.dcm"
    return outputs


def find_photographs(text: str, out: str, recursive: bool) -> list[tuple[str, PurePath]]:
    """The photographs that an input means, each with its place below OUT; log what is left out."""
    if text == "-":
        return [(text, PurePath("stdin"))]
    left_out = LeftOut()
    if is_address(text):
        found = _find_remote(text, out, recursive, left_out)
    else:
        found = [
            (str(file), place)
            for file, place in find_files(text, recursive, left_out)
            if file == Path(text) or is_photograph(file, left_out)
        ]
    left_out.log(redact(text) if is_address(text) else text)
    return found


def _find_remote(
    address: str, out: str, recursive: bool, left_out: LeftOut
) -> list[tuple[str, PurePath]]:
    """The photographs at an address, each with its place below OUT."""
    filesystem, base = open_filesystem(address)
    try:
        if not filesystem.isdir(base):
            return [(address, PurePath(PurePosixPath(base).name))]
        paths = filesystem.find(base, maxdepth=None if recursive else 1)
    except Exception as error:  # the library behind an address can raise anything
        raise OptionError(redact(f"{address!r} cannot be read: {error}.")) from error
    found: list[tuple[str, PurePath]] = []
    folder, results = f"{address.rstrip('/')}/", f"{out.rstrip('/')}/"
    has_only_results = results.startswith(folder) and results != folder
    files_in: defaultdict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for file in map(PurePosixPath, paths):
        files_in[file.parent].append(file)
    for path in paths:
        place = PurePosixPath(path).relative_to(base)
        name = join(address, *place.parts)
        reason = ""
        if any(part.startswith(".") for part in place.parts):
            reason = HIDDEN
        elif place.suffix.lower() not in endings():
            reason = OTHER_ENDING
        elif name.startswith(results) and (has_only_results or _is_result(filesystem, path)):
            reason = OURS
        elif is_correction(place, files_in[PurePosixPath(path).parent.parent]):
            reason = CORRECTION
        if reason:
            left_out.add(place, reason)
        else:
            found.append((name, place))
    return found


def _is_result(filesystem: Any, path: str) -> bool:
    """Whether vesselseg wrote a file at an address. One that cannot be read fails later."""
    try:
        with filesystem.open(path) as stream:
            return suffix_of(path) in FORMATS and bool(read_provenance(stream))
    except Exception:  # the library behind an address can raise anything
        return False


def _without_clashes(jobs: Iterable[Job]) -> list[Job]:
    """Each job once, sorted; OptionError if one would write what another one writes or reads."""
    unique: dict[tuple[str, ...], Job] = {}  # by the file that it reads and those that it writes
    for job in sorted(jobs, key=lambda job: (job.name, *job.outputs.values())):
        places = (job.name, *job.outputs.values())
        unique.setdefault(tuple(map(identity, places)), job)  # the same file may be given twice
    readers = {source: job for (source, *_), job in unique.items()}
    writers: dict[str, Job] = {}
    for (_, *targets), job in unique.items():
        for target, place in zip(targets, job.outputs.values(), strict=True):
            other = writers.setdefault(target, job)
            if other is not job:
                advice = "segment them into folders of their own"
                if parent(other.name) != parent(job.name):
                    advice += ", or pass the folder above both with --recursive"
                raise OptionError(
                    f"{_shown(other.name)} and {_shown(job.name)} would both write "
                    f"{_shown(place)}. Nothing was done. Name results after whole file names "
                    f"(--keep-endings), or {advice}."
                )
            if target in readers:
                raise OptionError(
                    f"{_shown(readers[target].name)} would be overwritten by the result of "
                    f"{_shown(job.name)}. Nothing was done. Choose another folder for the results."
                )
    return list(unique.values())
