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
import datetime
import hashlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import quote

from ..errors import CheckpointError, DownloadError, OptionError, OutputError
from ..files import sha256, whole_file
from ..registry import REGISTRY
from ..spec import ModelSpec, Source
from . import transfer
from .transfer import OnProgress, Received
from .verify import (
    Sidecar,
    SourceError,
    Verify,
    check_content,
    check_digest,
    check_not_a_page,
    matches_name,
    parse_sidecar,
    read_sidecar,
)

if TYPE_CHECKING:
    from filelock import BaseFileLock

logger = logging.getLogger(__name__)

Location: TypeAlias = "str | Path"
"""An address, or a file on this machine."""

_DIGEST_DIGITS = 64
_PART = re.compile(r"(.+)\.[0-9a-f]{12}\.part|\.[0-9a-f]{16}\.part")
_DERIVED = re.compile(r"(.+)\.[0-9a-f]{12}\.\w+\.derived")
_CANNOT_LOCK = (OSError, NotImplementedError)  # the latter on file systems without locks


class CachedFile(NamedTuple):
    """A verified file.

    Attributes
    ----------
    path : Path
    sha256 : str
    content : object
        What `verify` returned, if the file had to be verified now; else None.
    """

    path: Path
    sha256: str
    content: Any


def cache_folder() -> Path:
    """The folder that holds weights: ``VESSELSEG_HOME``, or one in the user's cache folder."""
    home = os.environ.get("VESSELSEG_HOME", "").strip()
    if home:
        return Path(home).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("vesselseg", appauthor=False)


def is_offline() -> bool:
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
        if packaged.is_file():
            return CachedFile(packaged, sha256(packaged), None)
        raise DownloadError(
            f"{str(packaged)!r}, the weights of {spec.name!r}, is missing from the package. The "
            f"installation is damaged; repair it: "
            f"pip install --force-reinstall --no-deps vesselseg"
        )
    if not force and (cached := find_cached(spec, verify)):
        return cached
    with locked(spec) as folder, show_progress(progress, spec.name) as on_progress:
        # Also with `force`: this records the digest of a file that is there, so that it binds.
        cached, answers = search_cache(spec, verify)
        if cached and not force:
            return cached  # another process was faster
        for path, answer in answers:
            logger.warning("%s: %s It is downloaded again.", path, answer)
        for source, location in locations(spec):
            try:
                return bring(location, source, spec, verify, folder, on_progress)
            except SourceError as error:
                logger.debug("%s: %s", without_password(location), error)
                answers.append((without_password(location), str(error)))
    raise DownloadError(describe_unavailable(spec, answers))


def find_cached(spec: ModelSpec, verify: Verify) -> CachedFile | None:
    """The verified file if it is on this machine, else None. The network is not used.

    A file whose size or time differ from its sidecar is hashed again. A file without a sidecar,
    put there by hand, is verified like a download.
    """
    if packaged := packaged_path(spec):
        return CachedFile(packaged, sha256(packaged), None) if packaged.is_file() else None
    return search_cache(spec, verify)[0]


def import_file(file: str | os.PathLike[str], spec: ModelSpec, verify: Verify) -> CachedFile:
    """Copy a file into the cache after the checks of a download.

    See :func:`vesselseg.import_file` for the errors.
    """
    file = Path(file)
    if packaged_path(spec):
        raise OptionError(f"{spec.name!r} is part of the package; it needs no file.")
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {str(file)!r}.")
    with locked(spec) as folder:
        search_cache(spec, verify)  # records the digest of a file that is there, so that it binds
        try:
            digest = sha256(file)
        except OSError as error:
            raise CheckpointError(f"{str(file)!r} cannot be read: {error.strerror}.") from error
        sources = named_sources(spec)
        by_name = [source for source in sources if source.filename == file.name]
        by_digest = [source for source in sources if matches_name(digest, source)]
        source = [*by_name, *by_digest, *sources][0]
        try:
            return bring(file.absolute(), source, spec, verify, folder, lambda *_: None)
        except SourceError as error:
            raise CheckpointError(
                f"{str(file)!r} was not imported for {spec.name!r}: {error}"
            ) from error


