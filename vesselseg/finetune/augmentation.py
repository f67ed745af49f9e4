"""Random changes of windows, so that the network learns other eyes and cameras as well.

Each change is drawn for each window on its own; all windows of a batch are changed together.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # of R, G and B in JPEG files
_MIDDLE = 128 / 255  # is stored as a brightness of 0
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


@dataclass(frozen=True)
class Augmentation:
    """What is changed at random.

    `colour` is the strength of the changes of colour, light, noise and sharpness, 0 for none;
    `local` adds uneven light and local contrast; `turn` is rotation by any angle, and mirroring;
    `blur` is the share of windows that are blurred.

    `small` is the share of windows that are seen through a small camera: reduced, their label
    drawn no thinner than a pixel, and enlarged again to `least` pixels, the diameter that fields
    of view are enlarged to in use. Their diameters lie in `small_diameter`. `small_bias` is a
    model spec's `small_fov_bias`, which these windows get as such a photograph does in use.
    """

    colour: float
    local: bool
    turn: bool = True
    blur: float = 0.25
    small: float = 0.0
    small_diameter: tuple[float, float] = (450.0, 900.0)
    small_coverage: tuple[float, float] = (0.1, 0.3)
    small_bias: tuple[float, float] | None = None
    least: float = 1000.0


class Draws:
    """Random numbers for `size` windows: tensors (N, 1, 1, 1), or of the `shape` that is given."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, self.generator = size, generator

    def uniform(self, low: Tensor | float, high: Tensor | float) -> Tensor:
        """Between `low` and `high`."""
        drawn = torch.rand(
            self.size, 1, 1, 1, generator=self.generator, device=self.generator.device
        )
        return low + (high - low) * drawn

    def normal(self, deviation: float, *shape: int) -> Tensor:
        """Around 0; of the shape (N, *shape), (N, 1, 1, 1) by default."""
        size = (self.size, *(shape or (1, 1, 1)))
        drawn = torch.randn(size, generator=self.generator, device=self.generator.device)
        return deviation * drawn

    def chance(self, share: float) -> Tensor:
        """True for about this share of the windows."""
        return self.uniform(0, 1) < share

    def index(self, weights: Tensor) -> Tensor:
        """Indices (N,) into `weights`, each drawn as often as its weight says."""
        ends = weights.cumsum(0)
        return torch.searchsorted(ends, self.uniform(0, ends[-1]).flatten(), right=True)


def change_colours(images: Tensor, draws: Draws, augmentation: Augmentation) -> Tensor:
    """Another lamp, sensor and eye: images (N, 3, S, S) in [0, 1]."""
    much = augmentation.colour
    side = images.shape[-1]
    gamma = draws.normal(0.3 * much).exp()
    images = images ** torch.where(draws.chance(0.8), gamma, 1.0)
    gains = (draws.normal(0.15 * much, 3, 1, 1) + draws.normal(0.2 * much)).exp()
    images = images * torch.where(draws.chance(0.8), gains, 1.0)
    grey = images.mean(dim=1, keepdim=True)  # towards grey, or away from it
    saturation = draws.uniform(max(1 - 0.8 * much, 0), 1 + 0.5 * much)
    images = grey + (images - grey) * torch.where(draws.chance(0.3), saturation, 1.0)
    mean = images.mean(dim=(2, 3), keepdim=True)  # contrast about the window's mean
    contrast = draws.uniform(max(1 - 0.5 * much, 0), 1 + 0.4 * much)
    images = mean + (images - mean) * torch.where(draws.chance(0.3), contrast, 1.0)
    axis = torch.linspace(-1, 1, side, device=images.device)  # the lamp's gradient
    ramp = draws.normal(0.25 * much) * axis[:, None] + draws.normal(0.25 * much) * axis
    images = images * torch.where(draws.chance(0.4), ramp, 0.0).exp()
    if augmentation.local:
        images = change_locally(images, draws)
    return images.clamp(0, 1)


def change_locally(images: Tensor, draws: Draws) -> Tensor:
    """Uneven light, and vessels that stand out more or less from what surrounds them."""
    size = images.shape[2:]
    light = draws.normal(0.25, 1, 4, 4)
    light = F.interpolate(light, size, mode="bicubic", align_corners=True)
    images = images * torch.where(draws.chance(0.4), light, 0.0).exp()
    around = F.avg_pool2d(images, 32, 16, padding=8, count_include_pad=False)
    around = F.interpolate(around, size, mode="bilinear")
    strength = torch.where(draws.chance(0.4), draws.normal(0.4).exp(), 1.0)
    return around + (images - around) * strength


