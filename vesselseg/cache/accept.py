"""What a file has to be before it is used, and how it gets its name in the cache."""

from __future__ import annotations

import contextlib
import datetime
import logging
from dataclasses import replace
from pathlib import Path

from ..errors import CheckpointError
from ..files import sha256
from ..spec import ModelSpec, Source
from . import notes
from .notes import Note
from .places import Place, cache_folder, mirrors, shown, sources
from .transfer import SourceError

logger = logging.getLogger(__name__)


def check_digest(
    digest: str, source: Source, spec: ModelSpec, more: tuple[tuple[Place, Note], ...] = ()
) -> None:
    """SourceError if a pinned digest, or one noted for a file of that name, is another one.

    Notes in the cache folder and in mirror folders bind, and those in `more`; a digest in the
    record binds alone.
    """
    if source.sha256:
        if digest != source.sha256.lower():
            raise SourceError(_differs(digest, source.sha256, "stands in the model's record"))
        return
    cache = cache_folder()
    files = [f / source.filename for f in (cache, *mirrors()) if isinstance(f, Path)]
    noted = [*more, *((file, note) for file in files if (note := notes.read(file)))]
    addresses = {shown(known.url) for known in sources(spec)}
    for place, note in noted:
        if note.model not in ("", spec.name) and note.address not in addresses:
            raise SourceError(
                f"A file of the same name for another model, {note.model!r} from {note.address}, "
                f"is noted in {place}.json. Rename yours, or set another VESSELSEG_HOME."
            )
        if digest != note.sha256:
            when = f", {note.date[:10]}" if note.date else ""
            text = _differs(digest, note.sha256, f"is noted in {place}.json{when}")
            if place == cache / source.filename:
                text += (
                    f" If a new file was published and you trust it, remove the old one first: "
                    f"vesselseg cache --clear {spec.name}"
                )
            raise SourceError(text)


def _differs(digest: str, wanted: str, who: str) -> str:
    return f"Its SHA-256 is {digest}, but {wanted.lower()} {who}."


def likely(digest: str, source: Source) -> bool:
    """Whether a digest is what the record or, as weaker evidence, the file's name says."""
    return digest.startswith((source.sha256 or source.digits).lower())


def check_file(
    path: Path,
    digest: str,
    source: Source,
    spec: ModelSpec,
    more: tuple[tuple[Place, Note], ...] = (),
) -> None:
    """SourceError unless a new file is the right one and holds all weights of the model."""
    with path.open("rb") as stream:
        if stream.read(512).lstrip()[:1] == b"<":  # says more than that its digest differs
            raise SourceError("It is a page of text (HTML or XML) instead of the weights.")
    check_digest(digest, source, spec, more)
    from .. import weights

    try:
        weights.to_network(weights.read(path), spec)
    except CheckpointError as error:
        raise SourceError(str(error).replace(repr(str(path)), repr(source.filename))) from error


def check_cached(path: Path, source: Source, spec: ModelSpec) -> None:
    """SourceError unless a file in the cache is what its note says, or is fine and gets a note."""
    note = notes.read(path)
    if note is not None and note.describes(path):
        check_digest(note.sha256, source, spec)
        return
    digest = sha256(path)
    if note is not None:
        check_digest(digest, source, spec)
    else:
        check_file(path, digest, source, spec)
        note = _note(path, digest, "by hand", source, spec)
    stat = path.stat()
    with contextlib.suppress(OSError):  # a cache that cannot be written is checked each time
        replace(note, size=stat.st_size, mtime_ns=stat.st_mtime_ns).write(path)


def keep(part: Path, digest: str, place: Place, source: Source, spec: ModelSpec) -> Path:
    """Give an accepted file its name and its note."""
    if not likely(digest, source):
        logger.warning(
            "The SHA-256 of %s from %s is %s and does not begin with %s as its name says. It is "
            "used, since it holds all weights of %s, and noted: another one will be refused.",
            source.filename, shown(place), digest, source.digits, spec.name,
        )  # fmt: skip
    target = part.with_name(source.filename)
    # Noted first: whoever looks in between finds no file that nothing is known of.
    _note(part, digest, shown(place), source, spec).write(target)
    part.replace(target)
    for rest in target.parent.glob(f"{spec.filename}.*.part*"):  # also of other addresses
        rest.unlink(missing_ok=True)
    logger.info("%s: SHA-256 %s, from %s", target, digest, shown(place))
    return target


def _note(
    file: Path, digest: str, obtained_from: str, source: Source, spec: ModelSpec
) -> Note:
    stat = file.stat()
    return Note(
        sha256=digest,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        model=spec.name,
        address=shown(source.url),
        obtained_from=obtained_from,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
