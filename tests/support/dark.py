"""A backend as somebody would add one: a network that calls dark pixels vessel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vesselseg import DeviceError, ModelSpec
from vesselseg.backends import Backend
from vesselseg.unet import UNet

from .models import NARROW


class DarkBackend(Backend):
    """Vessel is what is darker than 100; the weights do not matter."""

    name = "dark"
    suffixes = (".dark",)

    def __init__(self, spec: ModelSpec, device: str | torch.device) -> None:
        self.spec, self.device, self.precision = spec, torch.device(device), "float32"
        self.versions = {"dark": "1.0"}

    @staticmethod
    def choose(device: str | torch.device, precision: str | None) -> tuple[torch.device, str]:
        if precision not in (None, "auto", "float32"):
            raise DeviceError(f"The dark does not compute in {precision}.")
        return torch.device("cpu" if device == "auto" else device), "float32"

    @classmethod
    def from_network(
        cls, network: UNet, spec: ModelSpec, device: torch.device, precision: str
    ) -> DarkBackend:
        assert network.head is not None
        assert precision == "float32"
        return cls(spec, device)

    @classmethod
    def from_file(
        cls, path: Path, device: str | torch.device, precision: str | None
    ) -> DarkBackend:
        assert path.read_text() == "dark"
        return cls(NARROW, cls.choose(device, precision)[0])

    def to(self, device: str | torch.device, precision: str) -> DarkBackend:
        return DarkBackend(self.spec, self.choose(device, precision)[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return DarkBackend, (self.spec, self.device)

    def __call__(self, windows: Tensor) -> Tensor:
        vessel = 100 - windows.float().mean(dim=1, keepdim=True)
        return torch.cat([-vessel, vessel], dim=1)

    def batch_size(self, spec: ModelSpec) -> int:
        return 3 if spec.crop == 64 else 1
