"""The PyTorch backend: devices, precisions, batch sizes, and the network at work."""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import DeviceError, OptionError, ResourceError, did_you_mean
from ..sliding import windows
from ..spec import ModelSpec, is_integer
from ..unet import UNet
from . import onednn

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PRECISIONS = (*DTYPES, "auto")
DEVICES = ("auto", "cpu", "cuda", "mps")

# Bytes of one channel of a batch. A CPU's maps should stay in its cache; a GPU should be full.
_BATCH_BYTES = {"cpu": 2**17, "cuda": 2**21, "mps": 2**20}
# Bytes of a value. int8 is so fast that the fixed cost of a batch matters more: it counts half.
_VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 0.5}


class TorchBackend:
    """The network in PyTorch: a :class:`vesselseg.backends.Backend`.

    Parameters
    ----------
    network : UNet
        Folded, float32, on the CPU. It is not changed; on a CPU its weights are shared.
    spec : ModelSpec
        For `mean` and `std`.
    device : str or torch.device
    precision : {"float32", "bfloat16", "float16", "auto"}
        Of weights and maps. Products are always summed in float32, and the last 1x1
        convolution, the logits and their sums are always float32.

    Raises
    ------
    DeviceError, OptionError
        As :func:`choose_device` and :func:`choose_precision`.
    """

    name: ClassVar[str] = "torch"

    def __init__(
        self, network: UNet, spec: ModelSpec, device: str | torch.device, precision: str
    ) -> None:
        self.network = network
        self.spec = spec
        self.device, self.precision = self.choose(device, precision)
        self.dtype = DTYPES[self.precision]
        native = self.precision in native_precisions(self.device)
        if self.device.type == "cpu" and onednn.available() and native:
            self.placed = onednn.pack(network, self.dtype)
            keep_freed_memory()
        else:
            self.placed = copy_network(network, self.device, self.dtype)
        self.mean, self.std = (
            torch.tensor(values, dtype=torch.float32, device=self.device).reshape(1, 3, 1, 1)
            for values in (spec.mean, spec.std)
        )
        self._warned_of_split = False

    @staticmethod
    def choose(device: str | torch.device, precision: str) -> tuple[torch.device, str]:
        """Resolve "auto"; raise DeviceError or OptionError for what is not available."""
        chosen = choose_device(device)
        return chosen, choose_precision(precision, chosen)

    @property
    def versions(self) -> dict[str, str]:
        """Nothing besides PyTorch's version, which every result has."""
        return {}

    def to(self, device: torch.device, precision: str) -> TorchBackend:
        """The same network on another device or in another precision."""
        return TorchBackend(self.network, self.spec, device, precision)

    def __reduce__(self) -> tuple[Any, ...]:
        return TorchBackend, (self.network, self.spec, self.device, self.precision)

    def __call__(self, windows: Tensor) -> Tensor:
        """Windows (N, 3, h, w), uint8 RGB -> logits (N, 2, h, w), float32.

        If the device lacks the memory for all of them, they are run in halves.

        Raises
        ------
        ResourceError
            If a single window does not fit into the device's memory.
        """
        exact = _IEEE if self.device.type == "cuda" else contextlib.nullcontext()
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, enabled=False), exact:
                x = windows.to(self.device).float().sub_(self.mean).div_(self.std)
                logits: Tensor = self.placed(x.to(self.dtype))
                return logits
        except RuntimeError as error:
            # A GPU raises torch.OutOfMemoryError; a CPU's allocator has no exception of its own.
            on_cpu = "can't allocate memory" in str(error)
            if not (on_cpu or isinstance(error, torch.OutOfMemoryError)):
                raise
        # Outside the handler: its traceback would keep the maps of the failed call alive.
        if len(windows) == 1:
            height, width = windows.shape[2:]
            raise ResourceError(
                f"One window of {height} x {width} pixels does not fit into the memory of "
                f"{self.device} in {self.precision}. Free memory there, choose device='cpu' or a "
                f"smaller precision, or use a model with smaller windows."
            )
        if not self._warned_of_split:
            self._warned_of_split = True
            logger.warning(
                "%d windows at once do not fit into the memory of %s; they are run in halves. A "
                "smaller batch_size avoids the failed attempts.", len(windows), self.device,
            )  # fmt: skip
        return torch.cat([self(half) for half in windows.tensor_split(2)])


def copy_network(network: UNet, device: torch.device, dtype: torch.dtype) -> UNet:
    """A copy on `device` in `dtype`, channels last; its classifier stays in float32."""
    copied = copy.deepcopy(network)
    classifier = copy.deepcopy(network.head.classifier)
    copied.to(device, dtype)
    copied.head.classifier = classifier.to(device)
    placed: UNet = copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


