"""The package as a whole: what importing it does, what it offers, which way it depends."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vesselseg
from vesselseg.choices import BACKENDS

PACKAGE = Path(vesselseg.__file__).parent


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )


def test_import_is_light_and_silent():
    heavy = ("torch", "PIL", "requests", "numpy", "tqdm")
    finished = run(f"import sys, vesselseg; print([m for m in {heavy} if m in sys.modules])")
    assert (finished.stdout, finished.stderr, finished.returncode) == ("[]\n", "", 0)


@pytest.mark.slow
def test_a_photograph_loads_no_room_and_no_backend_that_it_does_not_need():
    rooms = ["vesselseg.dicom", "vesselseg.measures", "vesselseg.batch.jobs", "vesselseg.ray"]
    rooms += ["onnx", "onnxruntime", "openvino"]
    code = "import sys, numpy, vesselseg; vesselseg.segment(numpy.zeros((9, 9), numpy.uint8)); "
    finished = run(code + f"print([m for m in {rooms} if m in sys.modules])")
    assert finished.stdout == "[]\n"


@pytest.mark.parametrize("name", vesselseg.__all__)
def test_every_public_name_is_there(name):
    assert getattr(vesselseg, name) is not None
    assert name in dir(vesselseg)


def test_names_are_sorted_and_others_are_rejected():
    assert vesselseg.__all__ == sorted(vesselseg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'segmentt'"):
        vesselseg.segmentt  # noqa: B018


def test_every_error_has_the_base_and_a_builtin():
    errors = [getattr(vesselseg, name) for name in vesselseg.__all__ if name.endswith("Error")]
    assert len(errors) == 11
    for error in set(errors) - {vesselseg.VesselsegError}:
        assert issubclass(error, vesselseg.VesselsegError)
        assert issubclass(error, (ValueError, OSError, MemoryError, ImportError))


# A module may import those on the lines above its own, and no other.
ORDER = """
_version choices
errors
formats telemetry process pixels
spec files sliding unet pictures tiff
dicom
registry fov safe_load metrics
images weights measures.centrelines measures.columns
measures.cleaning measures.drawing
measures
result preprocess familiarity cache.sidecar
labels
cache.transfer
cache
backends
backends.winograd backends.onnx_export backends.onnx_file
backends.onednn
backends.pytorch
backends.onnxruntime backends.openvino
backends.quantize
segmenter
api finetune.jpeg finetune.resampling
batch.places batch.engine evaluation.statistics finetune.losses finetune.augmentation
batch.search
batch.jobs batch.table evaluation.datasets finetune.state finetune.windows
corrections
batch.work finetune.trainer evaluation.scores finetune.photographs finetune.scores
batch.folder finetune.card evaluation.figures app.server
evaluation.report
ray finetune.training napari.layers napari.correcting napari.fields napari.learning
finetune napari napari.measuring napari.fine_tuning
napari.widget napari.correct
cli.arguments cli.parser cli.streams
cli.collection cli.models
cli.app cli.doctor cli.evaluate cli.measure cli.segment cli.train
cli
__main__
"""
LAYERS = {
    name: number for number, line in enumerate(ORDER.strip().splitlines()) for name in line.split()
}


def module_name(path: Path) -> str:
    """For example "cache.sidecar" or "cache"."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it."""
    package = path.relative_to(PACKAGE).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) + 1 - node.level]
            stem = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                full = f"{stem}.{alias.name}".strip(".")
                found.add(full if full in LAYERS else stem)
    return found - {""}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_imports_point_one_way(path):
    name = module_name(path)
    if name in ("__init__", "app", "batch", "evaluation"):
        return  # the first offers what the others have; the others hold a docstring
    assert name in LAYERS, f"give {name} a place in ORDER"
    for other in imports(path):
        assert LAYERS[other] < LAYERS[name], f"{name} imports {other}"


