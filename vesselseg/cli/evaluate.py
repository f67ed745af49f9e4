"""``vesselseg evaluate``: a data set folder -> figures beside the published ones."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import arguments

if TYPE_CHECKING:
    from ..evaluation.datasets import Dataset
    from ..evaluation.report import Pictures
    from ..evaluation.scores import Evaluation
    from ..segmenter import Segmenter

_DATASETS = ("drive", "stare", "chase_db1", "hrf", "pairs")
_DESCRIPTION = """\
Segment the photographs of a data set and compare with the labels of its first observer.

drive, stare, chase_db1 and hrf are found in FOLDER by the names that the files have in the
official downloads, unpacked in any arrangement. pairs is anything else: FOLDER/images,
FOLDER/labels with the same names and, if there is one, FOLDER/masks with the fields of view.

Figures are in percent in what is printed, fractions in files. Dice over whole frames, pixels of
all images together, is what is published; then follow figures inside the field of view."""


def add_parsers(commands: Any) -> None:
    """Add the parsers of this module's commands."""
    parser = commands.add_parser(
        "evaluate",
        help="compare a model with a data set's labels",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="the unpacked data set")
    parser.add_argument(
        "--dataset", required=True, choices=_DATASETS, help="how the folder is laid out"
    )
    parser.add_argument(
        "--split",
        choices=("test", "train", "all"),
        help="the published halves of the data set; not for pairs (default: test)",
    )
    for name in ("images", "labels", "masks"):
        parser.add_argument(
            f"--{name}", metavar="FOLDER", help=f"of pairs (default: FOLDER/{name})"
        )
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="a name of `vesselseg models`, or a file saved by vesselseg; repeat it to compare "
        "several (default: the model in the package)",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="weights to read instead, for one --model"
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        default="float32",
        choices=("float32", "bfloat16", "float16", "int8", "auto"),
        help="of the computation (default: %(default)s)",
    )
    arguments.add_backend(parser.add_argument)
    parser.add_argument(
        "--scale",
        type=arguments.scale,
        help="fit, native, fov, or a positive factor (default: the model's own rule)",
    )
    parser.add_argument(
        "--threshold",
        type=arguments.threshold,
        default=0.5,
        help="pixels of a higher probability are vessel (default: %(default)s)",
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--csv", metavar="FILE", help="write a row for each image and model")
    parser.add_argument(
        "--report", metavar="FOLDER", help="write FOLDER/index.html, with pictures, worst first"
    )
    parser.set_defaults(run=partial(_evaluate, parser))


def _evaluate(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    _check(parser, options)

    from .. import metrics
    from ..evaluation import report, summary
    from ..evaluation.scores import evaluate_second_observer

    metrics.require_skeletons()
    dataset = _dataset(options)
    print(dataset.description, file=sys.stderr)
    models = _models(options)  # all of them now, so that a mistake is not found hours later
    pictures = report.Pictures() if options.report else None
    evaluations = [
        _run(model, number, dataset, options, pictures) for number, model in enumerate(models)
    ]
    second = evaluate_second_observer(dataset)
    if second is not None:
        evaluations.append(second)

    print(summary.to_text(dataset, evaluations))
    if options.json:
        summary.write_json(options.json, dataset, evaluations)
    if options.csv:
        summary.write_csv(options.csv, dataset, evaluations)
    if pictures is not None:
        page = report.write(options.report, dataset, evaluations, pictures)
        print(f"\nReport: {page}")
    return 0


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is loaded."""
    given = [name for name in ("images", "labels", "masks") if getattr(options, name)]
    if options.dataset == "pairs":
        if options.split:
            parser.error("--split is for the published data sets; pairs have no known halves")
        if options.folder is None and not (options.images and options.labels):
            parser.error("pairs need FOLDER, or both --images and --labels")
    else:
        if given:
            parser.error(f"--{given[0]} is for --dataset pairs")
        if options.folder is None:
            parser.error("FOLDER is missing: where the data set was unpacked")
    if options.weights and len(options.model or []) != 1:
        parser.error("--weights needs exactly one --model, whose windows and scale it is read with")
    for file in (options.json, options.csv):
        if file and not Path(file).absolute().parent.is_dir():
            parser.error(f"the folder of {file} does not exist; create it")
    if options.report and Path(options.report).exists() and not Path(options.report).is_dir():
        parser.error(f"--report needs a folder; {options.report} is a file")


def _dataset(options: argparse.Namespace) -> Dataset:
    from ..evaluation.datasets import read_dataset
    from ..evaluation.pairs import read_pairs

    if options.dataset != "pairs":
        return read_dataset(options.folder, options.dataset, split=options.split or "test")
    folder = Path(options.folder or "")
    masks = options.masks
    if masks is None and options.folder and (folder / "masks").is_dir():
        masks = folder / "masks"
    return read_pairs(
        options.images or folder / "images", options.labels or folder / "labels", masks
    )


def _models(options: argparse.Namespace) -> list[Segmenter]:
    from ..api import load_model
    from ..preprocess import check_scale

    models = [
        load_model(
            name,
            weights=options.weights,
            device=options.device,
            precision=options.precision,
            backend=options.backend,
            calibration=options.calibration,
        )
        for name in dict.fromkeys(options.model or [None])
    ]
    for model in models:
        check_scale(options.scale, model.spec)
    return models


def _run(
    model: Segmenter,
    number: int,
    dataset: Dataset,
    options: argparse.Namespace,
    pictures: Pictures | None,
) -> Evaluation:
    from tqdm import tqdm

    from ..evaluation.scores import Case, ImageResult, evaluate

    # disable=None: a bar on a terminal only
    with tqdm(total=len(dataset.samples), desc=model.spec.name, disable=None) as bar:

        def on_case(case: Case, _: ImageResult) -> None:
            if pictures is not None:
                pictures.add(number, case)
            bar.update()

        return evaluate(
            model, dataset, scale=options.scale, threshold=options.threshold, on_case=on_case
        )
