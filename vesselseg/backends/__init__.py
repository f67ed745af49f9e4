"""Backends: programs that run the network, each behind the same :class:`Backend` protocol.

To add one, write a class with this protocol in a module of its own, name it in ``BACKENDS`` in
``vesselseg/api.py``, and construct it in ``load_model`` there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import MissingExtraError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..unet import UNet


class Backend(Protocol):
    """A network on one device in one precision. It can be pickled."""

    @property
    def name(self) -> str:
        """The name that ``load_model(backend=...)`` takes."""

    @property
    def device(self) -> torch.device:
        """Where the network runs."""

    @property
    def precision(self) -> str:
        """The precision that it runs in."""

    @property
    def network(self) -> UNet | None:
        """The folded float32 network on the CPU; None if there is none to save."""

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the software that runs it, besides PyTorch, for the provenance."""

    @staticmethod
    def choose(device: str | torch.device, precision: str) -> tuple[torch.device, str]:
        """Resolve "auto"; raise DeviceError or OptionError for what is not available."""

    def to(self, device: torch.device, precision: str) -> Backend:
        """The same network on another device or in another precision, as `choose` gives them."""

    def __call__(self, windows: Tensor) -> Tensor:
        """Windows (N, 3, h, w), uint8 RGB -> logits (N, 2, h, w), float32."""


def require(module: str, extra: str) -> Any:
    """Import a module of an optional extra.

    Raises
    ------
    MissingExtraError
        If it is not installed or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"This needs {module}, which cannot be imported here ({error}). "
            f'Install it: pip install "vesselseg[{extra}]".'
        ) from error
