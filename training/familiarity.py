"""Compare the familiarity of photographs with the Dice that a model reaches on them.

    python training/familiarity.py --known FOLDER --unknown FOLDER

FOLDER has images/ and labels/. The known photographs are like those that the model was trained on.
Their mean expected Dice becomes `expected_dice` of the model spec, and seven tenths of their mean
sharpness becomes `least_sharpness`. The unknown photographs come from a camera that the model has
not seen. A table shows familiarity and Dice inside the field of view for these photographs, as they
are and spoiled in several ways, with the rank correlation of both and the mean Dice below and above
the limit of the warning.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from scipy.stats import spearmanr

import vesselseg
from vesselseg import metrics
from vesselseg.evaluation.datasets import read_label, read_pairs, read_photograph
from vesselseg.familiarity import FAMILIARITY_LIMIT, expected_dice, measure_sharpness
from vesselseg.fov import find_field_of_view
from vesselseg.preprocess import preprocess

LARGEST = 2048  # pixels of the longer side, which saves time


def compress(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def add_noise(image: Image.Image, deviation: float) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, deviation, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def reduce(image: Image.Image, side: int) -> Image.Image:
    factor = min(side / max(image.size), 1)
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.BOX)


def stretch(image: Image.Image, contrast: float, brightness: float) -> Image.Image:
    return image.point(lambda value: (value - 128) * contrast + 128 * brightness)


def blur(image: Image.Image, share: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(share * max(image.size)))


SPOILED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as it is": lambda image: image,
    "540 pixels": lambda image: reduce(image, 540),
    "250 pixels": lambda image: reduce(image, 250),
    "no colours": lambda image: image.convert("L").convert("RGB"),
    "a third of the light": lambda image: stretch(image, 0.33, 0.33),
    "two fifths of the contrast": lambda image: stretch(image, 0.4, 1),
    "blur, 0.2 % of the side": lambda image: blur(image, 0.002),
    "blur, 0.5 % of the side": lambda image: blur(image, 0.005),
    "blur, 1 % of the side": lambda image: blur(image, 0.01),
    "JPEG, quality 10": lambda image: compress(image, 10),
    "noise, deviation 25": lambda image: add_noise(image, 25),
}


def read(folder: Path) -> list[tuple[Image.Image, Image.Image]]:
    """Photographs and labels, reduced to `LARGEST`."""
    dataset = read_pairs(folder / "images", folder / "labels")
    return [
        (
            reduce(Image.fromarray(read_photograph(sample)), LARGEST),
            Image.fromarray(read_label(sample.label).astype(np.uint8) * 255),
        )
        for sample in dataset.samples
    ]


def sharpness_at_scale(image: Image.Image, model: vesselseg.Segmenter) -> float:
    """Sharpness of a photograph as the network sees it."""
    rgb = np.array(image)
    fov = find_field_of_view(rgb)
    return measure_sharpness(preprocess(rgb, fov, model.spec.scale, model.spec).scaled, fov.mask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="name or file (default: the embedded model)")
    parser.add_argument("--known", type=Path, help="photographs like those trained on")
    parser.add_argument("--unknown", type=Path, help="photographs of another camera")
    options = parser.parse_args()
    model = vesselseg.load_model(options.model)
    if options.known:
        photographs = read(options.known)
        known = [model(image) for image, _ in photographs]
        dice = [expected_dice(each.probability, each.field_of_view) for each in known]
        sharpness = [0.7 * sharpness_at_scale(image, model) for image, _ in photographs]
        print(f"{len(known)} known photographs: --expected-dice {np.mean(dice):.3f} "
              f"--least-sharpness {np.mean(sharpness):.2f}")  # fmt: skip
    if not options.unknown:
        return
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in SPOILED}
    for image, label in read(options.unknown):
        for name, spoil in SPOILED.items():
            result = model(spoil(image))
            # On a smaller photograph a vessel is what covers a fifth of a pixel.
            coverage = np.asarray(label.resize(result.shape[::-1], Image.Resampling.BOX))
            counts = metrics.confusion(result.mask, coverage > 51, result.field_of_view)
            rows[name].append((result.familiarity, metrics.dice(counts)))
    print("\n| photographs | familiarity: mean, lowest | Dice: mean, lowest |\n|---|---|---|")
    for name, values in rows.items():
        familiarity, dice = np.array(values).T
        print(f"| {name} | {familiarity.mean():.2f}, {familiarity.min():.2f} "
              f"| {100 * dice.mean():.1f}, {100 * dice.min():.1f} |")  # fmt: skip
    familiarity, dice = np.concatenate(list(rows.values())).T
    low = familiarity < FAMILIARITY_LIMIT
    print(f"\nrank correlation: {spearmanr(familiarity, dice).statistic:.2f}")
    below, others = 100 * dice[low].mean(), 100 * dice[~low].mean()
    print(f"Dice of the {low.sum()} of {low.size} below {FAMILIARITY_LIMIT}: {below:.1f}")
    print(f"Dice of the others: {others:.1f}")


if __name__ == "__main__":
    main()
