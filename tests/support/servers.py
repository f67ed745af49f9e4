"""An HTTP server on this machine that behaves well or badly, and fixtures around it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from types import SimpleNamespace
from typing import Any

import pytest

from vesselseg import ModelSpec, Source

from .models import NARROW, published_narrow_file

STEP = 1 << 14


@dataclass
class File:
    """Answers with `content`.

    Parameters
    ----------
    etag : str
        None for a server that sends neither ETag nor Last-Modified.
    ranges : bool
        Whether Range requests are honoured; otherwise all is sent each time.
    cut : int
        Close the connection after so many bytes.
    announce : int
        Content-Length to state, if it is to be wrong. 0 states none.
    pause_after : int
        Wait for `go` after so many bytes.
    headers : dict
        Sent as well, or in place of the server's own.
    """

    content: bytes
    etag: str | None = '"1"'
    ranges: bool = True
    cut: int | None = None
    announce: int | None = None
    pause_after: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    go: threading.Event = field(default_factory=threading.Event)

    def __call__(self, request: Handler) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        guard = request.headers.get("If-Range")
        start = 0
        if asked and self.ranges and guard in (None, self.etag):
            start = int(asked[1])
            if start >= len(self.content):
                request.answer(416, {"Content-Range": f"bytes */{len(self.content)}"})
                return
        body = self.content[start:]
        length = len(body) if self.announce is None else self.announce - start
        headers = {}
        if length:
            headers["Content-Length"] = str(length)
        if self.etag:
            headers["ETag"] = self.etag
        if start:
            last = len(self.content) - 1
            headers["Content-Range"] = f"bytes {start}-{last}/{len(self.content)}"
        request.answer(206 if start else 200, headers | self.headers)
        if self.pause_after is not None and self.pause_after > start:
            request.send(body[: self.pause_after - start])
            self.go.wait(30)
            body = body[self.pause_after - start :]
        request.send(body if self.cut is None else body[: self.cut])


@dataclass
class Status:
    """Answers with a status and a short text."""

    code: int
    headers: dict[str, str] = field(default_factory=dict)

    def __call__(self, request: Handler) -> None:
        request.answer(self.code, {"Content-Length": "4", **self.headers})
        request.wfile.write(b"no.\n")


@dataclass
class Request:
    """What was asked."""

    path: str
    headers: dict[str, str]
    sent: int = 0


class Loopback(ThreadingHTTPServer):
    """The server. Paths without a script answer 404."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests: list[Request] = []
        self._scripts: dict[str, list[Callable[[Handler], None]]] = {}
        self._lock = threading.Lock()

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer also asks for the host's name, which may be slow

    def serve(self, path: str, *answers: Callable[[Handler], None]) -> str:
        """Answer so, one after the other and the last one from then on; returns the address."""
        self._scripts[path] = list(answers)
        return self.url + path

    def asked(self, path: str) -> list[Request]:
        """The requests for `path`."""
        return [request for request in self.requests if request.path == path]

    def sent(self) -> int:
        """Bytes of files sent in all."""
        return sum(request.sent for request in self.requests)

    def next_answer(self, path: str) -> Callable[[Handler], None]:
        with self._lock:
            script = self._scripts.get(path, [Status(404)])
            return script.pop(0) if len(script) > 1 else script[0]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Loopback

    def do_GET(self) -> None:
        self.request_ = Request(self.path, dict(self.headers))
        self.server.requests.append(self.request_)
        self.server.next_answer(self.path)(self)

    def answer(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, body: bytes) -> None:
        for start in range(0, len(body), STEP):
            self.wfile.write(body[start : start + STEP])
            self.request_.sent += len(body[start : start + STEP])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of its own, no other settings, and retries that do not wait."""
    for name in ("VESSELSEG_MIRROR", "VESSELSEG_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("vesselseg.cache.transfer.time", SimpleNamespace(sleep=lambda _: None))
    return tmp_path / "home"


@pytest.fixture
def server() -> Iterator[Loopback]:
    """An HTTP server on this machine, to be scripted."""
    with Loopback() as loopback:
        thread = threading.Thread(target=loopback.serve_forever, args=(0.01,))
        thread.start()
        yield loopback
        loopback.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def content(published_file: Path) -> bytes:
    """The file of the narrow model."""
    return published_file.read_bytes()


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """As good a file, with other values."""
    path = tmp_path_factory.mktemp("other") / "other.pth"
    return published_narrow_file(path, seed=2).read_bytes()


@pytest.fixture
def spec(server: Loopback, content: bytes, home: Path) -> ModelSpec:
    """A model spec with a current and an original address; the server has the file at both."""
    assert not home.exists()
    urls = [server.serve(f"/{name}.pth", File(content)) for name in ("current", "original")]
    sources = tuple(Source(url) for url in urls)
    return dataclasses.replace(NARROW, fov_diameter=None, sources=sources)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sidecar_of(file: Path) -> dict[str, Any]:
    """The values in the sidecar of a file."""
    values: dict[str, Any] = json.loads(file.with_name(f"{file.name}.json").read_text())
    return values
