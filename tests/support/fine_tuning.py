"""A tiny model to start a training from, and the names of photographs to train it on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from vesselseg import ModelSpec, weights
from vesselseg.unet import UNet

START = ModelSpec(
    name="start", dataset="test", crop=64, stride=48, width=8, depth=2, scale="fov",
    fov_diameter=40, fov_diameter_max=80, fov_rgb_mean=(160.0, 75.0, 30.0), license="CC0",
)  # fmt: skip
NAMES = ("anna_L", "anna_R", "ben_L", "ben_R", "carl_L")


def start_weights(path: Path) -> Path:
    """A file of `START` with weights that were never trained but can be (He et al. 2015)."""
    network = UNet(START.width, START.depth)
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)
    weights.save(path, network, START)
    return path
