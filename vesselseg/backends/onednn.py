"""The folded U-Net on a CPU: the same layers, called through PyTorch's oneDNN operators.

An ordinary convolution converts its weights to oneDNN's layout on every call (37 MB in the
deepest layer of a published model), runs the ReLU as a second pass over its map, and needs its
input maps copied into one. Here weights are packed once, the ReLU is part of the convolution,
several input maps are convolved onto one sum, and the widest layers use :mod:`.winograd`.

``torch.compile`` uses the same operators for frozen networks on a CPU. They are not part of
PyTorch's documented interface, so :func:`available` checks for them first.
"""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..sliding import starts
from ..unet import ConvUnit, FCNHead, UNet, Up
from . import winograd

_OPS: Any = torch.ops.mkldnn
_NN: Any = torch._C._nn
OPERATORS = (
    "_convolution_pointwise", "_convolution_pointwise_", "_linear_pointwise",
    "_reorder_linear_weight",
)  # fmt: skip

# From this many channels on, fewer multiplications outweigh the memory traffic of the transforms.
_WINOGRAD_CHANNELS = 256

# Bytes of a map of a band at the size of the input; a band has several such maps at once.
_BAND_BYTES = 2**22

# Rows at a cut edge of a band that are wrong, since what lies beyond is missing: one through the
# enlargement, and one more through each of the three 3x3 convolutions.
_HALO = 4


def available() -> bool:
    """Whether this PyTorch has the operators, on a kind of CPU on which they are tested."""
    backend: Any = torch.backends.mkldnn  # its functions are not typed
    return (
        backend.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
        and all(hasattr(_OPS, name) for name in OPERATORS)
    )


