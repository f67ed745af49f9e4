"""Write a model's pseudo-labels for photographs without labels, for train.py to learn from.

    python training/pseudo_label.py --idrid FOLDER

The photographs are FOLDER/images/*.jpg. The pseudo-labels, FOLDER/labels/*.png, are probabilities
times 255, as the network gave them before export.py moved the last bias. They are means over two
sizes of the field of view and over four mirrorings.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

import vesselseg

LARGEST = (1150, 1500)  # fields of view are reduced to each of these, in pixels
STEPS = ((1, 1), (1, -1), (-1, 1), (-1, -1))  # along rows and columns, -1 to mirror


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--idrid", type=Path, required=True, help="folder with images/")
    parser.add_argument("--model", type=Path, help="file of export.py; the embedded model if none")
    parser.add_argument("--threshold", type=float, default=0.45, help="as given to export.py")
    parser.add_argument("--precision", default="auto", help="as vesselseg.load_model takes it")
    options = parser.parse_args()
    if not 0 < options.threshold < 1:
        parser.error("--threshold must be between 0 and 1")

    spec = vesselseg.load_model(options.model).spec
    models = [
        vesselseg.load_model(
            dataclasses.replace(spec, fov_diameter_max=largest, small_fov_bias=None),
            weights=options.model, precision=options.precision,
        )
        for largest in LARGEST
    ]  # fmt: skip
    (options.idrid / "labels").mkdir(exist_ok=True)
    for path in sorted((options.idrid / "images").glob("*.jpg")):
        rgb = np.asarray(Image.open(path).convert("RGB"))
        probabilities = [
            model(rgb[::down, ::across]).probability[::down, ::across]
            for model in models
            for down, across in STEPS
        ]
        mean = np.mean(probabilities, axis=0)
        vessel, background = options.threshold * mean, (1 - options.threshold) * (1 - mean)
        pseudo_label = 255 * vessel / (vessel + background)
        file = options.idrid / "labels" / f"{path.stem}.png"
        Image.fromarray(pseudo_label.round().astype(np.uint8)).save(file)
        print(file, flush=True)


if __name__ == "__main__":
    main()
