"""Draw augmented windows from labelled photographs.

Each photograph is kept as a pyramid of sizes. A window is drawn at a target diameter of the field
of view: the diameter that the network expects, times a random zoom. It is cut from the smallest
level of the pyramid that is at least as large, so that reducing does not alias. Labels are kept as
coverage in [0, 1], so that a vessel thinner than a pixel keeps its area.

All windows of a batch are drawn together, on the device of the training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
from .augmentation import Augmentation, Draws, change_colours, simulate_camera

SIDE = 256  # side of a window, in pixels
_STEP = math.sqrt(0.5)  # between levels of a pyramid


class Sizes(NamedTuple):
    """Sizes at which windows are drawn.

    As in use, smaller or larger fields of view are resized to the nearest end of the range
    `diameter`, in pixels. This size is multiplied by a random factor within `zoom`.
    """

    diameter: tuple[float, float]
    zoom: tuple[float, float]

    def drawn_from(self, diameter: float) -> tuple[float, float]:
        """Smallest and largest target diameter for a field of view of `diameter` pixels."""
        least, most = self.diameter
        usual = min(max(diameter, least), most)
        return usual * self.zoom[0], usual * self.zoom[1]


class LabelledPhotograph(NamedTuple):
    """A photograph (H, W, 3) with its label (H, W).

    The label is a mask, or probabilities as uint8 from 0 to 255. `diameter` is that of the field of
    view, in pixels. `bias` is added to the vessel logits of the photograph
    (:func:`vesselseg.preprocess.vessel_bias`). Windows are drawn from photographs in proportion to
    their `weight`.
    """

    rgb: RGB
    label: Mask | NDArray[np.uint8]
    diameter: float
    bias: float = 0.0
    weight: float = 1.0


class _Level(NamedTuple):
    """One size of a photograph: `pixels` (H, W, 4) uint8, RGB and the label's coverage."""

    pixels: NDArray[np.uint8]
    diameter: float


class Batch(NamedTuple):
    """Images (N, 3, S, S) and coverage (N, S, S), both in [0, 1], and logit biases (N,)."""

    images: Tensor
    labels: Tensor
    biases: Tensor


def _pyramid(
    photograph: LabelledPhotograph, sizes: Sizes, rgb_mean: tuple[float, float, float] | None
) -> list[_Level]:
    """Return a photograph in several sizes, the largest first.

    `rgb_mean` has the target means of its channels, like `fov_rgb_mean` of a model spec.
    """
    gains: tuple[float, ...] = (1.0, 1.0, 1.0)
    if rgb_mean is not None:
        gains = channel_gains(photograph.rgb, find_field_of_view(photograph.rgb), rgb_mean)
    image = Image.fromarray(photograph.rgb)
    is_mask = photograph.label.dtype == bool
    label = Image.fromarray(photograph.label.astype(np.uint8) * (255 if is_mask else 1))
    levels: list[_Level] = []
    smallest, largest = sizes.drawn_from(photograph.diameter)
    diameter = min(photograph.diameter, 1.0625 * largest)
    while not levels or diameter > smallest * _STEP:
        factor = diameter / photograph.diameter
        size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
        scaled = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        coverage = np.asarray(label.resize(size, Image.Resampling.BOX))
        parts = [apply_channel_gains(scaled, gains), coverage[..., None]]
        levels.append(_Level(np.concatenate(parts, axis=2), diameter))
        diameter *= _STEP
    return levels


