"""Small photographs, folders of them, and a narrow model for the tests of the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vesselseg import ModelSpec, weights
from vesselseg.unet import UNet

RECORD = ModelSpec(
    name="tiny", dataset="test", crop=32, stride=24, width=8, depth=2, scale="native"
)


def photograph(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    """An orange disc with a few dark lines before black, uint8 (height, width, 3)."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    light = np.full((height, width), 0.9, dtype=np.float32)
    for _ in range(3):
        slope, start = draw.uniform(-1, 1), draw.uniform(0, height)
        light *= 1 - 0.6 * np.exp(-((y - start - slope * (x - width / 2)) ** 2))
    away = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    light[away > 0.48 * min(height, width)] = 0
    noise = draw.integers(0, 6, (height, width, 1))
    return np.rint(light[..., None] * (200, 110, 60) + noise).astype(np.uint8)


def photographs(folder: Path, names: list[str]) -> list[Path]:
    """Write a photograph, each another one, under every name below the folder."""
    paths = [folder / name for name in names]
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(seed)).save(path)
    return paths


def tiny_model(path: Path) -> Path:
    """Write a narrow network whose masks have both vessel and background."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = UNet(RECORD.width, RECORD.depth).eval().requires_grad_(False)
    seen = torch.from_numpy(photograph(0)).permute(2, 0, 1)[None].float()
    seen = (seen - torch.tensor(RECORD.mean).reshape(3, 1, 1)) / 58.0
    network.head.classifier.weight *= 300  # probabilities from near 0 to near 1
    logits = network(seen)[0]
    network.head.classifier.bias[1] -= (logits[1] - logits[0]).median()
    weights.save(path, network, RECORD)
    return path


def pixels(path: Path) -> np.ndarray:
    """Of a picture, as they stand in the file."""
    with Image.open(path) as opened:
        return np.asarray(opened)


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too: their place and their bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
