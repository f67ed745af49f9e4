"""All benchmarks in one command: tables in Markdown, figures in a JSON file.

    python -m venv .venv-benchmarks
    .venv-benchmarks/bin/pip install -c constraints.txt -r benchmarks/requirements.txt .
    .venv-benchmarks/bin/python benchmarks/run.py --json results.json

benchmarks/README.md says what each figure means. Let nothing else run on the machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import limit
import machine
import memory
import speed
import start
import steps
import throughput
from candidates import CANDIDATES
from cases import DEFAULT, PLANS
from table import markdown

from vesselseg.cli.arguments import positive

GPU_PARTS = ("limit", "speed")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    about = machine.about(options.device)
    if warning := machine.warning(machine.load()):
        print(warning, file=sys.stderr)
    versions = [f"{name} {version}" for name, version in about["versions"].items() if version]
    print(f"{about['device']}, {about['threads']} threads, {about['date']}; {', '.join(versions)}")
    results: dict[str, Any] = {"about": about, "repeats": options.repeats}
    for name, part in PARTS.items():
        if name in options.parts:
            print(f"\n## {name.capitalize()}\n", flush=True)
            part(options, results)
            if options.json:  # after each part, so that an interruption loses only one
                options.json.write_text(json.dumps(results, indent=1))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", choices=["cpu", "cuda"], default="cpu", help="for limit and speed")
    add("--parts", nargs="+", choices=PARTS, help="default: all that the device has")
    add("--models", nargs="+", choices=PLANS,
        help="for speed; default: all, on a CPU with a part of HRF's image")  # fmt: skip
    add("--candidates", nargs="+", choices=CANDIDATES, default=[*CANDIDATES],
        help="for speed; default: all that are installed")  # fmt: skip
    add("--repeats", type=positive, default=5, help="rounds of runs (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write every figure, single runs included")
    options = parser.parse_args(arguments)
    available = [*PARTS] if options.device == "cpu" else [*GPU_PARTS]
    options.parts = options.parts or available
    options.models = options.models or DEFAULT[options.device]
    if missing := set(options.parts) - set(available):
        parser.error(f"these parts are measured on the CPU only: {', '.join(sorted(missing))}")
    return options


def run_limit(options: argparse.Namespace, results: dict[str, Any]) -> None:
    results["limit"] = limit.measure(options.device)
    print(limit.tables(results["limit"]))


def run_speed(options: argparse.Namespace, results: dict[str, Any]) -> None:
    limits = limit.best(results.get("limit", []))
    results["speed"], results["savings"] = [], []
    settings = (options.candidates, options.repeats, limits, options.device)
    for rows in speed.measure(options.models, *settings):
        results["speed"] += rows
        results["savings"] += speed.savings(rows)
        measured = [row for row in rows if "left_out" not in row]
        print(markdown(measured, speed.COLUMNS), end="\n\n", flush=True)
    if results["savings"]:
        print(markdown(results["savings"], speed.SAVING_COLUMNS), end="\n\n")
    reasons = {(r["candidate"], r["left_out"]) for r in results["speed"] if "left_out" in r}
    for name, reason in sorted(reasons):
        print(f"Left out: {name} ({reason}).")


def run_memory(_: argparse.Namespace, results: dict[str, Any]) -> None:
    results["memory"], results["growth"] = memory.measure(), memory.measure_growth()
    print(markdown(results["memory"], memory.COLUMNS), end="\n\n")
    print(markdown(results["growth"], memory.GROWTH_COLUMNS))


def run_start(options: argparse.Namespace, results: dict[str, Any]) -> None:
    results["start"] = start.measure(options.repeats)
    print(markdown(results["start"], start.COLUMNS))


def run_throughput(options: argparse.Namespace, results: dict[str, Any]) -> None:
    results["throughput"] = throughput.measure(options.repeats)
    print(markdown(results["throughput"], throughput.COLUMNS))


def run_scaling(options: argparse.Namespace, results: dict[str, Any]) -> None:
    results["scaling"] = throughput.scaling(options.repeats)
    print(markdown(results["scaling"], throughput.SCALING_COLUMNS))


def run_steps(options: argparse.Namespace, results: dict[str, Any]) -> None:
    results["steps"], results["layers"] = steps.measure(options.repeats), {}
    print(markdown(results["steps"], steps.COLUMNS))
    copied = results["copied"] = steps.copy_speed()
    for precision, gflops in limit.best(results.get("limit", [])).items():
        for name in steps.LAYERED if precision != "float16" else ():
            rows = steps.measure_layers(PLANS[name], precision, options.repeats, gflops, copied)
            results["layers"][f"{name}, {precision}"] = rows
            print(f"\n{name}, {precision}; at most {gflops:.0f} GFLOP/s or {copied:.1f} GB/s:\n")
            print(markdown(rows, steps.LAYER_COLUMNS), flush=True)


PARTS: dict[str, Callable[[argparse.Namespace, dict[str, Any]], None]] = {
    "limit": run_limit,
    "speed": run_speed,
    "memory": run_memory,
    "start": run_start,
    "throughput": run_throughput,
    "scaling": run_scaling,
    "steps": run_steps,
}

if __name__ == "__main__":
    # Warnings of the other libraries, and of vesselseg about random pixels.
    logging.getLogger("vesselseg").setLevel(logging.ERROR)
    logging.getLogger("mmengine").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    main()
