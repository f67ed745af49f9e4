"""Transfer one file, over HTTP or from a folder, into a part file that can be resumed.

A body that broke off is resumed with a Range request guarded by If-Range, so that a file that
changed in the meantime is sent whole instead of as a mixture of two.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from .._version import __version__
from ..errors import redact
from .sidecar import sidecar_path

if TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

OnProgress: TypeAlias = Callable[[int, "int | None"], None]
"""Called with the number of bytes received and, if known, that of the whole file."""

CHUNK = 1 << 16
_RETRIES = 3
_LONGEST_WAIT = 30.0  # seconds, whatever Retry-After asks for
_BACKOFF = 0.5  # seconds before the first retry; doubled for each further one
_TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two pieces of the answer
_PROGRESS = 1 << 20  # bytes received after which the retries are counted from the start again
_TEMPORARY = (429, 500, 502, 503, 504)


class SourceError(Exception):
    """A source has no file that can be used; the message says why."""


class _TemporaryError(Exception):
    """A fault that can go away; `wait` is the number of seconds that the server asks for."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


def fetch(url: str, part: Path, on_progress: OnProgress) -> bool:
    """Download `url` into `part`, resuming what is there; return whether answers were joined.

    Raises SourceError if the file cannot be downloaded (`part` is kept if it can be resumed), and
    OSError if `part` cannot be written.
    """
    failures = 0
    try:
        with open_session() as session:
            while True:
                before = _size_of(part)
                try:
                    return _attempt(session, url, part, on_progress)
                except _TemporaryError as error:
                    if _size_of(part) - before >= _PROGRESS:
                        failures = 0
                    failures += 1
                    if failures > _RETRIES:
                        raise SourceError(f"{error} ({failures} attempts).") from error
                    wait = max(error.wait, _BACKOFF * 2 ** (failures - 1))
                    logger.debug("%s: %s; trying again in %.1f s", part.name, redact(error), wait)
                    time.sleep(min(wait, _LONGEST_WAIT))
    except BaseException:
        if not _read_progress(part)[0]:
            discard(part)  # it cannot be resumed
        raise


def _attempt(session: requests.Session, url: str, part: Path, on_progress: OnProgress) -> bool:
    """Make one request for what is missing of `part`; return whether it continued the part."""
    import requests

    validator, length = _read_progress(part)
    offset = _size_of(part) if validator else 0
    if offset and offset == length:  # interrupted after the last byte
        return True
    headers = {"Range": f"bytes={offset}-", "If-Range": validator} if offset else {}
    try:
        response = session.get(url, headers=headers, stream=True, timeout=_TIMEOUT)
    except requests.exceptions.SSLError as error:
        raise SourceError(_describe(error)) from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _TemporaryError(_describe(error)) from error
    except (OSError, ValueError) as error:  # not an address, no certificates, ...
        raise SourceError(_describe(error)) from error
    with response:
        status = response.status_code
        if status in _TEMPORARY:
            wait = _to_integer(response.headers.get("Retry-After", "")) or 0
            raise _TemporaryError(f"HTTP {status} {response.reason}", wait)
        if status not in (200, 206, 416):
            raise SourceError(f"HTTP {status} {response.reason}")
        encoding = response.headers.get("Content-Encoding", "identity")
        if status == 200 and encoding == "identity":
            offset = 0  # the file changed, or the server always sends all of it
            length = _to_integer(response.headers.get("Content-Length", ""))
        elif not offset:
            fault = "a part of the file" if encoding == "identity" else f"the encoding {encoding!r}"
            raise SourceError(f"HTTP {status} with {fault}, unasked for.")
        elif status != 206 or encoding != "identity" or not _continues(response, offset, length):
            discard(part)
            raise _TemporaryError("It did not continue the file where it broke off")
        with part.open("ab" if offset else "wb") as stream:
            if not offset:
                _write_progress(part, response, length)
            try:
                _write(response.iter_content(CHUNK), stream, length, on_progress)
            except requests.RequestException as error:
                raise _TemporaryError(
                    f"It broke off after {_size_of(part)} of {length or '?'} bytes "
                    f"({_describe(error)})"
                ) from error
    received = _size_of(part)
    if length is not None and received < length:
        raise _TemporaryError(f"It broke off after {received} of {length} bytes")
    if length is not None and received > length:
        discard(part)
        raise SourceError(f"It sent {received} bytes but had announced {length}.")
    return offset > 0


