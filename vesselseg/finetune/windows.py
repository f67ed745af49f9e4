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
from .augmentation import (
    LEAST_KNOWN,
    Augmentation,
    Draws,
    change_colours,
    coverage_of_known,
    simulate_camera,
)

SIDE = 256  # side of a window, in pixels
_STEP = math.sqrt(0.5)  # between levels of a pyramid
_REACH = 0.45  # of the diameter: how far from the middle the centres of windows lie
_CENTRES = 1024  # of a label that is known in part


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
    """A photograph (H, W, 3) with its label (H, W), a mask or probabilities of uint8 0 to 255.

    `diameter` is that of the field of view, in pixels. `bias` is added to the vessel logits
    (:func:`vesselseg.preprocess.vessel_bias`). Photographs are drawn in proportion to their
    `weight`. `known` (H, W) says where the label is known; None is everywhere.
    """

    rgb: RGB
    label: Mask | NDArray[np.uint8]
    diameter: float
    bias: float = 0.0
    weight: float = 1.0
    known: Mask | None = None


class _Level(NamedTuple):
    """One size of a photograph: `pixels` (H, W, 4) uint8, RGB and the label's coverage.

    `known` (H, W) uint8 is the share of each pixel that is known; the rest counts as not covered.
    None if all is known.
    """

    pixels: NDArray[np.uint8]
    diameter: float
    known: NDArray[np.uint8] | None


class Batch(NamedTuple):
    """Images (N, 3, S, S), coverage (N, S, S), logit biases (N,), and what is known (N, S, S).

    All but the biases are in [0, 1]. The coverage is that of what is known of a pixel.
    """

    images: Tensor
    labels: Tensor
    biases: Tensor
    known: Tensor


def _pyramid(
    photograph: LabelledPhotograph, sizes: Sizes, rgb_mean: tuple[float, float, float] | None
) -> list[_Level]:
    """Return a photograph in several sizes, the largest first; see :class:`Windows`."""
    gains: tuple[float, ...] = (1.0, 1.0, 1.0)
    if rgb_mean is not None:
        gains = channel_gains(photograph.rgb, find_field_of_view(photograph.rgb), rgb_mean)
    image = Image.fromarray(photograph.rgb)
    is_mask = photograph.label.dtype == bool
    values = photograph.label.astype(np.uint8) * (255 if is_mask else 1)
    whole_known = None
    if photograph.known is not None:
        values = values * photograph.known
        whole_known = Image.fromarray(photograph.known.astype(np.uint8) * 255)
    label = Image.fromarray(values)
    levels: list[_Level] = []
    smallest, largest = sizes.drawn_from(photograph.diameter)
    diameter = min(photograph.diameter, 1.0625 * largest)
    while not levels or diameter > smallest * _STEP:
        factor = diameter / photograph.diameter
        size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
        scaled = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        coverage = np.asarray(label.resize(size, Image.Resampling.BOX))
        parts = [apply_channel_gains(scaled, gains), coverage[..., None]]
        known = None
        if whole_known is not None:
            known = np.asarray(whole_known.resize(size, Image.Resampling.BOX))
        levels.append(_Level(np.concatenate(parts, axis=2), diameter, known))
        diameter *= _STEP
    return levels


def _centres(photograph: LabelledPhotograph) -> Tensor:
    """Where windows of a photograph may lie: known pixels (N, 2), as shares of height and width.

    They are inside the disc if some are. Of a photograph that is known everywhere, (0, 2).
    """
    if photograph.known is None:
        return torch.empty(0, 2, dtype=torch.float32, device="cpu")
    size = np.array(photograph.known.shape)
    found = np.argwhere(photograph.known) + 0.5
    inside = found[np.hypot(*(found - size / 2).T) <= _REACH * photograph.diameter]
    places = inside if len(inside) else found
    chosen = np.linspace(0, len(places) - 1, _CENTRES).round().astype(int)
    return torch.from_numpy((places[chosen] / size).astype(np.float32))