ROOT = PACKAGE.parent
USERS = [
    path
    for folder in ("vesselseg", "tests", "benchmarks", "training", "examples")
    for path in (ROOT / folder).rglob("*.py")
]
# What is named by a text: in the table of backends, by napari, and by pip.
TEXTS = (
    set(re.findall(r"[.:](\w+)$", (PACKAGE / "napari" / "napari.yaml").read_text(), re.MULTILINE))
    | {place.rpartition(".")[2] for place in BACKENDS.values()}
    | {"main", "add_parsers"}
)


def uses(path):
    """(module, name) of what a file takes from other modules of the package."""
    me = path.relative_to(ROOT).with_suffix("")
    parts = me.parts[:-1]
    aliases, found = {}, set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) + 1 - node.level] if node.level else ()
            stem = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                found.add((stem, alias.name))
                aliases[alias.asname or alias.name] = f"{stem}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                aliases[name] = alias.name if alias.asname else name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            stem, _, name = ast.unparse(node).rpartition(".")
            first, _, rest = stem.partition(".")
            if first in aliases:
                found.add((".".join(filter(None, (aliases[first], rest))), name))
    return found


@pytest.fixture(scope="module")
def used():
    """File -> what it takes from other modules of the package."""
    return {path: uses(path) for path in USERS}


def in_signatures(tree):
    """The names in annotations: the types that functions take and return."""
    annotations = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.arg, ast.AnnAssign)):
            annotations.append(node.annotation)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            annotations.append(node.returns)
    return set(re.findall(r"\w+", " ".join(ast.unparse(each) for each in annotations if each)))


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_an_underscore_marks_what_only_its_own_module_uses(path, used):
    module = ".".join(filter(None, ("vesselseg", module_name(path).removesuffix("__init__"))))
    tree = ast.parse(path.read_text())
    public = (
        getattr(importlib.import_module(module), "__all__", ())
        if "__all__" in ast.dump(tree)
        else ()
    )
    elsewhere = set().union(*(found for user, found in used.items() if user != path))
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        name = node.name
        is_used = (module, name) in elsewhere
        if name.startswith("_") and not name.startswith("__"):
            in_package = [user for user in used if PACKAGE in user.parents and user != path]
            assert not any((module, name) in used[user] for user in in_package), name
        elif not name.startswith("__"):
            is_named = is_used or name in public or name in TEXTS
            assert is_named or name in in_signatures(tree), f"{name} is used here alone: _{name}"


REFERENCE = {
    module: names
    for path in sorted((ROOT / "docs" / "reference").glob("*.md"))
    for module, names in re.findall(
        r"automodule:: (\S+)\n(.*?)(?=\.\. automodule|\Z)", path.read_text(), re.DOTALL
    )
}


@pytest.mark.parametrize("module", REFERENCE)
def test_the_reference_lists_what_a_public_module_says_it_has(module):
    text = REFERENCE[module]
    names = set(re.findall(r"auto(?:function|class|data|exception):: (\w+)\n", text))
    for members in re.findall(r":members: (.+)", text):
        names.update(members.split(", "))
    assert names == set(importlib.import_module(module).__all__)


def test_the_cache_builds_no_networks():
    for path in (PACKAGE / "cache").glob("*.py"):
        assert not imports(path) & {"weights", "unet", "safe_load"}


def test_ships_its_types():
    assert (PACKAGE / "py.typed").exists()


# An argument as Python has it, with its value or with that of an f-string.
ARGUMENT = re.compile(r"\b[a-z_]+=(True|False|None|\d|'|\.\.\.|\{\})")


def find_texts(file):
    """The texts of a module except docstrings, with {} for what is filled in, and their lines."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = [
        node for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    ]  # fmt: skip
    parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in nodes:
        if id(node) not in parts | docstrings:
            values = node.values if isinstance(node, ast.JoinedStr) else [node]
            yield "".join(getattr(value, "value", "") if isinstance(value, ast.Constant) else "{}"
                          for value in values), node.lineno  # fmt: skip


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.stem)
def test_messages_fit_python_the_command_and_the_widgets(file):
    """A message names an option by a word that all of them have, unless it says "in Python"."""
    for text, line in find_texts(file):
        is_prose = " " in text and "<" not in text
        if is_prose and "in python" not in text.lower():
            assert not ARGUMENT.search(text), f"{file}:{line}: {text}"
