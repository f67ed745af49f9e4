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
Fine-tune a model on your own labelled photographs.

A label has the file name of its photograph, optionally followed by "_" and more, with any ending.
It has the same size, with white vessels on black. Beside 0 and 255, 128 marks pixels that are not
known; they are left out.

With --corrected, the labels are the corrections of masks in IMAGES/corrections. Only photographs
that have one are used. --recursive also takes those of subfolders, IMAGES/FOLDER/corrections.

Some of the subjects are held out. Dice on their photographs is measured before training and at
regular intervals. The weights with the highest Dice are written, with a model card beside them. To
resume after an interruption, run the same command again."""
_EPILOG = """\
examples:
  vesselseg train photographs/ labels/ -o model.pth
  vesselseg train photographs/ labels/ -o model.pth --group '(.+)_[LR]'
  vesselseg train photographs/ --corrected -o model.pth
  vesselseg eye.jpg --model model.pth"""


def add_parsers(commands: Any) -> None:
    """Add the parser of ``train``."""
    parser = commands.add_parser(
        "train",
        help="fine-tune a model on your own labelled photographs",
        usage="vesselseg train IMAGES (LABELS | --corrected) -o OUTPUT [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("images", type=Path, metavar="IMAGES", help="folder of photographs")
    labels = parser.add_mutually_exclusive_group(required=True)
    labels.add_argument("labels", type=Path, nargs="?", metavar="LABELS",
        help="folder of their labels")  # fmt: skip
    labels.add_argument("--corrected", action="store_true",
        help="train on the corrections in IMAGES/corrections (default: no)")  # fmt: skip
    add("-r", "--recursive", action="store_true",
        help="with --corrected, search subfolders (default: no)")  # fmt: skip
    add("-o", "--output", type=Path, required=True, metavar="OUTPUT",
        help="the model file to write, .pth; a model card is written beside it, .md "
        "(required)")  # fmt: skip
    add("--force", action="store_true", help="overwrite the output if it exists (default: no)")
    add("--restart", action="store_true",
        help="start from the beginning instead of resuming after an interruption "
        "(default: no)")  # fmt: skip
    add("--name", help="name of the new model (default: the file name of the output)")
    model = add("--model", metavar="MODEL", help="the model to start from: a name, or a file saved "
        "by vesselseg (default: the embedded model)")  # fmt: skip
    arguments.complete(model, arguments.model_names)
    arguments.add_device(parser)
    arguments.add_bits(parser)
    group = parser.add_argument_group("held-out subjects")
    group.add_argument("--group", metavar="PATTERN",
        help="regular expression for file names; its first group, or the whole match if it has "
        "none, names the subject (default: every photograph is a subject of its own)")  # fmt: skip
    group.add_argument("--held-out", type=arguments.share, default=0.25, metavar="SHARE",
        help="share of the subjects to hold out, at least one (default: %(default)s)")  # fmt: skip
    group = parser.add_argument_group("training")
    group.add_argument("--iterations", type=arguments.positive, default=300, metavar="N",
        help="maximum number of iterations (default: %(default)s)")  # fmt: skip
    group.add_argument("--evaluate-every", type=arguments.positive, default=50, metavar="N",
        help="iterations between two measurements (default: %(default)s)")  # fmt: skip
    group.add_argument("--patience", type=arguments.positive, default=4, metavar="N",
        help="stop after this many measurements without a new highest Dice "
        "(default: %(default)s)")  # fmt: skip
    group.add_argument("--rate", type=arguments.share, default=5e-4,
        help="highest learning rate (default: %(default)s)")  # fmt: skip
    group.add_argument("--batch-size", type=arguments.positive, default=8, metavar="N",
        help="windows of 256 x 256 pixels in each iteration (default: %(default)s)")  # fmt: skip
    group.add_argument("--seed", type=int, default=0,
        help="seed of all random choices (default: %(default)s)")  # fmt: skip
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    """Train, print a line for each measurement, and print what was written."""
    from ..finetune import train
    from ..process import limit_threads

    limit_threads()
    chosen = arguments.chosen(
        options, "recursive", "model", "group", "held_out", "iterations", "evaluate_every",
        "patience", "rate", "batch_size", "seed", "device", "bits", "name", "restart", "force",
        "progress",
    )  # fmt: skip
    on_evaluation = None if options.quiet else _print_scores
    result = train(
        options.images, options.labels, options.output, on_evaluation=on_evaluation, **chosen
    )
    count = len(result.training)
    print(
        f"Trained on {count} photograph{'' if count == 1 else 's'}, measured on "
        f"{len(result.held_out)}: Dice {100 * result.before.dice:.2f} before, "
        f"{100 * result.after.dice:.2f} after."
    )
    if not result.after.iteration:
        print("No measurement was better than the first, so the weights are unchanged.")
    print(f"Model: {result.output}\nCard: {result.card}")
    return 0


def _print_scores(scores: HeldOutScores) -> None:
    """Print a line of scores, above the progress bar if there is one."""
    from tqdm import tqdm

    line = (
        f"iteration {scores.iteration:5}: Dice {100 * scores.dice:.2f}, sensitivity "
        f"{100 * scores.sensitivity:.2f}, precision {100 * scores.precision:.2f}; best threshold "
        f"{scores.best_threshold}, Dice {100 * scores.best_dice:.2f}"
    )
    tqdm.write(line, file=sys.stdout)