class Windows:
    """Draw augmented windows from photographs; the same `seed` gives the same windows.

    `rgb_mean` has the target means of the channels, like `fov_rgb_mean` of a model spec. The levels
    of all photographs are stored one after another in `pixels`, in the memory of `device`, with
    four bytes for each pixel. If a label is known in part only, windows lie around its known
    pixels, and `known` has one more byte for each pixel of all photographs.
    """

    def __init__(
        self,
        photographs: Iterable[LabelledPhotograph],
        sizes: Sizes,
        seed: int,
        *,
        rgb_mean: tuple[float, float, float] | None,
        augmentation: Augmentation,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.augmentation = augmentation
        store = bytearray()
        ranges, biases, weights, diameters, places, centres = [], [], [], [], [], []
        known: list[tuple[int, NDArray[np.uint8]]] = []
        for photograph in photographs:
            ranges.append(_floats(sizes.drawn_from(photograph.diameter)))
            biases.append(photograph.bias)
            weights.append(photograph.weight)
            levels = _pyramid(photograph, sizes, rgb_mean)
            diameters.append(_floats([level.diameter for level in levels]))
            centres.append(_centres(photograph))
            starts = []
            for level in levels:
                starts.append((len(store) // 4, *level.pixels.shape[:2]))
                if level.known is not None:
                    known.append((len(store) // 4, level.known.ravel()))
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
        self.known, self.centres = None, None
        if known:
            everywhere = np.full(len(store) // 4, 255, np.uint8)
            for start, values in known:
                everywhere[start : start + len(values)] = values
            self.known = torch.from_numpy(everywhere).to(self.device)
            # (P, N, 2), with NaN for photographs that are known everywhere.
            padded = pad_sequence(centres, batch_first=True, padding_value=math.nan)
            self.centres = padded.to(self.device)

    def batch(self, size: int) -> Batch:
        """Draw `size` windows, float32."""
        draws = Draws(size, self.generator)
        chosen = draws.index(self.weights)
        smallest, largest = self.ranges[chosen].unbind(dim=1)
        target = smallest * (largest / smallest) ** draws.uniform(0, 1).flatten()
        large_enough = self.diameters[chosen] >= target[:, None]
        level = (large_enough.sum(dim=1) - 1).clamp(min=0)
        diameter, places = self.diameters[chosen, level], self.places[chosen, level]
        middle = _draw_centres(places, diameter, draws)
        if self.centres is not None:
            number = (draws.uniform(0, 1).flatten() * _CENTRES).long().clamp(max=_CENTRES - 1)
            around = self.centres[chosen, number] * places[:, 1:]
            is_partial = ~around.isnan()
            middle = torch.where(is_partial, around, middle)
        windows, seen = _cut(
            self.pixels, self.known, places, middle, diameter / target, draws,
            turn=self.augmentation.turn,
        )  # fmt: skip
        images, labels, biases = windows[:, :3], windows[:, 3], self.biases[chosen]
        known = torch.ones_like(labels)
        if seen is not None:
            seen = torch.where(seen < LEAST_KNOWN, 0.0, seen)
            known = torch.where(is_partial[:, :1, None], seen, known)
            labels = coverage_of_known(labels, known)
        if self.augmentation.colour:
            images = change_colours(images, draws, self.augmentation)
            images, labels, known, added = simulate_camera(
                images, labels, known, draws, self.augmentation
            )
            biases = biases + added
        return Batch(images, labels, biases, known)


def _floats(values: Sequence[float]) -> Tensor:
    """Numbers on the CPU in float32, whatever the host's defaults are."""
    return torch.tensor(values, dtype=torch.float32, device="cpu")


def _draw_centres(places: Tensor, diameter: Tensor, draws: Draws) -> Tensor:
    """Centres of windows (N, 2), row and column, in the field of view of levels (N, 3)."""
    height, width = places[:, 1], places[:, 2]
    reach = _REACH * diameter * draws.uniform(0, 1).flatten().sqrt()
    at = draws.uniform(0, 2 * math.pi).flatten()
    x = width.to(reach.dtype) / 2 + reach * at.cos()
    y = (height.to(reach.dtype) / 2 + reach * at.sin()).clamp(min=0).minimum(height)
    return torch.stack([y, x], dim=1)


def _cut(
    pixels: Tensor,
    known: Tensor | None,
    places: Tensor,
    middle: Tensor,
    step: Tensor,
    draws: Draws,
    *,
    turn: bool,
) -> tuple[Tensor, Tensor | None]:
    """Cut windows (N, 4, S, S) in [0, 1], bilinearly, rotated and mirrored if `turn` is true.

    `places` (N, 3) are the levels to cut from, rows of :attr:`Windows.places`, `middle` (N, 2) the
    windows' centres on them, row and column, and `step` (N,) is the number of their pixels per
    pixel of a window. Outside the photograph windows are 0. If there is `known`, a second tensor
    (N, S, S) says which share of each pixel is known.
    """
    start, height, width = (x.reshape(-1, 1, 1) for x in places.unbind(dim=1))
    y, x = (part.reshape(-1, 1, 1) for part in middle.unbind(dim=1))
    step = step.reshape(-1, 1, 1)
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
    rows = [(row * width + start, share) for row, share in _neighbours(down, height)]
    columns = _neighbours(across, width)
    total = torch.zeros(1, dtype=down.dtype, device=pixels.device)
    seen = torch.zeros_like(down)
    for row, vertical in rows:
        for column, horizontal in columns:
            values = pixels[row + column].view(torch.uint8).reshape(*down.shape, 4)
            total = total + (vertical * horizontal)[:, None] * values.movedim(-1, 1).contiguous()
            if known is not None:
                seen = seen + vertical * horizontal * known[row + column]
    windows = (total / 255).clamp(max=1)  # since shares are rounded
    return windows, None if known is None else (seen / 255).clamp(max=1)


def _neighbours(at: Tensor, length: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the pixels before and after positions on an axis, with shares that are 0 outside."""
    before = at.floor()
    found = []
    for pixel, share in ((before, 1 - (at - before)), (before + 1, at - before)):
        inside = (pixel >= 0) & (pixel < length)
        found.append((pixel.long().clamp(min=0).minimum(length - 1), share * inside))
    return found
