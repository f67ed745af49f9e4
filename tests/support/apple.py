"""An Apple GPU, as far as what it lacks: PyTorch's meta device takes its place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class AppleGpu(TorchDispatchMode):
    """A block in which the device "meta" rejects what MPS rejects; what it returns is zeros."""

    def __torch_dispatch__(
        self, function: Any, types: Any, given: tuple[Any, ...] = (), named: Any = None
    ) -> Any:
        named = named or {}
        if "adaptive_avg_pool2d" in str(function) and given[0].device.type == "meta":
            sides = zip(given[0].shape[-2:], given[1], strict=True)
            if any(side % bins for side, bins in sides):
                raise RuntimeError("Adaptive pool MPS: input sizes must be divisible")
        out = self._copied(function, given, named)
        if out is None:
            out = function(*given, **named)
        for tensor in out if isinstance(out, (list, tuple)) else [out]:
            is_there = isinstance(tensor, Tensor) and tensor.device.type == "meta"
            if is_there and tensor.dtype == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return out

    def _copied(self, function: Any, given: Any, named: Any) -> Tensor | None:
        """Zeros for a copy to the CPU, which a tensor without content does not allow."""
        is_copy = function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.to)
        if not is_copy or given[0].device.type != "meta" or str(named.get("device")) != "cpu":
            return None
        return torch.zeros(given[0].shape, dtype=named.get("dtype") or given[0].dtype)
