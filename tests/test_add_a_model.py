"""The page "Add a model to the registry", carried out as it is written, on a copy."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support import EXAMPLE
from support.models import tiny_weights
from support.servers import File, sha256

import vesselseg
from vesselseg import ModelSpec

ROOT = EXAMPLE.parents[1]
PACKAGE = Path(vesselseg.__file__).parent
PAGE = (ROOT / "docs" / "how-to" / "add-a-model.md").read_text()
ENTRY, TEST = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PYTEST, COMMAND = re.findall(r"```sh\n(.*?)\n(.*?)\n```", PAGE, re.DOTALL)[0]


@pytest.fixture
def copy(tmp_path):
    """A folder with the package, to which the entry was added, and the registry's tests."""
    shutil.copytree(PACKAGE, tmp_path / "vesselseg", ignore=shutil.ignore_patterns("__pycache__"))
    registry = tmp_path / "vesselseg" / "registry.py"
    before, after = registry.read_text().split("_OTHERS: tuple[ModelSpec, ...] = ()\n")
    registry.write_text(before + ENTRY + after)
    (tmp_path / "tests").mkdir()
    tests = (ROOT / "tests" / "test_registry.py").read_text()
    (tmp_path / "tests" / "test_registry.py").write_text(f"{tests}\n\n{TEST}")
    return tmp_path


def run(command, folder):
    """Run a command of the page in a folder, with the package there."""
    words = shlex.split(command.removeprefix("python -m "))
    path = os.pathsep.join([str(folder), str(ROOT / "tests")])
    plain = {"PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    finished = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder,
        env=os.environ | {"PYTHONPATH": path} | plain,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_the_registrys_tests_pass_with_the_entry_and_its_test(copy):
    assert "test_registry.py ..." in run(PYTEST, copy)
    (entry,) = [line for line in run("vesselseg models", copy).splitlines() if "clinic" in line]
    assert entry.split()[:3] == ["unet_s4-c16_clinic", "clinic", "80.12"]


@pytest.mark.slow
def test_the_weights_are_downloaded_and_segment_a_photograph(copy, server, home):
    namespace = {"ModelSpec": ModelSpec, "Source": vesselseg.Source}
    exec(ENTRY, namespace)
    (spec,) = namespace["_OTHERS"]
    content = tiny_weights(copy / "trained.pth", spec).read_bytes()
    (source,) = spec.sources
    host, path = re.fullmatch(r"(https://[^/]+)(/.*)", source.url).groups()
    server.serve(path, File(content))
    registry = copy / "vesselseg" / "registry.py"
    text = registry.read_text().replace(host, server.url)
    registry.write_text(text.replace(source.sha256, sha256(content)))
    with Image.open(EXAMPLE) as image:
        image.reduce(4).save(copy / "eye.jpg")

    run(COMMAND, copy)

    assert server.requests[0].path == path
    assert (home / "unet-clinic.pth").read_bytes() == content
    with Image.open(copy / "vessels.png") as mask:
        assert mask.size == (353, 353)
