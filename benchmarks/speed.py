"""Seconds per image of every candidate, same weights, same process, in turn."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from candidates import BASE, CANDIDATES, Candidate, LeftOutError, cost
from cases import PLANS, Case
from table import Column

COLUMNS = [
    Column("model", "model"),
    Column("image", "image"),
    Column("windows", "windows"),
    Column("candidate", "candidate"),
    Column("seconds", "seconds", "{:.3g}"),
    Column("times mmsegmentation", "ratio", "{:.2f}"),
    Column("nominal GFLOP/s", "nominal", "{:.0f}"),
    Column("executed GFLOP/s", "executed", "{:.0f}"),
    Column("of the limit", "share", "{:.0%}"),
    Column("equal pixels", "equal", "{:.3%}"),
    Column("vessel", "vessel", "{:.0%}"),
    Column("", "note"),
]


def measure(
    models: Sequence[str],
    names: Sequence[str],
    repeats: int,
    limits: dict[str, float],
    device: str = "cpu",
) -> Iterator[list[dict[str, Any]]]:
    """Rows of each model in turn; the last ones name what was left out, and why."""
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            yield compare(Case(PLANS[model], Path(folder), device), names, repeats, limits)


def compare(
    case: Case, names: Sequence[str], repeats: int, limits: dict[str, float]
) -> list[dict[str, Any]]:
    built = {name: build(name, case) for name in names}
    candidates = [each for each in built.values() if isinstance(each, Candidate)]
    masks = {each.name: each.run() for each in candidates}  # and all is warm
    times = interleave({each.name: each.run for each in candidates}, repeats)
    image = cost(case)
    same = {"model": case.spec.name, "image": case.plan.size,
            "network_image": case.scaled.shape[:2], "windows": image.windows,
            "note": case.plan.note}  # fmt: skip
    rows = []
    for each in candidates:
        seconds = statistics.median(times[each.name])
        executed = each.flop / seconds / 1e9
        limit = limits.get(each.precision)
        equal = None
        if each.comparable and BASE in masks:
            equal = float(np.mean(masks[each.name] == masks[BASE]))
        rows.append({**same, "candidate": each.name, "precision": each.precision,
                     "seconds": seconds, "times": times[each.name],
                     "ratio": ratio(times.get(BASE), times[each.name]),
                     "nominal": image.nominal / seconds / 1e9, "executed": executed,
                     "share": limit and executed / limit, "equal": equal,
                     "vessel": float(masks[each.name].mean())})  # fmt: skip
    left_out = {name: each for name, each in built.items() if isinstance(each, str)}
    return rows + [{**same, "candidate": name, "left_out": why} for name, why in left_out.items()]


def build(name: str, case: Case) -> Candidate | str:
    """A candidate, or why it is left out."""
    try:
        return CANDIDATES[name](case)
    except (ImportError, LeftOutError) as error:
        return str(error).partition("\n")[0]


def interleave(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run: all once, then all again, so that a slow minute meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begun)
    return times


def ratio(base: Sequence[float] | None, times: Sequence[float]) -> float | None:
    """How many times as fast as the base: the median of the ratios of each round."""
    if base is None:
        return None
    return statistics.median(a / b for a, b in zip(base, times, strict=True))
