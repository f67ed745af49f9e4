"""3x3 convolutions as matrix products on a CPU: Winograd's F(2x2, 3x3).

A direct convolution needs 36 multiplications for each output tile of 2 x 2 pixels and each pair
of channels. Winograd's needs 16: sums and differences turn the input tile of 4 x 4 pixels into
16 points, which are multiplied by 16 points of the filter. Rounding errors are smaller in
float32, and about the same as a direct convolution's in bfloat16.

Source: Lavin, Gray, Fast algorithms for convolutional neural networks, 2016,
doi:10.1109/CVPR.2016.435; its equation 8, with B, G and A as in equation 11.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_OPS: Any = torch.ops.mkldnn  # oneDNN's matrix products; PyTorch's own use another library

# Three taps of a filter -> four points.
_G = torch.tensor(
    [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float32, device="cpu"
)

Filters = list[list[Tensor]]  # [column][row] of the 4 x 4 points: (K, C), in oneDNN's layout


def transform_filters(weight: Tensor, tiles: int, dtype: torch.dtype) -> Filters:
    """Weights (K, C, 3, 3) -> filters in `dtype`, packed for products with `tiles` rows."""
    taps = weight.flatten(2)  # (K, C, 9)
    columns: Filters = [[], [], [], []]
    for column, filters in enumerate(columns):
        for row in range(4):  # one point at a time, to save memory
            # Not a matrix product, which the host may have allowed PyTorch to round.
            points = (taps * torch.outer(_G[row], _G[column]).flatten()).sum(-1)
            filters.append(_OPS._reorder_linear_weight(points.to(dtype), tiles))
    return columns


def convolve(parts: tuple[Tensor, ...], filters: Filters, bias: Tensor) -> Tensor:
    """Convolve maps (N, C, H, W), joined along C; add the bias, apply the ReLU: (N, K, H, W).

    H and W must be even. Maps are in channels-last order and padded by one pixel of zeros.
    """
    count, _, height, width = parts[0].shape
    padded = _join_padded(parts)
    rows = [_transform_tiles(padded, 1, row) for row in range(4)]
    columns = []  # of each, the sums for the output's even and odd rows
    for column in range(4):
        # One column of points at a time, so that it stays in the processor's cache.
        products = []
        for row, x in enumerate(rows):
            points = _transform_tiles(x, 2, column).flatten(0, 2)
            # This point contributes to every output exactly once, so it carries the bias.
            addend = bias if row == column == 1 else None
            weight = filters[column][row]
            products.append(_OPS._linear_pointwise(points, weight, addend, "none", [], None))
        columns.append(_sum_points(*products))
    out = parts[0].new_empty(count, height // 2, 2, width // 2, 2, len(bias))
    for row, values in enumerate(zip(*columns, strict=True)):
        for side, total in enumerate(_sum_points(*values)):
            place = out[:, :, row, :, side]
            torch.clamp_min(total.view(place.shape), 0, out=place)
    return out.view(count, height, width, -1).permute(0, 3, 1, 2)


def _join_padded(parts: tuple[Tensor, ...]) -> Tensor:
    """Maps (N, C, H, W) joined along C in a frame of zeros: (N, H + 2, W + 2, C)."""
    count, _, height, width = parts[0].shape
    channels = [x.shape[1] for x in parts]
    joined = parts[0].new_zeros(count, height + 2, width + 2, sum(channels))
    inside = torch.split(joined[:, 1:-1, 1:-1], channels, dim=3)
    for place, part in zip(inside, parts, strict=True):
        place.copy_(part.permute(0, 2, 3, 1))
    return joined


def _transform_tiles(x: Tensor, axis: int, point: int) -> Tensor:
    """One of the four points of each tile along an axis: (..., L + 2, ...) -> (..., L / 2, ...).

    A tile is four values, and the next one starts two further.
    """
    first, second, third, fourth = x.unfold(axis, 4, 2).unbind(-1)
    if point == 0:
        return first - third
    if point == 1:
        return second + third
    if point == 2:
        return third - second
    return second - fourth


def _sum_points(
    first: Tensor, second: Tensor, third: Tensor, fourth: Tensor
) -> tuple[Tensor, Tensor]:
    """The even and the odd output of four points along an axis; it overwrites the points."""
    return first.add_(second).add_(third), second.sub_(third).sub_(fourth)
