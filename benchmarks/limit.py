"""The machine's limit: the fastest 3x3 convolution that PyTorch reaches, channels last.

The network consists of such convolutions. How close it comes to the fastest of them shows how
much could still be gained without other kernels.
"""

from __future__ import annotations

import itertools
import time
from typing import Any, NamedTuple

import torch
from table import Column, markdown
from torch import nn

from vesselseg.backends.pytorch import DTYPES, native_precisions

CHANNELS = (64, 128, 256, 512)
SIDES = (8, 16, 32, 64, 128, 256)
BATCHES = {"cpu": (1, 2, 4, 8, 16, 32), "cuda": (16, 32, 64, 128, 256)}
# With fewer operations, starting a convolution takes longer than computing it; with more,
# nothing gets faster.
LEAST_FLOP = {"cpu": 1e8, "cuda": 1e10}
MOST_FLOP = {"cpu": 8e10, "cuda": 5e11}
RUNS, SECONDS = 3, 0.1  # at least so many runs, and at least so long, of each convolution
PASSES = 2  # over all convolutions, in case the machine is slow for a moment
CALLS = {"cpu": 1, "cuda": 10}  # calls in a run, since waiting for a GPU takes time


class Convolution(NamedTuple):
    """3x3 with bias, as many channels in as out, on square maps."""

    channels: int
    side: int
    batch: int

    @property
    def flop(self) -> float:
        return 2.0 * 9 * self.channels**2 * self.side**2 * self.batch


def configurations(device: str = "cpu") -> list[Convolution]:
    """The convolutions that are measured on a kind of device."""
    every = itertools.starmap(Convolution, itertools.product(CHANNELS, SIDES, BATCHES[device]))
    return [each for each in every if LEAST_FLOP[device] <= each.flop <= MOST_FLOP[device]]


def measure(device: str = "cpu") -> list[dict[str, Any]]:
    """GFLOP/s of each convolution in each precision that the device computes natively."""
    times: dict[tuple[str, Convolution], list[float]] = {}
    for _ in range(PASSES):
        for precision in native_precisions(torch.device(device)):
            for convolution in configurations(device):
                taken = seconds(convolution, DTYPES[precision], device)
                times.setdefault((precision, convolution), []).append(taken)
    return [
        {"precision": precision, **each._asdict(), "gflops": each.flop / min(taken) / 1e9}
        for (precision, each), taken in times.items()
    ]


def seconds(convolution: Convolution, dtype: torch.dtype, device: str = "cpu") -> float:
    """The fastest of several runs."""
    channels, side, batch = convolution
    generator = torch.Generator().manual_seed(0)
    placing: dict[str, Any] = {"device": device, "memory_format": torch.channels_last}
    layer = nn.Conv2d(channels, channels, 3, padding=1, dtype=dtype).to(**placing)
    maps = torch.randn(batch, channels, side, side, generator=generator).to(dtype).to(**placing)
    times: list[float] = []
    with torch.inference_mode():
        layer(maps)  # chooses or compiles a kernel
        while len(times) < RUNS or sum(times) < SECONDS:
            synchronize(device)
            begun = time.perf_counter()
            for _ in range(CALLS[device]):
                layer(maps)
            synchronize(device)
            times.append((time.perf_counter() - begun) / CALLS[device])
    return min(times)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def best(rows: list[dict[str, Any]]) -> dict[str, float]:
    """GFLOP/s of the fastest convolution in each precision."""
    limits: dict[str, float] = {}
    for row in rows:
        limits[row["precision"]] = max(row["gflops"], limits.get(row["precision"], 0.0))
    return limits


def tables(rows: list[dict[str, Any]]) -> str:
    """A table for each precision: channels x side of the maps, each cell with its best batch."""
    columns = [Column("channels", "channels")]
    columns += [Column(f"{side} x {side}", str(side), "{:.0f}") for side in SIDES]
    parts = []
    for precision, limit in best(rows).items():
        lines: dict[int, dict[str, Any]] = {n: {"channels": n} for n in CHANNELS}
        for row in rows:
            if row["precision"] == precision:
                line, side = lines[row["channels"]], str(row["side"])
                line[side] = max(line.get(side, 0.0), row["gflops"])
        parts.append(f"{precision}, at most {limit:.0f} GFLOP/s:\n")
        parts.append(markdown(lines.values(), columns) + "\n")
    return "\n".join(parts)