def see_through(
    images: Tensor, labels: Tensor, draws: Draws, augmentation: Augmentation
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and logit biases of other optics, sensors and files.

    The image is blurred; through a small camera it is reduced by area, its label is 1 where
    at least a share of the pixel is covered, and both are enlarged again at the end. In between,
    at the sensor's own size, come its noise and the losses of JPEG.
    """
    side = images.shape[-1]
    deviation = draws.uniform(0.3, 0.5 + augmentation.colour)
    deviation = torch.where(draws.chance(augmentation.blur), deviation, 0.01)[:, 0]
    blur = gaussian(side, deviation)
    biases = torch.zeros(len(images), device=images.device)
    if not augmentation.small:
        return record(apply(blur, images), draws, augmentation), labels, biases
    is_small = draws.chance(augmentation.small)
    low, high = (math.log(x) for x in augmentation.small_diameter)
    diameter = draws.uniform(low, high).exp()
    factor = torch.where(is_small, diameter / augmentation.least, 1.0)[:, 0]
    reducing, enlarging = reduction(side, factor), enlargement(side, factor)
    images = apply(enlarging, record(apply(reducing @ blur, images), draws, augmentation))
    covered = apply(reducing, labels[:, None])
    drawn = (covered >= draws.uniform(*augmentation.small_coverage)).float()
    labels = torch.where(is_small, apply(enlarging, drawn), labels[:, None])[:, 0]
    if augmentation.small_bias is not None:
        largest, bias = augmentation.small_bias
        biases = (bias * (largest / diameter).log2().clamp(0, 1) * is_small).flatten()
    return images, labels, biases


def record(images: Tensor, draws: Draws, augmentation: Augmentation) -> Tensor:
    """Add a sensor's noise, and take away what a file loses."""
    noise = draws.uniform(0, 0.05 * augmentation.colour) * draws.normal(1.0, *images.shape[1:])
    images = (images + torch.where(draws.chance(0.4), noise, 0.0)).clamp(0, 1)
    compressed = compress(images, draws.uniform(40, 95))
    return torch.where(draws.chance(0.25), compressed, images)


def apply(matrix: Tensor, images: Tensor) -> Tensor:
    """Apply (N, S, S), which acts on one axis, to both axes of images (N, C, S, S)."""
    return matrix[:, None] @ images @ matrix[:, None].mT


def reduction(side: int, factor: Tensor) -> Tensor:
    """Means over boxes of 1 / `factor` (N, 1, 1) pixels, as matrices (N, S, S)."""
    places = torch.arange(side, device=factor.device)
    row, column = places[:, None], places[None]
    overlap = torch.minimum((row + 1) / factor, column + 1) - torch.maximum(row / factor, column)
    return overlap.clamp(min=0) * factor


def enlargement(side: int, factor: Tensor) -> Tensor:
    """Bilinear enlargement of what :func:`reduction` gave, as matrices (N, S, S)."""
    places = torch.arange(side, device=factor.device)
    last = (side * factor).floor() - 1
    source = ((places[:, None] + 0.5) * factor - 0.5).clamp(min=0).minimum(last)
    return (1 - (source - places).abs()).clamp(min=0)


def gaussian(side: int, deviation: Tensor) -> Tensor:
    """Blur by a Gaussian with deviation (N, 1, 1) in pixels, as matrices (N, S, S)."""
    places = torch.arange(side, device=deviation.device)
    weights = (-0.5 * ((places[:, None] - places) / deviation) ** 2).exp()
    return weights / weights.sum(dim=-1, keepdim=True)


def compress(images: Tensor, quality: Tensor) -> Tensor:
    """What a JPEG file of quality (N, 1, 1, 1) keeps of images (N, 3, S, S) in [0, 1].

    Its discrete cosine transform of 8 x 8 pixels, rounded; colours have all their pixels.
    """
    cosines, steps = jpeg_tables(images.device)
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
def jpeg_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """The cosine transform (8, 8), and steps (3, 8, 8) of brightness and both colours."""
    frequency = torch.arange(8, device=device)[:, None]
    cosines = (math.pi / 8 * frequency * (frequency.T + 0.5)).cos() / 2
    cosines[0] /= math.sqrt(2)
    tables = [_BRIGHTNESS_STEPS, _COLOUR_STEPS, _COLOUR_STEPS]
    return cosines, torch.tensor(tables, dtype=torch.float32, device=device)
