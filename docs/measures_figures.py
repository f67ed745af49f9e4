"""Draw the figures of explanation/measures.md, and print its table of pinholes and specks.

    python docs/measures_figures.py

Everything is drawn from shapes or from the example photograph.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import vesselseg

Mask = NDArray[np.bool_]

FOLDER = Path(__file__).parent / "images"
EXAMPLE = Path(__file__).parents[1] / "examples" / "fundus.jpg"
SPACE = 12  # pixels between panels
FONT = ImageFont.load_default(15)
WHITE, BLUE = (255, 255, 255), (60, 190, 255)
LEFT_IN = {"fill_holes": 0, "min_size": 0}  # pinholes and specks


def side_by_side(panels: Sequence[Image.Image], texts: Sequence[str]) -> Image.Image:
    """Panels in a row, each with a text below."""
    height = max(panel.height for panel in panels)
    width = sum(panel.width + SPACE for panel in panels) - SPACE
    figure = Image.new("RGB", (width, height + 26), (24, 24, 24))
    pen = ImageDraw.Draw(figure)
    x = 0
    for panel, text in zip(panels, texts, strict=True):
        figure.paste(panel, (x, 0))
        pen.text((x + panel.width / 2, height + 13), text, fill=WHITE, font=FONT, anchor="mm")
        x += panel.width + SPACE
    return figure


def to_picture(mask: Mask, zoom: int = 1) -> Image.Image:
    """A mask in grey on black."""
    picture = Image.fromarray(mask.astype(np.uint8) * 110).convert("RGB")
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def draw_vessels(lines: Sequence[Sequence[tuple[float, float]]], width: int, size: int) -> Mask:
    """Lines through points (column, row), with round joints and ends."""
    picture = Image.new("L", (4 * size, 4 * size))
    pen = ImageDraw.Draw(picture)
    for line in lines:
        points = [(4 * x, 4 * y) for x, y in line]
        pen.line(points, 255, 4 * width, joint="curve")
        for x, y in (points[0], points[-1]):
            pen.ellipse((x - 2 * width, y - 2 * width, x + 2 * width, y + 2 * width), 255)
    return np.asarray(picture.reduce(4)) > 127


def draw_tree(size: int = 300) -> Mask:
    """Nine vessels, two of which cross."""
    trunk = [(150, 290), (148, 220), (150, 150), (140, 90), (100, 20)]
    return draw_vessels(
        [
            trunk,
            [(148, 220), (220, 190), (285, 185)],
            [(220, 190), (250, 140), (280, 120)],
            [(150, 150), (80, 140), (20, 160)],
            [(80, 140), (50, 90), (15, 80)],
            [(140, 90), (190, 70), (230, 25)],
            [(30, 250), (110, 215), (185, 240), (225, 255)],
        ],
        9,
        size,
    )


def draw_density(result: vesselseg.Segmentation) -> Image.Image:
    """The vessels, and the field of view that they are a share of."""
    picture = np.zeros((*result.shape, 3), np.uint8)
    picture[result.field_of_view] = (60, 60, 60)
    picture[result.mask] = BLUE
    panels = [result.overlay(), Image.fromarray(picture)]
    density = result.measure().density
    small = [panel.resize((380, 380), Image.Resampling.LANCZOS) for panel in panels]
    return side_by_side(small, ["photograph", f"blue over blue and grey: density {density:.3f}"])


def draw_points() -> Image.Image:
    """A tree that the field of view cuts, with a bump on its trunk."""
    mask = draw_tree()
    mask[183:188, 153:156] = True
    rows, columns = np.indices(mask.shape)
    measures = vesselseg.measure(mask, fov=np.hypot(rows - 150, columns - 150) < 138)
    return measures.overlay(color_by="segment", zoom=2)


def draw_length() -> Image.Image:
    """Staircases of pixels against smoothed centrelines."""
    mask = draw_vessels([[(8, 40), (30, 30), (60, 38), (90, 12)]], 7, 100)[:50]
    measures = vesselseg.measure(mask)
    return side_by_side([measures.overlay(zoom=6).crop((0, 0, 600, 300))],
                        [f"length_px {measures.length_px:.1f}"])  # fmt: skip


def draw_width() -> Image.Image:
    """Pieces of the area that belong to pieces of the centreline."""
    mask = np.zeros((60, 140), dtype=bool)
    half = np.interp(np.arange(140), (0, 60, 80, 140), (4, 4, 9, 9))
    rows = np.abs(np.indices(mask.shape)[0] - 29.5)
    mask[:, 22:118] = (rows < half)[:, 22:118]
    measures = vesselseg.measure(mask)
    picture = np.zeros((60, 140, 3), np.uint8)
    piece = np.arange(140) // 8 % 2
    picture[mask] = np.where(piece[:, None], (90, 90, 90), (150, 150, 150))[np.nonzero(mask)[1]]
    drawn = measures.overlay(picture, crop=(15, 15, 125, 45), zoom=6).crop((0, 0, 660, 180))
    quartiles = (measures.width_q1_px, measures.width_median_px, measures.width_q3_px)
    texts = ", ".join(f"{width:.1f}" for width in quartiles if width is not None)
    return side_by_side([drawn], [f"quartiles of the width: {texts} px"])


def draw_dimension(result: vesselseg.Segmentation) -> Image.Image:
    """The centrelines of the example, dilated."""
    from scipy.ndimage import distance_transform_edt

    measures = result.measure()
    lines = Image.new("1", result.shape[::-1], 1)
    pen = ImageDraw.Draw(lines)
    for line in measures.centrelines:
        pen.line([(x, y) for y, x in line], 0, 1)
    distance = distance_transform_edt(np.asarray(lines))
    panels, texts = [], []
    for part in (180, 60, 20):
        within = distance <= measures.fov_diameter_px / part
        share = within.sum() / measures.fov_area_px
        panels.append(to_picture(within).resize((300, 300), Image.Resampling.LANCZOS))
        texts.append(f"r = 1/{part} diameter: A = {share:.2f} of the eye")
    return side_by_side(panels, texts)


def draw_tortuosity() -> Image.Image:
    """Vessels of one chord, each more curved."""
    panels, texts = [], []
    across = np.linspace(15, 185, 80)
    for height in (0, 15, 30):
        wave = 100 + height * np.sin((across - 15) / 170 * 3 * math.pi)
        mask = draw_vessels([list(zip(across, wave, strict=True))], 7, 200)
        measures = vesselseg.measure(mask)
        picture = measures.overlay(crop=(0, 50, 200, 150), zoom=4).crop((0, 0, 800, 400))
        ends = [measures.segments[f"{end}_px"][0] + 0.5
                for end in ("start_column", "start_row", "end_column", "end_row")]  # fmt: skip
        chord = [4 * (place - top) for place, top in zip(ends, (0, 50, 0, 50), strict=True)]
        ImageDraw.Draw(picture).line(chord, WHITE, 3)
        panels.append(picture.reduce(3))
        texts.append(f"tortuosity {measures.tortuosity:.2f}")
    return side_by_side(panels, texts)


def make_pinholes(mask: Mask, side: int = 3) -> Mask:
    """Eight square holes, a pixel or more from the walls of the vessels."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(mask, 1), (side + 2, side + 2))
    corners = np.argwhere(windows.all(axis=(2, 3)))
    pierced = mask.copy()
    for row, column in corners[np.random.default_rng(0).choice(len(corners), 8)]:
        pierced[row : row + side, column : column + side] = False
    return pierced


