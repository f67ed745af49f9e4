"""Train a network step by step, and keep the moving average of its weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..backends.pytorch import native_precisions
from ..spec import IMAGENET_MEAN, IMAGENET_STD
from ..unet import UNet
from .losses import centreline_dice, cross_entropy, soft_dice
from .windows import Batch

_WEIGHT_DECAY = 1e-2
_LARGEST_GRADIENT = 1.0  # norm of the gradients of all weights together


class Trainer:
    """Train with AdamW for `iterations` steps, with a learning rate that peaks at `rate`.

    The loss is cross-entropy plus `dice` times :func:`vesselseg.finetune.losses.soft_dice` and
    `centreline` times :func:`vesselseg.finetune.losses.centreline_dice`. `average` is the moving
    average of the weights, with decay `decay`; it is the result of the training. Activations are in
    bfloat16 if the device has instructions for it, otherwise in float32, which is then faster.
    """

    def __init__(
        self,
        network: UNet,
        *,
        iterations: int,
        rate: float,
        decay: float,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        device: torch.device | str = "cpu",
        dice: float = 1.0,
        centreline: float = 0.0,
    ) -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.requires_grad_(True).train()
        self.average = {key: value.clone() for key, value in network.state_dict().items()}
        # Tensors, so that a step captured as a CUDA graph reads their current values.
        self.current_rate = torch.zeros((), dtype=torch.float32, device=self.device)
        self.renewal = torch.zeros_like(self.current_rate)  # of the moving average
        self.optimizer = torch.optim.AdamW(
            network.parameters(), self.current_rate, weight_decay=_WEIGHT_DECAY,
            fused=True, capturable=self.device.type == "cuda",
        )  # fmt: skip
        self.iteration = 0
        self.iterations, self.rate, self.decay = iterations, rate, decay
        colours = torch.tensor([mean, std], dtype=torch.float32, device=self.device)
        self.mean, self.std = colours[..., None, None] / 255
        self.dice, self.centreline = dice, centreline
        self.has_bfloat16 = "bfloat16" in native_precisions(self.device)

    def step(self, batch: Batch) -> Tensor:
        """Take one step and return the loss, still on the device."""
        self.prepare()
        loss = self.descend(Batch(*(part.to(self.device) for part in batch)))
        self.iteration += 1
        return loss

    def prepare(self) -> None:
        """Set the learning rate and the decay of the next step."""
        self.current_rate.fill_(_learning_rate(self.iteration, self.iterations, self.rate))
        # The decay is lower in the first steps, so that the starting weights are soon forgotten.
        self.renewal.fill_(1 - min(self.decay, (1 + self.iteration) / (10 + self.iteration)))

    def descend(self, batch: Batch) -> Tensor:
        """Move the weights and their average, and return the loss."""
        x = (batch.images - self.mean) / self.std
        x = x.contiguous(memory_format=torch.channels_last)
        # Without the cache of rounded weights, which would outlive the step inside the host's own.
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.has_bfloat16, cache_enabled=False
        ):
            logits = self.network(x)
        biases = torch.stack([torch.zeros_like(batch.biases), batch.biases], dim=1)
        logits = logits.float() + biases[..., None, None]  # of the vessel logits
        labels, known = batch.labels, batch.known
        loss = cross_entropy(logits, labels, known)
        if self.dice:
            loss = loss + self.dice * soft_dice(logits, labels, known)
        if self.centreline:
            loss = loss + self.centreline * centreline_dice(logits, labels, known)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _LARGEST_GRADIENT)
        self.optimizer.step()
        _move_average(self.average, self.network.state_dict(), self.renewal)
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, except the windows."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "iteration": self.iteration,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what :meth:`state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.param_groups[0]["lr"] = self.current_rate
        for key, value in self.average.items():
            value.copy_(state["average"][key])
        self.iteration = state["iteration"]


def _learning_rate(iteration: int, iterations: int, highest: float) -> float:
    """Linear warm-up over 5 % of the iterations, then half a cosine down to zero."""
    warm = max(iterations // 20, 1)
    if iteration < warm:
        return highest * (iteration + 1) / warm
    part = (iteration - warm) / (iterations - warm)
    return float(highest * 0.5 * (1 + math.cos(math.pi * part)))


@torch.no_grad()
def _move_average(average: dict[str, Tensor], state: dict[str, Tensor], renewal: Tensor) -> None:
    """Move each average towards the current value by the share `renewal`; copy integers."""
    for key, value in state.items():
        if value.is_floating_point():
            average[key].lerp_(value, renewal)
        else:
            average[key].copy_(value)
