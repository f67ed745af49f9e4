"""Vessel Dice of a model on photographs it was not trained on: whole frames, at their own size.

    python training/evaluate.py --model FILE.pth --chase-db1 FOLDER --hrf FOLDER \
        --split training/splits/fold1.json

Without --model, the embedded model. Pooled figures sum the counts of all photographs of a
data set, as published scores do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
from data import Source, of_groups, photographs
from PIL import Image

import vesselseg

THRESHOLDS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="file of export.py; the embedded model if none")
    parser.add_argument("--chase-db1", type=Path, help="folder with images/ and labels/")
    parser.add_argument("--hrf", type=Path, help="folder with images/ and labels/")
    parser.add_argument("--split", type=Path, required=True, help='JSON: groups to "test" on')
    parser.add_argument("--mask", action="store_true", help="nothing outside the field of view")
    # In place of what the model spec says:
    parser.add_argument("--windows", type=int, nargs=2, metavar=("CROP", "STRIDE"))
    parser.add_argument("--diameter", type=float, nargs=2, metavar=("LEAST", "MOST"))
    parser.add_argument("--json", type=Path, help="write the pooled figures here")
    options = parser.parse_args()
    groups = json.loads(options.split.read_text())["test"]
    try:
        sources = of_groups(photographs(options.chase_db1, options.hrf), groups)
    except ValueError as error:
        parser.error(str(error))

    model = vesselseg.load_model(options.model)
    changes = {}
    if options.windows:
        changes.update(zip(("crop", "stride"), options.windows, strict=True))
    if options.diameter:
        changes.update(zip(("fov_diameter", "fov_diameter_max"), options.diameter, strict=True))
    if changes:
        spec = dataclasses.replace(model.spec, **changes)
        model = vesselseg.load_model(spec, weights=options.model)
    pooled = evaluate(model, sources, mask=options.mask)
    for dataset, counts in pooled.items():
        for threshold, row in zip(THRESHOLDS, counts, strict=True):
            print(f"{dataset}, threshold {threshold}: {report(row)}")
    if options.json:
        figures = {
            dataset: {str(t): scores(row) for t, row in zip(THRESHOLDS, counts, strict=True)}
            for dataset, counts in pooled.items()
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def evaluate(
    model: vesselseg.Segmenter, sources: list[Source], *, mask: bool
) -> dict[str, np.ndarray]:
    """For each data set true, false and missed vessel pixels at each threshold."""
    pooled: dict[str, np.ndarray] = defaultdict(
        lambda: np.zeros((len(THRESHOLDS), 3), dtype=np.int64)
    )
    for source in sources:
        result = model(source.image)
        probability = result.probability * result.field_of_view if mask else result.probability
        with Image.open(source.label) as image:
            grey = np.asarray(image.convert("L"))
        label = grey > grey.max() / 2
        found = [probability > np.float32(threshold) for threshold in THRESHOLDS]
        counts = np.array([[(x & label).sum(), (x & ~label).sum(), (~x & label).sum()]
                           for x in found])  # fmt: skip
        pooled[source.name.split("/")[0]] += counts
        print(f"{source.name:20} {report(counts[THRESHOLDS.index(0.5)])}", flush=True)
    return pooled


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
