"""Photographs with faults at every stage, in a run that is killed again and again.

For a thousand: ``VESSELSEG_TEST_FAULTS=1000 python -m pytest tests/batch/test_thousand.py``
"""

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

COUNT = int(os.environ.get("VESSELSEG_TEST_FAULTS", "300"))
RUN = f"""
import torch
from support.faults import FailingBackend
from vesselseg import Segmenter, segment_folder, weights
from vesselseg.ray import segment_dataset
torch.set_num_threads(1)
content = weights.read("tiny.pth")
spec = content.spec
backend = FailingBackend(weights.build_network(content, spec), spec, "cpu", "float32")
model = Segmenter(backend, spec, sha256="0" * 64, max_pixels={MOST})
print(FUNCTION("in", "out", model=model, manifest="m.csv", resume=True, progress=False))
"""


def start(folder: Path, function: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    (folder / "home").mkdir(exist_ok=True)  # Ray writes to it
    return subprocess.Popen(
        [sys.executable, "-c", RUN.replace("FUNCTION", function)], cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={
            **os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HOME": str(folder / "home"),
        },
    )  # fmt: skip


def written(folder: Path) -> int:
    return sum(path.is_file() for path in folder.glob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "function", ["segment_folder", pytest.param("segment_dataset", marks=pytest.mark.cluster)]
)
def test_every_fault_has_its_row_and_the_rest_is_written_after_kills(
    function: str, tmp_path: Path
) -> None:
    if function == "segment_dataset":
        pytest.importorskip("ray", reason="Ray is not installed: pip install 'vesselseg[ray]'")
    kills = 2 if COUNT < 1000 else 10
    chance = random.Random(0)
    tiny_weights(tmp_path / "tiny.pth")
    out = tmp_path / "out"
    failing = faulty_folder(tmp_path / "in", out, COUNT)
    assert len(failing) == 20
    for _ in range(kills):
        done = written(out)
        process = start(tmp_path, function)
        while written(out) == done and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.communicate()
        assert process.returncode < 0  # it was not finished
        assert written(out) > done  # what is done stays
    process = start(tmp_path, function)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert f"failed={len(failing)}, manifest='m.csv'" in said
    rows = {Path(row["input"]).name: row for row in Table(str(tmp_path / "m.csv")).rows}
    assert len(rows) == COUNT
    for name, row in rows.items():
        if name in failing:
            assert failing[name] in row["error"]
        else:
            assert row["error"] is None
            assert pixels(tmp_path / "out" / name).shape == (row["height"], row["width"])
    assert not list((tmp_path / "out").glob("*.part"))
