"""``vesselseg doctor``: what it finds, and that it asks the network only if told to."""

import http.server
import itertools
import json
import socket
import threading
from dataclasses import replace

import numpy as np
import PIL
import pytest
import torch

import vesselseg
from vesselseg import Source, registry, weights
from vesselseg.backends.pytorch import TorchBackend
from vesselseg.cli import doctor, main
from vesselseg.unet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A cache folder of the test's own; and a narrow network in place of the package's."""
    missing = Source(str(tmp_path / "missing.pth"))
    spec = replace(
        registry.EMBEDDED, width=4, depth=2, crop=32, stride=32, sources=(missing,), name="small"
    )
    monkeypatch.setattr(registry, "EMBEDDED", spec)
    monkeypatch.setenv("VESSELSEG_OFFLINE", "1")
    monkeypatch.delenv("VESSELSEG_MIRROR", raising=False)
    monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def report(capsys):
    """Runs the command and gives what it writes as JSON."""

    def report(*words):
        assert main(["doctor", "--json", *words]) == 0
        return json.loads(capsys.readouterr().out)

    return report


def test_versions_devices_threads_and_folders(report, cache):
    filename = registry.find_spec("unet_s5-d16_drive").filename
    (cache / filename).write_bytes(bytes(2_000_000))
    (cache / "somebody's.pth").touch()
    found = report()
    versions = found["versions"]
    assert versions.pop("python")
    assert versions == {
        "vesselseg": vesselseg.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }
    assert found["threads"]["torch"] == torch.get_num_threads()
    assert "cpu" in found["devices"]
    assert found["cache"] == {"folder": str(cache), "files": 1, "megabytes": 2.0}


@pytest.mark.parametrize(("quota", "shown"), [(0.5, 0.5), (None, "no limit")])
def test_the_quota_of_a_container(quota, shown, report, monkeypatch):
    monkeypatch.setattr("vesselseg.process.cpu_quota", lambda: quota)
    monkeypatch.setattr(doctor, "cpu_quota", lambda: quota)
    threads = report()["threads"]
    assert threads["processors allowed by the container"] == shown
    assert threads["processors usable"] >= 1


def test_each_precision_is_compared_with_float32(report):
    random_state = torch.random.get_rng_state()
    found = report()
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
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_the_embedded_weights_are_used_if_they_can_be_read(report, cache):
    spec = registry.EMBEDDED
    weights.save(cache / "missing.pth", UNet(spec.width, spec.depth), spec)
    assert report()["network"] == "small"


@pytest.mark.parametrize(
    ("seconds", "flipped", "verdict"),
    [(0.5, 0, "good"), (1.0, 0, "slower than float32"), (0.5, 100, "inexact")],
)
def test_the_verdict_on_a_precision(seconds, flipped, verdict, report, monkeypatch):
    precisions = []

    def compute(backend, window):
        precisions.append(backend.precision)
        logits = torch.ones(1, 2, *window.shape[2:])
        logits[:, 1] = 2
        if backend.precision != "float32":
            logits[0, 1].ravel()[:flipped] = 0
        return logits

    def repeat(*_, **__):
        return [1.0 if precisions[-1] == "float32" else seconds]

    monkeypatch.setattr(TorchBackend, "__call__", compute)
    monkeypatch.setattr("timeit.repeat", repeat)
    verdicts = {row["precision"]: row.get("verdict") for row in report()["precisions"]}
    assert (verdicts["float32"], verdicts["bfloat16"]) == ("good", verdict)


def test_a_long_run_on_a_cpu_is_not_repeated(report, monkeypatch):
    ticks = itertools.count(step=10.0)
    monkeypatch.setattr("timeit.default_timer", lambda: next(ticks))
    monkeypatch.setattr("timeit.repeat", None)
    rows = [row for row in report()["precisions"] if row["device"] == "cpu"]
    assert {row["seconds"] for row in rows if "error" not in row} == {10.0}


def test_the_network_is_left_alone(report, monkeypatch):
    def reject(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", reject)
    assert "hosts" not in report()


class Answer(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200 if self.path == "/weights.pth" else 404)
        self.end_headers()

    def log_message(self, *_): ...


@pytest.fixture
def host():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_hosts_are_asked_if_reported_to(host, report, monkeypatch):
    urls = [f"http://{host}/weights.pth", "http://127.0.0.1:9/weights.pth", "package:own.pth"]
    spec = replace(registry.EMBEDDED, sources=tuple(Source(url) for url in urls))
    monkeypatch.setattr(registry, "REGISTRY", {spec.name: spec})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    hosts = report("--network")["hosts"]
    assert list(hosts) == [urls[1], urls[0]]
    assert hosts[urls[0]].startswith("200 OK after ")
    assert hosts[urls[1]].startswith("no answer: ConnectionError")


def test_passwords_are_not_shown(host, report, monkeypatch, capsys):
    monkeypatch.setattr(registry, "REGISTRY", {})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy.example:3128")
    monkeypatch.setenv("VESSELSEG_MIRROR", f"http://me:secret@{host}/weights.pth")
    found = report("--network")
    assert found["variables"]["HTTPS_PROXY"] == "http://***@proxy.example:3128"
    assert list(found["hosts"]) == [f"http://***@{host}/weights.pth"]
    assert main(["doctor"]) == 0
    assert "secret" not in capsys.readouterr().out


def test_the_text_says_the_same(capsys, cache):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for expected in (vesselseg.__version__, torch.__version__, str(cache), "bfloat16"):
        assert expected in text
    assert "Hosts" not in text
