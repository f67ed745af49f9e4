"""Nothing is reported, looked up or written to the home folder, whatever is used or installed."""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image
from support import EXAMPLE

pytestmark = pytest.mark.slow

# Name -> the modules that it needs, and Python code that uses it as a host program would.
USES = {
    "library and commands": (
        (),
        """
vesselseg.segment(EYE, scale="native").save("vessels.png")
assert main([EYE, "-o", "vessels.png", "--scale", "native"]) == 0
registry.EMBEDDED = dataclasses.replace(registry.EMBEDDED, crop=64, stride=64)  # for doctor
assert main(["models"]) == main(["doctor"]) == 0
""",
    ),
    "app": (
        ("starlette", "uvicorn"),
        """
import subprocess, sys, urllib.request
command = [sys.executable, "-m", "vesselseg", "app", "--port", "0"]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as page:
    urllib.request.urlopen(page.stdout.readline().split()[1]).read()
    page.terminate()
""",
    ),
    "dicom": (
        ("highdicom", "openjpeg", "jpeg_ls"),
        "import highdicom, openjpeg, jpeg_ls, vesselseg.dicom",
    ),
    "eval": (
        ("skimage", "jinja2"),
        """
from vesselseg import metrics
import numpy
mask = numpy.eye(64, dtype=bool)
metrics.cldice(mask, mask)
import vesselseg.evaluation.report
""",
    ),
    "measure": (("skan",), "vesselseg.segment(EYE, scale='native').measure()"),
    "onnx": (
        ("onnx", "onnxruntime"),
        """
assert main(["export", "-o", "vessels.onnx"]) == 0
vesselseg.segment(EYE, model="vessels.onnx", scale="native")
assert main([EYE, "-o", "vessels.png", "--model", "vessels.onnx", "--scale", "native"]) == 0
""",
    ),
    "an example": (
        ("onnx", "onnxruntime"),
        """
import runpy
vesselseg.load_model().export("vessels.onnx")
sys.argv[1:] = ["vessels.onnx", EYE, "vessels.png", "1"]
runpy.run_path(EXAMPLES + "/onnx_sliding.py")
assert os.environ.pop("ORT_DISABLE_TELEMETRY") == "1"  # the example is a program of its own
""",
    ),
    "openvino": (
        ("openvino",),
        "vesselseg.segment(EYE, backend='openvino', scale='native')",
    ),
    "int8": (
        ("openvino", "nncf", "onnxruntime"),
        """
import numpy
small = numpy.arange(64 * 64 * 3).astype(numpy.uint8).reshape(64, 64, 3)
vesselseg.load_model().export("int8.onnx", precision="int8", calibration=[small])
vesselseg.segment(EYE, model="int8.onnx", backend="openvino", scale="native")
""",
    ),
    "napari": (("napari.layers", "magicgui"), "import vesselseg.napari.layers"),
}
# Used one after the other in one process, where none imports for another what it protects.
TOGETHER = [
    ("library and commands", "app", "dicom", "eval", "measure"),
    ("onnx", "openvino", "int8"),
    ("an example",),
    ("napari",),
]

PROGRAM = """
import dataclasses, os, sys, time
before = dict(os.environ)
EYE, EXAMPLES = "eye.png", {examples!r}
import vesselseg
from vesselseg import registry
from vesselseg.cli import main
for use in {uses!r}:
    exec(use)
    assert dict(os.environ) == before, use
time.sleep(1)  # reports are sent by threads
"""


@functools.cache
def tracer():
    """The beginning of a command whose connections are recorded; empty where that is impossible."""
    command = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect", "-o"]
    if not shutil.which("strace"):
        return []
    works = subprocess.run([*command, os.devnull, "true"], capture_output=True, check=False)
    return [] if works.returncode else [*command, "connections.txt"]


def run(program, folder, **variables):
    """Run a Python program in `folder`, with an empty home.

    Returns what was written there, and the connections to other machines.
    """
    home = folder / "home"
    home.mkdir()
    environment = os.environ | dict.fromkeys(("HOME", "USERPROFILE", "LOCALAPPDATA"), str(home))
    # With these, some libraries report nothing or write somewhere else.
    for name in (
        "ORT_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED", "CI", "TF_BUILD", "JENKINS_URL",
        "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "VESSELSEG_HOME",
    ):  # fmt: skip
        environment.pop(name, None)
    finished = subprocess.run(
        [*tracer(), sys.executable, "-c", program],
        cwd=folder, capture_output=True, text=True, check=False, env=environment | variables,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    written = sorted(path.relative_to(home).as_posix() for path in home.rglob("*"))
    trace = folder / "connections.txt"
    lines = trace.read_text().splitlines() if trace.exists() else []
    return written, [line for line in lines if leaves_the_machine(line)]


def leaves_the_machine(line):
    return "AF_INET" in line and not re.search(r'"127\.|"::1"', line)


def is_installed(module):
    return importlib.util.find_spec(module.partition(".")[0]) is not None


@pytest.mark.parametrize("names", TOGETHER, ids=", ".join)
def test_nothing_is_reported_written_or_left_in_the_environment(names, photograph, tmp_path):
    uses = [use for needs, use in map(USES.get, names) if all(map(is_installed, needs))]
    if not uses:
        pytest.skip(f"what {' and '.join(names)} needs is not installed")
    Image.fromarray(photograph).save(tmp_path / "eye.png")
    program = PROGRAM.format(examples=str(EXAMPLE.parent), uses=uses)
    assert run(program, tmp_path) == ([], [])


def test_every_use_is_tried():
    assert sorted(name for names in TOGETHER for name in names) == sorted(USES)


def test_files_and_connections_would_be_seen(tmp_path):
    program = """
import pathlib, socket
(pathlib.Path.home() / "identifier").touch()
with socket.socket(type=socket.SOCK_DGRAM) as socket:
    socket.connect_ex(("192.0.2.1", 9))  # sends nothing
"""
    written, connections = run(program, tmp_path)
    assert written == ["identifier"]
    assert len(connections) == (1 if tracer() else 0)


RAY = """
import time
from vesselseg.ray import segment_dataset
segment_dataset({eye!r}, "masks", workers=1, scale=0.1, on_row=lambda row: time.sleep(6))
"""


@pytest.mark.cluster
def test_ray_reports_nothing(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    received = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        written, _ = run(
            RAY.format(eye=str(EXAMPLE)), tmp_path,
            RAY_USAGE_STATS_REPORT_URL=f"http://127.0.0.1:{server.server_port}/",
            RAY_USAGE_STATS_REPORT_INTERVAL_S="1",
        )  # fmt: skip
        server.shutdown()
    assert received == []
    assert set(written) <= {".ray", ".ray/auth_token"}  # its password, which stays there
