"""Augmented windows drawn from labelled photographs, which are kept as pyramids of sizes.

Photographs are compared by the diameter of their field of view: a window is drawn at a target
diameter (the network's own times a random zoom), from the level of the pyramid that lies nearest
above it, so that reducing never aliases. Labels are kept as coverage in [0, 1]: a vessel thinner
than a pixel is a fraction, not a coin toss.

All windows of a batch are drawn together, on the device that trains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..fov import Mask, find_field_of_view
from ..images import RGB
from ..preprocess import apply_channel_gains, channel_gains
from .augmentation import Augmentation, Draws, change_colours, see_through

SIDE = 256  # of the windows, in pixels
_STEP = math.sqrt(0.5)  # between levels of a pyramid


class Sizes(NamedTuple):
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


class LabelledPhotograph(NamedTuple):
    """A photograph (H, W, 3) and its label (H, W): a mask, or probabilities as uint8, 0 to 255.

    `diameter` is that of the field of view, in pixels; `bias` is what the model adds to the vessel
    logit of this photograph in use (:func:`vesselseg.preprocess.vessel_bias`). Windows are drawn
    from it as often as `weight` says, compared with the other photographs.
    """

    rgb: RGB
    label: Mask | NDArray[np.uint8]
    diameter: float
    bias: float = 0.0
    weight: float = 1.0


class Level(NamedTuple):
    """One size of a photograph: `pixels` (H, W, 4) uint8, RGB and the label's coverage."""

    pixels: NDArray[np.uint8]
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
    is_mask = photograph.label.dtype == bool
    label = Image.fromarray(photograph.label.astype(np.uint8) * (255 if is_mask else 1))
    levels: list[Level] = []
    smallest, largest = sizes.drawn_from(photograph.diameter)
    diameter = min(photograph.diameter, 1.0625 * largest)
    while not levels or diameter > smallest * _STEP:
        factor = diameter / photograph.diameter
        size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
        scaled = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        coverage = np.asarray(label.resize(size, Image.Resampling.BOX))
        parts = [apply_channel_gains(scaled, gains), coverage[..., None]]
        levels.append(Level(np.concatenate(parts, axis=2), diameter))
        diameter *= _STEP
    return levels


class Windows:
    """Endless augmented windows of photographs, drawn from `seed` alone.

    Each photograph is read once and kept in the memory of `device` in several sizes. All levels of
    all photographs lie one after another in `pixels`, four bytes each.
    """

    def __init__(
        self,
        photographs: Iterable[LabelledPhotograph],
        sizes: Sizes,
        seed: int,
        *,
        rgb_mean: tuple[float, float, float] | None,
        augmentation: Augmentation,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.augmentation = augmentation
        store = bytearray()
        ranges, biases, weights, diameters, places = [], [], [], [], []
        for photograph in photographs:
            ranges.append(torch.tensor(sizes.drawn_from(photograph.diameter)))
            biases.append(photograph.bias)
            weights.append(photograph.weight)
            levels = pyramid(photograph, sizes, rgb_mean)
            diameters.append(torch.tensor([level.diameter for level in levels]))
            starts = []
            for level in levels:
                starts.append((len(store) // 4, *level.pixels.shape[:2]))
                store += level.pixels.tobytes()
            places.append(torch.tensor(starts))
        # Of each photograph's levels, the largest first: diameters (P, L), 0 where there is none,
        # and (P, L, 3) where they start in `pixels`, their heights and widths.
        self.diameters = pad_sequence(diameters, batch_first=True).to(self.device)
        self.places = pad_sequence(places, batch_first=True).to(self.device)
        self.ranges = torch.stack(ranges).to(self.device)
        self.biases = torch.tensor(biases, device=self.device)
        self.weights = torch.tensor(weights, device=self.device)
        self.pixels = torch.frombuffer(store, dtype=torch.int32).to(self.device)

    def batch(self, size: int) -> Batch:
        """Draw `size` windows, float32."""
        draws = Draws(size, self.generator)
        chosen = draws.index(self.weights)
        smallest, largest = self.ranges[chosen].unbind(dim=1)
        target = smallest * (largest / smallest) ** draws.uniform(0, 1).flatten()
        large_enough = self.diameters[chosen] >= target[:, None]
        level = (large_enough.sum(dim=1) - 1).clamp(min=0)
        diameter, places = self.diameters[chosen, level], self.places[chosen, level]
        windows = cut(
            self.pixels, places, diameter, diameter / target, draws, turn=self.augmentation.turn
        )
        images, labels, biases = windows[:, :3], windows[:, 3], self.biases[chosen]
        if self.augmentation.colour:
            images = change_colours(images, draws, self.augmentation)
            images, labels, added = see_through(images, labels, draws, self.augmentation)
            biases = biases + added
        return Batch(images, labels, biases)


def cut(
    pixels: Tensor, places: Tensor, diameter: Tensor, step: Tensor, draws: Draws, *, turn: bool
) -> Tensor:
    """Turned, mirrored windows (N, 4, S, S) in [0, 1].

    They are cut from levels at `places` (N, 3), rows of :attr:`Windows.places`, with fields of view
    of `diameter` (N,) pixels; `step` (N,) is their pixels per pixel of the window.
    """
    start, height, width = (x.reshape(-1, 1, 1) for x in places.unbind(dim=1))
    diameter, step = diameter.reshape(-1, 1, 1), step.reshape(-1, 1, 1)
    reach = 0.45 * diameter * draws.uniform(0, 1).sqrt()[..., 0]  # centre inside the disc
    at = draws.uniform(0, 2 * math.pi)[..., 0]
    x = width / 2 + reach * at.cos()
    y = (height / 2 + reach * at.sin()).clamp(min=0).minimum(height)
    stretch = draws.normal(0.08)[..., 0].exp()  # unequal scale of the two axes
    angle, mirror = torch.zeros_like(stretch), torch.ones_like(stretch)
    if turn:
        angle = draws.uniform(0, 2 * math.pi)[..., 0]
        mirror = torch.where(draws.chance(0.5)[..., 0], -1.0, 1.0)
    offsets = torch.arange(SIDE, device=pixels.device) - (SIDE - 1) / 2
    u = step * stretch * mirror * offsets
    v = step / stretch * offsets[:, None]
    across = x + u * angle.cos() - v * angle.sin() - 0.5
    down = y + u * angle.sin() + v * angle.cos() - 0.5
    return interpolate(pixels, start, height, width, down, across)


def interpolate(
    pixels: Tensor, start: Tensor, height: Tensor, width: Tensor, down: Tensor, across: Tensor
) -> Tensor:
    """Bilinear values (N, 4, S, S) in [0, 1] at places (N, S, S) of levels; 0 outside of them."""
    rows = [(row * width + start, share) for row, share in neighbours(down, height)]
    columns = neighbours(across, width)
    total = torch.zeros(1, device=pixels.device)
    for row, vertical in rows:
        for column, horizontal in columns:
            values = pixels[row + column].view(torch.uint8).reshape(*down.shape, 4)
            total = total + (vertical * horizontal)[:, None] * values.movedim(-1, 1).contiguous()
    return (total / 255).clamp(max=1)  # shares are rounded


def neighbours(at: Tensor, length: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The pixels before and after places on an axis, and their shares, 0 outside of the axis."""
    before = at.floor()
    found = []
    for pixel, share in ((before, 1 - (at - before)), (before + 1, at - before)):
        inside = (pixel >= 0) & (pixel < length)
        found.append((pixel.long().clamp(min=0).minimum(length - 1), share * inside))
    return found
