"""Transfer one file, over HTTP or from a folder, into a part file that can be resumed.

A body that broke off is resumed with a Range request guarded by If-Range, so that a file that
changed in the meantime is sent whole instead of as a mixture of two.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from .._version import __version__
from .verify import SourceError

if TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

OnProgress: TypeAlias = Callable[[int, "int | None"], None]
"""Called with the number of bytes received and, if known, that of the whole file."""

CHUNK = 1 << 16
RETRIES = 3
LONGEST_WAIT = 30.0  # seconds, whatever Retry-After asks for
_BACKOFF = 0.5  # seconds before the first retry; doubled for each further one
_TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two pieces of the answer
_PROGRESS = 1 << 20  # bytes received after which the retries are counted from the start again
_TEMPORARY = (429, 500, 502, 503, 504)
_LARGEST_SIDECAR = 1 << 16


class Received(NamedTuple):
    """A complete part file: its digest, and whether several answers were joined."""

    sha256: str
    resumed: bool


class TemporaryError(Exception):
    """A fault that can go away: trying again is worthwhile."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait  # seconds that the server asks for


def fetch(url: str, part: Path, on_progress: OnProgress) -> Received:
    """Download `url` into `part`, resuming what is there already.

    Raises
    ------
    SourceError
        If the file cannot be downloaded. `part` is kept if it can be resumed.
    OSError
        If `part` cannot be written.
    """
    failures = 0
    try:
        with open_session() as session:
            while True:
                before = size_of(part)
                try:
                    return attempt(session, url, part, on_progress)
                except TemporaryError as error:
                    if size_of(part) - before >= _PROGRESS:
                        failures = 0
                    failures += 1
                    if failures > RETRIES:
                        raise SourceError(f"{error} ({failures} attempts).") from error
                    wait = max(error.wait, _BACKOFF * 2 ** (failures - 1))
                    logger.debug("%s: %s; trying again in %.1f s", url, error, wait)
                    time.sleep(min(wait, LONGEST_WAIT))
    except BaseException:
        if not read_progress(part)[0]:
            discard(part)  # it cannot be resumed
        raise


def attempt(session: requests.Session, url: str, part: Path, on_progress: OnProgress) -> Received:
    """Make one request for what is missing of `part`."""
    import requests

    validator, length = read_progress(part)
    offset = size_of(part) if validator else 0
    digest = hashlib.sha256()
    if offset and offset == length:  # interrupted after the last byte
        add_file(digest, part)
        return Received(digest.hexdigest(), resumed=True)
    headers = {"Range": f"bytes={offset}-", "If-Range": validator} if offset else {}
    try:
        response = session.get(url, headers=headers, stream=True, timeout=_TIMEOUT)
    except requests.exceptions.SSLError as error:
        raise SourceError(describe(error)) from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise TemporaryError(describe(error)) from error
    except (OSError, ValueError) as error:  # not an address, no certificates, ...
        raise SourceError(describe(error)) from error
    with response:
        status = response.status_code
        if status in _TEMPORARY:
            raise TemporaryError(f"HTTP {status} {response.reason}", requested_wait(response))
        if status not in (200, 206, 416):
            raise SourceError(f"HTTP {status} {response.reason}")
        encoding = response.headers.get("Content-Encoding", "identity")
        if status == 200 and encoding == "identity":
            offset = 0  # the file changed, or the server always sends all of it
            length = content_length(response)
        elif status == 206 and encoding == "identity" and continues(response, offset, length):
            add_file(digest, part)
        elif offset:
            discard(part)
            raise TemporaryError("It did not continue the file where it broke off")
        else:
            raise SourceError(f"HTTP {status} with the encoding {encoding!r}, unasked for.")
        with part.open("ab" if offset else "wb") as stream:
            if not offset:
                write_progress(part, response, length)
            received = offset
            on_progress(received, length)
            try:
                for chunk in response.iter_content(CHUNK):
                    digest.update(chunk)
                    stream.write(chunk)
                    stream.flush()  # a killed process leaves everything that arrived
                    received += len(chunk)
                    on_progress(received, length)
            except requests.RequestException as error:
                raise TemporaryError(
                    f"It broke off after {received} of {length or '?'} bytes ({describe(error)})"
                ) from error
            os.fsync(stream.fileno())  # all bytes are on the disk before the file gets its name
    if length is not None and received < length:
        raise TemporaryError(f"It broke off after {received} of {length} bytes")
    if length is not None and received > length:
        discard(part)
        raise SourceError(f"It sent {received} bytes but had announced {length}.")
    return Received(digest.hexdigest(), resumed=offset > 0)


