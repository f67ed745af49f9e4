"""Floating-point operations of the convolutions, from the shapes of a network.

A multiplication and an addition count as two. Pooling, interpolation, biases and ReLU, together
below 1 %, do not count.
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
    """Cost of one image.

    `nominal`: the network as published, with the decoder's 1x1 convolutions after the
    enlargement, on each window once. `executed`: the network as vesselseg computes it, with those
    1x1 convolutions before the enlargement, on whole batches.
    """

    windows: int
    nominal: float
    executed: float


def cost(
    spec: ModelSpec, height: int, width: int, batch_size: int, *, shrink: bool = False
) -> Cost:
    """Cost of a `height` x `width` image at the network's scale; `shrink` shrinks its windows."""
    shrink_to = spec.size_divisor if shrink else None
    count = len(windows(height, width, spec.crop, spec.stride, shrink_to))
    size = window_size(spec, height, width, shrink=shrink)
    nominal, executed = window_flop(spec, *size)
    return Cost(count, count * nominal, round_up(count, batch_size) * executed)


def window_size(
    spec: ModelSpec, height: int, width: int, *, shrink: bool = False
) -> tuple[int, int]:
    """Height and width of the windows of such an image, as the network gets them."""
    shrink_to = spec.size_divisor if shrink else None
    rows, columns = windows(height, width, spec.crop, spec.stride, shrink_to)[0].size
    return round_up(rows, spec.size_divisor), round_up(columns, spec.size_divisor)


@functools.cache
def window_flop(spec: ModelSpec, height: int, width: int) -> tuple[float, float]:
    """One window: as published, and as vesselseg computes it."""
    with torch.device("meta"):  # computes shapes only
        network = UNet(spec.width, spec.depth, spec.head)
        image = torch.empty(1, 3, height, width)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(image)
    executed = counter.get_total_flops()
    reduced = 0  # of the 1x1 convolutions, on maps with a quarter of the published pixels
    for stage, up in enumerate(network.decoder):
        conv = up.reduce.conv
        pixels = (height >> (stage + 1)) * (width >> (stage + 1))
        reduced += 2 * conv.in_channels * conv.out_channels * pixels
    return executed + 3 * reduced, executed
