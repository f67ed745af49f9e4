"""The U-Net of the published checkpoints, with its three heads.

Sources
-------
- Ronneberger, Fischer, Brox: U-Net, 2015, doi:10.1007/978-3-319-24574-4_28.
- Long, Shelhamer, Darrell: fully convolutional networks (FCN head), 2015,
  doi:10.1109/CVPR.2015.7298965.
- Zhao et al.: PSPNet, 2017, doi:10.1109/CVPR.2017.660.
- Chen et al.: DeepLabV3, 2017, arXiv:1706.05587.
- Sizes and order of layers: mmsegmentation 1.2.2, ``configs/_base_/models/*_unet_s5-d16.py``.

The network has two forms that compute the same function. ``UNet(..., norm=True)`` has a batch
norm after every convolution, as it is trained and published. In ``UNet(..., norm=False)`` they are
folded into the convolutions (:func:`fold_batch_norm`), as it is run and saved.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POOL_SCALES = (1, 2, 3, 6)
_DILATIONS = (1, 12, 24, 36)
_EPSILON = 1e-5  # of every batch norm in the published configurations


class ConvUnit(nn.Module):
    """A convolution that keeps the size of its map, then optional batch norm and ReLU.

    Several input maps are joined along their channels.
    """

    def __init__(
        self, channels: int, out: int, kernel: int = 3, *,
        dilation: int = 1, norm: bool = False, relu: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(
            channels, out, kernel, padding=padding, dilation=dilation, bias=not norm
        )
        self.norm = nn.BatchNorm2d(out, eps=_EPSILON) if norm else None
        self.relu = relu

    def forward(self, *parts: Tensor) -> Tensor:
        x = self.conv(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])
        if self.norm is not None:
            x = self.norm(x)
        # In place: nothing else reads the output of the convolution.
        return F.relu(x, inplace=True) if self.relu else x


class Up(nn.Module):
    """One stage of the decoder: halve the channels, double the map, join the skip, two units.

    As published, the map is enlarged before the 1x1 convolution and the batch norm. Both are
    affine in each pixel, and the weights of bilinear interpolation add up to one, so the order
    can be swapped, which leaves them a quarter of the pixels. The ReLU stays after the
    enlargement, since it cannot be swapped.
    """

    def __init__(self, channels: int, out: int, *, norm: bool) -> None:
        super().__init__()
        self.reduce = ConvUnit(channels, out, 1, norm=norm, relu=False)
        self.block = _two_units(2 * out, out, norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.reduce(x)  # (N, 2C, H, W) -> (N, C, H, W)
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        join, unit = self.block
        out: Tensor = unit(join(skip, F.relu(x, inplace=True)))  # of 2C channels, (N, C, 2H, 2W)
        return out


class _Classifier(nn.Conv2d):
    """The last 1x1 convolution: channels -> logits, in the precision of its own weights.

    A network in half precision keeps this one in float32: the difference of two rounded logits
    would be too coarse to decide a pixel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 2, 1)  # background, vessel

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class FCNHead(nn.Module):
    """One 3x3 unit on the last map of the decoder."""

    def __init__(self, channels: int, *, norm: bool) -> None:
        super().__init__()
        self.unit = ConvUnit(channels, channels, norm=norm)
        self.classifier = _Classifier(channels)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.unit(x))
        return logits


class PSPHead(nn.Module):
    """Pyramid pooling: means over 1x1, 2x2, 3x3 and 6x6 bins beside the map itself."""

    def __init__(self, channels: int, *, norm: bool) -> None:
        super().__init__()
        out = channels // 4
        self.pyramid = nn.ModuleList(ConvUnit(channels, out, 1, norm=norm) for _ in POOL_SCALES)
        self.bottleneck = ConvUnit(channels + len(POOL_SCALES) * out, out, norm=norm)
        self.classifier = _Classifier(out)

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for bins, unit in zip(POOL_SCALES, self.pyramid, strict=True):
            maps.append(_enlarge(unit(_pool(x, bins)), x))
        logits: Tensor = self.classifier(self.bottleneck(*maps))
        return logits


