"""What Windows, macOS and others lack, and what they do otherwise, on a small run of everything.

The systems themselves are simulated: see `support/platforms.py`.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support import platforms
from support.servers import File

import vesselseg
from vesselseg import cache
from vesselseg.batch.places import is_address
from vesselseg.cli import main
from vesselseg.registry import find_spec

PACKAGE = Path(vesselseg.__file__).parent
SYSTEMS = ["windows", "macos", "musl"]

PROGRAM = """
import dataclasses
import logging
import sys
import types

import numpy as np
import vesselseg
from vesselseg import ModelSpec, Source, registry
from vesselseg.cache import transfer
from vesselseg.cli import main

transfer.time = types.SimpleNamespace(sleep=lambda seconds: None)  # between attempts
url, host = sys.argv[1:]
spec = ModelSpec(
    name="narrow", dataset="t", crop=64, stride=42, width=8, scale="native", fov_diameter=60,
    sources=(Source(url),),
)
file = vesselseg.download(spec)
assert vesselseg.find_cached(spec) == file
vesselseg.import_file(file, spec, force=True)
vesselseg.download(spec, force=True)
vesselseg.segment("in/eye.png", scale="native").save("embedded.png")
model = vesselseg.load_model(spec)
logging.getLogger("vesselseg").setLevel("ERROR")
model.save("model.pth")
for _ in range(2):  # the second time they replace what is there
    model("in/eye.png").save("mask.png")
    model("in/eye.png").save("mask.tif", "overlay")
    model.save("model.pth")
for side in range(16, 100, 8):  # ever new shapes
    model(np.zeros((side, side), np.uint8))
with open("in/eye.png", "rb") as stream:
    model(stream)
assert vesselseg.segment_folder("in", "out", model=model, kinds=("mask", "overlay")).failed == 0
assert vesselseg.segment_folder("in", "out", model=model, resume=True).skipped == 2
registry.EMBEDDED = dataclasses.replace(registry.EMBEDDED, crop=64, stride=64)  # for doctor
for words, code in (
    ("doctor", 0), ("models", 0), ("cache", 0), ("--help", None),
    ("segment --help", None), ("evaluate --help", None), ("train --help", None),
    ("export --help", None), ("measure --help", None), ("app --help", None),
    ("segment in -o again --model model.pth --manifest run.csv --overlay", 0),
    ("segment in -o again --model model.pth --manifest run.csv --overlay --resume", 0),
    ("segment none.png -o mask2.png", 1),
    ("download unet_s5-d16_drive", 1), ("cache --clear", 0),
):
    try:
        found = main(words.split())
    except SystemExit as exit:
        found = None
    assert found == code, (words, found)
print("all of it")
"""


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_everything_small_runs_on(system, server, content, photograph, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("eye", "gr\u00f6\u00dfe"):
        Image.fromarray(photograph[:96, :96]).save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    url = server.serve("/narrow.pth", File(content))
    finished = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", platforms.__file__, system, "program.py",
         url, server.url],
        cwd=tmp_path, capture_output=True, check=False, timeout=300,
        env={**os.environ, "VESSELSEG_HOME": str(tmp_path / "cache"), "NO_PROXY": "*",
             "VESSELSEG_MIRROR": "", "HTTPS_PROXY": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr.decode(errors="replace")
    assert finished.stdout.decode("ascii", errors="replace").endswith("all of it\n")


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_sources_rely_on_no_single_system(path):
    """Text has an encoding, times have a zone, and what POSIX alone has is asked for first."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        place = f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "")]
            assert not {*names} & {*platforms.POSIX_MODULES}, f"{place} imports a module of POSIX"
            processes = {"multiprocessing", "ProcessPoolExecutor", "DataLoader"}
            assert not {*names} & processes, f"{place}: scripts without a guard would run again"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            posix = {"os": platforms.POSIX_OS, "signal": platforms.POSIX_SIGNALS}
            missing = posix.get(node.value.id, ())
            assert node.attr not in missing or (path.name, node.attr) == ("files.py", "kill"), (
                f"{place} uses {node.value.id}.{node.attr}, which Windows lacks"
            )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            given = {keyword.arg for keyword in node.keywords}
            if node.func.attr in ("read_text", "write_text"):
                assert "encoding" in given, f"{place} has no encoding"
            if node.func.attr in ("now", "fromtimestamp"):
                assert node.args or "tz" in given, f"{place} has no time zone"
            assert node.func.attr not in ("utcnow", "utcfromtimestamp"), f"{place}: no time zone"
            modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            is_text = any(isinstance(mode, str) and mode in ("r", "w", "a") for mode in modes)
            if node.func.attr == "open" and is_text:
                assert "encoding" in given, f"{place} has no encoding"


WINDOWS_PATHS = [
    r"C:\eyes\a.jpg", "C:/eyes/a.jpg", "C://eyes/a.jpg", "C:eyes", r"\\server\share\a.jpg", "a://b.jpg",
]  # fmt: skip


@pytest.mark.parametrize("path", WINDOWS_PATHS)
def test_paths_of_windows_are_no_addresses(path, tmp_path, monkeypatch, capsys):
    assert not is_address(path)
    monkeypatch.chdir(tmp_path)
    for inputs in ([path, "-o", "out"], ["measure", path, "-o", "m.csv", "--device", "cpu"]):
        if inputs[0] == "measure":
            pytest.importorskip("skan")
        assert main([*inputs, "--no-progress"]) == 1
        assert "There is no image" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="There is no image"):
        vesselseg.segment(path, device="cpu")
    monkeypatch.setenv("VESSELSEG_MIRROR", path)
    (source, place), *_ = cache._locations(find_spec("unet_s5-d16_drive"))
    assert place == Path(path).absolute() / source.filename


@pytest.mark.parametrize(
    "address",
    ["s3://eyes/a.jpg", "https://example.org/a.jpg", "file:///C:/eyes/a.jpg", "memory://a.jpg",
     "simplecache::s3://eyes/a.jpg", "zip://a.jpg::s3://eyes/all.zip"],
)  # fmt: skip
def test_addresses_are_addresses(address):
    assert is_address(address)
