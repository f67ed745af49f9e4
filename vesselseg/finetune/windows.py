"""Augmented windows drawn from labelled photographs, which are kept as pyramids of sizes.

Photographs are compared by the diameter of their field of view: a window is drawn at a target
diameter (the network's own times a random zoom), from the level of the pyramid that lies nearest
above it, so that reducing never aliases. Labels are kept as coverage in [0, 1]: a vessel thinner
than a pixel is a fraction, not a coin toss.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from ..fov import Mask, find_field_of_view
from ..images import RGB
from ..preprocess import apply_channel_gains, channel_gains

SIDE = 256  # of the windows, in pixels
_STEP = math.sqrt(0.5)  # between levels of a pyramid


@dataclass(frozen=True)
class Sizes:
    """Sizes that photographs are seen at.

    Fields of view are brought into the range `diameter`, in pixels, as in use: those between its
    ends keep their size. That size times a random factor within `zoom` is what windows have.
    """

    diameter: tuple[float, float]
    zoom: tuple[float, float]

    def drawn_from(self, diameter: float) -> tuple[float, float]:
        """Smallest and largest diameter that a photograph of this one is seen at."""
        least, most = self.diameter
        usual = min(max(diameter, least), most)
        return usual * self.zoom[0], usual * self.zoom[1]


@dataclass(frozen=True)
class Augmentation:
    """What is changed at random, so that the network learns other eyes and cameras as well.

    `colour` is the strength of the changes of colour, light, noise and sharpness, 0 for none;
    `local` adds uneven light and local contrast; `turn` is rotation by any angle, and mirroring.
    """

    colour: float
    local: bool
    turn: bool = True


class LabelledPhotograph(NamedTuple):
    """A photograph (H, W, 3) and its label (H, W), True on vessels.

    `diameter` is that of the field of view, in pixels; `bias` is what the model adds to the vessel
    logit of this photograph in use (:func:`vesselseg.preprocess.vessel_bias`).
    """

    rgb: RGB
    label: Mask
    diameter: float
    bias: float = 0.0


class Level(NamedTuple):
    """One size of a photograph: `pixels` (4, H, W) uint8, RGB and the label's coverage."""

    pixels: Tensor
    diameter: float


class Batch(NamedTuple):
    """Images (N, 3, S, S) and coverage (N, S, S), both in [0, 1], and logit biases (N,)."""

    images: Tensor
    labels: Tensor
    biases: Tensor


def pyramid(
    photograph: LabelledPhotograph, sizes: Sizes, rgb_mean: tuple[float, float, float] | None
) -> list[Level]:
    """Sizes of one photograph, the largest first.

    `rgb_mean` is the target of its colours, as in a model spec's `fov_rgb_mean`.
    """
    gains: tuple[float, ...] = (1.0, 1.0, 1.0)
    if rgb_mean is not None:
        gains = channel_gains(photograph.rgb, find_field_of_view(photograph.rgb), rgb_mean)
    image = Image.fromarray(photograph.rgb)
    label = Image.fromarray(photograph.label.astype(np.uint8) * 255)
    levels: list[Level] = []
    smallest, largest = sizes.drawn_from(photograph.diameter)
    diameter = min(photograph.diameter, 1.0625 * largest)
    while not levels or diameter > smallest * _STEP:
        factor = diameter / photograph.diameter
        size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
        scaled = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        coverage = np.asarray(label.resize(size, Image.Resampling.BOX))
        parts = [apply_channel_gains(scaled, gains), coverage[..., None]]
        pixels = torch.from_numpy(np.concatenate(parts, axis=2)).permute(2, 0, 1).contiguous()
        levels.append(Level(pixels, diameter))
        diameter *= _STEP
    return levels


class Windows:
    """Endless augmented windows of photographs, drawn with `rng` alone.

    Each photograph is read once and kept in memory in several sizes.
    """

    def __init__(
        self,
        photographs: Iterable[LabelledPhotograph],
        sizes: Sizes,
        rng: np.random.Generator,
        *,
        rgb_mean: tuple[float, float, float] | None,
        augmentation: Augmentation,
    ) -> None:
        self.pyramids: list[list[Level]] = []
        self.ranges: list[tuple[float, float]] = []
        self.biases: list[float] = []
        for photograph in photographs:
            self.pyramids.append(pyramid(photograph, sizes, rgb_mean))
            self.ranges.append(sizes.drawn_from(photograph.diameter))
            self.biases.append(photograph.bias)
        self.rng = rng
        self.augmentation = augmentation

    def batch(self, size: int) -> Batch:
        """Draw `size` windows, float32."""
        images, labels, biases = [], [], []
        for _ in range(size):
            image, label, bias = self.draw()
            images.append(image)
            labels.append(label)
            biases.append(bias)
        return Batch(torch.stack(images), torch.stack(labels), torch.tensor(biases))

    def draw(self) -> tuple[Tensor, Tensor, float]:
        """Image (3, S, S), coverage (S, S) and logit bias of one window."""
        rng = self.rng
        chosen = rng.integers(len(self.pyramids))
        levels, (smallest, largest) = self.pyramids[chosen], self.ranges[chosen]
        target = math.exp(rng.uniform(math.log(smallest), math.log(largest)))
        level = next((x for x in reversed(levels) if x.diameter >= target), levels[0])
        pixels = cut(level, level.diameter / target, rng, turn=self.augmentation.turn)
        image = pixels[:3]
        if self.augmentation.colour:
            image = change_colours(image, rng, self.augmentation)
        return image, pixels[3], self.biases[chosen]