class _ASPPHead(nn.Module):
    """Atrous spatial pyramid pooling of DeepLabV3: the mean of the map, and four dilations."""

    def __init__(self, channels: int, *, norm: bool) -> None:
        super().__init__()
        out = channels // 4
        self.pool = ConvUnit(channels, out, 1, norm=norm)
        self.atrous = nn.ModuleList(
            ConvUnit(channels, out, 1 if d == 1 else 3, dilation=d, norm=norm) for d in _DILATIONS
        )
        self.bottleneck = ConvUnit((1 + len(_DILATIONS)) * out, out, norm=norm)
        self.classifier = _Classifier(out)

    def forward(self, x: Tensor) -> Tensor:
        maps = [_enlarge(self.pool(F.adaptive_avg_pool2d(x, 1)), x)]
        maps += [unit(x) for unit in self.atrous]
        logits: Tensor = self.classifier(self.bottleneck(*maps))
        return logits


Head = FCNHead | PSPHead | _ASPPHead
HEADS: dict[str, type[Head]] = {"fcn": FCNHead, "pspnet": PSPHead, "deeplabv3": _ASPPHead}


class UNet(nn.Module):
    """U-Net with `depth` stages, the first of `width` channels, doubled at each stage.

    It has batch norms with `norm`, and is the folded form without. ``forward`` takes normalised
    RGB, float (N, 3, H, W) with H and W divisible by `size_divisor`, and returns logits
    (N, 2, H, W): background and vessel.
    """

    def __init__(
        self, width: int = 64, depth: int = 5, head: str = "fcn", *, norm: bool = False
    ) -> None:
        super().__init__()
        widths = [width * 2**stage for stage in range(depth)]
        self.encoder = nn.ModuleList(_two_units(*ends, norm) for ends in pairwise([3, *widths]))
        # decoder[i] returns a map of encoder[i]'s size, so the deepest one runs first.
        self.decoder = nn.ModuleList(Up(2 * out, out, norm=norm) for out in widths[:-1])
        self.head = HEADS[head](width, norm=norm)
        self.size_divisor = 2 ** (depth - 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.begin(x)
        skips = [x]
        for block in self.encoder[1:]:
            x = block(self.halve(x))  # channels double as sides halve
            skips.append(x)
        skips.pop()  # the deepest map is the decoder's input, not a skip
        for up in reversed(self.decoder[1:]):
            x = up(x, skips.pop())
        return self.finish(x, skips.pop())

    def begin(self, x: Tensor) -> Tensor:
        """The first stage of the encoder: (N, 3, H, W) -> (N, width, H, W)."""
        out: Tensor = self.encoder[0](x)
        return out

    def halve(self, x: Tensor) -> Tensor:
        """The largest values of 2 x 2 pixels."""
        return F.max_pool2d(x, 2)

    def finish(self, x: Tensor, skip: Tensor) -> Tensor:
        """The last stage of the decoder, and the head: (N, 2 * width, H / 2, W / 2) -> logits."""
        logits: Tensor = self.head(self.decoder[0](x, skip))
        return logits


def fold_batch_norm(state: MutableMapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of ``UNet(norm=True)`` -> that of ``UNet(norm=False)``, float32.

    Each batch norm is the affine map ``gamma * (x - mean) / sqrt(var + eps) + beta`` of the
    convolution in front of it; computed in float64, rounded once. `state` is emptied, so that
    the weights are not in memory twice.
    """
    folded: dict[str, Tensor] = {}
    for key in list(state):
        unit = key.removesuffix(".conv.weight")
        if ".norm." in key:
            continue  # folded with its convolution
        if f"{unit}.norm.weight" not in state:
            folded[key] = state.pop(key).float()
            continue
        gamma, beta, mean, variance = (
            state.pop(f"{unit}.norm.{name}").double()
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gamma / torch.sqrt(variance + _EPSILON)
        folded[key] = state.pop(key).double().mul_(gain[:, None, None, None]).float()
        folded[f"{unit}.conv.bias"] = (beta - mean * gain).float()
    state.clear()
    return folded


def _two_units(channels: int, out: int, norm: bool) -> nn.Sequential:
    """The two 3x3 convolutions of a block."""
    return nn.Sequential(ConvUnit(channels, out, norm=norm), ConvUnit(out, out, norm=norm))


def _pool(x: Tensor, bins: int) -> Tensor:
    """The means of a map over `bins` x `bins` parts: (N, C, H, W) -> (N, C, bins, bins)."""
    # Others than these, such as Apple's GPUs, may lack parts of unequal size.
    on_cpu = x.device.type not in ("cpu", "cuda") and any(side % bins for side in x.shape[2:])
    return F.adaptive_avg_pool2d(x.cpu() if on_cpu else x, bins).to(x.device)


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Resize a map bilinearly to the size of another."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)
