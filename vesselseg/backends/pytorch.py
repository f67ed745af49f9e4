"""The PyTorch backend: devices, precisions, and the network at work."""

from __future__ import annotations

import copy
import ctypes
import logging
import sys
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DeviceError, ResourceError, did_you_mean
from ..spec import ModelSpec
from ..unet import UNet
from . import Backend, onednn, resolve_precision

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Maps of ever new shapes leave gaps in the C library's memory, several MB for each shape.
_TRIM_EVERY = 4


class TorchBackend(Backend):
    """The network in PyTorch.

    `network` is folded, float32, on the CPU. It is not changed; on a CPU its weights are shared.
    Weights and maps have the precision; products are always summed in float32, and the last 1x1
    convolution, the logits and their sums are always float32.
    """

    name = "torch"
    devices = ("cpu", "cuda", "mps")
    network: UNet

    def __init__(
        self, source: UNet, spec: ModelSpec, device: str | torch.device, precision: str
    ) -> None:
        self.source = self.network = source
        self.spec = spec
        self.device, self.precision = self.choose(device, precision)
        self.versions = {}
        self.dtype = DTYPES[self.precision]
        native = self.precision in native_precisions(self.device)
        if self.device.type == "cpu" and onednn.available() and native:
            self.placed = onednn.pack(source, self.dtype)
            # The C library of Linux returns large freed blocks to the system, so that each new
            # map is paid for page by page: up to a third of the time of a small network. It keeps
            # blocks up to the size of the largest one freed so far, 32 MiB at most (mallopt(3),
            # M_MMAP_THRESHOLD), so one is allocated and freed here. Its pages are never touched.
            torch.empty(2**25 - 2**13, dtype=torch.uint8, device="cpu")
        else:
            self.placed = copy_network(source, self.device, self.dtype)
        colours = [spec.mean, spec.std]
        self.mean, self.std = torch.tensor(colours, dtype=torch.float32, device=self.device)
        self._warned_of_split = False
        self._shape = torch.Size()  # of the last windows
        self._shape_changes = 0

    @staticmethod
    def choose(device: str | torch.device, precision: str | None) -> tuple[torch.device, str]:
        chosen = choose_device(device)
        return chosen, choose_precision(precision, chosen)

    def __call__(self, windows: Tensor) -> Tensor:
        # If the device lacks the memory for all of them, they are run in halves.
        if self.device.type == "cpu" and windows.shape != self._shape:
            self._shape = windows.shape
            self._shape_changes += 1
            if self._shape_changes % _TRIM_EVERY == 0:
                _release_freed_memory()
        count, _, height, width = windows.shape
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
                # Whole rows at once are faster than pixels of three values each.
                rows = windows.to(self.device).permute(0, 2, 3, 1).float().flatten(2)
                rows.sub_(self.mean.repeat(width)).div_(self.std.repeat(width))
                x = rows.view(count, height, width, 3).permute(0, 3, 1, 2)
                logits: Tensor = self.placed(x.to(self.dtype))
                return logits
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler: its traceback would keep the maps of the failed call alive.
        if count == 1:
            raise ResourceError(
                f"One window of {height} x {width} pixels does not fit into the memory of "
                f"{self.device} in {self.precision}. Free memory there, choose the device 'cpu' or "
                f"a smaller precision, or use a model with smaller windows."
            )
        if not self._warned_of_split:
            self._warned_of_split = True
            logger.warning(
                "%d windows at once do not fit into the memory of %s; they are run in halves. A "
                "smaller batch size avoids the failed attempts.", count, self.device,
            )  # fmt: skip
        return torch.cat([self(half) for half in windows.tensor_split(2)])


def copy_network(network: UNet, device: torch.device, dtype: torch.dtype) -> UNet:
    """A copy on `device` in `dtype`, channels last; its classifier stays in float32."""
    copied: Any = copy.deepcopy(network).to(device, dtype)
    copied.head.classifier = copy.deepcopy(network.head.classifier).to(device)
    placed: UNet = copied.to(memory_format=torch.channels_last)
    cudnn: Any = torch.backends.cudnn  # its functions are not typed
    if device.type == "cuda" and torch.version.hip is None and cudnn.is_available():
        for name, module in list(placed.named_modules()):
            if isinstance(module, nn.Conv2d):
                placed.set_submodule(name, _CudnnConv(module))
    return placed


class _CudnnConv(nn.Module):
    """A convolution by cuDNN with settings of its own, in place of the host's.

    By default PyTorch lets cuDNN round the inputs of float32 convolutions to TF32, which has 10
    binary digits. Its switches are those of the whole process, so they are not touched: cuDNN is
    called with the settings as arguments.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        self.weight, self.bias = conv.weight, conv.bias
        self.padding: Any = conv.padding  # two numbers
        self.dilation = conv.dilation

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.cudnn_convolution(
            x.to(self.weight.dtype),
            self.weight,
            self.padding,
            (1, 1),
            self.dilation,
            1,
            benchmark=False,
            deterministic=True,
            allow_tf32=False,
        )
        return out.add_(self.bias[:, None, None])


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device is full: a CPU's allocator has no exception of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _release_freed_memory() -> None:
    """Return the gaps between allocated blocks to the system, if the C library is Linux's."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def choose_device(device: str | torch.device) -> torch.device:
    """The device, for "auto" CUDA, then MPS, then the CPU; DeviceError if it is not available."""
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if device == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if counts[kind]))
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(
            f"There is no kind of device {device!r}.{did_you_mean(str(device), ['auto', *counts])} "
            f"Allowed are 'auto', 'cpu', 'cuda', 'cuda:0' and so on, and 'mps'."
        ) from error
    if (chosen.index or 0) >= counts.get(chosen.type, 0):
        found = ", ".join(f"{kind} ({count})" for kind, count in counts.items() if count)
        raise DeviceError(
            f"Device {str(device)!r} is not available here; found: {found}. The device 'auto' is "
            f"the best one."
        )
    return chosen


def choose_precision(precision: str | None, device: torch.device) -> str:
    """The precision; see :func:`vesselseg.backends.resolve_precision`."""
    native = native_precisions(device)
    fastest = "float16"
    if device.type == "cpu":
        fastest = "bfloat16" if "bfloat16" in native else "float32"
        if precision == "bfloat16":  # without instructions for it correct, but slow
            return precision
    return resolve_precision(precision, native, fastest, f"Device {str(device)!r}")


def native_precisions(device: torch.device) -> list[str]:
    """The precisions that the device has instructions for."""
    has = {"float32": True, "bfloat16": False, "float16": True}
    if device.type == "cpu":
        has["bfloat16"], has["float16"] = onednn.has_bfloat16(), onednn.has_float16()
    if device.type == "cuda":
        has["bfloat16"] = torch.cuda.is_bf16_supported(including_emulation=False)
    return [precision for precision in has if has[precision]]
