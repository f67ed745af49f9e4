"""One file, over HTTP or from a folder, into a part that a later attempt can continue.

Connection faults, 429 and 5xx are retried by urllib3. What it cannot do is continue a body that
broke off: that is done here, with a Range request guarded by If-Range, so that a file that
changed in between comes whole instead of as a mixture of two.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from .._version import __version__
from .progress import Report

if TYPE_CHECKING:
    import requests
    from urllib3.util import Retry

_CHUNK = 1 << 16
_RETRIES = 3
_BACKOFF = 0.5  # seconds; doubles with each retry
_LONGEST_WAIT = 30.0  # seconds, whatever a server's Retry-After says
_TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two pieces of the answer
_WORTH_RETRYING = 1 << 20  # bytes gained after which the retries are counted anew
_MOST_NOTE = 1 << 16


class SourceError(Exception):
    """What a source answered instead of the right file."""


class Received(NamedTuple):
    """A complete part: its digest, and whether it was put together from several answers."""

    sha256: str
    resumed: bool


class _BrokenOffError(Exception):
    """The answer broke off; it is worth asking for the rest."""


def fetch(url: str, part: Path, report: Report) -> Received:
    """Get `url` into `part`, continuing what is there already.

    Raises
    ------
    SourceError
        If the file could not be had. What came of it stays in `part` where it can be continued.
    OSError
        If `part` cannot be written.
    """
    from urllib3.exceptions import MaxRetryError, ProtocolError

    with _session() as session, _discarded_if_useless(part):
        retry = _retry()
        while True:
            before = _size(part)
            try:
                return _attempt(session, url, part, report)
            except _BrokenOffError as cut:
                if _size(part) - before >= _WORTH_RETRYING:
                    retry = _retry()
                try:
                    retry = retry.increment("GET", url, error=ProtocolError(str(cut)))
                except MaxRetryError:
                    raise SourceError(f"{cut}, again and again.") from cut
                retry.sleep()


def copy(file: Path, part: Path, report: Report) -> Received:
    """Copy `file` to `part`.

    Raises
    ------
    SourceError
        If `file` is not there or cannot be read.
    OSError
        If `part` cannot be written.
    """
    digest, done, total = hashlib.sha256(), 0, _size(file)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(discard, part)
        with _opened(file) as source, part.open("wb") as stream:
            report(done, total)
            while chunk := _read(source):
                digest.update(chunk)
                stream.write(chunk)
                done += len(chunk)
                report(done, total)
            _settle(stream)
        on_failure.pop_all()
    return Received(digest.hexdigest(), resumed=False)


def fetch_note(url: str) -> bytes | None:
    """A small file at `url`; None where there is none, or the server does not answer."""
    with (
        contextlib.suppress(OSError, ValueError),  # those of requests among them
        _session() as session,
        session.get(url, stream=True, timeout=_TIMEOUT) as response,
    ):
        if response.status_code == 200:
            return next(response.iter_content(_MOST_NOTE), b"")
    return None


def discard(part: Path) -> None:
    """Remove a part and what is noted of it."""
    _noted(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


def _attempt(session: requests.Session, url: str, part: Path, report: Report) -> Received:
    """One request for what is missing of `part`."""
    import requests

    validator, whole = _read_noted(part)
    offset = _size(part) if validator else 0
    digest = hashlib.sha256()
    if offset and offset == whole:  # interrupted after the last byte
        _add_file(digest, part)
        return Received(digest.hexdigest(), resumed=True)
    headers = {"Range": f"bytes={offset}-", "If-Range": validator} if offset else {}
    try:
        response = session.get(url, headers=headers, stream=True, timeout=_TIMEOUT)
    except (OSError, ValueError) as error:  # also: no certificates there, not an address at all
        raise SourceError(_reason(error)) from error
    with response:
        if response.status_code == 200:
            offset = 0  # the file changed, or this server always sends all of it
            length = response.headers.get("Content-Length", "")
            whole = int(length) if length.isdigit() else None
        elif response.status_code == 206 and _continues(response, offset, whole):
            _add_file(digest, part)
        elif response.status_code in (206, 416):
            discard(part)
            raise _BrokenOffError("It sent another range than the one asked for")
        else:
            raise SourceError(f"HTTP {response.status_code} {response.reason}")
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise SourceError(f"It sent the encoding {encoding!r}, which was not asked for.")
        with part.open("ab" if offset else "wb") as stream:
            if not offset:  # only now that the old bytes are gone
                _write_noted(part, response, whole)
            done = offset
            report(done, whole)
            try:
                for chunk in response.iter_content(_CHUNK):
                    digest.update(chunk)
                    stream.write(chunk)
                    stream.flush()  # a killed process leaves all that came
                    done += len(chunk)
                    report(done, whole)
            except requests.RequestException as error:
                raise _BrokenOffError(
                    f"It broke off after {done} of {whole or '?'} bytes ({_reason(error)})"
                ) from error
            _settle(stream)
    if whole is not None and done < whole:
        raise _BrokenOffError(f"It broke off after {done} of {whole} bytes")
    if whole is not None and done > whole:
        discard(part)
        raise SourceError(f"It sent {done} bytes where it had announced {whole}.")
    return Received(digest.hexdigest(), resumed=offset > 0)


def _continues(response: requests.Response, offset: int, whole: int | None) -> bool:
    """Whether an answer 206 starts where the part ends, in a file of the same length."""
    text = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", text.strip())
    if found is None or not offset or int(found[1]) != offset:
        return False
    return whole is None or found[3] in ("*", str(whole))


def _noted(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_noted(part: Path) -> tuple[str, int | None]:
    """Validator (ETag or date) and length of the file that the part belongs to."""
    try:
        values = json.loads(_noted(part).read_bytes())
        validator, whole = values["validator"], values["length"]
    except (OSError, ValueError, KeyError, TypeError):
        return "", None
    if not isinstance(validator, str) or not isinstance(whole, (int, type(None))):
        return "", None
    return validator, whole


def _write_noted(part: Path, response: requests.Response, whole: int | None) -> None:
    validator = response.headers.get("ETag", "")
    if not validator or validator.startswith("W/"):  # a weak one does not vouch for each byte
        validator = response.headers.get("Last-Modified", "")
    _noted(part).write_text(json.dumps({"validator": validator, "length": whole}))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


@contextlib.contextmanager
def _discarded_if_useless(part: Path) -> Iterator[None]:
    """Leave no part behind that could not be continued."""
    try:
        yield
    except BaseException:
        if not _read_noted(part)[0]:
            discard(part)
        raise


def _opened(file: Path) -> IO[bytes]:
    try:
        return file.open("rb")
    except OSError as error:
        raise SourceError(f"{error.strerror}.") from error


def _read(source: IO[bytes]) -> bytes:
    try:
        return source.read(1 << 20)
    except OSError as error:
        raise SourceError(f"{error.strerror}.") from error


def _add_file(digest: Any, path: Path) -> None:
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)


def _settle(stream: IO[bytes]) -> None:
    """All bytes on the disk, before the file gets its name."""
    stream.flush()
    os.fsync(stream.fileno())


def _session() -> requests.Session:
    """A session with our retries; proxies and certificates as requests has them."""
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    adapter = HTTPAdapter(max_retries=_retry())
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.headers["User-Agent"] = f"vesselseg/{__version__}"
    # A compressed answer has another length and cannot be continued.
    session.headers["Accept-Encoding"] = "identity"
    return session


def _retry() -> Retry:
    from urllib3.util import Retry

    class Bounded(Retry):
        """Waits as a server asks, but not for ever."""

        def get_retry_after(self, response: Any) -> float | None:
            asked = super().get_retry_after(response)
            return None if asked is None else min(asked, _LONGEST_WAIT)

    return Bounded(
        total=_RETRIES,
        other=0,  # a certificate does not become valid by asking again
        status_forcelist=(429, 500, 502, 503, 504),
        backoff_factor=_BACKOFF,
        raise_on_status=False,
    )


def _reason(error: Exception) -> str:
    """The fault itself, without the layers around it."""
    inner = error.args[0] if error.args else error
    inner = getattr(inner, "reason", None) or inner
    return f"{type(error).__name__}: {inner}"
