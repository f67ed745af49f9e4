"""Train, export and evaluate the rows of training/RESULTS.md, all in the same way.

    python training/compare.py --chase-db1 FOLDER --hrf FOLDER --runs runs/compare \
        --rows base width-8 depth-4

Finished rows are not repeated, and an interrupted row resumes. The table is printed. With splits
that leave a camera out, that camera is measured at its own size and as a small camera.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from data import add_folders

HERE = Path(__file__).parent
SHORT = ["--iterations", "800", "--average", "0.99", "--diameter", "1000", "1000",
         "--colour", "1", "--local", "no", "--small", "0"]  # fmt: skip
LAST = ["--diameter", "1000", "1500", "--colour", "1.5", "--local", "yes",
        "--iterations", "900", "--rate", "1e-3"]  # fmt: skip
# Longer trainings: from random weights, and from the weights of FIRST.
FIRST = ["--diameter", "1000", "1500", "--colour", "1.5", "--local", "yes",
         "--batch-size", "16", "--iterations", "3000", "--average", "0.995"]  # fmt: skip
SECOND = [*FIRST, "--iterations", "900", "--average", "0.99", "--rate", "1e-3"]
# The options of each row that differ from SHORT.
ROWS: dict[str, list[str]] = {
    "base": [],
    "size": ["--diameter", "1000", "1500"],
    "cameras": LAST,
    "recipe": LAST,
    "seed-1": ["--seed", "1"],
    "no-balance": ["--balance", "no"],
    "no-balance-seed-1": ["--balance", "no", "--seed", "1"],
    "no-colour": ["--colour", "0"],
    "no-turn": ["--turn", "no"],
    "zoom-narrow": ["--zoom", "0.85", "1.18"],
    "zoom-wide": ["--zoom", "0.45", "2.2"],
    "diameter-800": ["--diameter", "800", "800"],
    "diameter-1250": ["--diameter", "1250", "1250"],
    "width-8": ["--width", "8"],
    "width-24": ["--width", "24"],
    "depth-4": ["--depth", "4"],
    "centreline": ["--centreline", "0.5"],
    "batch-4": ["--batch-size", "4", "--iterations", "1600"],
    "rate-4e-3": ["--rate", "4e-3"],
    "first": FIRST,
    "before": SECOND,
    "small-and-wide": [*SECOND, "--small", "0.4", "--small-bias", "900", "2.5",
                       "--wide", "fives", "2"],
}  # fmt: skip
# Rows that start from the weights of another row.
START = {
    "cameras": "size", "recipe": "cameras", "before": "first", "small-and-wide": "first",
}  # fmt: skip
# Options of export.py: the range that was in use when the rows were measured.
IN_USE = ["--diameter", "1000", "2000"]
EXPORT = {
    "recipe": IN_USE,
    "before": [*IN_USE, "--threshold", "0.4"],
    "small-and-wide": [*IN_USE, "--threshold", "0.45"],
}
COLUMNS = (
    "row", "split", "data set", "field of view", "Dice", "best threshold", "sensitivity",
    "precision", "centreline precision", "centreline recall", "width", "observer's",
    "calibration error",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_folders(parser)
    parser.add_argument("--runs", type=Path, required=True, help="folder of all rows")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS])
    parser.add_argument("--splits", nargs="+", default=["fold1"], help="of splits/")
    parser.add_argument("--device", default="cpu", help='for training: "cpu" or "cuda"')
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    for row in options.rows:
        for split in options.splits:
            sizes = ["own", "540"] if split.startswith("without-") else ["own"]
            for size in sizes:
                for dataset, figures in measure(row, split, size, options).items():
                    cells = [row, split, dataset, size, *describe(figures["pooled"])]
                    print(f"| {' | '.join(cells)} |", flush=True)


def describe(pooled: dict[str, float]) -> list[str]:
    """The figures as cells of the table."""
    best = f"{100 * pooled['best_dice']:.2f} at {pooled['best_threshold']:.2f}"
    shares = [f"{pooled[name]:.3f}" for name in (
        "sensitivity", "precision", "centreline_precision", "centreline_recall",
    )]  # fmt: skip
    widths = [f"{pooled[name]:.1f}" for name in ("width", "observer_width")]
    error = f"{pooled['calibration_error']:.3f}"
    return [f"{100 * pooled['dice']:.2f}", best, *shares, *widths, error]


def measure(row: str, split: str, size: str, options: argparse.Namespace) -> dict:
    """The figures of a row on a split, at a size; computed unless a file has them."""
    run = options.runs / split / row
    result = run / f"result-{size}.json"
    if not result.exists():
        model = train(row, split, options)
        reduce = [] if size == "own" else ["--reduce", size]
        call("evaluate.py", run, ["--model", str(model), *reduce, "--json", str(result),
                                  *split_and_folders(split, options)])  # fmt: skip
    return json.loads(result.read_text())


def train(row: str, split: str, options: argparse.Namespace) -> Path:
    """Train and export a row, and the rows that it starts from, unless they are done."""
    run = options.runs / split / row
    model = run / "model.pth"
    if not model.exists():
        recipe = [*ROWS[row]]
        if row in START:
            train(START[row], split, options)
            recipe += ["--start", str(options.runs / split / START[row])]
        run.mkdir(parents=True, exist_ok=True)
        call("train.py", run, ["--run", str(run), "--device", options.device,
                               *split_and_folders(split, options), *SHORT, *recipe])  # fmt: skip
        call("export.py", run, ["--run", str(run), "--output", str(model), *EXPORT.get(row, [])])
    return model


def split_and_folders(split: str, options: argparse.Namespace) -> list[str]:
    """The options of train.py and evaluate.py that choose photographs."""
    given = ["--split", str(HERE / "splits" / f"{split}.json")]
    for name in ("chase_db1", "hrf", "fives"):
        if folder := getattr(options, name):
            given += [f"--{name.replace('_', '-')}", str(folder)]
    return given


def call(script: str, run: Path, arguments: list[str]) -> None:
    """Run a script and append its output to the log of the run."""
    with (run / "log.txt").open("a") as log:
        command = [sys.executable, str(HERE / script), *arguments]
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    main()