def copy(file: Path, part: Path, on_progress: OnProgress) -> Received:
    """Copy a regular file to `part`.

    Raises
    ------
    SourceError
        If `file` does not exist, is not a regular file, or cannot be read.
    OSError
        If `part` cannot be written.
    """
    digest, received = hashlib.sha256(), 0
    if file.exists() and not file.is_file():
        raise SourceError("It is not a regular file.")
    try:
        source = file.open("rb")
    except OSError as error:
        raise SourceError(f"{error.strerror}.") from error
    try:
        with source, part.open("wb") as stream:
            length = size_of(file)
            on_progress(received, length)
            while chunk := read_chunk(source):
                digest.update(chunk)
                stream.write(chunk)
                received += len(chunk)
                on_progress(received, length)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        discard(part)
        raise
    return Received(digest.hexdigest(), resumed=False)


def read_chunk(source: Any) -> bytes:
    """The next piece of a file; SourceError if it cannot be read."""
    try:
        chunk: bytes = source.read(1 << 20)
    except OSError as error:
        raise SourceError(f"{error.strerror}.") from error
    return chunk


def fetch_sidecar(url: str) -> bytes | None:
    """A small file at `url`; None if it does not exist or the server does not answer."""
    with (
        contextlib.suppress(OSError, ValueError),  # all exceptions of requests are OSErrors
        open_session() as session,
        session.get(url, stream=True, timeout=_TIMEOUT) as response,
    ):
        if response.status_code == 200:
            return next(response.iter_content(_LARGEST_SIDECAR), b"")
    return None


def discard(part: Path) -> None:
    """Remove a part file and its progress record."""
    progress_path(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


def progress_path(part: Path) -> Path:
    """Where the validator and the length of a part's file are recorded."""
    return part.with_name(f"{part.name}.json")


def read_progress(part: Path) -> tuple[str, int | None]:
    """Validator (ETag or date) and length of the file that a part belongs to; "" if unknown."""
    try:
        values = json.loads(progress_path(part).read_bytes())
        validator, length = values["validator"], values["length"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "", None
    if not isinstance(length, (int, type(None))):
        return "", None
    return usable_validator(validator), length


def write_progress(part: Path, response: requests.Response, length: int | None) -> None:
    """Record what resuming the part needs."""
    validator = response.headers.get("ETag", "")
    if not validator or validator.startswith("W/"):  # a weak one does not vouch for every byte
        validator = response.headers.get("Last-Modified", "")
    values = {"validator": usable_validator(validator), "length": length}
    progress_path(part).write_text(json.dumps(values))


def usable_validator(validator: object) -> str:
    """A validator if it can be sent as a header, else ""."""
    if isinstance(validator, str) and validator.isascii() and validator.isprintable():
        return validator
    return ""


def content_length(response: requests.Response) -> int | None:
    """The announced number of bytes, if it is a sensible number."""
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def continues(response: requests.Response, offset: int, length: int | None) -> bool:
    """Whether an answer starts where the part ends, in a file of the same length."""
    text = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", text.strip())
    if found is None or not offset or int(found[1]) != offset:
        return False
    return length is None or found[2] in ("*", str(length))


def requested_wait(response: requests.Response) -> float:
    """Seconds that a server asks to wait; 0 if it says nothing usable."""
    text = response.headers.get("Retry-After", "")
    return float(text) if re.fullmatch("[0-9]{1,9}", text) else 0.0


def size_of(path: Path) -> int:
    """Size of a file in bytes; 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def add_file(digest: Any, path: Path) -> None:
    """Update a digest with the content of a file."""
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)


@contextlib.contextmanager
def open_session() -> Iterator[requests.Session]:
    """A session of requests, with its proxies and certificates; it does not retry by itself."""
    import requests

    with requests.Session() as session:
        session.headers["User-Agent"] = f"vesselseg/{__version__}"
        # A compressed answer has another length and cannot be resumed.
        session.headers["Accept-Encoding"] = "identity"
        yield session


def describe(error: Exception) -> str:
    """The fault itself, without the layers around it."""
    inner = error.args[0] if error.args else error
    inner = getattr(inner, "reason", None) or inner
    return f"{type(error).__name__}: {inner}"
