"""``vesselseg evaluate``: a model's figures on a data set, beside the published ones."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import install_command, require
from ..files import exists, is_folder
from . import arguments
from .collection import printable

if TYPE_CHECKING:
    from ..evaluation.datasets import Dataset

_DATASETS = ("drive", "stare", "chase_db1", "hrf", "pairs")  # imported, they would load NumPy
_DESCRIPTION = """\
Segment the photographs of a data set and compare the masks with the labels of an observer.

drive, stare, chase_db1 and hrf are found in FOLDER by the official file names, unpacked in any
arrangement. pairs is anything else: FOLDER/images, FOLDER/labels with the same names and, if you
have them, FOLDER/masks with the fields of view.

Figures are printed in percent and written as fractions, with 95 % confidence intervals over
subjects. Dice over whole frames, pixels of all images together, is the published convention;
figures inside the field of view follow. Repeat --model to compare models: differences are from
the first one, in pairs of the same photographs."""
_EPILOG = f"""\
examples:
  vesselseg evaluate DRIVE/ --dataset drive --model unet_s5-d16_drive
  vesselseg evaluate labelled/ --dataset pairs --table figures.csv

needs an extra:
  {install_command("eval")}"""


def add_parsers(commands: Any) -> None:
    """Add the parser of ``evaluate``."""
    parser = commands.add_parser(
        "evaluate",
        help="compare a model with the labels of a data set",
        usage="vesselseg evaluate FOLDER --dataset NAME [--model MODEL] [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("folder", nargs="?", metavar="FOLDER", help="the unpacked data set")
    add("--dataset", required=True, choices=_DATASETS,
        help="how the folder is laid out (required)")  # fmt: skip
    add("--split", choices=("test", "train", "all"),
        help="the published halves of the data set; not for pairs (default: test)")  # fmt: skip
    add("--observer", type=int, choices=(1, 2),
        help="whose labels count as the truth; not for pairs (default: 1)")  # fmt: skip
    add("--limit", type=arguments.positive, metavar="N",
        help="evaluate only the first N photographs (default: all)")  # fmt: skip
    for name in ("images", "labels", "masks"):
        add(f"--{name}", metavar="FOLDER", help=f"for pairs (default: FOLDER/{name})")
    add("--group", metavar="PATTERN",
        help="for pairs: regular expression for the file names of photographs; its first group, or "
        "the whole match if it has none, names the subject (default: every photograph is a subject "
        "of its own)")  # fmt: skip
    arguments.add_run_options(arguments.add_model_options(parser, several=True))
    add = parser.add_argument_group("results").add_argument
    add("--table", metavar="FILE",
        help="write a table, .csv, with a row for each image and model (default: no)")  # fmt: skip
    add("--json", metavar="FILE", help="write all figures as JSON (default: no)")
    add("--report", metavar="FOLDER",
        help="write FOLDER/index.html, and the table, JSON, figures and pictures beside it "
        "(default: no)")  # fmt: skip
    add("--figures", choices=("svg", "pdf"), default="svg",
        help="format of the report's figures; pdf writes both (default: %(default)s)")  # fmt: skip
    parser.set_defaults(run=partial(_evaluate, parser))


def _evaluate(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    _check_options(parser, options)

    from .. import metrics
    from ..evaluation import report
    from ..evaluation.scores import evaluate, evaluate_other_observer
    from ..preprocess import check_scale

    metrics.require_skeletons()
    dataset = _read_dataset(options)
    # Models are loaded, and labels read, before one runs, so that no fault is found hours later.
    names = list(dict.fromkeys(options.model or [None]))
    models = [arguments.load_model(options, model=name) for name in names]
    for model in models:
        check_scale(options.scale, model.spec)
    pictures = None
    if options.report:
        require("matplotlib.figure", "eval")
        pictures = report.Pictures(Path(options.report))
    observer = evaluate_other_observer(dataset)
    evaluations = []
    times = Counter(model.spec.name for model in models)
    for name, model in zip(names, models, strict=True):
        title = model.spec.name
        if times[title] > 1:
            title = f"{title} ({name})"
        evaluation = evaluate(
            model,
            dataset.samples,
            scale=options.scale,
            threshold=options.threshold,
            on_case=partial(pictures.add, title) if pictures else None,
            progress=options.progress,
        )
        evaluations.append(dataclasses.replace(evaluation, name=title))
    if observer is not None:
        evaluations.append(observer)
    failed = {name: why for evaluation in evaluations for name, why in evaluation.failed.items()}
    for name, why in failed.items():
        print(f"vesselseg: {printable(name)}: {why}", file=sys.stderr)

    # Files first: no fault of a terminal can lose them.
    run = report.describe_run(evaluations, shlex.join(["vesselseg", *options.words]))
    if options.json:
        report.write_json(Path(options.json), dataset, evaluations, run)
    if options.table:
        report.write_csv(Path(options.table), dataset, evaluations)
    text = report.to_text(dataset, evaluations)
    if pictures is not None:
        formats = tuple(dict.fromkeys(("svg", options.figures)))
        page = report.write_page(
            Path(options.report), dataset, evaluations, pictures, run, formats=formats
        )
        text += f"\n\nReport: {page}"
    print(text)
    return 1 if failed else 0


def _check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Reject what cannot work before anything is loaded."""
    if options.dataset == "pairs":
        foreign, owner = ["split", "observer"], "the published data sets, not for pairs"
        if options.folder is None and not (options.images and options.labels):
            parser.error("pairs need FOLDER, or both --images and --labels")
    else:
        foreign, owner = ["images", "labels", "masks", "group"], "--dataset pairs"
        if options.folder is None:
            parser.error("FOLDER is missing: where the data set was unpacked")
    for name in foreign:
        if getattr(options, name):
            parser.error(f"--{name} is for {owner}")
    if options.weights and len(options.model or []) != 1:
        parser.error("--weights needs exactly one --model, which says how to use them")
    for name, suffix in (("table", ".csv"), ("json", ".json")):
        file = getattr(options, name)
        if file and Path(file).suffix.lower() != suffix:
            parser.error(f"--{name} needs a file ending in {suffix}, not {file!r}")
        if file and not is_folder(Path(file).absolute().parent):
            parser.error(f"the folder of {file} does not exist; create it")
    if options.figures != "svg" and not options.report:
        parser.error("--figures needs --report, which says where to write them")
    if options.report and exists(options.report) and not is_folder(options.report):
        parser.error(f"--report needs a folder; {options.report} is a file")


def _read_dataset(options: argparse.Namespace) -> Dataset:
    from ..evaluation.datasets import read_dataset, read_pairs

    if options.dataset != "pairs":
        return read_dataset(
            Path(options.folder),
            options.dataset,
            split=options.split or "test",
            observer=options.observer or 1,
            limit=options.limit,
            bits=options.bits,
        )
    folder = Path(options.folder or "")
    images, labels, masks = (
        Path(getattr(options, name) or folder / name) for name in ("images", "labels", "masks")
    )
    for place in (images, labels):
        if not is_folder(place):
            raise FileNotFoundError(
                f"There is no folder {str(place)!r}. Pairs are in FOLDER/images and FOLDER/labels, "
                "or in the folders that --images and --labels name."
            )
    with_masks = options.masks or (options.folder and is_folder(masks))
    return read_pairs(
        images,
        labels,
        masks if with_masks else None,
        group=options.group,
        limit=options.limit,
        bits=options.bits,
    )
