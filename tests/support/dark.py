"""A backend as somebody would add one: a network that calls dark pixels vessel."""

from __future__ import annotations

from pathlib import Path

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

    def __init__(
        self, source: UNet | None, spec: ModelSpec, device: str | torch.device, precision: str
    ) -> None:
        self.source, self.spec = source, spec
        self.device, self.precision = self.choose(device, precision)
        self.versions = {"dark": "1.0"}

    @staticmethod
    def choose(device: str | torch.device, precision: str | None) -> tuple[torch.device, str]:
        if precision not in (None, "auto", "float32"):
            raise DeviceError(f"The dark does not compute in {precision}.")
        return torch.device("cpu" if device == "auto" else device), "float32"

    @classmethod
    def from_file(
        cls, path: Path, device: str | torch.device, precision: str | None
    ) -> DarkBackend:
        assert path.read_text() == "dark"
        return cls(None, NARROW, device, precision or "auto")

    def __call__(self, windows: Tensor) -> Tensor:
        vessel = 100 - windows.float().mean(dim=1, keepdim=True)
        return torch.cat([-vessel, vessel], dim=1)

    def batch_size(self, spec: ModelSpec) -> int:
        return 3 if spec.crop == 64 else 1
