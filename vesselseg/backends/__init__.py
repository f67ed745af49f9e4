"""Backends: programs that run the network, each behind the same :class:`Backend` protocol.

To add one, write a class with this protocol in a module of its own, name it in ``BACKENDS`` in
``vesselseg/api.py``, and construct it in ``load_model`` there.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..unet import UNet


class Backend(Protocol):
    """A network on one device in one precision. It can be pickled."""

    name: str  # that load_model(backend=...) takes
    device: torch.device
    precision: str
    versions: dict[str, str]  # of what runs it, besides PyTorch, for the provenance

    @property
    def network(self) -> UNet | None:
        """The folded float32 network on the CPU; None if there is none to save."""

    @staticmethod
    def choose(device: str | torch.device, precision: str) -> tuple[torch.device, str]:
        """Resolve "auto"; raise DeviceError or OptionError for what is not available."""

    def to(self, device: torch.device, precision: str) -> Backend:
        """The same network on another device or in another precision, as `choose` gives them."""

    def __call__(self, windows: Tensor) -> Tensor:
        """Windows (N, 3, h, w), uint8 RGB -> logits (N, 2, h, w), float32; or ResourceError."""
