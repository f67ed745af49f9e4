"""Peak memory of one photograph above the imported library and the loaded model.

    python benchmarks/memory.py                       # the table in benchmarks/README.md
    python benchmarks/memory.py --size 10000 10000 --model embedded --scale native

Each row runs in a process of its own. Published models are measured with weights drawn at random,
which cost the same.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

ROWS = [  # name, image (height, width), scale
    ("unet_s5-d16_drive", (584, 565), "fit"),
    ("unet_s5-d16_hrf", (2336, 3504), "fit"),
    ("embedded", (584, 565), "fov"),
    ("embedded", (2336, 3504), "fov"),
    ("embedded", (10000, 10000), "native"),
]
LIMITS = [350, 1000, None, None, 2500]  # MB, what the project promises


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--model", default="embedded", help="name, or 'embedded'")
    parser.add_argument("--scale", default="native")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        measure(options.model, *options.size, options.scale)
    elif options.size:
        print(row(options.model, tuple(options.size), options.scale, None))
    else:
        print("| model | image | scale | peak, MB | limit, MB |\n|---|---|---|---|---|")
        for (model, size, scale), limit in zip(ROWS, LIMITS, strict=True):
            print(row(model, size, scale, limit), flush=True)


def row(model: str, size: tuple[int, int], scale: str, limit: int | None) -> str:
    command = [sys.executable, __file__, "--inside", "--model", model, "--scale", scale]
    command += ["--size", *map(str, size)]
    peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return f"| {model} | {size[0]} x {size[1]} | {scale} | {peak} | {limit or ''} |"


def measure(name: str, height: int, width: int, scale: str) -> None:
    import resource

    import numpy as np
    import torch

    import vesselseg
    from vesselseg.checkpoints import find_checkpoint
    from vesselseg.segmenter import Segmenter
    from vesselseg.unet import UNet

    if name == "embedded":
        model = vesselseg.load_model(device="cpu")
    else:
        record = find_checkpoint(name)
        network = UNet(record.width, record.depth, record.head).eval().requires_grad_(False)
        model = Segmenter(
            network, record, sha256="", device=torch.device("cpu"), precision="float32",
            batch_size=None,
        )  # fmt: skip
    # What the first convolution sets up once is counted; so is the image itself.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    result = model(image, scale=scale)
    assert result.mask.shape == (height, width)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(round((after - before) / 1024 * 1.048576))


if __name__ == "__main__":
    main()
