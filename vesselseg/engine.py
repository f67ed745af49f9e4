"""PyTorch as the engine: where the network runs, in which precision, in batches of which size."""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from . import onednn
from .errors import DeviceError, OptionError, ResourceError, did_you_mean
from .record import Checkpoint
from .unet import UNet
from .windows import windows

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PRECISIONS = (*_DTYPES, "auto")
DEVICES = ("auto", "cpu", "cuda", "mps")

# Bytes of one channel of a batch. A CPU's maps should stay in its cache; a GPU wants to be full.
_BATCH_BYTES = {"cpu": 2**17, "cuda": 2**21, "mps": 2**20}
# Of a value; in 8 bits, the fastest, what each batch costs besides weighs more, and twice as many
# windows as would fit are faster.
_VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 0.5}


@dataclass(frozen=True, eq=False)
class TorchRuntime:
    """A network that PyTorch runs: a :class:`vesselseg.engines.Runtime`."""

    weights: UNet
    name: ClassVar[str] = "torch"

    @property
    def multiple(self) -> int:
        """What the sides of windows have to be multiples of."""
        return int(self.weights.multiple)

    @staticmethod
    def choose(device: str | torch.device, precision: str) -> tuple[torch.device, str]:
        """The device and the precision meant, both of them there."""
        chosen = choose_device(device)
        return chosen, choose_precision(precision, chosen)

    def start(self, checkpoint: Checkpoint, device: torch.device, precision: str) -> TorchEngine:
        """The network at work."""
        return TorchEngine(self.weights, checkpoint, device, precision)

    def network(self, _: str) -> UNet:
        """The weights, to be written."""
        return self.weights

    def about(self) -> dict[str, str]:
        """Nothing more than what every result says: PyTorch's version."""
        return {}


class TorchEngine:
    """A network on a device, as the callable that :func:`vesselseg.sliding.slide` takes.

    Parameters
    ----------
    network : UNet
        Folded, float32, on the CPU. It stays as it is; on a CPU its weights are shared.
    checkpoint : Checkpoint
        For `mean` and `std`.
    device : torch.device
    precision : {"float32", "bfloat16", "float16"}
        Of weights and maps. Products are summed in float32 in each; the last 1x1 convolution,
        the logits and their sums are float32 always.
    """

    def __init__(
        self, network: UNet, checkpoint: Checkpoint, device: torch.device, precision: str
    ) -> None:
        self.device, self.dtype = device, _DTYPES[precision]
        if device.type == "cpu" and onednn.available() and precision in native_precisions(device):
            self.network = onednn.pack(network, self.dtype)
            _keep_freed_memory()
        else:
            self.network = _copy(network, device, self.dtype)
        self._split_reported = False
        shape = (1, 3, 1, 1)
        self.mean, self.std = (
            torch.tensor(values, dtype=torch.float32, device=device).reshape(shape)
            for values in (checkpoint.mean, checkpoint.std)
        )

    def __call__(self, windows: Tensor) -> Tensor:
        """Windows (N, 3, h, w) uint8 RGB -> logits (N, 2, h, w) float32.

        Where the device has too little memory for all of them, they are halved.

        Raises
        ------
        ResourceError
            If it has too little for a single one.
        """
        try:
            return self._forward(windows)
        except RuntimeError as error:  # of which torch.OutOfMemoryError is one
            if not _is_out_of_memory(error):
                raise
        # Outside the handler, whose traceback would keep the maps of the failed call alive.
        if len(windows) == 1:
            height, width = windows.shape[2:]
            raise ResourceError(
                f"One window of {height} x {width} pixels does not fit into the memory of "
                f"{self.device} in {self.dtype}. Free memory there, choose device='cpu' or a "
                f"smaller precision, or use a model with smaller windows."
            )
        self._report_split(len(windows))
        return torch.cat([self(half) for half in windows.tensor_split(2)])

    def _forward(self, windows: Tensor) -> Tensor:
        exact = _IEEE if self.device.type == "cuda" else contextlib.nullcontext()
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False), exact:
            x = windows.to(self.device).float().sub_(self.mean).div_(self.std)
            logits: Tensor = self.network(x.to(self.dtype))
        return logits

    def _report_split(self, count: int) -> None:
        if not self._split_reported:
            self._split_reported = True
            logger.warning(
                "%d windows at once do not fit into the memory of %s; they are halved. A smaller "
                "batch_size avoids the failed attempts.", count, self.device,
            )  # fmt: skip


