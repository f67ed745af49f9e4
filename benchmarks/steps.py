"""Where the time of one photograph goes, from a file to a PNG file, and that of each layer.

Each function of vesselseg that is a step is replaced by one that also takes the time. A step that
runs inside another one is taken off the other one's time.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cases
import torch
from cases import PLANS, Plan
from PIL import Image
from table import Column
from torch import Tensor, nn

import vesselseg
from vesselseg import Segmentation, Segmenter, familiarity, segmenter, sliding
from vesselseg.backends.onednn import PackedUnit
from vesselseg.backends.pytorch import TorchBackend, native_precisions
from vesselseg.unet import UNet

MODELS = ("embedded-drive", "embedded-hrf")  # of one photograph, from file to file
LAYERED = ("drive", "embedded-drive")  # of the layers; the embedded model's windows are all alike
REST = "sigmoid, threshold and everything else"
STEPS: dict[str, tuple[Any, str]] = {
    "decode the file": (segmenter, "decode"),
    "find the field of view": (segmenter, "find_field_of_view"),
    "look for damage": (segmenter, "find_faults"),
    "size and colours": (segmenter, "preprocess"),
    "cut windows, add their logits": (sliding.WindowQueue, "_compute"),
    "network": (TorchBackend, "__call__"),
    "average logits": (sliding.Stitcher, "average"),
    "logits at the photograph's size": (segmenter, "restore"),
    "sharpness": (familiarity, "measure_sharpness"),
    "familiarity": (segmenter, "familiarity"),
    "write the PNG file": (Segmentation, "save"),
}
COLUMNS = [
    Column("image", "image"),
    Column("precision", "precision"),
    Column("step", "step"),
    Column("ms", "ms", "{:.1f}"),
    Column("share", "share", "{:.1%}"),
]
LAYER_COLUMNS = [
    Column("layer", "layer"),
    Column("maps", "maps"),
    Column("calls", "calls"),
    Column("ms", "ms", "{:.2f}"),
    Column("GFLOP/s", "gflops", "{:.0f}"),
    Column("GB/s", "gigabytes", "{:.1f}"),
    Column("least ms", "least", "{:.2f}"),
    Column("of the least", "share", "{:.0%}"),
]


class Stopwatch:
    """Seconds of each step, without those of the steps inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inside = [0.0]  # of the steps that are running: seconds of the steps inside them

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.inside.append(0.0)
        begun = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - begun
            self.seconds[name] += taken - self.inside.pop()
            self.inside[-1] += taken

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, as a step."""

        def run(*arguments: Any, **options: Any) -> Any:
            with self.step(name):
                return function(*arguments, **options)

        return run


def measure(repeats: int, models: tuple[str, ...] = MODELS) -> list[dict[str, Any]]:
    """A row for each step of each model and precision: medians over photographs."""
    rows = []
    for name in models:
        for precision in native_precisions(torch.device("cpu")):
            if precision == "float16":
                continue  # slower than float32 on most processors
            rows += measure_one(PLANS[name], precision, repeats)
    return rows


def measure_one(plan: Plan, precision: str, repeats: int) -> list[dict[str, Any]]:
    model = vesselseg.load_model(plan.spec, device="cpu", precision=precision)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "photograph.jpg"
        Image.fromarray(cases.photograph(plan.size)).save(file, quality=95)
        runs = [seconds_of_steps(model, file) for _ in range(repeats + 1)][1:]
    middle = {step: statistics.median(run[step] for run in runs) for step in runs[0]}
    total = sum(middle.values())
    shared = {"image": plan.size, "precision": precision}
    steps = [*STEPS, REST]
    rows = [{**shared, "step": s, "ms": 1e3 * middle[s], "share": middle[s] / total} for s in steps]
    return [*rows, {**shared, "step": "all", "ms": 1e3 * total, "share": 1.0}]


def seconds_of_steps(model: Segmenter, file: Path) -> dict[str, float]:
    """Segment a file into a PNG file beside it."""
    watch = Stopwatch()
    with ExitStack() as patches:
        for name, (owner, attribute) in STEPS.items():
            timed = watch.timed(name, getattr(owner, attribute))
            patches.enter_context(patch.object(owner, attribute, timed))
        with watch.step(REST):
            model(file).save(file.with_suffix(".png"))
    return watch.seconds


@dataclass
class Layer:
    """A layer on one batch: the maps of a call, and all calls together."""

    maps: str = ""
    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0
    flop: float = 0.0

    def add(self, seconds: float, module: nn.Module, maps: tuple[Tensor, ...], out: Tensor) -> None:
        """Count a call of a convolution: what it reads, computes and writes."""
        channels = sum(each.shape[1] for each in maps)
        kernel = 1
        if isinstance(module, PackedUnit):
            kernel = 2 * module.geometry[0][0] + 1
        elif isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0]
        count, _, height, width = out.shape
        self.maps = f"{count} x {channels} to {out.shape[1]}, {height} x {width}"
        self.calls += 1
        self.seconds += seconds
        self.bytes += sum(each.nbytes for each in (*maps, out))
        self.flop += 2.0 * kernel**2 * channels * out.numel()


def measure_layers(
    plan: Plan, precision: str, repeats: int, gflops: float, gigabytes: float
) -> list[dict[str, Any]]:
    """A row for each layer on one batch, in order.

    `least` is what its operations take at `gflops`, or its bytes at `gigabytes` a second, whichever
    is longer: the machine's limits, as `limit.best` and :func:`copy_speed` measure them.
    """
    network = UNet(plan.spec.width, plan.spec.depth, plan.spec.head)
    backend = TorchBackend(network, plan.spec, "cpu", precision)
    count = backend.batch_size(plan.spec)
    batch = torch.zeros(count, 3, plan.spec.crop, plan.spec.crop, dtype=torch.uint8)
    batch = batch.contiguous(memory_format=torch.channels_last)
    runs: list[dict[str, Layer]] = []
    begun: list[float] = []

    def before(*_: Any) -> None:
        begun.append(time.perf_counter())

    def after(name: str, module: nn.Module, maps: tuple[Tensor, ...], out: Tensor) -> None:
        taken = time.perf_counter() - begun.pop()
        runs[-1].setdefault(name, Layer()).add(taken, module, maps, out)

    handles = []
    for name, module in backend.placed.named_modules():
        if getattr(module, "weight", None) is not None:
            handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(
                lambda module, maps, out, name=name: after(name, module, maps, out)
            ))  # fmt: skip
    for _ in range(repeats + 1):
        runs.append({})
        backend(batch)
    for handle in handles:
        handle.remove()
    rows = []
    for name, layer in runs[0].items():
        seconds = statistics.median(run[name].seconds for run in runs[1:])
        least = max(layer.flop / gflops, layer.bytes / gigabytes) / 1e9
        rows.append({
            "layer": name, "maps": layer.maps, "calls": layer.calls, "ms": 1e3 * seconds,
            "gflops": layer.flop / seconds / 1e9, "gigabytes": layer.bytes / seconds / 1e9,
            "least": 1e3 * least, "share": least / seconds,
        })  # fmt: skip
    return rows


def copy_speed(megabytes: int = 256, runs: int = 5) -> float:
    """GB/s that a large copy reads and writes."""
    source = torch.zeros(megabytes * 2**20, dtype=torch.uint8)
    target = torch.empty_like(source)
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - begun)
    return 2 * source.nbytes / min(times) / 1e9
