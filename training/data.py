"""Training photographs as pyramids of sizes, and augmented windows drawn from them.

Photographs are compared by the diameter of their field of view: a window is drawn at a target
diameter (the network's own times a random zoom), from the level of the pyramid that lies nearest
above it, so that reducing never aliases. Labels are kept as coverage in [0, 1]: a vessel thinner
than a pixel is a fraction, not a coin toss.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

from vesselseg.fov import find_field_of_view
from vesselseg.preprocess import apply_channel_gains, channel_gains

FOV_MEAN = (160.0, 75.0, 30.0)  # R, G, B; of both data sets together, with more blue
WINDOW = 256
_STEP = math.sqrt(0.5)  # between levels of a pyramid


@dataclass(frozen=True)
class Scale:
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
class Changes:
    """What is changed at random to make other eyes and other cameras of these.

    `colour` says how much colour, light, noise and sharpness are, 0 for not at all; `local` adds
    uneven light and local contrast; `turn` is rotation by any angle, and mirroring.
    """

    colour: float
    local: bool
    turn: bool = True


@dataclass(frozen=True)
class Source:
    """One training photograph: files, and the eye's owner (`group`) for splits."""

    name: str
    group: str
    image: Path
    label: Path
    diameter: float  # of the field of view in the file, in pixels


@dataclass(frozen=True)
class Level:
    """One size of a photograph: `pixels` (4, H, W) uint8, RGB and the label's coverage."""

    pixels: torch.Tensor
    diameter: float


def chase_db1(folder: Path) -> list[Source]:
    """CHASE_DB1 as images/Image_01L.jpg and labels/Image_01L_1stHO.png."""
    return [
        Source(f"chase_db1/{path.stem}", f"chase_db1/{path.stem[-3:-1]}", path,
               folder / "labels" / f"{path.stem}_1stHO.png", 918)
        for path in sorted((folder / "images").glob("Image_*.jpg"))
    ]  # fmt: skip


def hrf(folder: Path) -> list[Source]:
    """HRF as images/01_dr.JPG and labels/01_dr.tif; each photograph is another person's."""
    return [
        Source(f"hrf/{path.stem}", f"hrf/{path.stem}", path,
               folder / "labels" / f"{path.stem}.tif", 3263)
        for path in sorted((folder / "images").iterdir())
    ]  # fmt: skip


def photographs(chase: Path | None, hrf_folder: Path | None) -> list[Source]:
    """All photographs of the folders that are given."""
    return [*(chase_db1(chase) if chase else []), *(hrf(hrf_folder) if hrf_folder else [])]


def of_groups(sources: list[Source], groups: list[str]) -> list[Source]:
    """Those whose group, or whose whole data set ("hrf"), is named; ValueError for no such one."""
    known = {name for source in sources for name in (source.group, source.group.split("/")[0])}
    if unknown := sorted(set(groups) - known):
        raise ValueError(f"no such group: {', '.join(unknown)}")
    return [s for s in sources if s.group in groups or s.group.split("/")[0] in groups]


def pyramid(source: Source, scale: Scale, *, balance: bool) -> list[Level]:
    """Sizes of one photograph, the largest first, its colours as :data:`FOV_MEAN` or untouched."""
    image = Image.open(source.image).convert("RGB")
    pixels = np.asarray(image)
    gains = (
        channel_gains(pixels, find_field_of_view(pixels), FOV_MEAN) if balance else (1.0, 1.0, 1.0)
    )
    label = np.asarray(Image.open(source.label).convert("L"))
    label = Image.fromarray(((label > label.max() / 2) * 255).astype(np.uint8))
    levels = []
    smallest, largest = scale.drawn_from(source.diameter)
    diameter = min(source.diameter, 1.0625 * largest)
    while diameter > smallest * _STEP:
        factor = diameter / source.diameter
        size = (round(image.width * factor), round(image.height * factor))
        scaled = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        parts = [apply_channel_gains(scaled, gains),
                 np.asarray(label.resize(size, Image.Resampling.BOX))[..., None]]  # fmt: skip
        pixels = torch.from_numpy(np.concatenate(parts, axis=2)).permute(2, 0, 1).contiguous()
        levels.append(Level(pixels, diameter))
        diameter *= _STEP
    return levels


