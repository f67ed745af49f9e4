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
_G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])

Filters = list[list[Tensor]]  # [column][row] of the 4 x 4 points: (K, C), in oneDNN's layout


def transform_filters(weight: Tensor, tiles: int, dtype: torch.dtype) -> Filters:
    """Weights (K, C, 3, 3) -> filters in `dtype`, packed for products with `tiles` rows."""
    taps = weight.flatten(2)  # (K, C, 9)

    def point(row: int, column: int) -> Tensor:  # one at a time, to save memory
        filters = taps @ torch.outer(_G[row], _G[column]).flatten()
        packed: Tensor = _OPS._reorder_linear_weight(filters.to(dtype), tiles)
        return packed

    return [[point(row, column) for row in range(4)] for column in range(4)]


def convolve(parts: tuple[Tensor, ...], filters: Filters, bias: Tensor) -> Tensor:
    """Convolve maps (N, C, H, W), joined along C; add the bias, apply the ReLU: (N, K, H, W).

    H and W must be even. Maps are in channels-last order and padded by one pixel of zeros.
    """
    count, _, height, width = parts[0].shape
    tiles = count * (height // 2) * (width // 2)
    rows = transform_rows(join_padded(parts))
    left: list[Tensor] = []  # sums for the output's even columns: its even and odd rows
    right: list[Tensor] = []  # and for its odd columns
    for column in range(4):
        # One column of points at a time, so that it stays in the processor's cache.
        points = transform_column(rows, column).view(4, tiles, -1)
        products = [
            # This point contributes to every output exactly once, so it carries the bias.
            _OPS._linear_pointwise(x, y, bias if row == column == 1 else None, "none", [], None)
            for row, (x, y) in enumerate(zip(points, filters[column], strict=True))
        ]
        even = products[0].add_(products[1]).add_(products[2])
        odd = products[1].sub_(products[2]).sub_(products[3])
        if column == 0:
            left = [even, odd]
        elif column == 1:
            right = [even, odd]
        for index, values in enumerate((even, odd)):
            if column in (1, 2):
                left[index].add_(values)
            if column in (2, 3):
                right[index].sub_(values)
    out = parts[0].new_empty(count, height // 2, 2, width // 2, 2, len(bias))
    for side, sums in enumerate((left, right)):
        for row, values in enumerate(sums):
            place = out[:, :, row, :, side]
            torch.clamp_min(values.view(place.shape), 0, out=place)
    return out.view(count, height, width, -1).permute(0, 3, 1, 2)


def join_padded(parts: tuple[Tensor, ...]) -> Tensor:
    """Maps (N, C, H, W) joined along C in a frame of zeros: (N, H + 2, W + 2, C)."""
    count, _, height, width = parts[0].shape
    joined = parts[0].new_zeros(count, height + 2, width + 2, sum(x.shape[1] for x in parts))
    inside = torch.split(joined[:, 1:-1, 1:-1], [x.shape[1] for x in parts], dim=3)
    for place, part in zip(inside, parts, strict=True):
        place.copy_(part.permute(0, 2, 3, 1))
    return joined


def transform_rows(x: Tensor) -> Tensor:
    """Rows 2i to 2i + 3 of (N, H + 2, W + 2, C) -> points (4, N, H / 2, W + 2, C)."""
    first, second, third, fourth = x[:, 0:-2:2], x[:, 1:-1:2], x[:, 2::2], x[:, 3::2]
    points = x.new_empty(4, *first.shape)
    torch.sub(first, third, out=points[0])
    torch.add(second, third, out=points[1])
    torch.sub(third, second, out=points[2])
    torch.sub(second, fourth, out=points[3])
    return points


def transform_column(rows: Tensor, column: int) -> Tensor:
    """(4, N, H / 2, W + 2, C) -> one of the four points along the columns, (4, N, H/2, W/2, C)."""
    second, third = rows[:, :, :, 1:-1:2], rows[:, :, :, 2::2]
    if column == 0:
        return rows[:, :, :, 0:-2:2] - third
    if column == 1:
        return second + third
    if column == 2:
        return third - second
    return second - rows[:, :, :, 3::2]
