"""Weights on this machine: a folder of verified files, filled from wherever they can be had.

Each file lies flat under its published name, with a note beside it (``NAME.json``) of where it
came from, its SHA-256, size and time. So a cache folder can be copied as it is, or serve others
as a mirror, and its notes bind them: a file of the same name with another digest is refused.

Read at each call: ``VESSELSEG_HOME``, the folder; ``VESSELSEG_MIRROR``, folders or addresses
that hold the files, separated by commas, tried first; ``VESSELSEG_OFFLINE=1``, no network.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..registry import REGISTRY, find_spec
from ..errors import CheckpointError, DownloadError, OptionError, OutputError
from ..files import sha256
from ..spec import ModelSpec, Source
from . import accept, notes, places, transfer
from .locks import CANNOT_LOCK, lock
from .making import PATTERN as _MADE
from .making import made
from .notes import Note
from .places import Place, cache_folder, shown
from .progress import Report, reporting
from .transfer import SourceError

__all__ = ["cache_folder", "cached", "clear", "contents", "download", "import_file", "made"]

logger = logging.getLogger(__name__)

# FILE.KEY.part, KEY from the address it comes from; or a note that was being written.
_PART = re.compile(r"(.+)\.[0-9a-f]{12}\.part|\.[0-9a-f]{16}\.part")


def download(
    model: str | ModelSpec, *, progress: bool | Report = True, force: bool = False
) -> Path:
    """The weights of a model as a verified file, obtained if it is not in the cache yet.

    Parameters
    ----------
    model : str or ModelSpec
        A name (:func:`vesselseg.list_models`) or a record of your own.
    progress : bool or callable
        True shows a bar if standard error is a terminal. A function is called with the bytes
        that are there and those of the whole file (None where the server does not say); an
        exception that it raises ends the download, which a later call continues.
    force : bool
        Obtain it even if it is in the cache. Another file than the one there is refused.

    Returns
    -------
    Path

    Raises
    ------
    UnknownModelError
        If there is no model of that name.
    DownloadError
        If the file could not be had, or cannot be written. The message lists every source with
        its answer, and what can be done by hand.

    Notes
    -----
    However many threads and processes ask, one of them downloads and all get the file. It is
    accepted if its length is whole, its SHA-256 is the one pinned in the record or noted before,
    and it holds all weights of the model. The digits in a published name are evidence only:
    where they differ, a warning is logged.
    """
    spec = _record(model)
    if packaged := places.packaged(spec):
        if packaged.is_file():
            return packaged
        raise DownloadError(
            f"{str(packaged)!r}, the weights of {spec.name!r}, is part of the package but "
            f"is not there: the installation is damaged. Repair it: "
            f"pip install --force-reinstall --no-deps vesselseg"
        )
    if not force and (found := cached(spec)):
        return found
    with _filling(spec) as folder, reporting(progress, spec.name) as report:
        # Also where the file is wanted anew: what is there is noted, so that it binds.
        found, answers = _find(spec)
        if found and not force:
            return found  # somebody else was faster
        for path, answer in answers:
            logger.warning("%s: %s It is obtained anew.", path, answer)
        for source, place in places.places(spec):
            got = _ask(place, source, spec, folder, report)
            if isinstance(got, Path):
                return got
            answers.append((shown(place), got))
    raise DownloadError(places.nowhere(spec, answers))


def cached(model: str | ModelSpec) -> Path | None:
    """The verified file if it is on this machine, without asking the network; None otherwise.

    A file whose size and time are not those of its note is hashed again, and one without a
    note, put there by hand, is looked at as after a download.
    """
    spec = _record(model)
    if packaged := places.packaged(spec):
        return packaged if packaged.is_file() else None
    return _find(spec)[0]


def import_file(file: str | os.PathLike[str], model: str | ModelSpec) -> Path:
    """Take a file that was got by other means into the cache, after the same checks.

    Raises
    ------
    FileNotFoundError, UnknownModelError
        If there is no such file, or no such model.
    CheckpointError
        If it is not the model's file.
    DownloadError
        If the cache folder cannot be written.
    """
    spec = _record(model)
    file = Path(file)
    if places.packaged(spec):
        raise OptionError(f"{spec.name!r} is part of the package; it needs no file.")
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {str(file)!r}.")
    with _filling(spec) as folder:
        _find(spec)  # a file there without a note gets one, and binds
        sources = places.sources(spec)
        try:
            digest = sha256(file)
        except OSError as error:
            raise CheckpointError(f"{str(file)!r} cannot be read: {error.strerror}.") from error
        source = next((s for s in sources if s.filename == file.name), None) or next(
            (s for s in sources if accept.likely(digest, s)), sources[0]
        )
        try:
            return _obtain(file.absolute(), source, spec, folder, lambda *_: None)
        except SourceError as fault:
            raise CheckpointError(
                f"{str(file)!r} was not taken into the cache for {spec.name!r}: {fault}"
            ) from fault


def contents(model: str | ModelSpec | None = None) -> list[Path]:
    """Files of ours in the cache folder: weights, notes, parts, what was made; of one, or all."""
    records = REGISTRY.values() if model is None else [_record(model)]
    known = {s.filename for record in records for s in places.sources(record)}
    starts = tuple(f"{record.filename}." for record in records)
    folder, found = cache_folder(), []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        file = path.with_name(path.name.removesuffix(".json"))
        if _PART.fullmatch(file.name) or _MADE.fullmatch(path.name):
            ours = model is None or path.name.startswith(starts)
        else:
            noted = model is None and notes.read(file, warn=False) is not None
            ours = file.name in known or noted
        if ours and path.is_file():
            found.append(path)
    return found


def clear(model: str | ModelSpec | None = None) -> list[Path]:
    """Remove what :func:`contents` lists, but for parts that are just being downloaded.

    Raises
    ------
    OutputError
        If a file cannot be removed.
    """
    removed = []
    for path in contents(model):
        try:
            with contextlib.ExitStack() as stack:
                part = _PART.fullmatch(path.name.removesuffix(".json"))
                if part and part[1]:
                    stack.enter_context(lock(path.parent, part[1]).acquire(timeout=0))
                path.unlink(missing_ok=True)
        except TimeoutError:
            logger.warning("%s is being downloaded and stays.", path)
            continue
        except OSError as error:
            raise OutputError(f"{str(path)!r} cannot be removed: {error.strerror}.") from error
        removed.append(path)
    return removed


def _record(model: str | ModelSpec) -> ModelSpec:
    if isinstance(model, str):
        return find_spec(model)
    if isinstance(model, ModelSpec):
        return model
    raise OptionError(
        f"model is of type {type(model).__name__}; it has to be a name or a ModelSpec."
    )


@contextlib.contextmanager
def _filling(spec: ModelSpec) -> Iterator[Path]:
    """The cache folder, where nobody else obtains this file meanwhile."""
    folder = cache_folder()
    try:
        with contextlib.ExitStack() as stack:
            held = lock(folder, spec.filename)
            try:
                stack.enter_context(held.acquire(timeout=1))
            except TimeoutError:
                logger.info("Waiting for another process that obtains %s.", spec.name)
                stack.enter_context(held.acquire())
            yield folder
    except DownloadError:
        raise
    except CANNOT_LOCK as error:
        raise DownloadError(
            f"The weights of {spec.name!r} cannot be written to the cache folder "
            f"{str(folder)!r}: {error}. Make room there or allow it, or set VESSELSEG_HOME to "
            f"another folder."
        ) from error


def _find(spec: ModelSpec) -> tuple[Path | None, list[tuple[str, str]]]:
    """The file in the cache, or what is wrong with those that are there."""
    answers = []
    for source in places.sources(spec):
        path = cache_folder() / source.filename
        try:
            if path.is_file():
                accept.check_cached(path, source, spec)
                return path, []
        except (SourceError, OSError) as error:
            answers.append((str(path), f"Is there, but cannot be used. {error}"))
    return None, answers


def _ask(
    place: Place, source: Source, spec: ModelSpec, folder: Path, report: Report
) -> Path | str:
    """The file in the cache, brought from `place`, or what came instead."""
    try:
        return _obtain(place, source, spec, folder, report)
    except SourceError as error:
        logger.debug("%s: %s", shown(place), error)
        return str(error)


def _obtain(
    place: Place, source: Source, spec: ModelSpec, folder: Path, report: Report
) -> Path:
    """Bring a file from `place` into the cache; SourceError if it is not the right one."""
    if isinstance(place, str) and places.offline():
        raise SourceError("Not asked, since VESSELSEG_OFFLINE is set.")
    key = hashlib.sha256(str(place).encode()).hexdigest()[:12]
    part = folder / f"{spec.filename}.{key}.part"
    for last in (False, True):
        if isinstance(place, Path):
            received = transfer.copy(place, part, report)
        else:
            received = transfer.fetch(place, part, report)
        # Pieces of several answers may not fit together: if in doubt once more, whole.
        again = received.resumed and not last
        try:
            more = _mirrored(place, source)
            accept.check_file(part, received.sha256, source, spec, more)
        except SourceError:
            transfer.discard(part)
            if not again:
                raise
        else:
            if accept.likely(received.sha256, source) or not again:
                return accept.keep(part, received.sha256, place, source, spec)
            transfer.discard(part)
    raise AssertionError("the last round returns or raises")


def _mirrored(place: Place, source: Source) -> tuple[tuple[Place, Note], ...]:
    """The note beside a file on a mirror's address."""
    if isinstance(place, Path) or place == source.url or source.sha256:
        return ()
    content = transfer.fetch_note(f"{place}.json")
    note = notes.parse(content) if content else None
    return ((shown(place), note),) if note else ()