def _copy(network: UNet, device: torch.device, dtype: torch.dtype) -> UNet:
    """The network elsewhere; its classifier stays in float32."""
    network = copy.deepcopy(network)
    classifier = copy.deepcopy(network.head.classifier)
    network.to(device, dtype)
    network.head.classifier = classifier.to(device)
    moved: UNet = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def _keep_freed_memory() -> None:
    """Let maps be taken from memory that was used before.

    The C library of Linux gives large blocks back to the system when they are freed, and each new
    map is then paid for page by page: up to a third of the time of a small network. It stops for
    blocks up to the size of the largest that was freed so far, 32 MiB at most (mallopt(3),
    M_MMAP_THRESHOLD). So one is freed here; none of its pages is ever touched.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8, device="cpu")


def _is_out_of_memory(error: RuntimeError) -> bool:
    # A CPU's allocator has no exception of its own.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


_CUDNN: Any = torch.backends.cudnn  # its attributes are not typed


class _IeeeConvolutions:
    """While any thread is inside, cuDNN's float32 convolutions are not rounded to TF32.

    PyTorch rounds them by default, to 10 binary digits, and has no switch for a single call.
    The host's setting comes back when the last thread leaves.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._host = ""

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._host = _CUDNN.conv.fp32_precision
                _CUDNN.conv.fp32_precision = "ieee"
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                _CUDNN.conv.fp32_precision = self._host


_IEEE = _IeeeConvolutions()


def choose_device(device: str | torch.device) -> torch.device:
    """The device meant: for "auto" CUDA, then MPS, then the CPU.

    Raises
    ------
    DeviceError
        If there is no such device here; never another one in its place.
    """
    if device == "auto":
        best = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device("mps" if best == "cpu" and torch.backends.mps.is_available() else best)
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(
            f"There is no kind of device {device!r}.{did_you_mean(str(device), DEVICES)} "
            f"Allowed are 'auto', 'cpu', 'cuda', 'cuda:0' and so on, and 'mps'."
        ) from error
    here = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if (chosen.index or 0) >= here.get(chosen.type, 0):
        found = ", ".join(f"{kind} ({count})" for kind, count in here.items() if count)
        raise DeviceError(
            f"Device {str(device)!r} is not available here; found: {found}. "
            f"device='auto' takes the best one."
        )
    return chosen


def choose_precision(precision: str, device: torch.device) -> str:
    """The precision meant: for "auto" the fastest that the device computes natively.

    Raises
    ------
    OptionError
        If there is no such precision.
    DeviceError
        If the device cannot compute in it.
    """
    if precision == "int8":
        raise OptionError(
            "precision 'int8' is OpenVINO's: give engine='openvino', too; it is in the extra "
            "vesselseg[openvino]."
        )
    if precision not in PRECISIONS:
        raise OptionError(
            f"precision is {precision!r}; allowed are {', '.join(map(repr, PRECISIONS))}."
        )
    native = native_precisions(device)
    if precision == "auto":
        preferred = ("bfloat16", "float32") if device.type == "cpu" else ("float16", "float32")
        return next(name for name in preferred if name in native)
    # A CPU without instructions for bfloat16 still computes in it, slowly and rightly.
    if precision not in native and not (precision == "bfloat16" and device.type == "cpu"):
        raise DeviceError(
            f"Device {str(device)!r} cannot compute in {precision}; it can in {', '.join(native)}."
        )
    return precision


def native_precisions(device: torch.device) -> list[str]:
    """What the device has instructions for."""
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
    batch_size: int | None, checkpoint: Checkpoint, device: torch.device, precision: str
) -> int:
    """Windows in one batch: the caller's number, or what suits the device.

    Raises
    ------
    OptionError
        If it is not a positive whole number.
    """
    if batch_size is None:
        window = checkpoint.crop**2 * _VALUE_BYTES[precision]
        most = max(1, int(_BATCH_BYTES[device.type] / window))
        if checkpoint.fit_size is None:
            return most
        # The last batch is filled up: of the larger sizes, that with the least to fill.
        count = len(windows(*checkpoint.fit_size, checkpoint.crop, checkpoint.stride))
        return min(range(most, most // 2, -1), key=lambda size: -count % size)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise OptionError(f"batch_size is {batch_size!r}; it has to be a whole number from 1 up.")
    return batch_size
