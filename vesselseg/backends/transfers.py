"""Copies between the CPU and a GPU, through pinned memory so that both sides keep working."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(pixels: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to `device`; on CUDA without waiting for the copy."""
    if device.type != "cuda":
        return pixels.to(device)
    return pixels.pin_memory().to(device, non_blocking=True)


def to_host(values: Tensor) -> HostCopy:
    """Start to copy a float32 tensor to the CPU; on CUDA without waiting for the copy."""
    if values.device.type != "cuda":
        return HostCopy(values.cpu(), None)
    pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    with torch.cuda.device(values.device):
        pinned.copy_(values, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
    return HostCopy(pinned, event)


class HostCopy:
    """A copy to the CPU that may still be under way."""

    def __init__(self, values: Tensor, event: torch.cuda.Event | None) -> None:
        self._values = values
        self._event = event

    def wait(self) -> NDArray[np.float32]:
        """The values, once they have arrived. The array is the caller's to keep."""
        if self._event is not None:
            self._event.synchronize()
            self._values = self._values.clone()  # gives the scarce pinned memory back to PyTorch
            self._event = None
        array: NDArray[np.float32] = self._values.numpy()
        return array
