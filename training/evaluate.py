"""Vessel Dice of a model on labelled photographs: whole frames.

    python training/evaluate.py --model FILE.pth --chase-db1 FOLDER --hrf FOLDER \
        --split training/splits/fold1.json

Without --model, the embedded model; without --split, all photographs. --reduce 540 shows the
model each photograph as a small camera would take it, with a field of view of 540 pixels. Pooled
figures sum the counts of all photographs of a data set, as published scores do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from data import Source, add_folders, of_groups, photographs
from PIL import Image

import vesselseg

THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="file of export.py; the embedded model if none")
    add_folders(parser)
    parser.add_argument("--split", type=Path, help='JSON: groups to "test" on')
    parser.add_argument("--reduce", type=float, metavar="DIAMETER",
                        help="reduce larger fields of view to it, in pixels")  # fmt: skip
    parser.add_argument("--mask", action="store_true", help="nothing outside the field of view")
    # In place of what the model spec says:
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
    pooled = evaluate(model, sources, mask=options.mask, reduce=options.reduce)
    for dataset, counts in pooled.items():
        for threshold, row in zip(THRESHOLDS, counts, strict=True):
            print(f"{dataset}, threshold {threshold}: {report(row)}")
        best = max(range(len(THRESHOLDS)), key=lambda n: scores(counts[n])["dice"])
        print(f"{dataset}, best threshold {THRESHOLDS[best]}: {report(counts[best])}")
    if options.json:
        figures = {
            dataset: {str(t): scores(row) for t, row in zip(THRESHOLDS, counts, strict=True)}
            for dataset, counts in pooled.items()
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def evaluate(
    model: vesselseg.Segmenter, sources: list[Source], *, mask: bool, reduce: float | None
) -> dict[str, np.ndarray]:
    """For each data set true, false and missed vessel pixels at each threshold."""
    pooled: dict[str, np.ndarray] = defaultdict(
        lambda: np.zeros((len(THRESHOLDS), 3), dtype=np.int64)
    )
    for source in sources:
        image, label = read(source, reduce)
        result = model(image)
        probability = result.probability * result.field_of_view if mask else result.probability
        masks = [probability > np.float32(threshold) for threshold in THRESHOLDS]
        counts = np.array([[(x & label).sum(), (x & ~label).sum(), (~x & label).sum()]
                           for x in masks])  # fmt: skip
        pooled[source.name.split("/")[0]] += counts
        print(f"{source.name:20} {report(counts[THRESHOLDS.index(0.5)])}", flush=True)
    return pooled


def read(source: Source, diameter: float | None) -> tuple[Image.Image, np.ndarray]:
    """A photograph and its label, reduced by area to a field of view of `diameter` pixels.

    A reduced pixel is vessel if at least a fifth of it is covered: an observer of the small
    photograph would still draw a vessel there, and draws none thinner than a pixel.
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


def scores(counts: np.ndarray) -> dict[str, float]:
    true, false, missed = (int(count) for count in counts)
    return {
        "dice": 100 * 2 * true / (2 * true + false + missed),
        "sensitivity": true / (true + missed),
        "precision": true / (true + false) if true + false else math.nan,
    }


def report(counts: np.ndarray) -> str:
    values = scores(counts)
    return "Dice {dice:5.2f}  sensitivity {sensitivity:.3f}  precision {precision:.3f}".format(
        **values
    )


if __name__ == "__main__":
    main()
