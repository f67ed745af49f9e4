"""A thousand photographs with faults at every stage, in a run that is killed again and again."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.drawn import pixels
from support.faults import MOST, faulty_folder
from support.models import tiny_weights

from vesselseg.batch.table import Table

RUN = f"""
import torch
from support.faults import FailingBackend
from vesselseg import Segmenter, segment_folder, weights
torch.set_num_threads(1)
content = weights.read("tiny.pth")
spec = content.spec
backend = FailingBackend(weights.build_network(content, spec), spec, "cpu", "float32")
model = Segmenter(backend, spec, sha256="0" * 64, max_pixels={MOST})
print("begun", flush=True)
print(segment_folder("in", "out", model=model, manifest="m.csv", resume=True,
                     progress=False), flush=True)
"""


def start(folder: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    process = subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=folder, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.slow
def test_every_fault_has_its_row_and_the_rest_is_written_after_ten_kills(tmp_path: Path) -> None:
    count, kills = 1000, 10
    chance = random.Random(0)
    tiny_weights(tmp_path / "tiny.pth")
    failing = faulty_folder(tmp_path / "in", tmp_path / "out", count)
    assert len(failing) == 20
    done = 0
    for _ in range(kills):
        process = start(tmp_path)
        time.sleep(chance.uniform(0.1, 1.5))
        process.kill()
        process.communicate()
        found = len(list((tmp_path / "out").glob("*.png")))
        assert found >= done  # what is done stays
        done = found
    process = start(tmp_path)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert f"failed={len(failing)}, manifest='m.csv'" in said
    rows = {Path(row["input"]).name: row for row in Table(str(tmp_path / "m.csv")).rows}
    assert len(rows) == count
    for name, row in rows.items():
        if name in failing:
            assert failing[name] in row["error"]
        else:
            assert row["error"] is None
            assert pixels(tmp_path / "out" / name).shape == (row["height"], row["width"])
    assert not list((tmp_path / "out").glob("*.part"))
