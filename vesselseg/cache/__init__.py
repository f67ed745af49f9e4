"""Weights on this machine: a folder of verified files, filled from the sources of model specs.

Every file has its published name and a sidecar (``NAME.json``) with its origin, SHA-256, size and
time. A cache folder can be copied as it is, or serve other machines as a mirror. Its sidecars are
binding: a file of the same name with a different digest is rejected.

Environment variables, read at each call: ``VESSELSEG_HOME``, the folder; ``VESSELSEG_MIRROR``,
folders or base addresses that hold the files, separated by commas, tried first;
``VESSELSEG_OFFLINE=1``, no network.

The cache builds no networks. What verifies a file is handed in as `verify`: a function of the
path and the model spec that raises CheckpointError if the file is not the model's.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import quote

from platformdirs import user_cache_path

from ..errors import CheckpointError, DownloadError, OptionError, OutputError, redact
from ..files import is_file, replace, sha256
from ..process import progress_bar
from ..registry import REGISTRY
from ..spec import ModelSpec, Source
from . import transfer
from .sidecar import Sidecar, parse_sidecar, read_sidecar
from .transfer import OnProgress, SourceError

if TYPE_CHECKING:
    from filelock import BaseFileLock

logger = logging.getLogger(__name__)

Location: TypeAlias = "str | Path"
"""An address, or a file on this machine."""

Verify: TypeAlias = Callable[[Path, ModelSpec], Any]
"""Reads a weights file of a model; raises CheckpointError if it is not one."""

_VARIABLES = {
    "VESSELSEG_MIRROR": "folders or base addresses that hold the file",
    "VESSELSEG_HOME": "the cache folder",
    "VESSELSEG_OFFLINE": "1 for no network",
}
_PART = re.compile(r"(.+)\.[0-9a-f]{12}\.part|\.[0-9a-f]{8}-\d+-[0-9a-f]{16}\.part")


class CachedFile(NamedTuple):
    """A verified file; `content` is what `verify` returned if the file was verified now."""

    path: Path
    sha256: str
    content: Any = None


def cache_folder() -> Path:
    """The folder that holds weights: ``VESSELSEG_HOME``, or one in the user's cache folder.

    Raises DownloadError if there is neither: in a container the user may have no home folder.
    """
    home = os.environ.get("VESSELSEG_HOME", "").strip()
    try:
        folder = Path(home).expanduser() if home else user_cache_path("vesselseg", appauthor=False)
    except RuntimeError:
        folder = Path("~")
    if folder.parts[:1] == ("~",):  # cannot be expanded
        raise DownloadError(
            "There is no cache folder, since this user has no home folder. Set the environment "
            "variable VESSELSEG_HOME to a folder."
        )
    return folder.absolute()


def _is_offline() -> bool:
    """Whether ``VESSELSEG_OFFLINE`` forbids the network."""
    text = os.environ.get("VESSELSEG_OFFLINE", "").strip().lower()
    return text not in ("", "0", "false", "no", "off")


def obtain(
    spec: ModelSpec, verify: Verify, *, progress: bool | OnProgress = True, force: bool = False
) -> CachedFile:
    """Return the weights file of a model, downloading it on a miss.

    See :func:`vesselseg.download` for `progress`, `force` and the errors.
    """
    if packaged := packaged_path(spec):
        return _check_packaged(packaged, spec)
    # Also with `force`: this records the digest of a file that is there, so that it binds.
    cached = find_cached(spec, verify)
    if cached and not force:
        return cached
    try:
        with _locked(spec), _show_progress(progress, spec.name) as on_progress:
            cached, answers = _search_cache(spec, verify)
            if cached and not force:
                return cached  # another process was faster
            for path, answer in answers:
                logger.warning("%s: %s It is downloaded again.", path, answer)
            for source, location in _locations(spec):
                try:
                    return _bring(location, source, spec, verify, on_progress)
                except SourceError as error:
                    answers.append((redact(location), redact(error)))
                    logger.debug("%s: %s", *answers[-1])
    except _CallerError as raised:
        of_caller = raised.error
    else:
        raise DownloadError(_describe_unavailable(spec, answers))
    raise of_caller


def find_cached(spec: ModelSpec, verify: Verify) -> CachedFile | None:
    """The verified file if it is on this machine, else None. The network is not used.

    A file whose size or time differ from its sidecar is hashed again. A file without a sidecar,
    put there by hand, is verified like a download.
    """
    if packaged := packaged_path(spec):
        try:
            return _check_packaged(packaged, spec)
        except DownloadError as error:
            logger.warning("%s", error)
            return None
    return _search_cache(spec, verify)[0]


def import_file(
    file: str | os.PathLike[str], spec: ModelSpec, verify: Verify, *, force: bool = False
) -> CachedFile:
    """Copy a file into the cache after the checks of a download.

    See :func:`vesselseg.import_file` for `force` and the errors.
    """
    file = Path(file)
    if packaged_path(spec):
        raise OptionError(f"{spec.name!r} is part of the package; it needs no file.")
    if not is_file(file):
        raise FileNotFoundError(f"There is no file {str(file)!r}.")
    with _locked(spec):
        _search_cache(spec, verify)  # records the digest of a file that is there, so that it binds
        try:
            digest = sha256(file)
        except OSError as error:
            raise CheckpointError(f"{str(file)!r} cannot be read: {error.strerror}.") from error
        sources = _named_sources(spec)
        by_name = [source for source in sources if source.filename == file.name]
        by_digest = [source for source in sources if source.matches(digest)]
        digits = " or ".join(source.digits for source in sources if not source.sha256)
        if digits and not by_digest and not force:
            raise CheckpointError(
                f"{str(file)!r} was not imported: it may be another file than that of "
                f"{spec.name!r}. Its SHA-256 is {digest}, and should begin with {digits}. Some "
                f"published digits were taken before the file was published, so it can still be "
                f"the right one. If you trust it, import it all the same (force); it is then "
                f"marked as unverified."
            )
        source = [*by_name, *by_digest, *sources][0]
        try:
            return _bring(file.absolute(), source, spec, verify, lambda *_: None)
        except SourceError as error:
            raise CheckpointError(
                f"{str(file)!r} was not imported for {spec.name!r}: {error}"
            ) from error


def contents(spec: ModelSpec | None = None) -> list[Path]:
    """Files of ours in the cache folder, of one model or of all: weights, sidecars and parts."""
    specs = list(REGISTRY.values()) if spec is None else [spec]
    names = {source.filename for each in specs for source in _named_sources(each)}
    found: list[Path] = []
    try:
        folder = cache_folder()
    except DownloadError:  # there is none
        return found
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        name = path.name.removesuffix(".json")
        if _PART.fullmatch(name):
            is_ours = spec is None or name.startswith(f"{spec.filename}.")
        else:
            is_ours = name in names
            sidecar = folder / f"{name}.json"
            if spec is None and not is_ours and sidecar.is_file():
                # Perhaps the file of a model spec that is not registered.
                is_ours = parse_sidecar(sidecar.read_bytes()) is not None
        if is_ours and path.is_file():
            found.append(path)
    return found


def clear(spec: ModelSpec | None = None) -> list[Path]:
    """Remove what :func:`contents` lists, except for parts that are being downloaded.

    Raises OutputError if a file cannot be removed.
    """
    removed = []
    for path in contents(spec):
        part = _PART.fullmatch(path.name.removesuffix(".json"))
        try:
            with contextlib.ExitStack() as stack:
                if part and part[1]:
                    stack.enter_context(_lock(path.parent, part[1]).acquire(timeout=0))
                path.unlink(missing_ok=True)
        except TimeoutError:
            logger.warning("%s is being downloaded and is kept.", path)
            continue
        except OSError as error:
            raise OutputError(f"{str(path)!r} cannot be removed: {error.strerror}.") from error
        removed.append(path)
    return removed


def _lock(folder: Path, name: str) -> BaseFileLock:
    """The lock of a file in the cache folder. The system releases it if its holder dies."""
    from filelock import FileLock

    (folder / ".locks").mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".locks" / f"{name}.lock")


@contextlib.contextmanager
def _locked(spec: ModelSpec) -> Iterator[None]:
    """A block in which no other thread or process downloads the same file."""
    folder = cache_folder()
    try:
        file_lock = _lock(folder, spec.filename)
        try:
            held = file_lock.acquire(timeout=1)
        except TimeoutError:
            logger.warning("Waiting for another process that downloads %s.", spec.name)
            held = file_lock.acquire()
        with held:
            yield
    except (OSError, NotImplementedError) as error:  # the latter on file systems without locks
        raise DownloadError(
            f"The weights of {spec.name!r} cannot be written to the cache folder "
            f"{str(folder)!r}: {error}. Make room or change its permissions, or set VESSELSEG_HOME "
            f"to another folder."
        ) from error


class _CallerError(Exception):
    """What the caller's own function raised; nothing here may take it for a failed download."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@contextlib.contextmanager