def keep_freed_memory() -> None:
    """Make the C library of Linux reuse the memory of freed maps.

    By default it returns large blocks to the system when they are freed, so that each new map
    is paid for page by page: up to a third of the time of a small network. It keeps blocks up to
    the size of the largest one freed so far, 32 MiB at most (mallopt(3), M_MMAP_THRESHOLD), so
    one is allocated and freed here. Its pages are never touched.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8, device="cpu")


class IeeeConvolutions:
    """While any thread is inside, cuDNN does not round float32 convolutions to TF32.

    PyTorch rounds them to 10 binary digits by default and has no switch for a single call. The
    host's setting returns when the last thread leaves.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._host_setting = ""

    def __enter__(self) -> None:
        cudnn: Any = torch.backends.cudnn  # its attributes are not typed
        with self._lock:
            if not self._threads:
                self._host_setting = cudnn.conv.fp32_precision
                cudnn.conv.fp32_precision = "ieee"
            self._threads += 1

    def __exit__(self, *_: object) -> None:
        cudnn: Any = torch.backends.cudnn
        with self._lock:
            self._threads -= 1
            if not self._threads:
                cudnn.conv.fp32_precision = self._host_setting


_IEEE = IeeeConvolutions()


def choose_device(device: str | torch.device) -> torch.device:
    """Return the device; for "auto" CUDA, then MPS, then the CPU.

    Raises
    ------
    DeviceError
        If it is not available. Another device is never used in its place.
    """
    has_mps = torch.backends.mps.is_available()
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if has_mps else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(
            f"There is no kind of device {device!r}.{did_you_mean(str(device), DEVICES)} "
            f"Allowed are 'auto', 'cpu', 'cuda', 'cuda:0' and so on, and 'mps'."
        ) from error
    cuda_count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    counts = {"cpu": 1, "cuda": cuda_count, "mps": int(has_mps)}
    if (chosen.index or 0) >= counts.get(chosen.type, 0):
        found = ", ".join(f"{kind} ({count})" for kind, count in counts.items() if count)
        raise DeviceError(
            f"Device {str(device)!r} is not available here; found: {found}. "
            f"device='auto' uses the best one."
        )
    return chosen


def choose_precision(precision: str, device: torch.device) -> str:
    """Return the precision; for "auto" the fastest that the device computes natively.

    Raises
    ------
    OptionError
        If there is no such precision.
    DeviceError
        If the device cannot compute in it.
    """
    if precision == "int8":
        raise OptionError(
            "precision='int8' needs OpenVINO: also give backend='openvino' "
            '(pip install "vesselseg[openvino]").'
        )
    if precision not in PRECISIONS:
        raise OptionError(
            f"precision is {precision!r}; allowed are {', '.join(map(repr, PRECISIONS))}."
        )
    native = native_precisions(device)
    if precision == "auto":
        fastest = "bfloat16" if device.type == "cpu" else "float16"
        return fastest if fastest in native else "float32"
    # A CPU without bfloat16 instructions still computes in bfloat16, correctly but slowly.
    if precision not in native and not (precision == "bfloat16" and device.type == "cpu"):
        raise DeviceError(
            f"Device {str(device)!r} cannot compute in {precision}; it can in {', '.join(native)}."
        )
    return precision


def native_precisions(device: torch.device) -> list[str]:
    """The precisions that the device has instructions for."""
    native = ["float32"]
    if device.type == "cpu":
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():
            native.append("bfloat16")
        if torch.ops.mkldnn._is_mkldnn_fp16_supported():
            native.append("float16")
        return native
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        native.append("bfloat16")
    return [*native, "float16"]


def choose_batch_size(
    batch_size: int | None, spec: ModelSpec, device: torch.device, precision: str
) -> int:
    """Return the number of windows per batch: the caller's, or one that suits the device.

    Raises
    ------
    OptionError
        If it is not a positive integer.
    """
    if batch_size is not None:
        if not is_integer(batch_size, 1, 2**31):
            raise OptionError(f"batch_size is {batch_size!r}; it must be a positive integer.")
        return batch_size
    window_bytes = spec.crop**2 * _VALUE_BYTES[precision]
    largest = max(1, int(_BATCH_BYTES[device.type] / window_bytes))
    if spec.fit_size is None:
        return largest
    # The last batch is filled up with zeros: choose the size that wastes the fewest windows.
    count = len(windows(*spec.fit_size, spec.crop, spec.stride))
    return min(range(largest, largest // 2, -1), key=lambda size: -count % size)
