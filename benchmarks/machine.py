"""The machine that is measured, and whether it is busy."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path

import torch

LIBRARIES = (
    "vesselseg",
    "torch",
    "mmsegmentation",
    "mmcv-lite",
    "monai",
    "onnxruntime",
    "openvino",
)
IDLE = 0.5  # the highest load of an idle machine


def about(device: str = "cpu") -> dict[str, object]:
    """Processor, threads, date, and the versions of the libraries that are compared."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no CUDA device here.")
    return {
        "processor": processor(),
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "load": load(),
        "versions": {**{name: version(name) for name in LIBRARIES}, "torch": torch.__version__},
    }


def version(library: str) -> str | None:
    """The version of a library; None if it is not installed."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def load() -> float | None:
    """How many processes wanted to run over the last minute; None if the system does not say."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def warning(load: float | None) -> str:
    """The warning to print before measuring with that load; empty if the machine is idle."""
    if load is None or load <= IDLE:
        return ""
    return (
        f"This machine was busy in the last minute (load {load:.2f}), so times may be too long. "
        f"Stop other programs, wait a minute, and measure again."
    )