def _show_progress(progress: bool | OnProgress, name: str) -> Iterator[OnProgress]:
    """The caller's function, or a bar if standard error is a terminal."""
    if callable(progress):

        def call(received: int, length: int | None) -> None:
            try:
                progress(received, length)
            except Exception as error:
                raise _CallerError(error) from error

        yield call
        return
    with progress_bar(shown=progress, desc=name, unit="B", unit_scale=True, leave=False) as bar:

        def on_progress(received: int, length: int | None) -> None:
            bar.total = length
            bar.update(received - bar.n)  # less than nothing if the transfer starts again

        yield on_progress


def packaged_path(spec: ModelSpec) -> Path | None:
    """The file in the package, if the weights of a model come with it."""
    for source in spec.sources:
        if source.url.startswith("package:"):
            return Path(__file__).parents[1] / "embedded" / source.filename
    return None


def _check_packaged(path: Path, spec: ModelSpec) -> CachedFile:
    """The file in the package; DownloadError if it is missing, or is not the one that is pinned."""
    source = next(source for source in spec.sources if source.url.startswith("package:"))
    fault = "is missing from the package"
    if path.is_file():
        digest = sha256(path)
        if digest == (source.sha256.lower() or digest):
            return CachedFile(path, digest)
        fault = f"has the SHA-256 {digest}, but the model spec pins {source.sha256}"
    raise DownloadError(
        f"{str(path)!r}, the weights of {spec.name!r}, {fault}. The installation is damaged; "
        f"install vesselseg again, with pip's option --force-reinstall."
    )