def contents(spec: ModelSpec | None = None) -> list[Path]:
    """Files of ours in the cache folder: weights, sidecars, parts, derived files; of one or all."""
    specs = list(REGISTRY.values()) if spec is None else [spec]
    names = {source.filename for each in specs for source in named_sources(each)}
    prefixes = tuple(f"{each.filename}." for each in specs)
    folder = cache_folder()
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        weights_name = path.name.removesuffix(".json")
        if _PART.fullmatch(weights_name) or _DERIVED.fullmatch(path.name):
            is_ours = spec is None or path.name.startswith(prefixes)
        else:
            is_ours = weights_name in names
            if spec is None and not is_ours:  # the file of a model spec that is not registered
                sidecar = path.with_name(f"{weights_name}.json")
                is_ours = sidecar.is_file() and parse_sidecar(sidecar.read_bytes()) is not None
        if is_ours and path.is_file():
            found.append(path)
    return found


def clear(spec: ModelSpec | None = None) -> list[Path]:
    """Remove what :func:`contents` lists, except for parts that are being downloaded.

    Raises
    ------
    OutputError
        If a file cannot be removed.
    """
    removed = []
    for path in contents(spec):
        part = _PART.fullmatch(path.name.removesuffix(".json"))
        try:
            with contextlib.ExitStack() as stack:
                if part and part[1]:
                    stack.enter_context(lock(path.parent, part[1]).acquire(timeout=0))
                path.unlink(missing_ok=True)
        except TimeoutError:
            logger.warning("%s is being downloaded and is kept.", path)
            continue
        except OSError as error:
            raise OutputError(f"{str(path)!r} cannot be removed: {error.strerror}.") from error
        removed.append(path)
    return removed


def derived(spec: ModelSpec, key: str, suffix: str, make: Callable[[], bytes]) -> bytes:
    """Bytes computed from a model's weights: from the cache folder, or computed on a miss.

    The file ``NAME.KEY.SUFFIX.derived`` holds the SHA-256 of its key and content, then the
    content. If the folder cannot be written, a warning is logged and nothing is kept.

    Parameters
    ----------
    spec : ModelSpec
        The model. ``vesselseg cache --clear NAME`` removes the file.
    key : str
        64 hexadecimal digits of everything that the bytes depend on.
    suffix : str
        A word for what they are.
    make : callable
        Computes them; called by one process at a time.
    """
    file = cache_folder() / f"{spec.filename}.{key[:12]}.{suffix}.derived"
    content = read_derived(file, key)
    if content is not None:
        return content
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(file.parent, file.name).acquire())
        except _CANNOT_LOCK as error:
            logger.warning("%s cannot be written (%s); it is computed each time.", file, error)
            return make()
        content = read_derived(file, key)  # another process may have been faster
        if content is None:
            content = make()
            digest = hashlib.sha256(key.encode() + content).hexdigest()
            try:
                with whole_file(file) as part:
                    part.write_bytes(digest.encode() + content)
            except OutputError as error:
                logger.warning("%s It is computed each time.", error)
        return content


def read_derived(file: Path, key: str) -> bytes | None:
    """The content of a derived file, or None if it does not exist or is damaged."""
    try:
        stored = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s cannot be read (%s); it is computed again.", file, error)
        return None
    content = stored[_DIGEST_DIGITS:]
    digest = hashlib.sha256(key.encode() + content).hexdigest()
    if stored[:_DIGEST_DIGITS] == digest.encode():
        return content
    logger.warning("%s is damaged; it is computed again.", file)
    return None


def lock(folder: Path, name: str) -> BaseFileLock:
    """The lock of a file in the cache folder. The system releases it if its holder dies."""
    from filelock import FileLock

    (folder / ".locks").mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".locks" / f"{name}.lock")


@contextlib.contextmanager
def locked(spec: ModelSpec) -> Iterator[Path]:
    """The cache folder, while no other thread or process downloads the same file."""
    folder = cache_folder()
    try:
        with contextlib.ExitStack() as stack:
            file_lock = lock(folder, spec.filename)
            try:
                stack.enter_context(file_lock.acquire(timeout=1))
            except TimeoutError:
                logger.info("Waiting for another process that downloads %s.", spec.name)
                stack.enter_context(file_lock.acquire())
            yield folder
    except DownloadError:
        raise
    except _CANNOT_LOCK as error:
        raise DownloadError(
            f"The weights of {spec.name!r} cannot be written to the cache folder "
            f"{str(folder)!r}: {error}. Make room or change its permissions, or set VESSELSEG_HOME "
            f"to another folder."
        ) from error


