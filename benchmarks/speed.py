"""Seconds per image of each candidate, with the same weights, in the same process, in turn."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from candidates import BASE, CANDIDATES, Candidate, LeftOutError, cost
from cases import PLANS, Case
from table import Column

from vesselseg import DeviceError

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
SAVING_COLUMNS = [
    Column("model", "model"),
    Column("image", "image"),
    Column("precision", "precision"),
    Column("Winograd saves", "winograd", "{:.1%}"),
    Column("packing saves", "packing", "{:.1%}"),
]


def measure(
    models: Sequence[str],
    names: Sequence[str],
    repeats: int,
    limits: dict[str, float],
    device: str = "cpu",
) -> Iterator[list[dict[str, Any]]]:
    """The rows of each model in turn."""
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            yield compare(Case(PLANS[model], Path(folder), device), names, repeats, limits)


def compare(
    case: Case, names: Sequence[str], repeats: int, limits: dict[str, float]
) -> list[dict[str, Any]]:
    """A row for each candidate; for those that cannot be measured, it says why."""
    built = {name: build(name, case) for name in names}
    candidates = {name: each for name, each in built.items() if isinstance(each, Candidate)}
    masks = {name: each.run() for name, each in candidates.items()}  # these runs do not count
    times = interleave({name: each.run for name, each in candidates.items()}, repeats)
    image = cost(case)
    shared = {"model": case.spec.name, "image": case.plan.size, "windows": image.windows,
              "network_image": case.scaled.shape[:2], "note": case.plan.note}  # fmt: skip
    rows: list[dict[str, Any]] = []
    for name, each in built.items():
        row: dict[str, Any] = {**shared, "candidate": name}
        rows.append(row)
        if isinstance(each, str):
            row["left_out"] = each
            continue
        seconds = statistics.median(times[name])
        row |= {
            "precision": each.precision,
            "seconds": seconds,
            "times": times[name],
            "nominal": image.nominal / seconds / 1e9,
            "executed": each.flop / seconds / 1e9,
            "vessel": float(masks[name].mean()),
        }
        if each.precision in limits:
            row["share"] = row["executed"] / limits[each.precision]
        if BASE in times:
            row["ratio"] = ratio(times[BASE], times[name])
            if each.comparable:
                row["equal"] = float((masks[name] == masks[BASE]).mean())
    return rows


def build(name: str, case: Case) -> Candidate | str:
    """A candidate, or why it cannot be measured."""
    try:
        return CANDIDATES[name](case)
    except (ImportError, LeftOutError, DeviceError) as error:
        return str(error).partition("\n")[0]


def interleave(runs: dict[Any, Callable[[], object]], repeats: int) -> dict[Any, list[float]]:
    """Seconds of each run. They take turns, so that a slow minute affects all of them."""
    times: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begun)
    return times


def ratio(base: Sequence[float], times: Sequence[float]) -> float:
    """How many times as fast as the base: the median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(base, times, strict=True))


def savings(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Which share of the time Winograd and packing save, from the rows of one model."""
    times = {row["candidate"]: row["times"] for row in rows if "times" in row}
    saved = []
    for precision in ("float32", "bfloat16"):
        full = f"vesselseg-{precision}"
        without = {part: f"{full}-no-{part}" for part in ("winograd", "packing")}
        if {full, *without.values()} <= times.keys():
            saved.append({
                "model": rows[0]["model"], "image": rows[0]["image"], "precision": precision,
                "winograd": 1 - ratio(times[full], times[without["winograd"]]),
                "packing": 1 - ratio(times[without["winograd"]], times[without["packing"]]),
            })  # fmt: skip
    return saved
