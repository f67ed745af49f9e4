"""3x3 convolutions through products of matrices: Winograd's F(2x2, 3x3), on a CPU.

An output tile of 2 x 2 pixels needs an input tile of 4 x 4 and 36 multiplications for each pair
of channels. Taken to 16 points, by sums and differences alone, the same tile needs 16. With
fewer products in each sum the rounding errors are smaller, too, in float32; in bfloat16, whose
sums and differences are rounded as well, they are about the same as a direct convolution's.

Source: Lavin, Gray, Fast algorithms for convolutional neural networks, 2016,
doi:10.1109/CVPR.2016.435; its equation 8, with B, G and A as in equation 11.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_OPS: Any = torch.ops.mkldnn  # oneDNN's products: PyTorch's own take another library

# Three taps of a filter -> four points.
_G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])

Filters = list[list[Tensor]]  # [column][row] of the 4 x 4 points: (K, C), in oneDNN's layout


def transform(weight: Tensor, tiles: int, dtype: torch.dtype) -> Filters:
    """Weights (K, C, 3, 3) -> filters in `dtype`, laid out for products with `tiles` rows."""
    taps = weight.flatten(2)  # (K, C, 9)

    def point(row: int, column: int) -> Tensor:  # one at a time: all of them are 16/9 of `weight`
        filters = taps @ torch.outer(_G[row], _G[column]).flatten()
        laid_out: Tensor = _OPS._reorder_linear_weight(filters.to(dtype), tiles)
        return laid_out

    return [[point(row, column) for row in range(4)] for column in range(4)]


def convolve(parts: tuple[Tensor, ...], filters: Filters, bias: Tensor) -> Tensor:
    """Maps (N, C, H, W), joined along C, of even sides -> (N, K, H, W), with bias and ReLU.

    Maps are in channels-last order, padded by one pixel of zeros.
    """
    count, _, height, width = parts[0].shape
    tiles = count * (height // 2) * (width // 2)
    rows = _rows_to_points(_join(parts))
    left: list[Tensor] = []  # sums for the even columns of the output: its even and odd rows
    right: list[Tensor] = []  # and for its odd columns
    for column in range(4):
        # One column of points at a time: it is still in the cache when it is read again.
        points = _column_of_points(rows, column).view(4, tiles, -1)
        products = [
            # This one point reaches every output once, and takes the bias there.
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


def _join(parts: tuple[Tensor, ...]) -> Tensor:
    """Maps (N, C, H, W) beside each other, in a frame of zeros: (N, H + 2, W + 2, C)."""
    count, _, height, width = parts[0].shape
    joined = parts[0].new_zeros(count, height + 2, width + 2, sum(x.shape[1] for x in parts))
    inside = torch.split(joined[:, 1:-1, 1:-1], [x.shape[1] for x in parts], dim=3)
    for place, part in zip(inside, parts, strict=True):
        place.copy_(part.permute(0, 2, 3, 1))
    return joined


def _rows_to_points(x: Tensor) -> Tensor:
    """Rows 2i to 2i + 3 of (N, H + 2, W + 2, C) -> points (4, N, H / 2, W + 2, C)."""
    first, second, third, fourth = x[:, 0:-2:2], x[:, 1:-1:2], x[:, 2::2], x[:, 3::2]
    points = x.new_empty(4, *first.shape)
    torch.sub(first, third, out=points[0])
    torch.add(second, third, out=points[1])
    torch.sub(third, second, out=points[2])
    torch.sub(second, fourth, out=points[3])
    return points


def _column_of_points(rows: Tensor, column: int) -> Tensor:
    """(4, N, H / 2, W + 2, C) -> one of the four points along the columns, (4, N, H/2, W/2, C)."""
    second, third = rows[:, :, :, 1:-1:2], rows[:, :, :, 2::2]
    if column == 0:
        return rows[:, :, :, 0:-2:2] - third
    if column == 1:
        return second + third
    if column == 2:
        return third - second
    return second - rows[:, :, :, 3::2]
