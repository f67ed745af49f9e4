"""The folded U-Net on a CPU: the same layers through oneDNN's own entrances in PyTorch.

Called in the ordinary way, a convolution brings its weights into oneDNN's layout each time (37 MB
in the deepest layer of a published model), leaves the ReLU to another pass over its map, and
maps are copied to be joined along their channels. Here weights are laid out once, the ReLU is
part of the convolution, maps that belong together are convolved onto one sum, and the widest
layers take :mod:`vesselseg.backends.winograd`.

The entrances are those that ``torch.compile`` takes for frozen networks on a CPU; they are not
part of PyTorch's documented interface, so :func:`available` asks for them first.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from . import winograd
from ..unet import Classifier, ConvUnit, UNet

_OPS: Any = torch.ops.mkldnn
_NN: Any = torch._C._nn
_MKLDNN: Any = torch.backends.mkldnn  # its functions are not typed
_ENTRANCES = (
    "_convolution_pointwise", "_convolution_pointwise_", "_linear_pointwise",
    "_reorder_linear_weight",
)  # fmt: skip

# Channels in and out from which fewer multiplications outweigh the transforms' memory traffic.
_WINOGRAD_CHANNELS = 256


def available() -> bool:
    """Whether this PyTorch has the entrances, on a kind of CPU on which they are tested."""
    return (
        _MKLDNN.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
        and all(hasattr(_OPS, name) for name in _ENTRANCES)
    )


def pack(network: UNet, dtype: torch.dtype) -> UNet:
    """The same function in `dtype`, its classifier in float32, for channels-last maps.

    `network` stays as it is. Its weights are read when a layer first runs.
    """
    shared = {id(parameter): parameter for parameter in network.parameters()}
    packed = copy.deepcopy(network, shared)
    for name, unit in network.named_modules():
        if isinstance(unit, ConvUnit):
            packed.set_submodule(name, _packed(unit, dtype))
    if dtype != torch.float32:
        packed.head.set_submodule("classifier", WideningClassifier(network.head.classifier))
    return packed


def _packed(unit: ConvUnit, dtype: torch.dtype) -> nn.Module:
    out, channels, height, _ = unit.conv.weight.shape
    plain = height == 3 and unit.conv.dilation == (1, 1) and unit.relu
    if plain and min(channels, out) >= _WINOGRAD_CHANNELS:
        return WinogradUnit(unit, dtype)
    return PackedUnit(unit, dtype)


class PackedUnit(nn.Module):
    """A folded :class:`ConvUnit` whose weights are laid out for the first map that comes."""

    def __init__(self, unit: ConvUnit, dtype: torch.dtype) -> None:
        super().__init__()
        assert unit.conv.bias is not None
        self.dtype = dtype
        self.weight = unit.conv.weight
        self.bias = unit.conv.bias.detach().to(dtype)
        self.geometry = ([*unit.conv.padding], [1, 1], [*unit.conv.dilation], 1)
        self.relu = unit.relu
        self._weights: list[Tensor] = []

    def forward(self, *parts: Tensor) -> Tensor:
        if self.dtype != torch.float32:  # a sum on its way would be rounded
            parts = (torch.cat(parts, dim=1),) if len(parts) > 1 else parts
        # Threads that come first together do this twice, and keep either result.
        self._weights = self._weights or self._lay_out(parts)
        first, *others = zip(parts, self._weights, strict=True)
        relu = self.relu and not others
        out: Tensor = _OPS._convolution_pointwise(
            *first, self.bias, *self.geometry, "relu" if relu else "none", [], None
        )
        for index, other in enumerate(others, start=1):
            relu = self.relu and index == len(others)
            _OPS._convolution_pointwise_.binary(
                out, *other, None, *self.geometry, "add", 1.0, "relu" if relu else None, [], None
            )
        return out

    def _lay_out(self, parts: tuple[Tensor, ...]) -> list[Tensor]:
        weights = torch.split(
            self.weight.detach().to(self.dtype), [x.shape[1] for x in parts], dim=1
        )
        return [
            _NN.mkldnn_reorder_conv2d_weight(
                weight.contiguous().to_mkldnn(), *self.geometry, [*x.shape]
            )
            for weight, x in zip(weights, parts, strict=True)
        ]


class WinogradUnit(PackedUnit):
    """A wide 3x3 :class:`PackedUnit`: :mod:`vesselseg.backends.winograd` on maps of even sides."""

    def __init__(self, unit: ConvUnit, dtype: torch.dtype) -> None:
        super().__init__(unit, dtype)
        self._filters: winograd.Filters = []

    def forward(self, *parts: Tensor) -> Tensor:
        count, _, height, width = parts[0].shape
        if height % 2 or width % 2:
            return super().forward(*parts)
        if not self._filters:
            tiles = count * height * width // 4
            self._filters = winograd.transform(self.weight.detach(), tiles, self.dtype)
        return winograd.convolve(parts, self._filters, self.bias)


class WideningClassifier(nn.Module):
    """The last 1x1 convolution, in float32, of a map in half precision.

    So many pixels at a time that they are still in the cache when they have been widened.
    """

    _PIXELS = 2**14

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.weight, self.bias = classifier.weight, classifier.bias

    def forward(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
        weight, bias = self.weight.flatten(1).t(), self.bias
        assert bias is not None
        logits = x.new_empty(len(pixels), len(bias), dtype=torch.float32)
        for start in range(0, len(pixels), self._PIXELS):
            part = slice(start, start + self._PIXELS)
            torch.addmm(bias, pixels[part].float(), weight, out=logits[part])
        return logits.view(count, height, width, -1).permute(0, 3, 1, 2)