class Windows:
    """Draw augmented windows from photographs; the same `seed` gives the same windows.

    Each photograph is read once and kept in several sizes in the memory of `device`. The levels of
    all photographs are stored one after another in `pixels`, with four bytes for each pixel.
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
            ranges.append(_floats(sizes.drawn_from(photograph.diameter)))
            biases.append(photograph.bias)
            weights.append(photograph.weight)
            levels = _pyramid(photograph, sizes, rgb_mean)
            diameters.append(_floats([level.diameter for level in levels]))
            starts = []
            for level in levels:
                starts.append((len(store) // 4, *level.pixels.shape[:2]))
                store += level.pixels.tobytes()
            places.append(torch.tensor(starts, device="cpu"))
        # For each photograph's levels, the largest first: their diameters (P, L), with 0 for
        # missing levels, and their starts in `pixels`, heights and widths (P, L, 3).
        self.diameters = pad_sequence(diameters, batch_first=True).to(self.device)
        self.places = pad_sequence(places, batch_first=True).to(self.device)
        self.ranges = torch.stack(ranges).to(self.device)
        self.biases = _floats(biases).to(self.device)
        self.weights = _floats(weights).to(self.device)
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
        windows = _cut(
            self.pixels, places, diameter, diameter / target, draws, turn=self.augmentation.turn
        )
        images, labels, biases = windows[:, :3], windows[:, 3], self.biases[chosen]
        if self.augmentation.colour:
            images = change_colours(images, draws, self.augmentation)
            images, labels, added = simulate_camera(images, labels, draws, self.augmentation)
            biases = biases + added
        return Batch(images, labels, biases)


def _floats(values: Sequence[float]) -> Tensor:
    """Numbers on the CPU in float32, whatever the host's defaults are."""
    return torch.tensor(values, dtype=torch.float32, device="cpu")


def _cut(
    pixels: Tensor, places: Tensor, diameter: Tensor, step: Tensor, draws: Draws, *, turn: bool
) -> Tensor:
    """Cut windows (N, 4, S, S) in [0, 1], rotated and mirrored if `turn` is true.

    `places` (N, 3) are the levels to cut from, rows of :attr:`Windows.places`, with fields of view
    of `diameter` (N,) pixels. `step` (N,) is the number of their pixels per pixel of a window.
    """
    start, height, width = (x.reshape(-1, 1, 1) for x in places.unbind(dim=1))
    diameter, step = diameter.reshape(-1, 1, 1), step.reshape(-1, 1, 1)
    reach = 0.45 * diameter * draws.uniform(0, 1).sqrt()[..., 0]  # centre inside the disc
    at = draws.uniform(0, 2 * math.pi)[..., 0]
    x = width.to(reach.dtype) / 2 + reach * at.cos()
    y = (height.to(reach.dtype) / 2 + reach * at.sin()).clamp(min=0).minimum(height)
    stretch = draws.normal(0.08)[..., 0].exp()  # unequal scale of the two axes
    angle, mirror = torch.zeros_like(stretch), torch.ones_like(stretch)
    if turn:
        angle = draws.uniform(0, 2 * math.pi)[..., 0]
        mirror = torch.where(draws.chance(0.5)[..., 0], -mirror, mirror)
    offsets = torch.arange(SIDE, dtype=step.dtype, device=pixels.device) - (SIDE - 1) / 2
    u = step * stretch * mirror * offsets
    v = step / stretch * offsets[:, None]
    across = x + u * angle.cos() - v * angle.sin() - 0.5
    down = y + u * angle.sin() + v * angle.cos() - 0.5
    return _interpolate(pixels, start, height, width, down, across)


def _interpolate(
    pixels: Tensor, start: Tensor, height: Tensor, width: Tensor, down: Tensor, across: Tensor
) -> Tensor:
    """Interpolate levels bilinearly at (N, S, S): (N, 4, S, S) in [0, 1], and 0 outside of them."""
    rows = [(row * width + start, share) for row, share in _neighbours(down, height)]
    columns = _neighbours(across, width)
    total = torch.zeros(1, dtype=down.dtype, device=pixels.device)
    for row, vertical in rows:
        for column, horizontal in columns:
            values = pixels[row + column].view(torch.uint8).reshape(*down.shape, 4)
            total = total + (vertical * horizontal)[:, None] * values.movedim(-1, 1).contiguous()
    return (total / 255).clamp(max=1)  # shares are rounded


def _neighbours(at: Tensor, length: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the pixels before and after positions on an axis, with shares that are 0 outside."""
    before = at.floor()
    found = []
    for pixel, share in ((before, 1 - (at - before)), (before + 1, at - before)):
        inside = (pixel >= 0) & (pixel < length)
        found.append((pixel.long().clamp(min=0).minimum(length - 1), share * inside))
    return found
