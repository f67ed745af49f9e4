"""The machine that figures were measured on, and whether it does anything else."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path

LIBRARIES = (
    "vesselseg",
    "torch",
    "mmsegmentation",
    "mmcv-lite",
    "monai",
    "onnxruntime",
    "openvino",
)
_IDLE = 0.5  # processes that want to run, on average over the last minute


def about() -> dict[str, object]:
    """Processor, threads, date and the versions of what is compared."""
    import torch

    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "load": load(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def version(library: str) -> str | None:
    """Of an installed library; None if it is not there."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def load() -> float | None:
    """Processes that wanted to run over the last minute; None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def warning(load: float | None) -> str:
    """What to say of a machine with that load before a measurement; empty if it is idle."""
    if load is None or load <= _IDLE:
        return ""
    return (
        f"This machine was busy in the last minute (load {load:.2f}): the figures may be too "
        f"slow. Stop what else runs, wait a minute, and measure again."
    )
