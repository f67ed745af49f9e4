"""``vesselseg train``: fine-tune a model on labelled photographs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import arguments

if TYPE_CHECKING:
    from ..finetune import HeldOutScores

_DESCRIPTION = """\
Go on training a model on your own labelled photographs.

A label belongs to the photograph whose file name, without ending, it has, alone or followed by "_"
and more. It has the size of its photograph, with vessels white and everything else black.

Part of the persons is held out. Dice on their photographs is measured before training and every
so many iterations; the weights with the highest one are written, and a card beside them. After an
interruption, the same command goes on."""


def add_parsers(commands: Any) -> None:
    """Add the parser of ``train``."""
    parser = commands.add_parser(
        "train",
        help="fine-tune a model on your own labelled photographs",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("images", type=Path, metavar="IMAGES", help="folder of photographs")
    add("labels", type=Path, metavar="LABELS", help="folder of their labels")
    add("-o", "--output", type=Path, required=True, metavar="FILE",
        help="the model file to write, .pth; a card is written beside it, .md")  # fmt: skip
    add("--force", action="store_true", help="overwrite the output if it exists")
    add("--restart", action="store_true", help="start from the beginning after an interruption")
    add("--name", help="name of the new model (default: the output's file name)")
    add("--model", metavar="NAME", help="what to start from: a name, or a file saved by vesselseg "
        "(default: the embedded model)")  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps "
        "(default: %(default)s, the best available)")  # fmt: skip
    arguments.add_bits(parser)
    group = parser.add_argument_group("held-out persons")
    group.add_argument("--group", metavar="PATTERN",
        help="regular expression for file names; its first group, or else the whole match, names "
        "the person (default: every photograph is another person's)")  # fmt: skip
    group.add_argument("--held-out", type=float, default=0.25, metavar="SHARE",
        help="share of the persons to measure on, at least one (default: %(default)s)")  # fmt: skip
    group = parser.add_argument_group("training")
    group.add_argument("--iterations", type=arguments.positive, default=300, metavar="N",
        help="at most (default: %(default)s)")  # fmt: skip
    group.add_argument("--evaluate-every", type=arguments.positive, default=50, metavar="N",
        help="iterations between two measurements (default: %(default)s)")  # fmt: skip
    group.add_argument("--patience", type=arguments.positive, default=4, metavar="N",
        help="measurements without a new highest Dice after which to stop "
        "(default: %(default)s)")  # fmt: skip
    group.add_argument("--rate", type=float, default=5e-4,
        help="highest learning rate (default: %(default)s)")  # fmt: skip
    group.add_argument("--batch-size", type=arguments.positive, default=8, metavar="N",
        help="windows of 256 x 256 pixels in each iteration (default: %(default)s)")  # fmt: skip
    group.add_argument("--seed", type=int, default=0,
        help="of all random choices (default: %(default)s)")  # fmt: skip
    parser.set_defaults(run=train)


def train(options: argparse.Namespace) -> int:
    """Train, printing a line for each measurement, and say what was written."""
    from ..finetune import train

    result = train(
        options.images,
        options.labels,
        options.output,
        model=options.model,
        group=options.group,
        held_out=options.held_out,
        iterations=options.iterations,
        evaluate_every=options.evaluate_every,
        patience=options.patience,
        rate=options.rate,
        batch_size=options.batch_size,
        seed=options.seed,
        device=options.device,
        bits=options.bits,
        name=options.name,
        restart=options.restart,
        force=options.force,
        on_evaluation=print_scores,
    )
    print(
        f"Trained on {len(result.training)} photographs, measured on {len(result.held_out)}: Dice "
        f"{100 * result.before.dice:.2f} before, {100 * result.after.dice:.2f} after."
    )
    if not result.after.iteration:
        print("No measurement was better than the first, so the weights are unchanged.")
    print(f"Model: {result.output}\nCard: {result.card}")
    return 0


def print_scores(scores: HeldOutScores) -> None:
    """Print a line of figures, above the progress bar if there is one."""
    from tqdm import tqdm

    line = (
        f"iteration {scores.iteration:5}: Dice {100 * scores.dice:.2f}, sensitivity "
        f"{100 * scores.sensitivity:.2f}, precision {100 * scores.precision:.2f}; best threshold "
        f"{scores.best_threshold}, Dice {100 * scores.best_dice:.2f}"
    )
    tqdm.write(line, file=sys.stdout)
