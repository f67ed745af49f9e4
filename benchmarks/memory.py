"""Peak memory of one photograph above the imported library and the loaded model (Linux).

    python benchmarks/memory.py                       # the table in benchmarks/README.md
    python benchmarks/memory.py --size 10000 10000 --model embedded --scale native
    python benchmarks/memory.py --many 1000           # whether memory grows with photographs

Each row is measured in a process of its own. Published models have random weights, which take as
much memory as trained ones.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from table import Column, markdown

import vesselseg
from vesselseg.backends.pytorch import TorchBackend
from vesselseg.registry import find_spec
from vesselseg.segmenter import Segmenter
from vesselseg.unet import UNet

Row = tuple[str, tuple[int, int], str, "int | None"]
ROWS: list[Row] = [  # model, (height, width), scale, and the limit in MB that the project promises
    ("unet_s5-d16_drive", (584, 565), "fit", 350),
    ("unet_s5-d16_hrf", (2336, 3504), "fit", 1000),
    ("embedded", (584, 565), "fov", None),
    ("embedded", (2336, 3504), "fov", None),
    ("embedded", (10000, 10000), "native", 2500),
]
COLUMNS = [
    Column("model", "model"),
    Column("image", "image"),
    Column("scale", "scale"),
    Column("peak, MB", "peak"),
    Column("limit, MB", "limit"),
]
MANY, EARLY = 1000, 100  # images, and after how many of them memory is measured first
GROWTH_COLUMNS = [
    Column("images", "images"),
    Column("resident, MB", "resident"),
    Column("above the first row, MB", "growth"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--model", default="embedded", help="a published model, or 'embedded'")
    parser.add_argument("--scale", default="native")
    parser.add_argument("--many", type=int, metavar="N", help="segment N small images one by one")
    options = parser.parse_args()
    if options.many:
        print(markdown(measure_growth(options.many), GROWTH_COLUMNS))
    elif options.size:
        row = (options.model, tuple(options.size), options.scale, None)
        print(markdown(measure([row]), COLUMNS))
    else:
        print(markdown(measure(), COLUMNS))


def measure(rows: Sequence[Row] = ROWS) -> list[dict[str, Any]]:
    return [
        {"model": model, "image": size, "scale": scale, "limit": limit,
         "peak": in_new_process(peak, model, size, scale)}
        for model, size, scale, limit in rows
    ]  # fmt: skip


def measure_growth(count: int = MANY) -> list[dict[str, Any]]:
    """Resident memory of a process that segments many images, early and at the end."""
    first, last = in_new_process(residents, count)
    return [
        {"images": min(EARLY, count), "resident": first},
        {"images": count, "resident": last, "growth": last - first},
    ]


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak(name: str, size: tuple[int, int], scale: str) -> int:
    """The most memory, in MB, that segmenting random pixels adds."""
    if name == "embedded":
        model = vesselseg.load_model(device="cpu")
    else:
        spec = find_spec(name)
        network = UNet(spec.width, spec.depth, spec.head).eval().requires_grad_(False)
        model = Segmenter(TorchBackend(network, spec, "cpu", "float32"), spec, sha256="")
    # The image counts, and so does what the first convolution sets up once.
    before = megabytes("VmHWM")
    segment_noise(model, np.random.default_rng(0), size, scale)
    return megabytes("VmHWM") - before


def residents(count: int) -> tuple[int, int]:
    """MB after `EARLY` images of ten small sizes, and after all of them."""
    model = vesselseg.load_model(device="cpu")
    generator = np.random.default_rng(0)
    first = 0
    for number in range(1, count + 1):
        side = 96 + 16 * (number % 10)
        segment_noise(model, generator, (side, side), "native")
        if number == min(EARLY, count):
            first = megabytes("VmRSS")
    return first, megabytes("VmRSS")


def segment_noise(
    model: Segmenter, generator: np.random.Generator, size: tuple[int, int], scale: Any
) -> None:
    # The library would warn that random pixels have no field of view.
    logging.getLogger("vesselseg").setLevel(logging.ERROR)
    image = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
    assert model(image, scale=scale).mask.shape == size


def megabytes(field: str) -> int:
    """Memory of this process: "VmRSS", resident now, or "VmHWM", resident at most so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return round(int(line.split()[1]) * 1024 / 1e6)
    raise OSError(f"This system does not report {field}; memory is measured on Linux only.")


if __name__ == "__main__":
    main()
