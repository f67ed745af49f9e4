"""``vesselseg doctor``: what it finds, and that it asks the network only if told to."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import PIL
import pytest
import torch

import vesselseg
from vesselseg import Source, registry
from vesselseg.cli import doctor, main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A narrow network in place of the package's, and a cache folder of the test's own."""
    missing = Source(str(tmp_path / "missing.pth"))
    spec = replace(
        registry.EMBEDDED, width=4, depth=2, crop=32, stride=32, sources=(missing,), name="small"
    )
    monkeypatch.setattr(registry, "EMBEDDED", spec)
    monkeypatch.setenv("VESSELSEG_OFFLINE", "1")
    monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path / "cache"))


def report(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["doctor", "--json", *words]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_versions_devices_threads_and_folders(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "some.pth").write_bytes(bytes(2_000_000))
    found = report(capsys)
    assert found["versions"]["vesselseg"] == vesselseg.__version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert found["versions"]["pillow"] == PIL.__version__
    assert found["threads"]["torch"] == torch.get_num_threads()
    assert "cpu" in found["devices"]
    assert found["cache"] == {"folder": str(tmp_path / "cache"), "weights": 1, "megabytes": 2.0}


def test_each_precision_is_compared_with_float32(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys)
    rows = {row["precision"]: row for row in found["precisions"] if row["device"] == "cpu"}
    assert list(rows) == ["float32", "bfloat16", "float16"]
    assert rows["float32"]["deviation"] == 0
    assert rows["float32"]["equal_pixels"] == 1
    assert rows["float32"]["verdict"] == "good"
    assert rows["float32"]["seconds"] > 0
    assert 0 < rows["bfloat16"]["deviation"] < 0.1  # really computed in 8 binary digits
    if not rows["float16"]["native"]:
        assert "cannot compute in float16" in rows["float16"]["error"]
    assert found["auto"]["cpu"] in ("float32", "bfloat16")
    assert "random weights" in found["network"]


def test_the_models_own_weights_are_tried_where_they_are_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from vesselseg import weights
    from vesselseg.unet import UNet

    spec = registry.EMBEDDED
    (tmp_path / "cache").mkdir()
    weights.save(tmp_path / "cache" / "missing.pth", UNet(spec.width, spec.depth), spec)
    assert report(capsys)["network"] == "small"


def test_a_precision_that_gives_another_mask_or_no_gain_is_reported() -> None:
    row = {"precision": "bfloat16", "seconds": 0.5, "equal_pixels": 0.9995}
    assert doctor.judge(row, 1.0) == "good"
    assert doctor.judge(row, 0.4) == "slower than float32"
    assert doctor.judge({**row, "equal_pixels": 0.99}, 1.0) == "inexact"


def test_no_random_state_is_touched(capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.random.get_rng_state()
    report(capsys)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_network_is_left_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reject(*_: object) -> NoReturn:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", reject)
    assert "hosts" not in report(capsys)


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/weights.pth" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def host() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_hosts_are_asked_if_reported_to(
    host: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [f"http://{host}/weights.pth", "http://127.0.0.1:9/weights.pth", "package:own.pth"]
    spec = replace(registry.EMBEDDED, sources=tuple(Source(url) for url in urls))
    monkeypatch.setattr(registry, "REGISTRY", {spec.name: spec})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    hosts = report(capsys, "--network")["hosts"]
    assert list(hosts) == [urls[1], urls[0]]
    assert hosts[urls[0]].startswith("200 OK after ")
    assert hosts[urls[1]].startswith("no answer: ConnectionError")


def test_passwords_are_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy.example:3128")
    assert report(capsys)["variables"]["HTTPS_PROXY"] == "http://***@proxy.example:3128"


def test_the_text_says_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for expected in (vesselseg.__version__, torch.__version__, str(tmp_path / "cache"), "bfloat16"):
        assert expected in text
    assert "Hosts" not in text