def copy(file: Path, part: Path, on_progress: OnProgress) -> None:
    """Copy `file` to `part`.

    Raises SourceError if `file` is not a regular file or cannot be read, and OSError if `part`
    cannot be written.
    """
    if file.exists() and not file.is_file():
        raise SourceError("It is not a regular file.")
    try:
        with part.open("wb") as stream:
            _write(_read(file), stream, _size_of(file), on_progress)
    except BaseException:
        discard(part)
        raise


def _read(file: Path) -> Iterator[bytes]:
    """The pieces of a file; SourceError if it cannot be read."""
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                yield chunk
    except OSError as error:
        raise SourceError(f"{error.strerror}.") from error


def _write(
    chunks: Iterable[bytes], stream: BinaryIO, length: int | None, on_progress: OnProgress
) -> None:
    """Append chunks to a part, and bring all of it to the disk before it gets its name."""
    received = stream.tell()
    on_progress(received, length)
    for chunk in chunks:
        stream.write(chunk)
        stream.flush()  # a killed process leaves everything that arrived
        received += len(chunk)
        on_progress(received, length)
    os.fsync(stream.fileno())


def fetch_sidecar(url: str) -> bytes:
    """A small file at `url`; empty if it does not exist or the server does not answer."""
    with (
        contextlib.suppress(OSError, ValueError),  # all exceptions of requests are OSErrors
        open_session() as session,
        session.get(url, stream=True, timeout=_TIMEOUT) as response,
    ):
        if response.status_code == 200:
            return next(response.iter_content(CHUNK), b"")
    return b""


def open_session() -> requests.Session:
    """A session of requests, with its proxies; it does not retry by itself.

    It trusts the system's certificates, such as those of a company, beside those of requests.
    ``SSL_CERT_FILE`` is a way to name them. ``REQUESTS_CA_BUNDLE`` takes the place of both.
    """
    import requests

    class SystemCertificates(requests.adapters.HTTPAdapter):
        def init_poolmanager(self, *given: Any, **options: Any) -> None:
            super().init_poolmanager(*given, ssl_context=ssl.create_default_context(), **options)

        def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
            context = ssl.create_default_context()
            return super().proxy_manager_for(proxy, ssl_context=context, **options)

    session = requests.Session()
    if not any(os.environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")):
        session.mount("https://", SystemCertificates())
    session.headers["User-Agent"] = f"vesselseg/{__version__}"
    # A compressed answer has another length and cannot be resumed.
    session.headers["Accept-Encoding"] = "identity"
    return session


def discard(part: Path) -> None:
    """Remove a part file and its progress record."""
    sidecar_path(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


def _read_progress(part: Path) -> tuple[str, int | None]:
    """Validator (ETag or date) and length of the file that a part belongs to; "" if unknown."""
    try:
        values = json.loads(sidecar_path(part).read_bytes())
        validator, length = values["validator"], values["length"]
        usable = validator.isascii() and validator.isprintable()  # it can be sent as a header
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "", None
    if usable and isinstance(length, (int, type(None))):
        return validator, length
    return "", None


def _write_progress(part: Path, response: requests.Response, length: int | None) -> None:
    """Record what resuming the part needs."""
    validator = response.headers.get("ETag", "")
    if not validator or validator.startswith("W/"):  # a weak one does not vouch for every byte
        validator = response.headers.get("Last-Modified", "")
    values = json.dumps({"validator": validator, "length": length})
    sidecar_path(part).write_text(values, encoding="utf-8")


def _continues(response: requests.Response, offset: int, length: int | None) -> bool:
    """Whether an answer starts where the part ends, in a file of the same length."""
    text = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", text.strip())
    if found is None or int(found[1]) != offset:
        return False
    return length is None or found[2] in ("*", str(length))


def _to_integer(text: str) -> int | None:
    """The number in a header, if it is a sensible one."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _size_of(path: Path) -> int:
    """Size of a file in bytes; 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _describe(error: Exception) -> str:
    """The fault itself, without the layers around it."""
    inner = error.args[0] if error.args else error
    inner = getattr(inner, "reason", None) or inner
    return f"{type(error).__name__}: {inner}"
