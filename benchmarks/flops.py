"""Floating-point operations of the convolutions, from the shapes of a network.

A multiplication and an addition count as two. Pooling, interpolation, biases and ReLU, below 1 %
together, are left out.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from vesselseg import ModelSpec
from vesselseg.sliding import round_up, windows
from vesselseg.unet import UNet


class Cost(NamedTuple):
    """What one image costs.

    `nominal`: the network as published, its decoder's 1x1 convolutions behind the enlargement,
    on each window once. `executed`: the network as vesselseg computes it, 1x1 convolutions before
    the enlargement, on whole batches, the last one filled up.
    """

    windows: int
    nominal: float
    executed: float


def cost(spec: ModelSpec, height: int, width: int, batch_size: int) -> Cost:
    """Cost of a `height` x `width` image at the network's scale."""
    count = len(windows(height, width, spec.crop, spec.stride))
    nominal, executed = window_flop(spec, *window_size(spec, height, width))
    return Cost(count, count * nominal, round_up(count, batch_size) * executed)


def window_size(spec: ModelSpec, height: int, width: int) -> tuple[int, int]:
    """Height and width of the windows of such an image, filled up to what the network takes."""
    window_height, window_width = (
        round_up(min(spec.crop, side), spec.size_divisor) for side in (height, width)
    )
    return window_height, window_width


@functools.cache
def window_flop(spec: ModelSpec, height: int, width: int) -> tuple[float, float]:
    """One window: (as published, as vesselseg computes it)."""
    # On the meta device shapes are computed and nothing else.
    with torch.device("meta"):
        network = UNet(spec.width, spec.depth, spec.head)
        image = torch.empty(1, 3, height, width)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(image)
    executed = counter.get_total_flops()
    reduced = 0  # of the 1x1 convolutions that work on maps of a quarter of the published size
    for stage, up in enumerate(network.decoder):
        conv = up.reduce.conv
        pixels = (height >> (stage + 1)) * (width >> (stage + 1))
        reduced += 2 * conv.in_channels * conv.out_channels * pixels
    return executed + 3 * reduced, executed
