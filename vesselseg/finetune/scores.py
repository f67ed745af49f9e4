"""Scores of a network in training on the held-out photographs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import metrics
from ..backends.pytorch import TorchBackend
from ..evaluation.datasets import Sample, read_photograph, read_sample_label
from ..metrics import Confusion
from ..segmenter import Segmenter
from ..spec import ModelSpec
from ..unet import UNet

THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)
_HALF = THRESHOLDS.index(0.5)


@dataclass(frozen=True)
class HeldOutScores:
    """Scores over the pixels of all held-out photographs together, whole frames.

    Pixels whose label is not known are left out.

    Attributes
    ----------
    iteration : int
        Number of training iterations before the measurement.
    counts : tuple of Confusion
        Counts of pixels at each threshold: 0.1, 0.15, ... 0.8.
    """

    iteration: int
    counts: tuple[Confusion, ...]

    @property
    def dice(self) -> float:
        """Dice of the vessels at a threshold of 0.5, in [0, 1]."""
        return metrics.dice(self.counts[_HALF])

    @property
    def sensitivity(self) -> float:
        """Share of the label's vessel pixels that are found at a threshold of 0.5."""
        return metrics.sensitivity(self.counts[_HALF])

    @property
    def precision(self) -> float:
        """Share of correct pixels among those found at a threshold of 0.5; NaN if none is found."""
        return metrics.precision(self.counts[_HALF])

    @property
    def best_threshold(self) -> float:
        """The threshold with the highest Dice, out of 0.1, 0.15, ... 0.8."""
        return max(zip(THRESHOLDS, self.counts, strict=True), key=lambda x: metrics.dice(x[1]))[0]

    @property
    def best_dice(self) -> float:
        """Dice of the vessels at :attr:`best_threshold`, in [0, 1]."""
        return max(metrics.dice(counts) for counts in self.counts)


def score_held_out(
    state: dict[str, Tensor],
    spec: ModelSpec,
    device: torch.device,
    samples: Iterable[Sample],
    iteration: int,
) -> HeldOutScores:
    """Segment photographs in float32 and compare the masks with their labels.

    `state` holds the weights, on the CPU.
    """
    with torch.device("meta"):
        network = UNet(spec.width, spec.depth, spec.head)
    network.load_state_dict(state, assign=True)
    network.requires_grad_(False).eval()
    model = Segmenter(TorchBackend(network, spec, device, "float32"), spec, sha256="")
    totals = [Confusion()] * len(THRESHOLDS)
    for sample in samples:
        photograph = read_photograph(sample)
        label = read_sample_label(sample, sample.label, photograph)
        probability = model(photograph).probability
        for place, threshold in enumerate(THRESHOLDS):
            totals[place] += metrics.confusion(
                probability > np.float32(threshold), label.vessels, label.known
            )
    return HeldOutScores(iteration, tuple(totals))
