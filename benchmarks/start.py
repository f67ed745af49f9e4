"""How long imports and the first mask take, each in a process of its own."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

from cases import EXAMPLE
from table import Column

COLUMNS = [Column("what", "what"), Column("seconds", "seconds", "{:.3f}")]


def measure(repeats: int) -> list[dict[str, Any]]:
    """Medians. The first process of each kind, with cold file caches, does not count."""
    kinds = {
        "import vesselseg": lambda: seconds_of_import("vesselseg"),
        "import torch": lambda: seconds_of_import("torch"),
        "from the start of the process to the first mask": seconds_to_mask,
    }
    times: dict[str, list[float]] = {what: [] for what in kinds}
    for _ in range(repeats + 1):
        for what, run in kinds.items():
            times[what].append(run())
    return [
        {"what": what, "seconds": statistics.median(each[1:]), "times": each[1:]}
        for what, each in times.items()
    ]


def seconds_of_import(module: str) -> float:
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return float(subprocess.check_output([sys.executable, "-c", code]))


def seconds_to_mask() -> float:
    """Until the process prints the size of the mask; its end does not count."""
    code = f"import vesselseg; print(vesselseg.segment({str(EXAMPLE)!r}, device='cpu').mask.shape)"
    begun = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - begun
    assert line.startswith(b"("), "the process failed; see its standard error"
    return seconds
