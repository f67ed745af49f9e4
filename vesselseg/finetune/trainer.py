"""A network in training: one step for each batch, and the moving average of its weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..spec import IMAGENET_MEAN, IMAGENET_STD
from ..unet import UNet
from .losses import centreline_dice, entropy_and_dice
from .windows import Batch

_WEIGHT_DECAY = 1e-2
_LARGEST_GRADIENT = 1.0  # norm of the gradients of all weights together


class Trainer:
    """AdamW over `iterations` steps with a learning rate that peaks at `rate`.

    `average` is the moving average of the weights, with decay `decay`, that is used in the end.
    `precision` is that of the maps: "float32" or "bfloat16". `centreline` is the weight of
    :func:`vesselseg.finetune.losses.centreline_dice`.
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
        device: torch.device | None = None,
        precision: str = "bfloat16",
        centreline: float = 0.0,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.network = network.to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.requires_grad_(True).train()
        self.average = {key: value.clone() for key, value in network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(network.parameters(), weight_decay=_WEIGHT_DECAY)
        self.iteration = 0
        self.iterations, self.rate, self.decay = iterations, rate, decay
        self.mean, self.std = mean, std
        self.precision, self.centreline = precision, centreline

    def step(self, batch: Batch) -> float:
        """Take one step and return the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.iteration, self.iterations, self.rate)
        images, labels, biases = (part.to(self.device) for part in batch)
        x = normalise(images, self.mean, self.std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"
        ):
            logits = self.network(x)
        loss = entropy_and_dice(add_biases(logits, biases), labels)
        if self.centreline:
            loss = loss + self.centreline * centreline_dice(add_biases(logits, biases), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _LARGEST_GRADIENT)
        self.optimizer.step()
        # The first steps count less, so that the average leaves the starting weights behind.
        decay = min(self.decay, (1 + self.iteration) / (10 + self.iteration))
        move_average(self.average, self.network.state_dict(), decay)
        self.iteration += 1
        return loss.item()

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, but for the windows."""
        return {
            "net": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "iteration": self.iteration,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self.network.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        for key, value in self.average.items():
            value.copy_(state["average"][key])
        self.iteration = state["iteration"]


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] -> what a network takes; `mean` and `std` are of 0 to 255."""
    colours = torch.tensor([mean, std], device=images.device)[..., None, None] / 255
    return (images - colours[0]) / colours[1]


def add_biases(logits: Tensor, biases: Tensor) -> Tensor:
    """Logits (N, 2, H, W) in float32, each image's bias (N,) added to its vessel logits."""
    return logits.float() + torch.stack([torch.zeros_like(biases), biases], dim=1)[..., None, None]


def learning_rate(iteration: int, iterations: int, highest: float) -> float:
    """Linear warm-up over 5 % of the run, then half a cosine down to zero."""
    warm = max(iterations // 20, 1)
    if iteration < warm:
        return highest * (iteration + 1) / warm
    part = (iteration - warm) / (iterations - warm)
    return float(highest * 0.5 * (1 + math.cos(math.pi * part)))


@torch.no_grad()
def move_average(average: dict[str, Tensor], state: dict[str, Tensor], decay: float) -> None:
    """Move each average towards the current value; whole numbers are copied."""
    for key, value in state.items():
        if value.is_floating_point():
            average[key].lerp_(value, 1 - decay)
        else:
            average[key].copy_(value)