class Windows:
    """Endless augmented windows of `sources`, drawn with `rng` alone.

    `balance` False leaves the cameras' colours.
    """

    def __init__(
        self,
        sources: list[Source],
        scale: Scale,
        rng: np.random.Generator,
        *,
        balance: bool,
        changes: Changes,
    ) -> None:
        self.pyramids = [pyramid(source, scale, balance=balance) for source in sources]
        self.ranges = [scale.drawn_from(source.diameter) for source in sources]
        self.rng = rng
        self.changes = changes

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (size, 3, W, W) in [0, 1] and coverage (size, W, W) in [0, 1], float32."""
        pairs = [self._window() for _ in range(size)]
        images, labels = zip(*pairs, strict=True)
        return torch.stack(images), torch.stack(labels)

    def _window(self) -> tuple[torch.Tensor, torch.Tensor]:
        rng = self.rng
        chosen = rng.integers(len(self.pyramids))
        levels, (smallest, largest) = self.pyramids[chosen], self.ranges[chosen]
        target = math.exp(rng.uniform(math.log(smallest), math.log(largest)))
        level = next((x for x in reversed(levels) if x.diameter >= target), levels[0])
        pixels = self._cut(level, level.diameter / target)
        image = self._photometric(pixels[:3]) if self.changes.colour else pixels[:3]
        return image, pixels[3]

    def _cut(self, level: Level, step: float) -> torch.Tensor:
        """A turned, mirrored window (4, W, W) in [0, 1]; `step`: source pixels per pixel."""
        rng = self.rng
        height, width = level.pixels.shape[1:]
        reach = 0.45 * level.diameter * math.sqrt(rng.random())  # centre inside the disc
        at = rng.uniform(0, 2 * math.pi)
        x = width / 2 + reach * math.cos(at)
        y = min(max(height / 2 + reach * math.sin(at), 0), height)
        turn = rng.uniform(0, 2 * math.pi) if self.changes.turn else 0.0
        stretch = math.exp(rng.normal(0, 0.08))  # unequal scale of the two axes
        mirror = rng.choice([-1.0, 1.0]) if self.changes.turn else 1.0
        a, b = step * stretch * mirror, step / stretch
        half = WINDOW / 2
        # Output pixel (u, v) in [-half, half] -> source pixel, in [-1, 1] of a cut-out around it.
        radius = math.ceil(half * max(abs(a), abs(b)) * math.sqrt(2)) + 2
        left, top = round(x) - radius, round(y) - radius
        box = level.pixels[:, max(top, 0) : top + 2 * radius, max(left, 0) : left + 2 * radius]
        pad = (max(-left, 0), max(left + 2 * radius - width, 0),
               max(-top, 0), max(top + 2 * radius - height, 0))  # fmt: skip
        box = F.pad(box, pad)[None].float() / 255
        scale = half / radius
        cos, sin = math.cos(turn), math.sin(turn)
        theta = torch.tensor([[[a * cos * scale, -b * sin * scale, 0.0],
                               [a * sin * scale, b * cos * scale, 0.0]]],
                             dtype=torch.float32)  # fmt: skip
        grid = F.affine_grid(theta, [1, 4, WINDOW, WINDOW], align_corners=False)
        return F.grid_sample(box, grid, align_corners=False)[0]

    def _photometric(self, image: torch.Tensor) -> torch.Tensor:
        """Another camera, lamp and file: each change is drawn on its own."""
        rng, much = self.rng, self.changes.colour
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
            axis = torch.linspace(-1, 1, WINDOW)
            ramp = rng.normal(0, 0.25 * much) * axis[:, None]
            image = image * torch.exp(ramp + rng.normal(0, 0.25 * much) * axis[None])
        if self.changes.local:
            image = self._local(image)
        image = image.clamp(0, 1)
        if rng.random() < 0.4:
            image = image + rng.uniform(0, 0.05 * much) * torch.from_numpy(
                rng.standard_normal(image.shape, dtype=np.float32)
            )
            image = image.clamp(0, 1)
        blur, quality = rng.random() < 0.25, rng.random() < 0.25
        if blur or quality:
            picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
            if blur:
                picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.5 + much)))
            if quality:
                file = io.BytesIO()
                picture.save(file, "JPEG", quality=int(rng.integers(40, 95)))
                picture = Image.open(file)
            image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        return image

    def _local(self, image: torch.Tensor) -> torch.Tensor:
        """Uneven light, and vessels that stand out more or less from what surrounds them."""
        rng = self.rng
        if rng.random() < 0.4:
            light = torch.from_numpy(rng.normal(0, 0.25, (1, 1, 4, 4))).float()
            light = F.interpolate(light, (WINDOW, WINDOW), mode="bicubic", align_corners=True)
            image = image * torch.exp(light[0])
        if rng.random() < 0.4:
            around = F.avg_pool2d(image[None], 32, 16, padding=8, count_include_pad=False)
            around = F.interpolate(around, (WINDOW, WINDOW), mode="bilinear")[0]
            image = around + (image - around) * math.exp(rng.normal(0, 0.4))
        return image
