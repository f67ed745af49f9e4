"""A folder of photographs, some of which fail, each at another stage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from vesselseg.backends.pytorch import TorchBackend

from .drawn import HEIGHT, WIDTH, photograph

MOST = 4 * HEIGHT * WIDTH
"""The `max_pixels` with which those that are too large fail."""


class FailingBackend(TorchBackend):
    """Raises on a photograph whose corner is white, as a network does that lacks memory."""

    def __call__(self, windows: Tensor) -> Tensor:
        if (windows[:, :, :4, :4] == 255).all(dim=(1, 2, 3)).any():
            raise RuntimeError("unforeseen, in the network")
        return super().__call__(windows)


def faulty_folder(folder: Path, out: Path, count: int) -> dict[str, str]:
    """Draw `count` photographs, ``0000.png`` and so on; return the names of those that fail.

    Each comes with part of what its error says. `out` gets what stands in the way of some results.
    """
    folder.mkdir(parents=True)
    paths = [folder / f"{number:04}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(photograph(number % 97)).save(path)
    white = photograph(1)
    white[:8, :8] = 255
    faults: list[tuple[str, Any]] = [
        ("is empty", b""),
        ("could not be decoded", b"no image"),
        ("could not be decoded", paths[0].read_bytes()[:200]),
        ("There is no image", None),
        ("at most", Image.new("RGB", (4 * WIDTH, 4 * HEIGHT))),
        ("unforeseen, in the network", Image.fromarray(white)),
        ("cannot be written", "a folder in its place"),
    ]
    failing = {}
    for place, number in enumerate(range(7, count, max(count // 20, 1))):
        said, fault = faults[place % len(faults)]
        path = paths[number]
        failing[path.name] = said
        if fault is None:
            path.unlink()
            path.symlink_to("nowhere")
        elif isinstance(fault, bytes):
            path.write_bytes(fault)
        elif isinstance(fault, str):
            os.makedirs(out / path.name / "in the way")  # noqa: PTH103
        else:
            fault.save(path)
    return failing
