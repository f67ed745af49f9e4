"""What speed is measured on: a model, an image, and the weights that all candidates share."""

from __future__ import annotations

from collections.abc import Callable
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
from vesselseg.preprocess import preprocess
from vesselseg.registry import EMBEDDED, find_spec
from vesselseg.sliding import Placement, Window, restore
from vesselseg.unet import UNet

EXAMPLE = Path(__file__).parents[1] / "examples" / "fundus.jpg"


class Plan(NamedTuple):
    """A model, the size of an image, and a note for the table."""

    model: str
    size: tuple[int, int]
    note: str = ""

    @property
    def spec(self) -> ModelSpec:
        return find_spec(self.model)

    @property
    def scale(self) -> str:
        """The embedded model's own rule; published models get their data set's size."""
        return "fov" if self.spec == EMBEDDED else "native"


PLANS = {
    "drive": Plan("unet_s5-d16_drive", (584, 565)),
    "stare": Plan("unet_s5-d16_stare", (605, 700)),
    "chase_db1": Plan("unet_s5-d16_chase_db1", (960, 999)),
    "hrf": Plan("unet_s5-d16_hrf", (1016, 1016), "a part: 36 of an image's 294 windows"),
    "hrf-whole": Plan("unet_s5-d16_hrf", (2336, 3504)),
    "embedded-drive": Plan(EMBEDDED.name, (584, 565)),
    "embedded-hrf": Plan(EMBEDDED.name, (2336, 3504)),
}
DEFAULT = {
    "cpu": [name for name in PLANS if name != "hrf-whole"],
    "cuda": [name for name in PLANS if name != "hrf"],
}


class Case:
    """A plan with everything prepared that is not timed.

    Attributes
    ----------
    plan : Plan
    folder : Path
        For files of weights and exported models.
    device : {"cpu", "cuda"}
    spec : ModelSpec
    pixels, scaled : ndarray of uint8 (H, W, 3)
        The image, and the image at the network's scale and in its colours.
    computed : (int, int)
        Height and width of the part of it that vesselseg computes.
    bias : float
        What vesselseg adds to the vessel logit of a small field of view.
    theirs : torch.nn.Module or None
        mmsegmentation's model; None if it is not installed, and then `missing` says why.
    weights : Path
        The file of weights that all candidates share.
    """

    def __init__(self, plan: Plan, folder: Path, device: str = "cpu") -> None:
        self.plan, self.folder, self.device = plan, folder, device
        self.spec = plan.spec
        self.pixels = photograph(plan.size)
        fov = find_field_of_view(self.pixels)
        seen = preprocess(self.pixels, fov, plan.scale, self.spec)
        self.scaled = seen.scaled
        self.computed = seen.placement.region.size
        self.bias = seen.placement.vessel_bias
        self.theirs: Any = None
        self.missing = ""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            try:
                self.theirs = reference.build(self.spec)
            except ImportError as error:
                self.missing = str(error)
            if self.spec == EMBEDDED:
                self.weights = embedded_weights(self)
            else:
                self.weights = random_weights(self)
        if self.theirs is not None:
            self.theirs.to(self.device)

    def load(self, precision: str, **options: Any) -> Segmenter:
        """vesselseg with the weights of this case, on its device."""
        return vesselseg.load_model(
            self.spec, weights=self.weights, device=self.device, precision=precision, **options
        )

    def mask(self, logit: Tensor) -> NDArray[np.bool_]:
        """Vessel logit minus background logit, (1, h, w) -> mask of the photograph's size."""
        height, width = whole = logit.shape[-2:]
        placement = Placement(Window(0, height, 0, width), whole, self.plan.size, self.bias)
        return (restore(logit.clone(), placement)[0] > 0).cpu().numpy()


def embedded_weights(case: Case) -> Path:
    """The file in the package, copied into mmsegmentation's model if that is installed."""
    file = vesselseg.find_cached(case.spec)
    assert file is not None
    if case.theirs is not None:
        reference.fill(case.theirs, weights.load_network(file, case.spec), case.spec)
    return file


def random_weights(case: Case) -> Path:
    """Write random weights to a file: mmsegmentation's if it is installed."""
    file, spec = case.folder / "weights.pth", case.spec
    window = reference.normalise(middle(case.scaled), spec)
    if case.theirs is not None:
        balance(case.theirs.decode_head.conv_seg, partial(case.theirs, mode="tensor"), window)
        torch.save({"state_dict": case.theirs.state_dict()}, file)
    else:
        network = UNet(spec.width, spec.depth, spec.head)
        balance(network.head.classifier, network, window)
        weights.save(file, network, spec)
    return file


def middle(pixels: NDArray[np.uint8], most: int = 256) -> NDArray[np.uint8]:
    """The middle of an image, with sides that are multiples of 16."""
    height, width = (min(most, side // 16 * 16) for side in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def balance(classifier: nn.Conv2d, network: Callable[[Tensor], Tensor], window: Tensor) -> None:
    """Shift the bias of a random network so that half of a window is vessel.

    Otherwise nearly all pixels would be of one class, and wrong masks would be equal, too.
    """
    assert classifier.bias is not None
    with torch.no_grad():
        logits = network(window)
        classifier.bias[1] -= (logits[:, 1] - logits[:, 0]).median()


def photograph(size: tuple[int, int]) -> NDArray[np.uint8]:
    """The example photograph, enlarged or reduced to fill that height and width, then cropped."""
    with Image.open(EXAMPLE) as image:
        return np.array(ImageOps.fit(image.convert("RGB"), size[::-1]))


def noise(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Random pixels."""
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
