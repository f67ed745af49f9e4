"""Tiny models, and weights files in both layouts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from vesselseg import ModelSpec, Segmenter, load_model, weights
from vesselseg.unet import UNet

GOLDENS = Path(__file__).parents[1] / "goldens"
SHAPES: dict[str, dict[str, list[int]]] = json.loads(
    (GOLDENS / "state_dict_shapes.json").read_text()
)
"""Head -> name -> shape of every tensor in a published file."""

NARROW = ModelSpec(
    name="narrow", dataset="test", crop=64, stride=42, width=8, scale="native", fov_diameter=500
)
"""The published network with an eighth of its channels."""

TINY = ModelSpec(name="tiny", dataset="test", crop=32, stride=24, width=8, depth=2, scale="native")
"""The smallest useful network."""


def narrow_shapes(head: str, divisor: int) -> dict[str, list[int]]:
    """The published shapes with all channels divided, except for input and classes."""
    shapes = {}
    for key, shape in SHAPES[head].items():
        shapes[key] = [
            size
            if place > 1 or size == 3 or ("conv_seg" in key and place == 0)
            else size // divisor
            for place, size in enumerate(shape)
        ]
    return shapes


def seeded_state(shapes: dict[str, list[int]], seed: int) -> dict[str, Tensor]:
    """Random values in the order of the keys: the goldens' weights for the published shapes."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
        elif len(shape) == 4:
            gain = math.sqrt(2 / math.prod(shape[1:]))
            state[key] = torch.randn(shape, generator=generator) * gain
        elif key.endswith(("bn.weight", "running_var")):
            state[key] = torch.rand(shape, generator=generator) + 0.5
        else:
            state[key] = torch.randn(shape, generator=generator) * 0.1
    return state


def published_narrow_file(path: Path, seed: int = 1) -> Path:
    """Weights of `NARROW` in mmsegmentation's layout; about half of the pixels become vessel."""
    meta = {"CLASSES": ("background", "vessel"), "iter": 40000}
    state = seeded_state(narrow_shapes("fcn", 8), seed)
    state["decode_head.conv_seg.bias"] = torch.tensor([-0.386, 0.316])
    torch.save({"meta": meta, "state_dict": state}, path)
    return path


def tiny_weights(path: Path, spec: ModelSpec = TINY, seed: int = 0) -> Path:
    """Random weights of `spec` in our own layout; about half of the pixels become vessel."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(spec.width, spec.depth, spec.head).eval().requires_grad_(False)
        noise = torch.randn(1, 3, 64, 64)
    network.head.classifier.weight *= 300  # probabilities from near 0 to near 1
    background, vessel = network(noise)[0]
    network.head.classifier.bias[1] -= (vessel - background).median()
    weights.save(path, network, spec)
    return path


def tiny_model(folder: Path, spec: ModelSpec = TINY) -> Segmenter:
    """A loaded model of `spec` with random weights, on the CPU."""
    return load_model(spec, weights=tiny_weights(folder / "tiny.pth"), device="cpu")
