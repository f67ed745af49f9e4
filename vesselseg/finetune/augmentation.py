"""Random changes of windows, which prepare the network for other eyes and cameras.

All windows of a batch are changed together, each with random numbers of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .jpeg import compress
from .resampling import apply, enlargement, gaussian, reduction

LEAST_KNOWN = 1 / 512  # share of a pixel: less than that is rounding
_COVERAGE = (0.1, 0.3)  # least covered share of a small camera's pixel that is vessel: range


@dataclass(frozen=True)
class Augmentation:
    """Which random changes are made, and how strong they are.

    Attributes
    ----------
    colour : float
        Strength of the changes of colour, light, noise and sharpness; 0 for none.
    local : bool
        Whether to add uneven light and local contrast.
    turn : bool
        Whether to rotate by any angle and to mirror.
    blur : float
        Share of windows that are blurred.
    small : float
        Share of windows that show what a small camera would show. They are reduced and enlarged
        again, and their labels are drawn no thinner than a pixel of the small camera.
    small_diameter : tuple of float
        Smallest and largest field of view of a small camera, in pixels.
    small_bias : tuple of float, optional
        `small_fov_bias` of the model spec, added to these windows as to small photographs in use.
    least : float
        Diameter that small fields of view are enlarged to in use, in pixels.
    """

    colour: float
    local: bool
    turn: bool = True
    blur: float = 0.25
    small: float = 0.0
    small_diameter: tuple[float, float] = (450.0, 900.0)
    small_bias: tuple[float, float] | None = None
    least: float = 1000.0


class Draws:
    """Random numbers for a batch of `size` windows: tensors (N, 1, 1, 1) unless noted."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, self.generator = size, generator

    def uniform(self, low: Tensor | float, high: Tensor | float) -> Tensor:
        """Numbers between `low` and `high`."""
        drawn = torch.rand(
            self.size, 1, 1, 1,
            generator=self.generator, dtype=torch.float32, device=self.generator.device,
        )  # fmt: skip
        return low + (high - low) * drawn

    def normal(self, deviation: float, *shape: int) -> Tensor:
        """Normal numbers around 0, of shape (N, *shape) if `shape` is given."""
        size = (self.size, *(shape or (1, 1, 1)))
        drawn = torch.randn(
            size, generator=self.generator, dtype=torch.float32, device=self.generator.device
        )
        return deviation * drawn

    def chance(self, share: float) -> Tensor:
        """True for about this share of the windows."""
        return self.uniform(0, 1) < share

    def index(self, weights: Tensor) -> Tensor:
        """Indices (N,) into `weights`, drawn in proportion to them."""
        ends = weights.cumsum(0)
        return torch.searchsorted(ends, self.uniform(0, ends[-1]).flatten(), right=True)


def change_colours(images: Tensor, draws: Draws, augmentation: Augmentation) -> Tensor:
    """Change images (N, 3, S, S) in [0, 1] as another lamp, sensor and eye would."""
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
    # The lamp's gradient.
    axis = torch.linspace(-1, 1, side, dtype=images.dtype, device=images.device)
    ramp = draws.normal(0.25 * much) * axis[:, None] + draws.normal(0.25 * much) * axis
    images = images * torch.where(draws.chance(0.4), ramp, 0.0).exp()
    if augmentation.local:
        images = _change_locally(images, draws)
    return images.clamp(0, 1)


def _change_locally(images: Tensor, draws: Draws) -> Tensor:
    """Add uneven light, and raise or lower the contrast of vessels with their surroundings."""
    size = images.shape[2:]
    light = draws.normal(0.25, 1, 4, 4)
    light = F.interpolate(light, size, mode="bicubic", align_corners=True)
    images = images * torch.where(draws.chance(0.4), light, 0.0).exp()
    around = F.avg_pool2d(images, 32, 16, padding=8, count_include_pad=False)
    around = F.interpolate(around, size, mode="bilinear")
    strength = torch.where(draws.chance(0.4), draws.normal(0.4).exp(), 1.0)
    return around + (images - around) * strength


def simulate_camera(
    images: Tensor, labels: Tensor, known: Tensor, draws: Draws, augmentation: Augmentation
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Simulate other optics, sensors and files.

    Labels (N, S, S) have the coverage of what is `known` of each pixel, in [0, 1]. Returns images,
    labels, known and logit biases (N,).

    Images are blurred. Those of a small camera are also reduced by area and enlarged again, with
    labels that are 1 where at least a share of the reduced pixel is covered. Noise and the losses
    of JPEG are added at the sensor's own size.
    """
    side = images.shape[-1]
    deviation = draws.uniform(0.3, 0.5 + augmentation.colour)
    deviation = torch.where(draws.chance(augmentation.blur), deviation, 0.01)[:, 0]
    blur = gaussian(side, deviation)
    biases = torch.zeros(len(images), dtype=images.dtype, device=images.device)
    if not augmentation.small:
        return _degrade(apply(blur, images), draws, augmentation), labels, known, biases
    is_small = draws.chance(augmentation.small)
    low, high = (math.log(x) for x in augmentation.small_diameter)
    diameter = draws.uniform(low, high).exp()
    factor = torch.where(is_small, diameter / augmentation.least, 1.0)[:, 0]
    reducing, enlarging = reduction(side, factor), enlargement(side, factor)
    images = apply(enlarging, _degrade(apply(reducing @ blur, images), draws, augmentation))
    labels, known = labels[:, None], known[:, None]
    seen = apply(reducing, known)
    covered = coverage_of_known(apply(reducing, labels * known), seen)
    drawn = (covered >= draws.uniform(*_COVERAGE)).float()
    seen_enlarged = apply(enlarging, seen)
    drawn = coverage_of_known(apply(enlarging, drawn * seen), seen_enlarged)
    labels = torch.where(is_small, drawn, labels)[:, 0]
    known = torch.where(is_small, seen_enlarged, known)[:, 0]
    if augmentation.small_bias is not None:
        largest, bias = augmentation.small_bias
        biases = (bias * (largest / diameter).log2().clamp(0, 1) * is_small).flatten()
    return images, labels, known, biases


def coverage_of_known(covered: Tensor, known: Tensor) -> Tensor:
    """The covered share of what is known of each pixel, from both shares of the whole pixel."""
    return (covered / known.clamp(min=LEAST_KNOWN)).clamp(max=1)


def _degrade(images: Tensor, draws: Draws, augmentation: Augmentation) -> Tensor:
    """Add a sensor's noise and the losses of JPEG, each to some of the images."""
    noise = draws.uniform(0, 0.05 * augmentation.colour) * draws.normal(1.0, *images.shape[1:])
    images = (images + torch.where(draws.chance(0.4), noise, 0.0)).clamp(0, 1)
    compressed = compress(images, draws.uniform(40, 95))
    return torch.where(draws.chance(0.25), compressed, images)
