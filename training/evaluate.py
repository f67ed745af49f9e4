"""Evaluate a model on labelled photographs, whole frames.

    python training/evaluate.py --model FILE.pth --chase-db1 FOLDER --hrf FOLDER \
        --split training/splits/fold1.json

The default is the embedded model and all photographs. --reduce 540 reduces photographs to a field
of view of 540 pixels, as a small camera would take them. Pooled figures are computed from the
summed counts of all photographs of a data set, like published scores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from data import Source, add_folders, of_groups, photographs
from PIL import Image

import vesselseg
from vesselseg import metrics
from vesselseg.evaluation.scores import THRESHOLDS, Evaluation, Result, Tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="file of export.py; the embedded model if none")
    add_folders(parser)
    parser.add_argument("--split", type=Path, help='JSON: groups to "test" on')
    parser.add_argument("--reduce", type=float, metavar="DIAMETER",
                        help="reduce larger fields of view to it, in pixels")  # fmt: skip
    parser.add_argument("--mask", action="store_true", help="only inside the field of view")
    # Replacements for values of the model spec:
    parser.add_argument("--windows", type=int, nargs=2, metavar=("CROP", "STRIDE"))
    parser.add_argument("--diameter", type=float, nargs=2, metavar=("LEAST", "MOST"))
    parser.add_argument("--small-fov-bias", type=float, nargs=2, metavar=("DIAMETER", "BIAS"))
    parser.add_argument("--json", type=Path, help="write the pooled figures here")
    options = parser.parse_args()
    sources = photographs(options)
    if options.split:
        try:
            sources = of_groups(sources, json.loads(options.split.read_text())["test"])
        except ValueError as error:
            parser.error(str(error))

    model = vesselseg.load_model(options.model)
    changes: dict[str, Any] = {}
    if options.windows:
        changes.update(zip(("crop", "stride"), options.windows, strict=True))
    if options.diameter:
        changes.update(zip(("fov_diameter", "fov_diameter_max"), options.diameter, strict=True))
    if options.small_fov_bias:
        changes["small_fov_bias"] = tuple(options.small_fov_bias)
    if changes:
        spec = dataclasses.replace(model.spec, **changes)
        model = vesselseg.load_model(spec, weights=options.model)
    figures = {}
    for dataset in dict.fromkeys(source.dataset for source in sources):
        chosen = [source for source in sources if source.dataset == dataset]
        evaluation = evaluate(model, chosen, mask=options.mask, reduce=options.reduce)
        figures[dataset] = to_figures(evaluation)
        print(dataset, json.dumps(figures[dataset]["pooled"]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def evaluate(
    model: vesselseg.Segmenter, sources: list[Source], *, mask: bool, reduce: float | None
) -> Evaluation:
    """The counts of each photograph, and the curves over all photographs."""
    results = []
    for source in sources:
        image, label = read(source, reduce)
        result = model(image)
        probability = result.probability
        if mask:
            probability = probability * result.field_of_view
        found = probability > np.float32(0.5)
        counts = metrics.confusion(found, label)
        skeletons = metrics.skeleton_counts(found, label)
        tally = Tally.count(probability[label], probability[~label])
        results.append(Result(source.name, counts, counts, *skeletons, tally.auc, tally=tally))
        print(f"{source.name:20} Dice {metrics.dice(counts):.4f}", flush=True)
    return Evaluation(sources[0].dataset, tuple(results), model.spec, {})


def to_figures(evaluation: Evaluation) -> dict[str, Any]:
    """Pooled figures, the curve over thresholds, and the reliability curve."""
    total = evaluation.total
    best_threshold, best_dice = total.best_threshold
    width, observer_width = total.widths
    pooled = {
        "dice": metrics.dice(total.whole),
        "best_threshold": best_threshold,
        "best_dice": best_dice,
        "sensitivity": metrics.sensitivity(total.whole),
        "precision": metrics.precision(total.whole),
        "centreline_precision": total.centreline_precision,
        "centreline_recall": total.centreline_recall,
        "width": width,
        "observer_width": observer_width,
        "calibration_error": total.calibration_error,
    }
    curve = zip(THRESHOLDS, total.tally.curve, strict=True)
    return {
        "pooled": {name: round(value, 4) for name, value in pooled.items()},
        "dice_at": {f"{threshold:.2f}": round(metrics.dice(c), 4) for threshold, c in curve},
        "reliability": [bin._asdict() for bin in total.tally.reliability],
    }


def read(source: Source, diameter: float | None) -> tuple[Image.Image, np.ndarray]:
    """A photograph and its label, reduced by area to a field of view of `diameter` pixels.

    A reduced pixel is vessel if at least a fifth of it is covered. An observer of the small
    photograph would still draw a vessel there, and no observer draws one thinner than a pixel.
    """
    image = Image.open(source.image).convert("RGB")
    grey = np.asarray(Image.open(source.label).convert("L"))
    label = grey > grey.max() / 2
    if diameter is None or source.diameter <= diameter:
        return image, label
    factor = diameter / source.diameter
    size = (round(image.width * factor), round(image.height * factor))
    area = Image.Resampling.BOX
    coverage = np.asarray(Image.fromarray(label).convert("L").resize(size, area))
    return image.resize(size, area), coverage >= 0.2 * 255


if __name__ == "__main__":
    main()
