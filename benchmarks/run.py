"""All benchmarks in one command: tables in Markdown, figures in a JSON file.

    python -m venv .venv-benchmarks
    .venv-benchmarks/bin/pip install -c constraints.txt -r benchmarks/requirements.txt .
    .venv-benchmarks/bin/python benchmarks/run.py --json results.json

What each figure means stands in benchmarks/README.md. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import limit
import machine
import memory
import speed
import start
import throughput
from candidates import CANDIDATES
from cases import PLANS
from table import markdown

PARTS = ("limit", "speed", "memory", "start", "throughput", "scaling")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    about = machine.about()
    if warning := machine.warning(machine.load()):
        print(warning, file=sys.stderr)
    versions = [f"{name} {version}" for name, version in about["versions"].items() if version]
    print(f"{about['processor']}, {about['threads']} threads, {about['date']}; "
          f"{', '.join(versions)}")  # fmt: skip
    results: dict[str, Any] = {"about": about, "repeats": options.repeats}
    for part in PARTS:
        if part in options.parts:
            print(f"\n## {part.capitalize()}\n", flush=True)
            RUN[part](options, results)
            if options.json:  # after each part, so that an interruption loses one only
                options.json.write_text(json.dumps(results, indent=1))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="default: all")
    add("--models", nargs="+", choices=PLANS, default=[*PLANS], help="of speed; default: all")
    add("--candidates", nargs="+", choices=CANDIDATES, default=[*CANDIDATES],
        help="of speed; default: all that are installed")  # fmt: skip
    add("--repeats", type=_positive, default=5, help="runs of which the median is taken")
    add("--json", type=Path, metavar="FILE", help="write every figure, single runs included")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def run_limit(_: argparse.Namespace, results: dict[str, Any]) -> None:
    results["limit"] = limit.measure()
    print(limit.tables(results["limit"]))


def run_speed(options: argparse.Namespace, results: dict[str, Any]) -> None:
    limits = limit.best(results.get("limit", []))
    results["speed"], left_out = [], {}
    for rows in speed.measure(options.models, options.candidates, options.repeats, limits):
        results["speed"] += rows
        left_out |= {(row["candidate"], row["left_out"]): None for row in rows if "left_out" in row}
        measured = [row for row in rows if "left_out" not in row]
        print(markdown(measured, speed.COLUMNS), end="\n\n", flush=True)
    for name, reason in left_out:
        print(f"Left out: {name} ({reason}).")


def run_memory(_: argparse.Namespace, results: dict[str, Any]) -> None:
    results["memory"], results["growth"] = memory.measure(), memory.measure_many()
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


def hush() -> None:
    """Leave out warnings of the libraries compared with, and of small images without a disc."""
    logging.getLogger("vesselseg").setLevel(logging.ERROR)
    logging.getLogger("mmengine").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")


RUN = {
    "limit": run_limit,
    "speed": run_speed,
    "memory": run_memory,
    "start": run_start,
    "throughput": run_throughput,
    "scaling": run_scaling,
}

if __name__ == "__main__":
    hush()
    main()
