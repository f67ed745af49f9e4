"""The losses of JPEG compression, for whole batches of images on any device."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # of R, G and B in JPEG files
_MIDDLE = 128 / 255  # the brightness that JPEG stores as 0
# The quantisation tables of JPEG's annex K, for quality 50: how coarsely each of the 8 x 8
# frequencies of brightness and of colour is stored.
_BRIGHTNESS_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56), (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_COLOUR_STEPS = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99), (47, 66, 99, 99, 99, 99, 99, 99),
    *[(99,) * 8] * 4,
)  # fmt: skip


def compress(images: Tensor, quality: Tensor) -> Tensor:
    """Images (N, 3, S, S) in [0, 1], with the losses of JPEG at `quality` (N, 1, 1, 1).

    The discrete cosine transform of each block of 8 x 8 pixels is rounded. Colours are not
    subsampled. S must be a multiple of 8.
    """
    cosines, steps = _tables(images.device)
    share = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    steps = (share[..., None, None] * steps[:, None, :, None, :]).clamp(min=1)

    red, green, blue = images.unbind(dim=1)
    luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    parts = torch.stack([luma - _MIDDLE, (blue - luma) / 1.772, (red - luma) / 1.402], dim=1) * 255
    count, _, side, _ = parts.shape
    blocks = parts.reshape(count, 3, side // 8, 8, side // 8, 8)
    values = torch.einsum("ua,ncxayb,vb->ncxuyv", cosines, blocks, cosines)
    values = (values / steps).round() * steps
    blocks = torch.einsum("ua,ncxuyv,vb->ncxayb", cosines, values, cosines)
    luma, to_blue, to_red = (blocks.reshape(parts.shape) / 255).unbind(dim=1)
    luma = luma + _MIDDLE
    red, blue = luma + 1.402 * to_red, luma + 1.772 * to_blue
    green = (luma - _LUMA[0] * red - _LUMA[2] * blue) / _LUMA[1]
    return torch.stack([red, green, blue], dim=1).clamp(0, 1)


@functools.cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """The cosine transform (8, 8) and the steps (3, 8, 8) of brightness and both colours."""
    frequency = torch.arange(8, dtype=torch.float32, device=device)[:, None]
    cosines = (math.pi / 8 * frequency * (frequency.T + 0.5)).cos() / 2
    cosines[0] /= math.sqrt(2)
    tables = [_BRIGHTNESS_STEPS, _COLOUR_STEPS, _COLOUR_STEPS]
    return cosines, torch.tensor(tables, dtype=torch.float32, device=device)