@contextlib.contextmanager
def show_progress(progress: bool | OnProgress, name: str) -> Iterator[OnProgress]:
    """The caller's function, or a bar if standard error is a terminal."""
    if callable(progress):
        yield progress
        return
    from tqdm import tqdm

    visible = progress and sys.stderr is not None and sys.stderr.isatty()
    with tqdm(desc=name, unit="B", unit_scale=True, leave=False, disable=not visible) as bar:

        def on_progress(received: int, length: int | None) -> None:
            if received < bar.n or length != bar.total:  # the transfer starts, or starts again
                bar.reset(length)
            bar.update(received - bar.n)

        yield on_progress


def packaged_path(spec: ModelSpec) -> Path | None:
    """The file in the package, if the weights of a model come with it."""
    for source in spec.sources:
        if source.url.startswith("package:"):
            return Path(__file__).parents[1] / "embedded" / source.filename
    return None


def named_sources(spec: ModelSpec) -> tuple[Source, ...]:
    """The names that a file can have in a cache or mirror, the current one first.

    Raises
    ------
    OptionError
        If an address does not end in a valid file name.
    """
    sources = spec.sources or (Source(spec.filename),)
    for source in sources:
        if not re.fullmatch(r"\w[\w .+=@,()-]*", source.filename):
            raise OptionError(
                f"{source.url!r} of the model {spec.name!r} does not end in a file name "
                f"(letters, digits and . _ - only)."
            )
    return sources


def mirrors() -> list[Location]:
    """Folders and base addresses in ``VESSELSEG_MIRROR``."""
    found: list[Location] = []
    for text in os.environ.get("VESSELSEG_MIRROR", "").split(","):
        mirror = text.strip()
        if re.match(r"[A-Za-z][\w+.-]+://", mirror):
            found.append(mirror)
        elif mirror:
            found.append(Path(mirror).expanduser().absolute())
    return found


def locations(spec: ModelSpec) -> Iterator[tuple[Source, Location]]:
    """Where to look for the file, in order: mirrors first, then the published addresses."""
    for mirror in mirrors():
        for source in named_sources(spec):
            if isinstance(mirror, Path):
                yield source, mirror / source.filename
            else:
                yield source, f"{mirror.rstrip('/')}/{quote(source.filename)}"
    for source in spec.sources:
        yield source, source.url


def without_password(location: Location) -> str:
    """A location as it may be shown."""
    if isinstance(location, Path):
        return str(location)
    return re.sub(r"//[^/@]*@", "//", location)


def search_cache(
    spec: ModelSpec, verify: Verify
) -> tuple[CachedFile | None, list[tuple[str, str]]]:
    """The verified file in the folder, or else what is wrong with each file that is there."""
    answers = []
    for source in named_sources(spec):
        path = cache_folder() / source.filename
        try:
            if path.is_file():
                return check_cached(path, source, spec, verify), []
        except (SourceError, OSError) as error:
            answers.append((str(path), f"This file cannot be used. {error}"))
    return None, answers


def check_cached(path: Path, source: Source, spec: ModelSpec, verify: Verify) -> CachedFile:
    """Check a file in the folder against its sidecar, or verify it and write one."""
    sidecar = read_sidecar(path)
    if sidecar is not None and sidecar.describes(path):
        check_recorded(sidecar.sha256, source, spec)
        return CachedFile(path, sidecar.sha256, None)
    digest, content = sha256(path), None
    check_recorded(digest, source, spec)
    if sidecar is None:
        check_not_a_page(path)
        content = check_content(path, source, spec, verify)
        sidecar = new_sidecar(digest, "by hand", source, spec)
    stat = path.stat()
    with contextlib.suppress(OSError):  # in a read-only cache it is hashed each time
        replace(sidecar, size=stat.st_size, mtime_ns=stat.st_mtime_ns).write(path)
    return CachedFile(path, digest, content)


def check_recorded(
    digest: str, source: Source, spec: ModelSpec, location: Location | None = None
) -> None:
    """Raise SourceError if the digest is not the pinned one, or the one in any known sidecar.

    Known are those in the cache folder, in mirror folders, and beside a file on a mirror's
    address, `location`.
    """
    folders = [cache_folder(), *(mirror for mirror in mirrors() if isinstance(mirror, Path))]
    files = [folder / source.filename for folder in folders]
    sidecars = [(str(file), sidecar) for file in files if (sidecar := read_sidecar(file))]
    if isinstance(location, str) and location != source.url and not source.sha256:
        sidecar = parse_sidecar(transfer.fetch_sidecar(f"{location}.json") or b"")
        if sidecar is not None:
            sidecars.append((without_password(location), sidecar))
    addresses = [without_password(each.url) for each in named_sources(spec)]
    check_digest(digest, source, spec, addresses, sidecars)


