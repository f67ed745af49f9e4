"""Write a model's own answers on photographs without labels, for train.py to learn from.

    python training/teach.py --idrid FOLDER

The photographs are FOLDER/images/*.jpg. The answers, FOLDER/labels/*.png, are the network's own
probabilities, 255 for one, before export.py moved the last bias: the mean over fields of view of
two sizes, each as it is, mirrored, upside down and both.
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
    parser.add_argument("--threshold", type=float, default=0.45, help="that it was exported with")
    parser.add_argument("--precision", default="auto", help="as vesselseg.load_model takes it")
    options = parser.parse_args()
    if not 0 < options.threshold < 1:
        parser.error("--threshold has to lie between 0 and 1")

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
        answers = [
            model(rgb[::down, ::across]).probability[::down, ::across]
            for model in models
            for down, across in STEPS
        ]
        answer = np.mean(answers, axis=0)
        vessel, background = options.threshold * answer, (1 - options.threshold) * (1 - answer)
        own = 255 * vessel / (vessel + background)
        file = options.idrid / "labels" / f"{path.stem}.png"
        Image.fromarray(own.round().astype(np.uint8)).save(file)
        print(file, flush=True)


if __name__ == "__main__":
    main()
