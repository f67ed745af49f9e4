"""The examples run as they stand."""

import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import EXAMPLE

import vesselseg
from vesselseg.registry import EMBEDDED

EXAMPLES = EXAMPLE.parent

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("windows_once")]


@pytest.fixture
def run_here(tmp_path, monkeypatch, capsys):
    """Run an example in this process; what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def run(tmp_path):
    """Run an example in a process of its own; what it prints."""

    def run(name, *arguments, warnings="error"):
        finished = subprocess.run(
            [sys.executable, "-W", warnings, str(EXAMPLES / name), *map(str, arguments)],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        print(finished.stderr, file=sys.stderr)
        assert finished.returncode == 0
        return finished.stdout

    return run


def mask_of(path):
    with Image.open(path) as image:
        assert image.size == (1411, 1411)
        values = np.asarray(image)
    assert set(np.unique(values)) == {0, 255}
    return values == 255


def test_one_line_writes_a_mask(run_here, tmp_path):
    assert run_here("one_line.py") == ""
    assert 0.05 < mask_of(tmp_path / "vessels.png").mean() < 0.15


def test_folder_writes_masks_and_reports_a_damaged_file(run_here, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes((EXAMPLES / "fundus.jpg").read_bytes())
    (tmp_path / "in" / "b.jpg").write_bytes(b"damaged")
    output = run_here("folder.py", tmp_path / "in", tmp_path / "out")
    assert re.search(r"a\.jpg: 1?\d\.\d% is vessel", output)
    assert "b.jpg' could not be decoded" in output
    assert "Summary(segmented=1, repeated=0, skipped=0, failed=1" in output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_embed_prints_a_share_and_an_error(run_here):
    output = run_here("embed.py")
    assert "(1411, 1411)" in output
    assert "rejected: The array has the type int64" in output


def test_measurements_prints_measures_and_draws_them(run_here, tmp_path):
    pytest.importorskip("skan")
    lines = run_here("measurements.py").splitlines()
    assert lines[2].split()[0] == "density"
    assert lines[-1].startswith("segment of ")
    with Image.open(tmp_path / "measured.png") as drawn:
        assert drawn.width == 960


def test_pvbm_measures_the_same_density(run):
    """PVBM's area is the density that vesselseg measures, times the field of view."""
    pytest.importorskip("PVBM", reason="needs PVBM: pip install pvbm")
    lines = run("pvbm.py", warnings="default").splitlines()
    assert lines[0].split()[0] == "area"
    assert lines[0].split()[-1] == lines[-1].split()[-1]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "vessels.onnx"
    vesselseg.load_model(device="cpu").export(path)
    return path


def resize_with_pillow(image, size):
    """As the example resizes: a few values are off by 1 from PyTorch's."""
    return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


class TestOnnxSliding:
    @pytest.mark.parametrize("factor", [0.07, 0.2])
    def test_where_the_field_of_view_has_no_say_the_mask_is_the_librarys(
        self, factor, run, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(vesselseg.preprocess, "resize", resize_with_pillow)
        model = vesselseg.load_model(replace(EMBEDDED, fov_rgb_mean=None), device="cpu")
        model.export(tmp_path / "vessels.onnx")
        run("onnx_sliding.py", tmp_path / "vessels.onnx", EXAMPLE, tmp_path / "mask.png", factor)
        expected = model(EXAMPLE, scale=factor).mask
        assert expected.sum() > 10_000
        assert (mask_of(tmp_path / "mask.png") != expected).sum() <= 20

    @pytest.mark.parametrize("side", [1000, 480])  # the small one gets a bias
    def test_its_field_of_view_is_close(self, side, exported, run, tmp_path):
        with Image.open(EXAMPLE) as image:
            image.resize((side, side), Image.Resampling.BOX).save(tmp_path / "eye.png")
        run("onnx_sliding.py", exported, tmp_path / "eye.png", tmp_path / "mask.png")
        expected = vesselseg.segment(tmp_path / "eye.png", device="cpu").mask
        mask = np.asarray(Image.open(tmp_path / "mask.png")) > 0
        assert 2 * (mask & expected).sum() > 0.97 * (mask.sum() + expected.sum())

    def test_it_needs_neither_torch_nor_vesselseg(self):
        lines = (EXAMPLES / "onnx_sliding.py").read_text().splitlines()
        imports = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
        assert imports == {"json", "os", "sys", "numpy", "onnxruntime", "PIL"}


@pytest.mark.cluster
def test_ray_collection_writes_a_mask_and_ray_complains_of_nothing(
    run, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("ray.data", reason="needs the extra ray")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes to it
    output = run("ray_collection.py", EXAMPLES, tmp_path / "out", warnings="default")  # Ray's own
    assert "fundus.jpg: done" in output
    assert "1 segmented, 0 skipped, 0 failed" in output
    mask_of(tmp_path / "out" / "fundus.png")
    assert not re.search(r"^\[.{23} [EW] ", capsys.readouterr().err, re.MULTILINE)  # of its logs


def test_every_example_is_listed_and_tested():
    listed = (EXAMPLES / "README.md").read_text()
    here = Path(__file__).read_text()
    for script in EXAMPLES.glob("*.py"):
        assert f"[{script.name}]" in listed
        assert re.search(rf'run(_here)?\("{script.name}"', here)