def bring(
    location: Location,
    source: Source,
    spec: ModelSpec,
    verify: Verify,
    folder: Path,
    on_progress: OnProgress,
) -> CachedFile:
    """Transfer a file into the cache; raise SourceError if it is not the right one."""
    if isinstance(location, str) and is_offline():
        raise SourceError("Not asked, since VESSELSEG_OFFLINE is set.")
    key = hashlib.sha256(str(location).encode(errors="backslashreplace")).hexdigest()[:12]
    part = folder / f"{spec.filename}.{key}.part"

    def receive() -> Received:
        if isinstance(location, Path):
            return transfer.copy(location, part, on_progress)
        return transfer.fetch(location, part, on_progress)

    def check(digest: str) -> Any:
        check_not_a_page(part)
        check_recorded(digest, source, spec, location)
        return check_content(part, source, spec, verify)

    received = receive()
    if received.resumed:
        with contextlib.suppress(SourceError):
            content = check(received.sha256)
            if matches_name(received.sha256, source):
                return keep(part, received.sha256, content, location, source, spec)
        # Its pieces may come from two versions of the file: transfer it again, in one piece.
        transfer.discard(part)
        received = receive()
    try:
        content = check(received.sha256)
    except SourceError:
        transfer.discard(part)
        raise
    return keep(part, received.sha256, content, location, source, spec)


def keep(
    part: Path, digest: str, content: Any, location: Location, source: Source, spec: ModelSpec
) -> CachedFile:
    """Give a verified part its name and its sidecar."""
    if not matches_name(digest, source):
        logger.warning(
            "The SHA-256 of %s from %s is %s, which does not begin with the digits in its name, "
            "%s. The file is used, since it holds all weights of %s. Its digest is recorded; a "
            "later file with a different one will be rejected.",
            source.filename, without_password(location), digest, source.digits, spec.name,
        )  # fmt: skip
    target = part.with_name(source.filename)
    stat = part.stat()
    sidecar = new_sidecar(digest, without_password(location), source, spec)
    # The sidecar comes first, so that nobody finds a file without one.
    replace(sidecar, size=stat.st_size, mtime_ns=stat.st_mtime_ns).write(target)
    part.replace(target)
    for rest in target.parent.glob(f"{spec.filename}.*.part*"):  # of other addresses too
        rest.unlink(missing_ok=True)
    logger.info("%s: SHA-256 %s, from %s", target, digest, without_password(location))
    return CachedFile(target, digest, content)


def new_sidecar(digest: str, obtained_from: str, source: Source, spec: ModelSpec) -> Sidecar:
    """A sidecar with today's date."""
    return Sidecar(
        sha256=digest,
        model=spec.name,
        address=without_password(source.url),
        obtained_from=obtained_from,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def describe_unavailable(spec: ModelSpec, answers: list[tuple[str, str]]) -> str:
    """An error message for weights that no source has: why, and what to do."""
    offline = " (VESSELSEG_OFFLINE is set)" if is_offline() else ""
    lines = [f"The weights of {spec.name!r} could not be downloaded{offline}."]
    lines.append("Sources and their answers:" if answers else "No address is known.")
    for location, answer in answers:
        lines += [f"  {location}", f"    {answer}"]
    lines.append("To install them by hand, put the file at one of")
    for source in named_sources(spec):
        lines.append(f"  {cache_folder() / source.filename}")
        if source.sha256:
            lines.append(f"    SHA-256 {source.sha256}")
        elif source.digits:
            lines.append(f"    SHA-256 begins with {source.digits}")
    command = "vesselseg.import_file(FILE, SPEC)"
    if REGISTRY.get(spec.name) == spec:
        command = f"vesselseg import FILE --name {spec.name}"
    lines += [
        f"or let vesselseg verify and copy it: {command}",
        "Environment variables:",
        f"  VESSELSEG_MIRROR ({describe_variable('VESSELSEG_MIRROR')}): folders or base addresses "
        f"that hold the file",
        f"  VESSELSEG_HOME ({describe_variable('VESSELSEG_HOME')}): the cache folder",
        f"  VESSELSEG_OFFLINE ({describe_variable('VESSELSEG_OFFLINE')}): 1 for no network",
        "  HTTPS_PROXY, REQUESTS_CA_BUNDLE: proxy and trusted certificates",
    ]
    return "\n".join(lines)


def describe_variable(name: str) -> str:
    """The value of an environment variable, as it may be shown."""
    text = os.environ.get(name)
    return f"now {without_password(text)!r}" if text else "not set"
