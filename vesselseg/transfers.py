"""Between the CPU and a GPU: copies through pinned memory, beside the work on both sides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")


def upload(pixels: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`; on a GPU it arrives before what is asked of it next."""
    if device.type != "cuda":
        return pixels.to(device)
    return pixels.pin_memory().to(device, non_blocking=True)


class Download:
    """A float32 map on its way to the CPU, behind what its device has been asked for so far."""

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if values.device.type != "cuda":
            self._values = values.cpu()
            return
        self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        with torch.cuda.device(values.device):
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def array(self) -> NDArray[np.float32]:
        """The values, when they are there; the caller's to keep."""
        if self._event is not None:
            self._event.synchronize()
            self._values = self._values.clone()  # pinned memory is dear: it goes back to PyTorch
        values: NDArray[np.float32] = self._values.numpy()
        return values


def one_ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, each when the next one has been made: its work has begun by then.

    What is raised in making an item comes behind the items before it.
    """
    waiting: list[T] = []
    try:
        for item in items:
            yield from waiting
            waiting = [item]
    except Exception:
        yield from waiting
        raise
    yield from waiting