def has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16 and oneDNN uses them.

    oneDNN itself says yes on every processor with AVX-512: without them it emulates bfloat16,
    which is slower than float32.
    """
    has_instructions = _answer(torch.cpu, "_is_avx512_bf16_supported") or _has_amx()
    return has_instructions and _answer(_OPS, "_is_mkldnn_bf16_supported")


def has_float16() -> bool:
    """Whether the processor has instructions for float16 and oneDNN uses them."""
    return _answer(_OPS, "_is_mkldnn_fp16_supported")


def _has_amx() -> bool:
    """Whether the processor has matrix units (AMX) and this PyTorch uses them."""
    return _answer(torch.cpu, "_is_amx_tile_supported")


def _answer(module: Any, question: str) -> bool:
    """What PyTorch answers to a question about the processor; False if it does not know it.

    Wheels without oneDNN, such as those for macOS, lack the questions about oneDNN.
    """
    function = getattr(module, question, None)
    return function is not None and bool(function())


def pack(network: UNet, dtype: torch.dtype, *, winograd: bool | None = None) -> UNet:
    """The same network in `dtype`, its classifier in float32, for channels-last maps.

    `network` is not changed. Its weights are packed when a layer first runs. With `winograd`
    False the widest layers are packed like the others. None decides by what was faster: all but
    bfloat16 on processors with AMX, whose matrix units make direct convolutions cheaper.
    """
    if winograd is None:
        winograd = dtype != torch.bfloat16 or not _has_amx()
    packed = _PackedUNet(network)
    for name, unit in network.named_modules():
        if isinstance(unit, ConvUnit):
            out, channels, kernel, _ = unit.conv.weight.shape
            is_plain = kernel == 3 and unit.conv.dilation == (1, 1) and unit.relu
            is_wide = min(channels, out) >= _WINOGRAD_CHANNELS
            kind = WinogradUnit if winograd and is_plain and is_wide else PackedUnit
            packed.set_submodule(name, kind(unit.conv, unit.relu, dtype))
    classifier = PackedUnit(packed.head.classifier, False, torch.float32)
    packed.set_submodule("head.classifier", classifier)
    if dtype != torch.float32:
        packed.decoder = nn.ModuleList(_HalfUp(cast(Up, up)) for up in packed.decoder)
    return packed


def _bands(height: int, row_bytes: int) -> list[tuple[int, int, int, int]]:
    """The bands of a map with so many bytes in a row: top, which is even, bottom, first and last.

    Rows from top to bottom are computed at once; those from first to last are right.
    """
    count = math.ceil(height * row_bytes / _BAND_BYTES)
    stride = 2 * math.ceil(max(height - 2 * _HALO, 1) / (2 * count))
    rows = min(stride + 2 * _HALO, height)
    return [
        (
            top,
            top + rows,
            top + _HALO if top > 0 else 0,
            top + rows - _HALO if top + rows < height else height,
        )
        for top in starts(height, rows, stride)
    ]


class _PackedUNet(UNet):
    """A copy of a U-Net that computes its first and last layers in bands. Weights are shared.

    The maps of these layers are the largest. As wholes, they make the C library return their
    memory to the system after each window, and get it back page by page. Logits are the same, but
    for the last digit on some processors.
    """

    def __init__(self, network: UNet) -> None:
        nn.Module.__init__(self)  # UNet's own would make weights
        parts = network.encoder, network.decoder, network.head
        shared = {id(parameter): parameter for parameter in network.parameters()}
        self.encoder, self.decoder, self.head = copy.deepcopy(parts, shared)
        self.size_divisor = network.size_divisor
        self.width = len(next(network.encoder.parameters()))  # filters of the first convolution

    def begin(self, x: Tensor) -> Tensor:
        count, _, height, width = x.shape
        divided = _bands(height, self.width * width * x.element_size())
        if len(divided) == 1:
            return super().begin(x)
        out = x.new_empty(count, height, width, self.width).permute(0, 3, 1, 2)
        for image, target in zip(torch.split(x, 1), torch.split(out, 1), strict=True):
            for top, bottom, first, last in divided:
                band = super().begin(image[:, :, top:bottom])
                target[:, :, first:last] = band[:, :, first - top : last - top]
        return out

    def halve(self, x: Tensor) -> Tensor:
        # Faster than max_pool2d, which also writes where each largest value was.
        rows = torch.maximum(x[:, :, 0::2], x[:, :, 1::2])
        return torch.maximum(rows[..., 0::2], rows[..., 1::2])

    def finish(self, x: Tensor, skip: Tensor) -> Tensor:
        count, channels, height, width = skip.shape
        divided = _bands(height, channels * width * skip.element_size())
        if len(divided) == 1 or not isinstance(self.head, FCNHead):  # others pool the whole map
            return super().finish(x, skip)
        out = skip.new_empty(count, 2, height, width, dtype=torch.float32)
        parts = (torch.split(maps, 1) for maps in (x, skip, out))
        for image, beside, target in zip(*parts, strict=True):
            for top, bottom, first, last in divided:
                rows = image[:, :, top // 2 : bottom // 2]
                band = super().finish(rows, beside[:, :, top:bottom])
                target[:, :, first:last] = band[:, :, first - top : last - top]
        return out


class _HalfUp(Up):
    """A stage of the decoder in half precision.

    PyTorch's interpolation is slow there, the more so the fewer the channels. Here the map is
    enlarged along columns, then along rows, and put beside the skip by its ReLU.
    """

    def __init__(self, up: Up) -> None:
        nn.Module.__init__(self)  # Up's own would make weights
        self.reduce, self.block = up.reduce, up.block

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.reduce(x).permute(0, 2, 3, 1)
        count, height, width, channels = x.shape
        tall = double(x, 1, x.new_empty(count, 2 * height, width, channels))
        large = double(tall, 2, x.new_empty(count, 2 * height, 2 * width, channels))
        joined = x.new_empty(*large.shape[:3], 2 * channels)
        joined[..., :channels] = skip.permute(0, 2, 3, 1)
        torch.clamp(large, min=0, out=joined[..., channels:])
        join, unit = self.block
        out: Tensor = unit(join(joined.permute(0, 3, 1, 2)))
        return out


def double(x: Tensor, dim: int, out: Tensor) -> Tensor:
    """Fill `out` with `x`, enlarged to twice its length along a dimension, linearly."""
    length = x.shape[dim]
    even, odd = torch.unflatten(out, dim, (length, 2)).unbind(dim + 1)
    before, after = x.narrow(dim, 0, length - 1), x.narrow(dim, 1, length - 1)
    torch.lerp(after, before, 0.25, out=even.narrow(dim, 1, length - 1))
    torch.lerp(before, after, 0.25, out=odd.narrow(dim, 0, length - 1))
    even.select(dim, 0).copy_(x.select(dim, 0))
    odd.select(dim, -1).copy_(x.select(dim, -1))
    return out


class PackedUnit(nn.Module):
    """A folded convolution whose weights are packed for the first maps that it gets."""

    def __init__(self, conv: nn.Conv2d, relu: bool, dtype: torch.dtype) -> None:
        super().__init__()
        assert conv.bias is not None
        self.dtype = dtype
        self.weight = conv.weight
        self.bias = conv.bias.detach().to(dtype)
        self.geometry = ([*conv.padding], [1, 1], [*conv.dilation], 1)
        self.relu = relu
        self.packed: list[Tensor] = []  # for each input map

    def forward(self, *parts: Tensor) -> Tensor:
        if self.dtype != torch.float32 and len(parts) > 1:  # a partial sum would be rounded
            parts = (torch.cat(parts, dim=1),)
        parts = tuple(x.to(self.dtype) for x in parts)
        if not self.packed:  # two threads that arrive first both do this, which does no harm
            weight = self.weight.detach().to(self.dtype)
            weights = torch.split(weight, [x.shape[1] for x in parts], dim=1)
            self.packed = [
                _NN.mkldnn_reorder_conv2d_weight(
                    weight.contiguous().to_mkldnn(), *self.geometry, [*x.shape]
                )
                for weight, x in zip(weights, parts, strict=True)
            ]
        out: Any = None
        for index, (x, weight) in enumerate(zip(parts, self.packed, strict=True), start=1):
            relu = "relu" if self.relu and index == len(parts) else None
            if out is None:
                out = _OPS._convolution_pointwise(
                    x, weight, self.bias, *self.geometry, relu or "none", [], None
                )
            else:
                _OPS._convolution_pointwise_.binary(
                    out, x, weight, None, *self.geometry, "add", 1.0, relu, [], None
                )
        return out  # type: ignore[no-any-return]


class WinogradUnit(PackedUnit):
    """A wide 3x3 :class:`PackedUnit`: :mod:`vesselseg.backends.winograd` on maps of even sides."""

    def __init__(self, conv: nn.Conv2d, relu: bool, dtype: torch.dtype) -> None:
        super().__init__(conv, relu, dtype)
        self.filters: winograd.Filters = []

    def forward(self, *parts: Tensor) -> Tensor:
        count, _, height, width = parts[0].shape
        if height % 2 or width % 2:
            return super().forward(*parts)
        if not self.filters:
            tiles = count * height * width // 4
            self.filters = winograd.transform_filters(self.weight.detach(), tiles, self.dtype)
        return winograd.convolve(parts, self.filters, self.bias)
