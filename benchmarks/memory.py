"""Peak memory of one photograph above the imported library and the loaded model.

    python benchmarks/memory.py                       # the table in benchmarks/README.md
    python benchmarks/memory.py --size 10000 10000 --model embedded --scale native
    python benchmarks/memory.py --many 1000           # whether memory grows with images

Each row runs in a process of its own. Published models are measured with weights drawn at random,
which cost the same.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from table import Column, markdown

Row = tuple[str, tuple[int, int], str, "int | None"]
ROWS: list[Row] = [  # name, image (height, width), scale, limit: MB, what the project promises
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
MANY, EARLY = 1000, 100  # images, and after how many of them memory is looked at first
GROWTH_COLUMNS = [
    Column("images", "images"),
    Column("resident, MB", "resident"),
    Column("above the first row, MB", "growth"),
]
_MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--model", default="embedded", help="name, or 'embedded'")
    parser.add_argument("--scale", default="native")
    parser.add_argument("--many", type=int, metavar="N", help="that many small images, one by one")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside and options.many:
        print(json.dumps(residents(options.many)))
    elif options.inside:
        print(json.dumps(peak(options.model, *options.size, options.scale)))
    elif options.many:
        print(markdown(measure_many(options.many), GROWTH_COLUMNS))
    elif options.size:
        one = (options.model, tuple(options.size), options.scale, None)
        print(markdown(measure([one]), COLUMNS))
    else:
        print(markdown(measure(), COLUMNS))


def measure(rows: Sequence[Row] = ROWS) -> list[dict[str, Any]]:
    """A process for each of the rows."""
    measured = []
    for model, size, scale, limit in rows:
        found = _inside("--model", model, "--scale", scale, "--size", *map(str, size))
        measured.append(
            {"model": model, "image": size, "scale": scale, "peak": found, "limit": limit}
        )
    return measured


def measure_many(count: int = MANY) -> list[dict[str, Any]]:
    """Resident memory early and late in one process that segments many images."""
    first, last = _inside("--many", str(count))
    return [
        {"images": min(EARLY, count), "resident": first},
        {"images": count, "resident": last, "growth": last - first},
    ]


def _inside(*arguments: str) -> Any:
    """What this file prints in a process of its own."""
    command = [sys.executable, __file__, "--inside", *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def peak(name: str, height: int, width: int, scale: str) -> int:
    import numpy as np

    import vesselseg
    from vesselseg.backends.pytorch import TorchBackend
    from vesselseg.registry import find_spec
    from vesselseg.segmenter import Segmenter
    from vesselseg.unet import UNet

    if name == "embedded":
        model = vesselseg.load_model(device="cpu")
    else:
        spec = find_spec(name)
        network = UNet(spec.width, spec.depth, spec.head).eval().requires_grad_(False)
        model = Segmenter(TorchBackend(network, spec, "cpu", "float32"), spec, sha256="")
    _only_errors()
    # What the first convolution sets up once is counted; so is the image itself.
    before = _highest()
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    result = model(image, scale=scale)
    assert result.mask.shape == (height, width)
    return round((_highest() - before) * 1024 / _MB)


def _highest() -> int:
    """The most that was resident so far, in KiB; unlike ru_maxrss not of the parent as well."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def residents(count: int) -> tuple[int, int]:
    """MB after :data:`EARLY` and after all images, of ten sizes in turn."""
    import numpy as np

    import vesselseg

    model = vesselseg.load_model(device="cpu")
    _only_errors()
    generator = np.random.default_rng(0)
    first = last = 0
    for number in range(1, count + 1):
        side = 96 + 16 * (number % 10)
        image = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
        assert model(image, scale="native").mask.shape == (side, side)
        if number == min(EARLY, count):
            first = _resident()
    last = _resident()
    return first, last


def _resident() -> int:
    import os
    from pathlib import Path

    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / _MB)


def _only_errors() -> None:
    """Random pixels have no field of view, of which the library would warn each time."""
    import logging

    logging.getLogger("vesselseg").setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
