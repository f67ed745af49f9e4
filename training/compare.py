"""Train, export and evaluate the rows of training/RESULTS.md, each variation on the same footing.

    python training/compare.py --chase-db1 FOLDER --hrf FOLDER --runs runs/compare \
        --rows base width-8 depth-4

Rows that are done are not repeated; a row that was interrupted goes on. Prints the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SHORT = ["--iterations", "800", "--average", "0.99", "--diameter", "1000", "1000",
         "--colour", "1", "--local", "no"]  # fmt: skip
LAST = ["--diameter", "1000", "1500", "--colour", "1.5", "--local", "yes",
        "--iterations", "900", "--rate", "1e-3"]  # fmt: skip
# What differs from SHORT.
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
}  # fmt: skip
# Rows that go on from the weights of another one.
START = {"cameras": "size", "recipe": "cameras"}
# What they are exported with.
EXPORT = {"recipe": ["--diameter", "1000", "2000"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chase-db1", type=Path, required=True)
    parser.add_argument("--hrf", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="folder of all rows")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS])
    parser.add_argument("--splits", nargs="+", default=["fold1"], help="of splits/")
    options = parser.parse_args()
    folders = ["--chase-db1", str(options.chase_db1), "--hrf", str(options.hrf)]
    print("| row | split | data set | Dice | sensitivity | precision | best threshold |")
    print("|---|---|---|---|---|---|---|")
    for row in options.rows:
        for split in options.splits:
            result = figures(options.runs / split / row, folders)
            for dataset, by_threshold in result.items():
                at = by_threshold["0.5"]
                best = max(by_threshold, key=lambda t: by_threshold[t]["dice"])
                print(f"| {row} | {split} | {dataset} | {at['dice']:.2f} "
                      f"| {at['sensitivity']:.3f} | {at['precision']:.3f} "
                      f"| {by_threshold[best]['dice']:.2f} at {best} |", flush=True)  # fmt: skip


def figures(run: Path, folders: list[str]) -> dict:
    """The pooled figures of the run SPLIT/ROW, computed if they are not there yet."""
    split, row = run.parent.name, run.name
    recipe = [*ROWS[row]]
    if row in START:
        figures(run.with_name(START[row]), folders)
        recipe += ["--start", str(run.with_name(START[row]))]
    result, model = run / "result.json", run / "model.pth"
    if not result.exists():
        file = ["--split", str(HERE / "splits" / f"{split}.json")]
        run.mkdir(parents=True, exist_ok=True)
        with (run / "log.txt").open("a") as log:
            for script, arguments in (
                ("train.py", ["--run", str(run), *file, *folders, *SHORT, *recipe]),
                ("export.py", ["--run", str(run), "--output", str(model), *EXPORT.get(row, [])]),
                ("evaluate.py", ["--model", str(model), *file, *folders, "--json", str(result)]),
            ):
                command = [sys.executable, str(HERE / script), *arguments]
                subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    return json.loads(result.read_text())


if __name__ == "__main__":
    main()
