"""Reducing, enlarging and blurring as matrices, a different one for each image of a batch.

Each function returns matrices for one axis; :func:`apply` applies them to both.
"""

from __future__ import annotations

import torch
from torch import Tensor


def apply(matrix: Tensor, images: Tensor) -> Tensor:
    """Apply a matrix (N, S, S) for one axis to both axes of images (N, C, S, S)."""
    return matrix[:, None] @ images @ matrix[:, None].mT


def reduction(side: int, factor: Tensor) -> Tensor:
    """Matrices (N, S, S) that average boxes of 1 / `factor` pixels; `factor` is (N, 1, 1)."""
    places = torch.arange(side, dtype=factor.dtype, device=factor.device)
    row, column = places[:, None], places[None]
    overlap = torch.minimum((row + 1) / factor, column + 1) - torch.maximum(row / factor, column)
    return overlap.clamp(min=0) * factor


def enlargement(side: int, factor: Tensor) -> Tensor:
    """Matrices (N, S, S) that enlarge bilinearly what :func:`reduction` reduced by `factor`."""
    places = torch.arange(side, dtype=factor.dtype, device=factor.device)
    last = (side * factor).floor() - 1
    source = ((places[:, None] + 0.5) * factor - 0.5).clamp(min=0).minimum(last)
    return (1 - (source - places).abs()).clamp(min=0)


def gaussian(side: int, deviation: Tensor) -> Tensor:
    """Matrices (N, S, S) of a Gaussian blur; `deviation` (N, 1, 1) is in pixels."""
    places = torch.arange(side, dtype=deviation.dtype, device=deviation.device)
    weights = (-0.5 * ((places[:, None] - places) / deviation) ** 2).exp()
    return weights / weights.sum(dim=-1, keepdim=True)
