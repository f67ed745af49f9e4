"""How long it takes until something can be done: each time a process of its own."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

from cases import EXAMPLE
from table import Column

COLUMNS = [Column("what", "what"), Column("seconds", "seconds", "{:.3f}")]
_IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
_SEGMENT = "import vesselseg; print(vesselseg.segment({!r}, device='cpu').mask.shape)"


def measure(repeats: int) -> list[dict[str, Any]]:
    """Medians; the first process of each kind, which finds nothing in the file cache, is left."""
    kinds = {
        "import vesselseg": lambda: _printed(_IMPORT.format("vesselseg")),
        "import torch": lambda: _printed(_IMPORT.format("torch")),
        "from the start of the process to the first mask": _first_mask,
    }
    times: dict[str, list[float]] = {what: [] for what in kinds}
    for number in range(repeats + 1):
        for what, run in kinds.items():
            seconds = run()
            if number:
                times[what].append(seconds)
    return [
        {"what": what, "seconds": statistics.median(each), "times": each}
        for what, each in times.items()
    ]


def _printed(code: str) -> float:
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def _first_mask() -> float:
    """Up to the line that is printed behind the mask; how the process ends does not count."""
    begun = time.perf_counter()
    command = [sys.executable, "-c", _SEGMENT.format(str(EXAMPLE))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - begun
    assert line.startswith(b"("), "the process said why on standard error"
    return seconds
