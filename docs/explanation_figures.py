"""Draw the figures of explanation/scale.md, windows.md, thresholds.md and familiarity.md.

    python docs/explanation_figures.py

All of them show the example photograph, segmented by the embedded model.
"""

from __future__ import annotations

import logging

import numpy as np
from measures_figures import EXAMPLE, FOLDER, side_by_side
from PIL import Image, ImageDraw, ImageFilter

import vesselseg
from vesselseg.registry import EMBEDDED
from vesselseg.sliding import windows

PANEL = 300
DETAIL = (180, 150, 180 + PANEL, 150 + PANEL)  # above the optic disc, pixel by pixel


def detail(result: vesselseg.Segmentation) -> Image.Image:
    """A part of the photograph, with its vessels."""
    return result.overlay(opacity=0.7).crop(DETAIL)


def scale(model: vesselseg.Segmenter) -> Image.Image:
    """The same part at three scales."""
    factors = {0.15: "too small", 1.0: "as trained", 3.0: "too large"}
    panels = [detail(model(EXAMPLE, scale=factor)) for factor in factors]
    return side_by_side(panels, [f"scale={factor:g}: {text}" for factor, text in factors.items()])


def window_grid() -> Image.Image:
    """The windows of the embedded model, and how many of them each place is in."""
    with Image.open(EXAMPLE) as file:
        photograph = file.convert("RGB")
    grid = windows(photograph.height, photograph.width, EMBEDDED.crop, EMBEDDED.stride)
    counts = np.zeros((photograph.height, photograph.width), np.uint8)
    outlines = photograph.copy()
    pen = ImageDraw.Draw(outlines)
    colors = ((0, 220, 255), (255, 210, 0), (255, 255, 255))
    for number, window in enumerate(grid):
        counts[window.top : window.bottom, window.left : window.right] += 1
        inset = 6 * (number % 3)
        box = (window.left + inset, window.top + inset, window.right - inset, window.bottom - inset)
        pen.rectangle(box, outline=colors[number % 3], width=5)
    shades = Image.fromarray(counts * np.uint8(55))
    size = (450, 450)
    texts = [f"{len(grid)} windows of {EMBEDDED.crop} pixels", "in one, two and four windows"]
    return side_by_side([outlines.resize(size), shades.convert("RGB").resize(size)], texts)


def thresholds(result: vesselseg.Segmentation) -> Image.Image:
    """The same part at three thresholds."""
    levels = (0.1, 0.5, 0.9)
    panels = [detail(result.at_threshold(level)) for level in levels]
    return side_by_side(panels, [f"threshold {level:g}" for level in levels])


def familiarity(model: vesselseg.Segmenter) -> Image.Image:
    """The same part of the photograph, sharp and more and more blurred."""
    with Image.open(EXAMPLE) as file:
        photograph = file.convert("RGB")
    panels, texts = [], []
    for deviation in (0, 8, 14):
        result = model(photograph.filter(ImageFilter.GaussianBlur(deviation)))
        panels.append(detail(result))
        texts.append(f"blur {deviation} px: familiarity {result.familiarity:.2f}")
    return side_by_side(panels, texts)


def main() -> None:
    """Draw all figures."""
    logging.getLogger("vesselseg").setLevel(
        logging.ERROR
    )  # the figures are about what is warned of
    model = vesselseg.load_model(device="cpu", precision="float32")
    figures = {
        "scale": scale(model),
        "windows": window_grid(),
        "thresholds": thresholds(model(EXAMPLE)),
        "familiarity": familiarity(model),
    }
    for name, figure in figures.items():
        figure.save(FOLDER / f"{name}.jpg", quality=82, optimize=True)


if __name__ == "__main__":
    main()
