"""SIGTERM in the middle of each command, in real processes; segment has a test of Ctrl-C."""

import json
import os
import signal
import subprocess
import sys

import pytest
import requests
from PIL import Image
from support import wait_for
from support.drawn import photograph, vessels, write
from support.fine_tuning import start_weights
from support.models import tiny_weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "killpg"), reason="Windows sends no such signals"),
]

PHOTOGRAPHS = 300  # far more than are done until a signal comes


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with hundreds of photographs and their labels, one with two, and small models."""
    folder = tmp_path_factory.mktemp("inputs")
    for name, count in (("many", PHOTOGRAPHS), ("few", 2)):
        for kind, pixels in (("images", photograph(1)), ("labels", vessels(1))):
            write(folder / name / kind / "000.png", pixels)
            for number in range(1, count):
                os.link(folder / name / kind / "000.png", folder / name / kind / f"{number:03}.png")
    tiny_weights(folder / "tiny.pth")
    start_weights(folder / "start.pth")
    return folder


COMMANDS = {
    "segment": ("{many}/images -o out --overlay --manifest m.csv --model {tiny}", "m.csv.rows*"),
    "measure": ("{many}/images -o m.csv --overlay out --model {tiny}", "out/*.png"),
    "evaluate": ("{many} --dataset pairs --report out --model {tiny}", "out/pictures/*.jpg"),
    "train": (
        "{few}/images {few}/labels -o model.pth --model {start} --iterations 100000 "
        "--evaluate-every 5 --patience 100000",
        "model.pth.state",
    ),
    "export": ("{tiny} -o x.onnx --precision int8", "tmp/*/windows.npz"),
    "app": ("--port 0 --model {tiny}", "listening"),
}
"""Words, and a file that is there when the command is at work."""


def has_processes(group):
    """Whether a process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def run_until_terminated(command, folder, inputs):
    """Run a command and end it half-way; return its exit code, and what it said."""
    words, file = COMMANDS[command]
    words = words.format(
        many=inputs / "many", few=inputs / "few",
        tiny=inputs / "tiny.pth", start=inputs / "start.pth",
    )  # fmt: skip
    (folder / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "vesselseg", command, *words.split()], cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp")},
    )  # fmt: skip
    try:
        if command == "app":
            url = process.stdout.readline().split()[1]
            requests.get(url, timeout=60)
            (folder / "listening").touch()
        wait_for(lambda: process.poll() is not None or list(folder.glob(file)), 120)
        process.terminate()
        _, said = process.communicate(timeout=60)
        wait_for(lambda: not has_processes(process.pid))
        return process.returncode, said
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_ends_in_order(command, inputs, tmp_path):
    if command == "export":
        for package in ("nncf", "pydot", "onnx", "onnxruntime"):
            pytest.importorskip(package)
    code, said = run_until_terminated(command, tmp_path, inputs)
    if command == "app":  # this is its normal end
        assert (code, said) == (0, "")
    else:
        assert code == 128 + signal.SIGTERM, said
        assert said.endswith("vesselseg: ended by SIGTERM\n")
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("*.part"))
    assert not list((tmp_path / "tmp").glob("tmp*"))
    assert not (tmp_path / "model.pth").exists()
    assert not (tmp_path / "x.onnx").exists()
    pictures = list(tmp_path.glob("out/**/*.[jp][pn]g"))
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()
    journal = tmp_path / "m.csv.rows.jsonl"
    if journal.exists():
        rows = [json.loads(line) for line in journal.read_text().splitlines()]
        assert len(rows) < PHOTOGRAPHS
        kinds = ("mask", "overlay", "measures_overlay")
        assert {row.get(kind) for row in rows for kind in kinds} - {None} == {
            f"out/{path.name}" for path in pictures
        }
