"""Fixtures of the tests of downloads: a server on this machine, its files, an empty cache."""

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback import File, Loopback
from published_layout import narrow_shapes, seeded_state

from vesselseg import ModelSpec, Source


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of its own, no other settings, and retries that do not wait long."""
    for name in ("VESSELSEG_MIRROR", "VESSELSEG_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("vesselseg.cache.transfer._BACKOFF", 0.001)
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
    torch.save({"state_dict": seeded_state(narrow_shapes("fcn", 8), seed=2)}, path)
    return path.read_bytes()


@pytest.fixture
def record(server: Loopback, content: bytes, home: Path) -> ModelSpec:
    """A record with a current and an original address; the server has the file at both."""
    assert not home.exists()
    urls = [server.serve(f"/{name}.pth", File(content)) for name in ("current", "original")]
    sources = tuple(Source(url) for url in urls)
    return ModelSpec(name="narrow", dataset="test", crop=64, stride=42, width=8, sources=sources)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def note_of(file: Path) -> dict[str, Any]:
    """What the note beside a file says."""
    values: dict[str, Any] = json.loads(file.with_name(f"{file.name}.json").read_text())
    return values
