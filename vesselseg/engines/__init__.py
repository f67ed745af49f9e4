"""Other programs' formats and runtimes behind the same :class:`vesselseg.Segmenter`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import MissingExtraError

if TYPE_CHECKING:
    import torch

    from ..record import Checkpoint
    from ..sliding import Net
    from ..unet import UNet


class Runtime(Protocol):
    """A network and the program that runs it: what a Segmenter is made from and pickled with."""

    @property
    def name(self) -> str:
        """As provenance and `engine` call the program."""

    @property
    def multiple(self) -> int:
        """What the sides of windows have to be multiples of."""

    def choose(self, device: str | torch.device, precision: str) -> tuple[torch.device, str]:
        """The device and the precision meant; DeviceError or OptionError if there is no such."""

    def start(self, checkpoint: Checkpoint, device: torch.device, precision: str) -> Net:
        """The network at work in this process: the callable that sliding takes."""

    def network(self, done: str) -> UNet:
        """The network whose weights are to be, for example, "saved"; OptionError if none is."""

    def about(self) -> dict[str, str]:
        """What provenance says of it besides its name."""


def require(module: str, extra: str) -> Any:
    """Import a module of an optional extra.

    Raises
    ------
    MissingExtraError
        If it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"This needs {module}, which cannot be imported here ({error}). "
            f'Install it: pip install "vesselseg[{extra}]".'
        ) from error