def add_noise(mask: Mask, salt: float, pepper: float = 0.0, seed: int = 0) -> Mask:
    """A share of the pixels turned white, and one turned black."""
    chance = np.random.default_rng(seed).random((2, *mask.shape))
    return (mask | (chance[0] < salt)) & (chance[1] >= pepper)


def draw_noise() -> Image.Image:
    """Pinholes and salt, left in and taken out."""
    tree = draw_tree()
    box = (90, 130, 290, 250)
    rows = []
    for mask, name in ((make_pinholes(tree), "eight pinholes"), (add_noise(tree, 0.01), "salt")):
        panels, texts = [], []
        for options, text in ((LEFT_IN, "left in"), ({}, "taken out")):
            measures = vesselseg.measure(mask, **options)
            drawn = measures.overlay(to_picture(measures.mask), crop=box, zoom=2)
            panels.append(drawn.crop((0, 0, 400, 240)))
            count, density = measures.branch_points, measures.density
            texts.append(f"{name} {text}: {count} branch points, density {density:.3f}")
        rows.append(side_by_side(panels, texts))
    figure = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for number, row in enumerate(rows):
        figure.paste(row, (0, number * row.height))
    return figure


NAMES = ("density", "length_px", "branch_points", "end_points", "width_q1_px", "width_median_px",
         "width_q3_px", "box_dimension", "tortuosity")  # fmt: skip


def print_noise(result: vesselseg.Segmentation, seeds: int = 10) -> None:
    """The table of what pinholes and specks do, as Markdown."""
    tree = draw_tree()
    cases = (("drawn tree", tree, np.ones_like(tree)),
             ("example", result.mask, result.field_of_view))  # fmt: skip
    print(f"| mask | with | {' | '.join(NAMES)} |\n|---|---|{'---|' * len(NAMES)}")
    for name, mask, fov in cases:
        clean = vesselseg.measure(mask, fov=fov).to_dict()
        print(f"| {name} | nothing | {' | '.join(f'{clean[key]:.5g}' for key in NAMES)} |")
        for options, text in ((LEFT_IN, "left in"), ({}, "taken out")):
            for kind, noisy in (
                ("eight pinholes", [make_pinholes(mask)]),
                ("1 % of salt", [add_noise(mask, 0.01, 0, seed) for seed in range(seeds)]),
                ("1 % of salt and pepper", [add_noise(mask, 0.01, 0.01, s) for s in range(seeds)]),
            ):
                base = vesselseg.measure(mask, fov=fov, **options).to_dict()
                found = [vesselseg.measure(each, fov=fov, **options).to_dict() for each in noisy]
                cells = []
                for key in NAMES:
                    if key.endswith("points"):
                        change = max((each[key] - base[key] for each in found), key=abs)
                        cells.append(f"{change:+d}")
                    else:
                        change = max((each[key] / base[key] - 1 for each in found), key=abs)
                        cells.append(f"{100 * change:+.2f} %")
                print(f"| {name} | {kind}, {text} | {' | '.join(cells)} |", flush=True)


def draw_all(folder: Path, result: vesselseg.Segmentation) -> None:
    """Write all figures."""
    crop = (90, 560, 570, 920)
    figures = {
        "overlay.jpg": result.measure().overlay(crop=crop, zoom=2),
        "density.jpg": draw_density(result),
        "length.png": draw_length(),
        "points.png": draw_points(),
        "width.png": draw_width(),
        "dimension.png": draw_dimension(result),
        "tortuosity.png": draw_tortuosity(),
        "noise.png": draw_noise(),
    }
    for name, figure in figures.items():
        if name.endswith(".png"):
            figure = figure.quantize(64)
        figure.save(folder / f"measures-{name}", quality=85, optimize=True)


if __name__ == "__main__":
    example = vesselseg.segment(EXAMPLE, device="cpu")
    draw_all(FOLDER, example)
    if "--figures" not in sys.argv:
        print_noise(example)
