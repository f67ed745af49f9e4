"""Scores of a network in training on the held-out photographs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from logging import LogRecord, getLogger

import numpy as np
import torch
from torch import Tensor

from .. import metrics
from ..backends.pytorch import TorchBackend
from ..metrics import Confusion
from ..segmenter import Segmenter
from ..spec import ModelSpec
from ..unet import UNet
from .windows import LabelledPhotograph

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
    photographs: Iterable[LabelledPhotograph],
    iteration: int,
) -> HeldOutScores:
    """Segment photographs in float32 and compare the masks with their labels.

    `state` holds the weights, on the CPU. Warnings about the photographs are logged by the first
    measurement, before training, only.
    """
    with torch.device("meta"):
        network = UNet(spec.width, spec.depth, spec.head)
    network.load_state_dict(state, assign=True)
    network.requires_grad_(False).eval()
    model = Segmenter(TorchBackend(network, spec, device, "float32"), spec, sha256="")
    totals = [Confusion()] * len(THRESHOLDS)
    with _no_warnings() if iteration else contextlib.nullcontext():
        for photograph in photographs:
            probability = model(photograph.rgb).probability
            for place, threshold in enumerate(THRESHOLDS):
                totals[place] += metrics.confusion(
                    probability > np.float32(threshold), photograph.label, photograph.known
                )
    return HeldOutScores(iteration, tuple(totals))


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Log nothing that segmenting says in this thread."""
    own_thread = threading.get_ident()

    def is_of_others(record: LogRecord) -> bool:
        return record.thread != own_thread

    logger = getLogger(Segmenter.__module__)
    logger.addFilter(is_of_others)
    try:
        yield
    finally:
        logger.removeFilter(is_of_others)
