"""How far vesselseg.measure is from the truth, on drawn shapes, and how it stands turning.

    python benchmarks/measures.py
    pip install --no-deps PVBM==3.0.1.8 && python benchmarks/measures.py --pvbm

Every shape is drawn at several angles, and the table gives the median and the largest error. With
--pvbm, PVBM measures the same masks in the same run: its overall length, median tortuosity,
numbers of intersection and end points, and its capacity dimension D0. It starts at the optic
disc, which is put at the root of the shape.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import vesselseg

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]

ANGLES = (0, 11, 23, 37, 52, 68, 80)
EXAMPLE = Path(__file__).parents[1] / "examples" / "fundus.jpg"


class Shape(NamedTuple):
    """A drawn mask, its root (row, column), and the true values of some measures."""

    name: str
    mask: Mask
    root: tuple[float, float]
    truth: dict[str, float]


def strokes(lines: list[tuple[Points, Points]], width: float, side: int) -> Mask:
    """Lines with round ends, drawn where a pixel's centre is inside."""
    places = np.moveaxis(np.mgrid[:side, :side], 0, -1)
    mask = np.zeros((side, side), dtype=bool)
    for start, end in lines:
        length = np.hypot(*(end - start))
        along = (end - start) / length
        across = np.array([-along[1], along[0]])
        lowest = (np.minimum(start, end) - width).astype(int).clip(min=0)
        highest = (np.maximum(start, end) + width + 1).astype(int)
        box = tuple(slice(*bounds) for bounds in zip(lowest, highest, strict=True))
        offset = places[box] - start
        place = (offset @ along).clip(0, length)
        mask[box] |= np.hypot(offset @ along - place, offset @ across) <= width / 2
    return mask


def turned(points: Points, angle: float, side: int) -> Points:
    """Points turned around the middle of a square, then moved off the centres of the pixels."""
    middle, turn = side / 2, math.radians(angle)
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return (np.asarray(points) - middle) @ matrix.T + middle + 0.3


def line(angle: float, width: float) -> Shape:
    """A line of 400 pixels."""
    ends = turned(np.array([[300.0, 100.0], [300.0, 500.0]]), angle, 600)
    truth = {"length_px": 400 + width, "width_median_px": width, "tortuosity": 1.0,
             "end_points": 2, "box_dimension": 1.0}  # fmt: skip
    return Shape("line", strokes([(ends[0], ends[1])], width, 600), tuple(ends[0]), truth)


def comb(angle: float, width: float) -> Shape:
    """A back with seven teeth: five branch points, two corners, seven free ends."""
    teeth = np.linspace(160, 440, 7)
    points = np.array([[400, 160], [400, 440], *((row, x) for x in teeth for row in (400, 250))])
    pairs = turned(points.astype(float), angle, 600).reshape(-1, 2, 2)
    truth = {"length_px": 280 + 7 * (150 + width / 2), "width_median_px": width,
             "branch_points": 5, "end_points": 7}  # fmt: skip
    mask = strokes([(start, end) for start, end in pairs], width, 600)
    return Shape("comb", mask, tuple(pairs[1, 1]), truth)


def tree(angle: float, width: float) -> Shape:
    """A binary tree of five generations without crossings."""
    lines: list[tuple[Points, Points]] = []

    def grow(start: Points, direction: float, length: float, generation: int) -> None:
        end = start + length * np.array([-math.cos(direction), math.sin(direction)])
        lines.append((start, end))
        if generation < 5:
            spread = 0.8 if generation < 3 else 0.6
            grow(end, direction - spread, 0.62 * length, generation + 1)
            grow(end, direction + spread, 0.62 * length, generation + 1)

    grow(np.array([850.0, 500.0]), 0.0, 280.0, 1)
    lines = [tuple(turned(np.stack(pair), angle, 1000)) for pair in lines]
    truth = {"length_px": sum(np.hypot(*(b - a)) for a, b in lines) + 17 * width / 2,
             "width_median_px": width, "branch_points": 15, "end_points": 17}  # fmt: skip
    return Shape("tree", strokes(lines, width, 1000), tuple(lines[0][0]), truth)


def arc(angle: float, width: float) -> Shape:
    """A circular arc of 2.5 radians with a radius of 150 pixels."""
    angles = np.linspace(0, 2.5, 200) + math.radians(angle)
    points = 300.3 + 150 * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    mask = strokes(list(itertools.pairwise(points)), width, 600)
    truth = {"length_px": 375 + width, "width_median_px": width, "end_points": 2,
             "tortuosity": 2.5 / (2 * math.sin(1.25))}  # fmt: skip
    return Shape("arc", mask, tuple(points[0]), truth)


def ring(angle: float, width: float) -> Shape:
    """A circle whose radius depends a little on the angle, so that each is another drawing."""
    radius = 150 + angle / 100
    rows, columns = np.mgrid[:600, :600] - 300.3
    mask = abs(np.hypot(rows, columns) - radius) <= width / 2
    length = 2 * math.pi * radius
    truth = {"length_px": length, "width_median_px": width, "density": length * width / 600**2}
    return Shape("ring", mask, (300.3, 300.3 - radius), truth)