def cut(level: Level, step: float, rng: np.random.Generator, *, turn: bool) -> Tensor:
    """A turned, mirrored window (4, S, S) in [0, 1]; `step`: source pixels per pixel."""
    height, width = level.pixels.shape[1:]
    reach = 0.45 * level.diameter * math.sqrt(rng.random())  # centre inside the disc
    at = rng.uniform(0, 2 * math.pi)
    x = width / 2 + reach * math.cos(at)
    y = min(max(height / 2 + reach * math.sin(at), 0), height)
    angle = rng.uniform(0, 2 * math.pi) if turn else 0.0
    stretch = math.exp(rng.normal(0, 0.08))  # unequal scale of the two axes
    mirror = rng.choice([-1.0, 1.0]) if turn else 1.0
    a, b = step * stretch * mirror, step / stretch
    half = SIDE / 2
    # Output pixel (u, v) in [-half, half] -> source pixel, in [-1, 1] of a cut-out around it.
    radius = math.ceil(half * max(abs(a), abs(b)) * math.sqrt(2)) + 2
    left, top = round(x) - radius, round(y) - radius
    box = level.pixels[:, max(top, 0) : top + 2 * radius, max(left, 0) : left + 2 * radius]
    pad = (max(-left, 0), max(left + 2 * radius - width, 0),
           max(-top, 0), max(top + 2 * radius - height, 0))  # fmt: skip
    values = F.pad(box, pad)[None].float() / 255
    scale = half / radius
    cos, sin = math.cos(angle), math.sin(angle)
    theta = torch.tensor([[[a * cos * scale, -b * sin * scale, 0.0],
                           [a * sin * scale, b * cos * scale, 0.0]]],
                         dtype=torch.float32)  # fmt: skip
    grid = F.affine_grid(theta, [1, 4, SIDE, SIDE], align_corners=False)
    return F.grid_sample(values, grid, align_corners=False)[0]


def change_colours(image: Tensor, rng: np.random.Generator, augmentation: Augmentation) -> Tensor:
    """Another camera, lamp and file: each change is drawn on its own."""
    much = augmentation.colour
    if rng.random() < 0.8:
        image = image ** math.exp(rng.normal(0, 0.3 * much))
    if rng.random() < 0.8:
        gains = np.exp(rng.normal(0, 0.15 * much, (3, 1, 1)) + rng.normal(0, 0.2 * much))
        image = image * torch.from_numpy(gains).float()
    if rng.random() < 0.3:  # towards grey, or away from it
        grey = image.mean(dim=0, keepdim=True)
        image = grey + (image - grey) * rng.uniform(max(1 - 0.8 * much, 0), 1 + 0.5 * much)
    if rng.random() < 0.3:  # contrast about the window's mean
        mean = image.mean(dim=(1, 2), keepdim=True)
        image = mean + (image - mean) * rng.uniform(max(1 - 0.5 * much, 0), 1 + 0.4 * much)
    if rng.random() < 0.4:  # the lamp's gradient
        axis = torch.linspace(-1, 1, SIDE)
        ramp = rng.normal(0, 0.25 * much) * axis[:, None]
        image = image * torch.exp(ramp + rng.normal(0, 0.25 * much) * axis[None])
    if augmentation.local:
        image = change_locally(image, rng)
    image = image.clamp(0, 1)
    if rng.random() < 0.4:
        strength = rng.uniform(0, 0.05 * much)
        noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        image = (image + strength * noise).clamp(0, 1)
    blur, compress = rng.random() < 0.25, rng.random() < 0.25
    if blur or compress:
        picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
        if blur:
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.5 + much)))
        if compress:
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=int(rng.integers(40, 95)))
            picture = Image.open(file)
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    return image


def change_locally(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Uneven light, and vessels that stand out more or less from what surrounds them."""
    if rng.random() < 0.4:
        light = torch.from_numpy(rng.normal(0, 0.25, (1, 1, 4, 4))).float()
        light = F.interpolate(light, (SIDE, SIDE), mode="bicubic", align_corners=True)
        image = image * torch.exp(light[0])
    if rng.random() < 0.4:
        around = F.avg_pool2d(image[None], 32, 16, padding=8, count_include_pad=False)
        around = F.interpolate(around, (SIDE, SIDE), mode="bilinear")[0]
        image = around + (image - around) * math.exp(rng.normal(0, 0.4))
    return image