def _named_sources(spec: ModelSpec) -> tuple[Source, ...]:
    """The names that a file can have in a cache or mirror, the current one first.

    Raises OptionError if an address does not end in a valid file name.
    """
    sources = spec.sources or (Source(spec.filename),)
    for source in sources:
        if not re.fullmatch(r"\w[\w .+=@,()-]*", source.filename):
            raise OptionError(
                f"{redact(source.url)!r} of the model {spec.name!r} does not end in a "
                f"file name (letters, digits and . _ - only)."
            )
    return sources


def _locations(spec: ModelSpec) -> Iterator[tuple[Source, Location]]:
    """Where to look for the file, in order: mirrors first, then the published addresses."""
    mirrors = [text.strip() for text in os.environ.get("VESSELSEG_MIRROR", "").split(",")]
    for mirror in filter(None, mirrors):
        for source in _named_sources(spec):
            if re.match(r"[A-Za-z][\w+.-]+://", mirror):
                yield source, f"{mirror.rstrip('/')}/{quote(source.filename)}"
            else:
                folder = os.path.expanduser(mirror)  # noqa: PTH111 (raises nothing if there is no home)
                yield source, Path(folder).absolute() / source.filename
    for source in spec.sources:
        yield source, source.url


def _search_cache(
    spec: ModelSpec, verify: Verify
) -> tuple[CachedFile | None, list[tuple[str, str]]]:
    """The verified file in the folder, or else what is wrong with each file that is there."""
    answers: list[tuple[str, str]] = []
    sources = _named_sources(spec)
    try:
        folder = cache_folder()
    except DownloadError:
        return None, answers
    for source in sources:
        path = folder / source.filename
        try:
            if path.is_file():
                return _check_cached(path, source, spec, verify), []
        except (SourceError, OSError) as error:
            answers.append((str(path), f"This file cannot be used. {error}"))
    return None, answers


