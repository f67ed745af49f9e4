"""What speed is measured on: a model, an image, and the weights that all candidates share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import reference
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

import vesselseg
from vesselseg import ModelSpec, Segmenter, weights
from vesselseg.fov import find_field_of_view
from vesselseg.preprocess import preprocess, restore
from vesselseg.registry import EMBEDDED, find_spec
from vesselseg.unet import UNet

EXAMPLE = Path(__file__).parents[1] / "examples" / "fundus.jpg"
DRIVE_SIZE, HRF_SIZE = (584, 565), (2336, 3504)
HRF_PART = (1016, 1016)  # of 2336 x 3504: 36 of 294 windows


class Plan(NamedTuple):
    """One line of :data:`PLANS`."""

    model: str
    size: tuple[int, int]
    note: str = ""

    @property
    def spec(self) -> ModelSpec:
        return find_spec(self.model)

    @property
    def scale(self) -> str:
        """Data sets' own images are not resampled; the embedded model has a rule."""
        return "fov" if self.spec == EMBEDDED else "native"


PLANS = {
    "drive": Plan("unet_s5-d16_drive", DRIVE_SIZE),
    "stare": Plan("unet_s5-d16_stare", (605, 700)),
    "chase_db1": Plan("unet_s5-d16_chase_db1", (960, 999)),
    "hrf": Plan("unet_s5-d16_hrf", HRF_PART, "a part: 36 of an image's 294 windows"),
    "hrf-whole": Plan("unet_s5-d16_hrf", HRF_SIZE),
    "embedded-drive": Plan(EMBEDDED.name, DRIVE_SIZE),
    "embedded-hrf": Plan(EMBEDDED.name, HRF_SIZE),
}
"""What can be chosen, by name."""

DEFAULT = {
    "cpu": [name for name in PLANS if name != "hrf-whole"],
    "cuda": [name for name in PLANS if name != "hrf"],
}
"""What each kind of device is measured on where nothing is chosen."""


@dataclass
class Case:
    """A plan with everything made that no candidate should be timed for.

    Parameters
    ----------
    plan : Plan
    folder : Path
        For files of weights and exported models.
    device : {"cpu", "cuda"}

    Attributes
    ----------
    pixels, scaled : ndarray of uint8 (H, W, 3)
        The image, and at the network's scale and in its colours.
    theirs : torch.nn.Module or None
        mmsegmentation's model; None where that is not installed, for the reason `missing`.
    """

    plan: Plan
    folder: Path
    device: str = "cpu"
    pixels: NDArray[np.uint8] = field(init=False)
    scaled: NDArray[np.uint8] = field(init=False)
    theirs: Any = field(init=False, default=None)
    missing: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self.spec = self.plan.spec
        self.pixels = photograph(self.plan.size)
        fov = find_field_of_view(self.pixels)
        self.scaled = preprocess(self.pixels, fov, self.plan.scale, self.spec)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            try:
                self.theirs = reference.build(self.spec)
            except ImportError as error:
                self.missing = str(error)
            self._weights = None if self.spec == EMBEDDED else self._draw()
        if self.theirs is not None and self.spec == EMBEDDED:
            network = weights.load_network(vesselseg.find_cached(self.spec), self.spec)
            reference.fill(self.theirs, network, self.spec)
        if self.theirs is not None:
            self.theirs.to(self.device)

    def load(self, precision: str, **options: Any) -> Segmenter:
        """vesselseg with the weights of this case, on its device."""
        return vesselseg.load_model(
            self.spec, weights=self._weights, device=self.device, precision=precision, **options
        )

    def mask(self, logit: Tensor) -> NDArray[np.bool_]:
        """Vessel logit minus background logit, (1, h, w) -> mask of the photograph's size."""
        return (restore(logit, *self.plan.size)[0] > 0).cpu().numpy()

    def _draw(self) -> Path:
        """Random weights in a file: mmsegmentation's own if it is there."""
        file, spec = self.folder / "weights.pth", self.spec
        window = reference.normalise(middle(self.scaled), spec)
        if self.theirs is not None:
            balance(self.theirs.decode_head.conv_seg, partial(self.theirs, mode="tensor"), window)
            torch.save({"state_dict": self.theirs.state_dict()}, file)
        else:
            network = UNet(spec.width, spec.depth, spec.head)
            balance(network.head.classifier, network, window)
            weights.save(file, network, spec)
        return file


def middle(pixels: NDArray[np.uint8], most: int = 256) -> NDArray[np.uint8]:
    """The middle of an image, its sides multiples of 16."""
    height, width = (min(most, side // 16 * 16) for side in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def balance(classifier: nn.Conv2d, network: Callable[[Tensor], Tensor], window: Tensor) -> None:
    """Shift a random network's bias so that half of a window is vessel.

    Left as it is drawn, nearly all pixels would be of one class, and masks equal whatever is
    computed.
    """
    assert classifier.bias is not None
    with torch.no_grad():
        logits = network(window)
        classifier.bias[1] -= (logits[:, 1] - logits[:, 0]).median()


def photograph(size: tuple[int, int]) -> NDArray[np.uint8]:
    """The example, filling a frame of that height and width, what sticks out cut off."""
    with Image.open(EXAMPLE) as image:
        return np.array(ImageOps.fit(image.convert("RGB"), size[::-1]))


def noise(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Random pixels."""
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
