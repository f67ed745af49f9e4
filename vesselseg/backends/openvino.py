"""The window network run by OpenVINO on a CPU: in 8 bits, too, on request."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .. import backend
from ..errors import DeviceError, OptionError, ResourceError, did_you_mean
from ..spec import ModelSpec
from ..unet import UNet
from . import openvino_graph, require

PRECISIONS = ("float32", "bfloat16", "int8", "auto")
# Beside int8, the layers that are not quantised: in bfloat16 where the CPU has it.
_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}
_SHAPES = 3  # of batches that stay compiled; each has a copy of the weights

_IMPORT = threading.Lock()


@dataclass(frozen=True, eq=False)
class OpenVinoRuntime:
    """A network that OpenVINO runs: a :class:`vesselseg.backends.Runtime`.

    Parameters
    ----------
    weights : UNet
        Folded, float32, on the CPU.
    int8 : bytes or None
        The quantised network (:mod:`vesselseg.backends.openvino_int8`). It is pickled too: other
        machines compute with the same numbers, and need not quantise.
    """

    weights: UNet
    int8: bytes | None = None
    name: ClassVar[str] = "openvino"

    @property
    def multiple(self) -> int:
        """What the sides of windows have to be multiples of."""
        return int(self.weights.multiple)

    @staticmethod
    def choose(device: str | torch.device, precision: str) -> tuple[torch.device, str]:
        """The device and the precision meant, both of them there."""
        return choose_device(device), choose_precision(precision)

    def start(self, spec: ModelSpec, _: torch.device, precision: str) -> OpenVinoBackend:
        """The network at work."""
        openvino = load()
        if precision != "int8":
            model = openvino_graph.build(openvino, self.weights, spec)
        elif self.int8 is not None:
            model = unpack(openvino, self.int8)
        else:
            raise OptionError(
                "This model was not loaded with precision='int8' and has not been quantised. "
                "Load it again: load_model(..., backend='openvino', precision='int8')."
            )
        return OpenVinoBackend(model, precision)

    def network(self, _: str) -> UNet:
        """The weights, to be written; float32 in every precision."""
        return self.weights

    def about(self) -> dict[str, str]:
        """Version of OpenVINO."""
        return {"openvino": load().__version__}


class OpenVinoBackend:
    """A model on the CPU, as the callable that :func:`vesselseg.sliding.slide` takes.

    Compiled for each shape of batch when it first comes, for the threads that PyTorch has then.
    Threads that share it take turns: each batch has all processors.

    Parameters
    ----------
    model : openvino.Model
        Of :func:`vesselseg.backends.openvino_graph.build`, or quantised from it.
    precision : {"float32", "bfloat16", "int8"}
    """

    def __init__(self, model: Any, precision: str) -> None:
        self._model, self._hint = model, _HINTS[precision]
        self._core = load().Core()
        self._requests: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, windows: Tensor) -> Tensor:
        """Windows (N, 3, h, w) uint8 RGB -> logits (N, 2, h, w) float32.

        Raises
        ------
        ResourceError
            If there is too little memory for them.
        """
        pixels = windows.permute(0, 2, 3, 1).contiguous().numpy()  # as slide() has them already
        try:
            with self._lock:
                (scores,) = self._request(pixels.shape).infer([pixels], share_inputs=True).values()
                logits = torch.from_numpy(np.array(scores))
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "alloc" not in str(error):
                raise
            raise ResourceError(
                f"{len(windows)} windows at once do not fit into the memory. Choose a smaller "
                f"batch_size, or use a model with smaller windows."
            ) from error
        logits[:, 1] += logits[:, 0]
        return logits

    def _request(self, shape: tuple[int, ...]) -> Any:
        """What runs batches of this shape."""
        key = (*shape, torch.get_num_threads())
        if key not in self._requests:
            model = self._model.clone()
            model.reshape(list(shape))
            settings = {
                "INFERENCE_PRECISION_HINT": self._hint,  # else OpenVINO chooses by itself
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "NUM_STREAMS": "1",
                "ENABLE_CPU_PINNING": False,  # the host's threads stay where they may run
            }
            compiled = self._core.compile_model(model, "CPU", settings)
            self._requests[key] = compiled.create_infer_request()
            while len(self._requests) > _SHAPES:
                self._requests.popitem(last=False)
        self._requests.move_to_end(key)
        return self._requests[key]


def choose_device(device: str | torch.device) -> torch.device:
    """The CPU, also for "auto".

    Raises
    ------
    DeviceError
        If it is another one.
    """
    if str(device).partition(":")[0] in backend.DEVICES[2:]:
        raise DeviceError(
            f"backend='openvino' runs on the CPU, not on {str(device)!r}. Give device='cpu', or "
            f"backend='torch' for {str(device)!r}."
        )
    return torch.device("cpu") if device == "auto" else backend.choose_device(device)


def choose_precision(precision: str) -> str:
    """The precision meant: for "auto" bfloat16 where the CPU computes it natively, or float32.

    Raises
    ------
    MissingExtraError
        If OpenVINO is not installed.
    OptionError
        If there is no such precision.
    DeviceError
        If OpenVINO cannot compute in it here.
    """
    if precision not in (*PRECISIONS, *backend.PRECISIONS):
        raise OptionError(
            f"precision is {precision!r}; with backend='openvino' allowed are "
            f"{', '.join(map(repr, PRECISIONS))}.{did_you_mean(precision, PRECISIONS)}"
        )
    if precision not in PRECISIONS:
        raise DeviceError(
            f"backend='openvino' does not compute in {precision}, but in "
            f"{', '.join(PRECISIONS[:-1])}. backend='torch' may."
        )
    native = "BF16" in load().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "auto":
        return "bfloat16" if native else "float32"
    if precision == "bfloat16" and not native:
        raise DeviceError(
            "This CPU has no instructions for bfloat16, and OpenVINO would compute in float32 in "
            "its place. Give precision='float32' or 'int8'."
        )
    return precision


def load() -> Any:
    """OpenVINO, without the part of it that reports its use.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    if "openvino" in sys.modules and sys.modules["openvino"] is not None:
        return sys.modules["openvino"]
    with _IMPORT, without_telemetry():
        return require("openvino", "openvino")


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Inside, OpenVINO's packages find no ``openvino_telemetry``, and work without, as intended.

    With it, importing them writes to the user's home folder and sends an event. Its own way to
    opt out is a file there for all programs; here it is only this import.
    """
    missing = object()
    before: Any = sys.modules.get("openvino_telemetry", missing)
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is missing:
            del sys.modules["openvino_telemetry"]
        else:
            sys.modules["openvino_telemetry"] = before


def pack(xml: bytes, weights: bytes) -> bytes:
    """The two parts of a model's file in one; :func:`unpack` reads it."""
    return len(xml).to_bytes(8, "little") + xml + weights


def unpack(openvino: Any, content: bytes) -> Any:
    """The ``openvino.Model`` that was packed."""
    end = 8 + int.from_bytes(content[:8], "little")
    weights = openvino.Tensor(np.frombuffer(content[end:], np.uint8))
    return openvino.Core().read_model(content[8:end], weights)
