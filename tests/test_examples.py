"""The examples run as they stand."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import EXAMPLE
from PIL import Image

EXAMPLES = EXAMPLE.parent


@pytest.fixture
def run(tmp_path):
    def run(name, *arguments, warnings="error"):
        finished = subprocess.run(
            [sys.executable, "-W", warnings, str(EXAMPLES / name), *map(str, arguments)],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    return run


def mask_of(path):
    with Image.open(path) as image:
        assert image.size == (1411, 1411)
        values = np.asarray(image)
    assert set(np.unique(values)) == {0, 255}
    return values == 255


def test_one_line(run, tmp_path):
    assert run("one_line.py") == ""
    assert 0.05 < mask_of(tmp_path / "vessels.png").mean() < 0.15


def test_folder(run, tmp_path):
    output = run("folder.py", EXAMPLES, tmp_path / "out")
    assert output.startswith("fundus.jpg <Segmentation of 1411 x 1411 pixels")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["fundus.png"]


def test_embed(run):
    output = run("embed.py")
    assert "(1411, 1411)" in output
    assert "refused: The array has the type int64" in output


def test_measurements(run, tmp_path):
    assert "vessel density" in run("measurements.py")
    folder = tmp_path / "measurements"
    mask, view = (mask_of(folder / name) for name in ("fundus.png", "fundus_fov.png"))
    assert (mask & ~view).sum() < 0.001 * mask.sum()


@pytest.mark.cluster
def test_ray_collection(run, tmp_path):
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'vesselseg[ray]'")
    output = run("ray_collection.py", EXAMPLES, tmp_path / "out", warnings="default")  # Ray's own
    assert "fundus.jpg: done" in output
    assert "1 segmented, 0 skipped, 0 failed" in output
    mask_of(tmp_path / "out" / "fundus.png")


def test_every_example_is_listed_and_tested():
    listed = (EXAMPLES / "README.md").read_text()
    here = Path(__file__).read_text()
    for script in EXAMPLES.glob("*.py"):
        assert f"[{script.name}]" in listed
        assert f'run("{script.name}"' in here
