"""Copies between the CPU and a GPU, through pinned memory so that both sides keep working."""

from __future__ import annotations

from dataclasses import dataclass

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
        return HostCopy(values.cpu())
    pinned = values.to("cpu", non_blocking=True)
    return HostCopy(pinned, torch.cuda.current_stream(values.device).record_event())


@dataclass
class HostCopy:
    """A copy to the CPU that may still be under way."""

    values: Tensor
    event: torch.cuda.Event | None = None

    def wait(self) -> NDArray[np.float32]:
        """The values, once they have arrived. The array is the caller's to keep."""
        if self.event is not None:
            self.event.synchronize()
            self.values = self.values.clone()  # gives the scarce pinned memory back to PyTorch
            self.event = None
        array: NDArray[np.float32] = self.values.numpy()
        return array
