"""Losses: logits (N, 2, H, W) against the label's coverage (N, H, W) in [0, 1].

`known` (N, H, W) says how far the label of each pixel is known, in [0, 1]. Pixels where it is 0
change neither a loss nor its gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_THINNING = 6  # rounds, which thin vessels of up to 12 pixels to a line


def cross_entropy(logits: Tensor, coverage: Tensor, known: Tensor) -> Tensor:
    """Mean cross-entropy over all pixels that are known."""
    target = torch.stack([1 - coverage, coverage], dim=1)
    each = F.cross_entropy(logits, target, reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def soft_dice(logits: Tensor, coverage: Tensor, known: Tensor) -> Tensor:
    """One minus the Dice of probabilities and coverage, over the whole batch."""
    vessel, coverage = logits.softmax(dim=1)[:, 1] * known, coverage * known
    return 1 - (2 * (vessel * coverage).sum() + 1) / (vessel.sum() + coverage.sum() + 1)


def centreline_dice(logits: Tensor, coverage: Tensor, known: Tensor) -> Tensor:
    """One minus clDice, which compares centrelines with vessels, over the whole batch.

    Vessels end where the label is not known.
    Equation 3 of Shit et al., clDice, 2021, arXiv:2003.07311, with its soft skeleton.
    """
    vessel = logits.softmax(dim=1)[:, 1:] * known[:, None]
    label = (coverage * known)[:, None]
    ours, theirs = _skeleton(vessel), _skeleton(label)
    precision = ((ours * label).sum() + 1) / (ours.sum() + 1)
    sensitivity = ((theirs * vessel).sum() + 1) / (theirs.sum() + 1)
    return 1 - 2 * precision * sensitivity / (precision + sensitivity)


def _skeleton(x: Tensor) -> Tensor:
    """Soft skeleton: the ridges that an opening removes in each round of thinning."""
    ridges = torch.zeros_like(x)
    for _ in range(_THINNING):
        thinner = _erode(x)
        ridge = F.relu(x - F.max_pool2d(thinner, 3, stride=1, padding=1))
        ridges = ridges + F.relu(ridge - ridges * ridge)
        x = thinner
    return ridges


def _erode(x: Tensor) -> Tensor:
    """Minimum over each pixel and its neighbours above, below, left and right."""
    down = -F.max_pool2d(-x, (3, 1), stride=1, padding=(1, 0))
    across = -F.max_pool2d(-x, (1, 3), stride=1, padding=(0, 1))
    return torch.minimum(down, across)