def _check_cached(path: Path, source: Source, spec: ModelSpec, verify: Verify) -> CachedFile:
    """Check a file in the folder against its sidecar, or verify it and write one."""
    sidecar, stat, content = read_sidecar(path), path.stat(), None
    if sidecar is None:
        digest, content = _check_new(path, source, spec, verify)
        sidecar = _new_sidecar(digest, "by hand", source, spec)
    elif (sidecar.size, sidecar.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
        _check_digest(sidecar.sha256, source, spec)
        return CachedFile(path, sidecar.sha256)
    else:
        digest = sha256(path)
        _check_digest(digest, source, spec)
    with contextlib.suppress(OSError):  # in a read-only cache it is hashed each time
        sidecar.write(path, path)
    return CachedFile(path, digest, content)


def _check_new(
    path: Path, source: Source, spec: ModelSpec, verify: Verify, location: Location | None = None
) -> tuple[str, Any]:
    """The digest of a new file and what `verify` makes of it; SourceError if it is a wrong one."""
    with path.open("rb") as stream:
        if stream.read(512).lstrip()[:1] == b"<":
            raise SourceError("It is a page of text (HTML or XML) instead of the weights.")
    digest = sha256(path)
    _check_digest(digest, source, spec, location)
    try:
        return digest, verify(path, spec)
    except CheckpointError as error:
        raise SourceError(str(error).replace(repr(str(path)), repr(source.filename))) from error


def _check_digest(
    digest: str, source: Source, spec: ModelSpec, location: Location | None = None
) -> None:
    """Raise SourceError if a digest is not the pinned one or, if none is, not a recorded one.

    Known are the sidecars in the cache folder, in mirror folders, and beside the file on a
    mirror's address, `location`.
    """
    if source.sha256:
        pinned = source.sha256.lower()
        if digest != pinned:
            raise SourceError(f"Its SHA-256 is {digest}, but the model spec pins {pinned}.")
        return
    places = [place for named, place in _locations(spec) if named == source]
    files = [cache_folder() / source.filename, *places]
    sidecars = {str(file): read_sidecar(file) for file in files if isinstance(file, Path)}
    if isinstance(location, str) and location != source.url:
        content = transfer.fetch_sidecar(f"{location}.json")
        sidecars[redact(location)] = parse_sidecar(content)
    # One file may serve several model specs.
    addresses = [redact(each.url) for each in _named_sources(spec)]
    for file, sidecar in sidecars.items():
        if sidecar is None:
            continue
        if sidecar.model not in ("", spec.name) and sidecar.address not in addresses:
            raise SourceError(
                f"{file}.json records a file of the same name for another model, "
                f"{sidecar.model!r} from {sidecar.address}. Rename yours, or set another "
                f"VESSELSEG_HOME."
            )
        if digest != sidecar.sha256:
            when = f" on {sidecar.date[:10]}" if sidecar.date else ""
            raise SourceError(
                f"Its SHA-256 is {digest}, but {file}.json recorded {sidecar.sha256}{when}. If a "
                f"new file was published and you trust it, remove the old one first: "
                f"vesselseg cache --clear {spec.name}"
            )


def _bring(
    location: Location, source: Source, spec: ModelSpec, verify: Verify, on_progress: OnProgress
) -> CachedFile:
    """Transfer a file into the cache; raise SourceError if it is not the right one."""
    if isinstance(location, str) and _is_offline():
        raise SourceError("Not asked, since VESSELSEG_OFFLINE is set.")
    key = hashlib.sha256(str(location).encode(errors="backslashreplace")).hexdigest()[:12]
    part = cache_folder() / f"{spec.filename}.{key}.part"
    target = part.with_name(source.filename)
    origin = redact(location)
    for is_last in (False, True):
        joined = False
        if isinstance(location, Path):
            transfer.copy(location, part, on_progress)
        else:
            joined = transfer.fetch(location, part, on_progress)
        # Joined pieces may come from two versions of the file: transfer it again, in one piece.
        may_repeat = joined and not is_last
        try:
            digest, content = _check_new(part, source, spec, verify, location)
            if source.matches(digest) or not may_repeat:
                break
        except SourceError:
            if not may_repeat:
                transfer.discard(part)
                raise
        transfer.discard(part)
    # The sidecar comes first, so that nobody finds a file without one.
    _new_sidecar(digest, origin, source, spec).write(target, part)
    replace(part, target)
    for rest in target.parent.glob(f"{spec.filename}.*.part*"):  # of other addresses too
        with contextlib.suppress(OSError):  # on Windows, of a file that a program has open
            rest.unlink()
    logger.info("%s was obtained from %s.", target, origin)
    return CachedFile(target, digest, content)


def _new_sidecar(digest: str, obtained_from: str, source: Source, spec: ModelSpec) -> Sidecar:
    """A sidecar with today's date; what its digest does not agree with is warned of."""
    if not source.matches(digest):
        logger.warning(
            "The SHA-256 of %s (%s) is %s, which does not begin with the digits in its name, %s. "
            "The file is used, since it holds all weights of %s; results are marked as unverified.",
            source.filename, obtained_from, digest, source.digits, spec.name,
        )  # fmt: skip
    return Sidecar(
        sha256=digest,
        model=spec.name,
        address=redact(source.url),
        obtained_from=obtained_from,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _describe_unavailable(spec: ModelSpec, answers: list[tuple[str, str]]) -> str:
    """An error message for weights that no source has: why, and what to do."""
    offline = " (VESSELSEG_OFFLINE is set)" if _is_offline() else ""
    lines = [f"The weights of {spec.name!r} could not be downloaded{offline}."]
    lines.append("Sources and their answers:" if answers else "No address is known.")
    for location, answer in answers:
        lines += [f"  {location}", f"    {answer}"]
    lines.append("To install them by hand, put the file at one of")
    for source in _named_sources(spec):
        lines.append(f"  {cache_folder() / source.filename}")
        if source.sha256:
            lines.append(f"    SHA-256 {source.sha256}")
        elif source.digits:
            lines.append(f"    SHA-256 begins with {source.digits}")
    command = "vesselseg.import_file(FILE, SPEC)"
    if REGISTRY.get(spec.name) == spec:
        command = f"vesselseg import FILE --name {spec.name}"
    lines += [f"or let vesselseg verify and copy it: {command}", "Environment variables:"]
    for name, meaning in _VARIABLES.items():
        text = os.environ.get(name)
        value = f"now {redact(text)!r}" if text else "not set"
        lines.append(f"  {name} ({value}): {meaning}")
    lines.append("  HTTPS_PROXY; SSL_CERT_FILE, REQUESTS_CA_BUNDLE: proxy; trusted certificates")
    return "\n".join(lines)
