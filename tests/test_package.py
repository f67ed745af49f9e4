"""The package as a whole: what importing it does, what it offers, which way it depends."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vesselseg

PACKAGE = Path(vesselseg.__file__).parent


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )


def test_import_is_light_and_silent():
    heavy = ("torch", "PIL", "requests", "numpy", "tqdm")
    finished = run(f"import sys, vesselseg; print([m for m in {heavy} if m in sys.modules])")
    assert (finished.stdout, finished.stderr, finished.returncode) == ("[]\n", "", 0)


@pytest.mark.parametrize("name", vesselseg.__all__)
def test_every_public_name_is_there(name):
    assert getattr(vesselseg, name) is not None
    assert name in dir(vesselseg)


def test_names_are_sorted_and_others_are_refused():
    assert vesselseg.__all__ == sorted(vesselseg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'segmentt'"):
        vesselseg.segmentt  # noqa: B018


def test_every_error_has_the_base_and_a_builtin():
    errors = [getattr(vesselseg, name) for name in vesselseg.__all__ if name.endswith("Error")]
    assert len(errors) == 11
    for error in set(errors) - {vesselseg.VesselsegError}:
        assert issubclass(error, vesselseg.VesselsegError)
        assert issubclass(error, (ValueError, OSError, MemoryError, ImportError))


# Each module may import those above it, and the ones on its own line no other.
ORDER = [
    {"errors", "_version"},
    {"files", "plainfile", "record", "windows", "unet", "fov", "winograd", "transfers"},
    {"checkpoints", "images", "weights", "sliding", "onednn"},
    {"backend"},
    {"prepare", "result", "cache", "metrics"},
    {"backends"},
    {"segmenter"},
    {"loading"},
    {"evaluation", "batch", "app"},
    {"ray"},
    {"cli", "__main__"},
]


_INT8 = {"openvino_int8", "openvino_quantize"}

# The same inside packages whose modules build on each other.
INSIDE = {
    "batch": [{"plan"}, {"manifest", "storage"}, {"run", "parquet"}, {"worker"}],
    "cache": [
        {"progress", "places", "notes", "locks"},
        {"making", "transfer"},
        {"accept"},
        {"__init__"},
    ],
    "backends": [{"__init__"}, {"onnx", "onnx_export", "openvino_graph"}, {"openvino"}, _INT8],
    "evaluation": [{"datasets", "labels"}, {"pairs", "scores"}, {"summary"}, {"report"}],
}


@pytest.mark.parametrize("package", INSIDE)
def test_imports_inside_a_package_point_one_way(package):
    layer = {name: place for place, names in enumerate(INSIDE[package]) for name in names}
    for path in (PACKAGE / package).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                names = [node.module] if node.module else [a.name for a in node.names]
                for name in (name if name in layer else "__init__" for name in names):
                    assert layer[name] < layer[path.stem], f"{path.stem} imports {name}"


def test_imports_point_one_way():
    layer = {name: place for place, names in enumerate(ORDER) for name in names}
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if module == "__init__":
            continue  # offers what the others have
        assert module in layer, f"{module} has no place in ORDER"
        inside = len(path.relative_to(PACKAGE).parts) > 1
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.level == 0:
                continue
            if inside and node.level == 1:
                continue  # within a sub-package
            names = [node.module.split(".")[0]] if node.module else [a.name for a in node.names]
            for name in set(names) - {"__version__"}:
                down = layer[name] < layer[module] or (module, name) == ("__main__", "cli")
                assert down, f"{module} imports {name}"


def test_ships_its_types():
    assert (PACKAGE / "py.typed").exists()
