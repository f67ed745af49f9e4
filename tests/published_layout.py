"""Weights files in mmsegmentation's layout, filled from a seed."""

import json
import math
from pathlib import Path

import torch
from torch import Tensor

GOLDENS = Path(__file__).with_name("goldens")
SHAPES: dict[str, dict[str, list[int]]] = json.loads(
    (GOLDENS / "state_dict_shapes.json").read_text()
)


def narrow_shapes(head: str, divisor: int) -> dict[str, list[int]]:
    """The published shapes with every number of channels divided, but for input and classes."""

    def narrow(size: int, place: int, key: str) -> int:
        kernel = place > 1
        classes = "conv_seg" in key and place == 0
        rgb = size == 3
        return size if kernel or classes or rgb else size // divisor

    return {
        key: [narrow(size, place, key) for place, size in enumerate(shape)]
        for key, shape in SHAPES[head].items()
    }


def seeded_state(shapes: dict[str, list[int]], seed: int) -> dict[str, Tensor]:
    """Values in the order of the keys: the goldens' own weights for the published shapes."""
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
