"""The machine's limit: the fastest 3x3 convolution that PyTorch reaches, channels last.

Deep networks are made of these; how close one comes to the best of them says how much could
still be gained without other kernels.
"""

from __future__ import annotations

import itertools
import time
from typing import Any, NamedTuple

import torch
from table import Column, markdown
from torch import nn

from vesselseg.backends.pytorch import native_precisions

CHANNELS = (64, 128, 256, 512)
SIDES = (8, 16, 32, 64, 128, 256)
# Below the least FLOP starting a convolution takes longer than computing it; above the most
# nothing gets faster.
BATCHES = {"cpu": (1, 2, 4, 8, 16, 32), "cuda": (16, 32, 64, 128, 256)}
LEAST = {"cpu": 1e8, "cuda": 1e10}
MOST = {"cpu": 8e10, "cuda": 5e11}
_IN_A_ROW = {"cpu": 1, "cuda": 10}  # a GPU is waited for behind so many
_RUNS, _SECONDS = 3, 0.1  # of each convolution, at least,
_PASSES = 2  # and all of them again, for a moment may be slow that meets one alone
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Convolution(NamedTuple):
    """3x3 with bias, as many channels in as out, on square maps."""

    channels: int
    side: int
    batch: int

    @property
    def flop(self) -> float:
        return 2.0 * 9 * self.channels**2 * self.side**2 * self.batch


def configurations(kind: str = "cpu") -> list[Convolution]:
    """What is tried on a kind of device."""
    every = itertools.starmap(Convolution, itertools.product(CHANNELS, SIDES, BATCHES[kind]))
    return [convolution for convolution in every if LEAST[kind] <= convolution.flop <= MOST[kind]]


def measure(device: str = "cpu") -> list[dict[str, Any]]:
    """Every configuration in each precision that the device has instructions for."""
    native = native_precisions(torch.device(device))
    dtypes = {precision: dtype for precision, dtype in _DTYPES.items() if precision in native}
    fastest: dict[tuple[str, Convolution], float] = {}
    for _ in range(_PASSES):
        for key in itertools.product(dtypes, configurations(device)):
            took = seconds(key[1], dtypes[key[0]], device)
            fastest[key] = min(took, fastest.get(key, took))
    return [
        {"precision": precision, **each._asdict(), "gflops": each.flop / took / 1e9}
        for (precision, each), took in fastest.items()
    ]


def seconds(convolution: Convolution, dtype: torch.dtype, device: str = "cpu") -> float:
    """The fastest of several runs: a limit, not what is usual."""
    channels, side, batch = convolution
    generator = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(channels, channels, 3, padding=1, dtype=dtype)
    x = torch.randn(batch, channels, side, side, generator=generator).to(dtype)
    layer, x = (each.to(device, memory_format=torch.channels_last) for each in (layer, x))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times: list[float] = []
    with torch.inference_mode():
        layer(x)  # its kernel is made
        wait()
        while len(times) < _RUNS or sum(times) < _SECONDS:
            begun = time.perf_counter()
            for _ in range(_IN_A_ROW[device]):
                layer(x)
            wait()
            times.append((time.perf_counter() - begun) / _IN_A_ROW[device])
    return min(times)


def best(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Precision -> GFLOP/s of its fastest convolution."""
    return {
        precision: max(row["gflops"] for row in rows if row["precision"] == precision)
        for precision in dict.fromkeys(row["precision"] for row in rows)
    }


def tables(rows: list[dict[str, Any]]) -> str:
    """For each precision channels x side of the maps, the best batch in each cell."""
    parts = []
    for precision, limit in best(rows).items():
        columns = [Column("channels", "channels")]
        columns += [Column(f"{side} x {side}", str(side), "{:.0f}") for side in SIDES]
        cells: dict[int, dict[str, Any]] = {n: {"channels": n} for n in CHANNELS}
        for row in rows:
            if row["precision"] == precision:
                line, side = cells[row["channels"]], str(row["side"])
                line[side] = max(line.get(side, 0.0), row["gflops"])
        parts.append(f"{precision}, at most {limit:.0f} GFLOP/s:\n")
        parts.append(markdown(cells.values(), columns) + "\n")
    return "\n".join(parts)
