"""The shapes whose measures are known: those that the benchmark draws."""

import importlib.util
import sys
from pathlib import Path

_SCRIPT = Path(__file__).parents[2] / "benchmarks" / "measures.py"
_spec = importlib.util.spec_from_file_location("drawn_shapes", _SCRIPT)
_module = importlib.util.module_from_spec(_spec)
sys.modules["drawn_shapes"] = _module
_spec.loader.exec_module(_module)

line, comb, tree, arc, ring, koch, strokes, turn, turned = (
    getattr(_module, name)
    for name in ["line", "comb", "tree", "arc", "ring", "koch", "strokes", "turn", "turned"]
)