def koch(angle: float, _: float) -> Shape:
    """The sixth stage of the Koch curve, one pixel wide."""
    points = [np.array([500.0, 250.0]), np.array([500.0, 1750.0])]
    for _ in range(6):
        finer = [points[0]]
        for start, end in itertools.pairwise(points):
            third = (end - start) / 3
            peak = np.array([third[0] / 2 + third[1] * math.sqrt(3) / 2,
                             third[1] / 2 - third[0] * math.sqrt(3) / 2])  # fmt: skip
            finer += [start + third, start + third + peak, start + 2 * third, end]
        points = finer
    corners = turned(np.stack(points), angle, 2000)
    mask = np.zeros((2000, 2000), dtype=bool)
    for start, end in itertools.pairwise(corners):
        steps = np.linspace(0, 1, int(4 * np.hypot(*(end - start))) + 2)[:, None]
        mask[tuple(np.rint(start + steps * (end - start)).astype(int).T)] = True
    return Shape("Koch curve", mask, tuple(corners[0]), {"box_dimension": math.log(4, 3)})


DRAWINGS: tuple[tuple[Callable[[float, float], Shape], tuple[float, ...]], ...] = (
    (line, (2, 3, 5, 8, 15)),
    (comb, (3, 5, 9)),
    (tree, (3, 5)),
    (arc, (3, 8)),
    (ring, (3, 8)),
    (koch, (1,)),
)


def shapes(angles: tuple[float, ...] = ANGLES) -> Iterator[Shape]:
    """All shapes, in all widths, at all angles."""
    for draw, widths in DRAWINGS:
        for width in widths:
            for angle in angles:
                yield draw(angle, width)


def measure_with_pvbm(shape: Shape) -> dict[str, float]:
    """PVBM's measures under the names of ours."""
    from PVBM.FractalAnalysis import MultifractalVBMs
    from PVBM.GeometryAnalysis import GeometricalVBMs
    from skimage.morphology import skeletonize

    found = {"box_dimension": MultifractalVBMs().compute_multifractals(shape.mask.astype(float))[0]}
    row, column = shape.root
    try:
        values, _ = GeometricalVBMs().compute_geomVBMs(
            shape.mask.astype(float), skeletonize(shape.mask).astype(float), column, row, 10
        )
    except (RecursionError, ValueError, IndexError) as error:
        print(f"PVBM on {shape.name}: {type(error).__name__}: {error}")
        return found
    _, _, tortuosity, length, _, _, ends, branch_points = values
    return found | {
        "length_px": length,
        "tortuosity": tortuosity,
        "end_points": ends,
        "branch_points": branch_points,
    }


def print_errors(measures: dict[str, Callable[[Shape], dict[str, float]]]) -> None:
    """The table of errors on shapes, as Markdown."""
    errors: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for shape in shapes():
        for name, measure in measures.items():
            values = measure(shape)
            for key, truth in shape.truth.items():
                if key in values:
                    error = 100 * abs(values[key] / truth - 1)
                    errors[shape.name, key][name].append(error)
    print(
        "| shape | measure | " + " | ".join(f"{name}: median, largest" for name in measures) + " |"
    )
    print("|---|---|" + "---|" * len(measures))
    for (shape_name, key), by_name in errors.items():
        cells = (
            f"{np.median(by_name[name]):.2f} %, {max(by_name[name]):.2f} %"
            if by_name[name]
            else "-"
            for name in measures
        )
        print(f"| {shape_name} | {key} | {' | '.join(cells)} |")


def print_turns() -> None:
    """The table of a real mask that is turned, as Markdown."""
    result = vesselseg.segment(EXAMPLE)
    upright = result.measure().to_dict()
    names = ("density", "length_px", "width_q1_px", "width_median_px", "width_q3_px",
             "box_dimension", "tortuosity", "branch_points", "end_points")  # fmt: skip
    print(f"\n| angle | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    print(f"| 0 | {' | '.join(f'{upright[name]:.5g}' for name in names)} |")
    for angle in (90, 10, 17, 30, 45, 61, 77):
        fov = turn(result.field_of_view, angle)
        measures = vesselseg.measure(turn(result.mask, angle), fov=fov).to_dict()
        changes = (f"{100 * (measures[name] / upright[name] - 1):+.2f} %" for name in names)
        print(f"| {angle} | {' | '.join(changes)} |")


def turn(mask: Mask, angle: float) -> Mask:
    """A mask turned without a bias of its area: five times as large, and a majority of pixels."""
    if angle % 90 == 0:
        return np.rot90(mask, angle // 90)
    large = Image.fromarray(mask.astype(np.uint8) * 255).resize(
        (5 * mask.shape[1], 5 * mask.shape[0]), Image.Resampling.NEAREST
    )
    return np.asarray(large.rotate(angle, Image.Resampling.NEAREST, expand=True).reduce(5)) > 127


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pvbm", action="store_true", help="measure with PVBM beside it")
    options = parser.parse_args()
    measures: dict[str, Callable[[Shape], dict[str, float]]] = {
        "vesselseg": lambda shape: vesselseg.measure(shape.mask).to_dict()
    }
    if options.pvbm:
        measures["PVBM"] = measure_with_pvbm
    print_errors(measures)
    print_turns()


if __name__ == "__main__":
    main()
