"""Backends: programs that run the network, each behind the same :class:`Backend` interface.

To add one, write a subclass of :class:`Backend` in a module of its own and name it in
:data:`vesselseg.choices.BACKENDS`. Nothing else needs to know of it.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..choices import BACKENDS, PRECISIONS
from ..errors import DeviceError, OptionError, did_you_mean
from ..sliding import windows
from ..spec import ModelSpec
from ..unet import UNet

EXPORT_INT8 = (
    "A model becomes int8 when it is exported. Export it to an ONNX file in the precision 'int8', "
    "and load that file with the backend 'openvino'."
)

# Bytes of one channel of a batch. A CPU's maps should stay in its cache; a GPU should be full.
_BATCH_BYTES = {"cpu": 2**17, "cuda": 2**21, "mps": 2**20}
# Bytes of a value. int8 is so fast that the fixed cost of a batch matters more: it counts half.
_VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 0.5}


class Backend(ABC):
    """A network on one device in one precision. It can be pickled.

    What a class says before anything is loaded:

    - `name`, as ``load_model(backend=...)`` takes it;
    - `devices`, the kinds that it runs on;
    - `runs_weights`, whether it runs networks that were read from weights files. If so, it
      overrides `choose`;
    - `suffixes`, the endings of files that it reads itself. If there are any, it overrides
      `from_file`.

    It is made of its `source`, which is a network or what it reads from a file; the model spec, or
    None if the source has it; the device; and the precision.
    """

    name: ClassVar[str]
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    runs_weights: ClassVar[bool] = True
    suffixes: ClassVar[tuple[str, ...]] = ()

    source: Any
    spec: ModelSpec
    device: torch.device
    precision: str
    network: UNet | None = None
    """The folded float32 network on the CPU; None if there is none to save."""
    versions: dict[str, str]
    """Versions of what runs the network, besides PyTorch, for the provenance."""

    @abstractmethod
    def __init__(
        self, source: Any, spec: ModelSpec | None, device: str | torch.device, precision: str | None
    ) -> None:
        """Run a source; a folded float32 network is not changed.

        Raises DeviceError or OptionError for what is not available.
        """

    @staticmethod
    def choose(device: str | torch.device, precision: str | None) -> tuple[torch.device, str]:
        """Resolve the device and precision of a network before its weights are obtained.

        The device "auto" is the best one, the precision "auto" the fastest that the device
        computes natively, and the precision None float32. Raises DeviceError or OptionError for
        what is not available.
        """
        raise NotImplementedError

    @classmethod
    def from_file(cls, path: Path, device: str | torch.device, precision: str | None) -> Backend:
        """Run a file that holds a network and its model spec.

        `device` and `precision` are the caller's; the precision None is the file's own. Raises
        FileNotFoundError or CheckpointError for the file, DeviceError or OptionError for what is
        not available.
        """
        raise NotImplementedError

    def to(self, device: str | torch.device, precision: str) -> Backend:
        """Return the same network on another device or in another precision.

        Raises DeviceError or OptionError for what is not available.
        """
        return type(self)(self.source, self.spec, device, precision)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.spec, self.device, self.precision)

    @abstractmethod
    def __call__(self, windows: Tensor) -> Tensor:
        """Windows (N, 3, h, w), uint8 RGB -> logits (N, 2, h, w), float32; or ResourceError."""

    def batch_size(self, spec: ModelSpec) -> int:
        """Return how many windows of `spec` to compute at once if the caller does not say."""
        return choose_batch_size(spec, self.device, self.precision)


def find_backend(name: str) -> type[Backend]:
    """Return the class of a backend; raise OptionError if there is none of that name."""
    if name not in tuple(BACKENDS):
        raise OptionError(
            f"backend is {name!r}; allowed are {', '.join(map(repr, BACKENDS))}, or None."
            f"{did_you_mean(name, BACKENDS)}"
        )
    module, _, attribute = BACKENDS[name].rpartition(".")
    backend: type[Backend] = getattr(importlib.import_module(module, __name__), attribute)
    return backend


def choose_backend(name: str | None, file: Path | None) -> type[Backend]:
    """Return the backend `name`, or by default the first that runs `file`, or weights if None.

    Raises OptionError if there is no such backend, or it does not run the file.
    """
    suffix = "" if file is None else file.suffix.lower()
    backends = [find_backend(each) for each in BACKENDS]
    reading = [backend for backend in backends if suffix in backend.suffixes]
    fitting = reading or [backend for backend in backends if backend.runs_weights]
    if name is None:
        return fitting[0]
    chosen = find_backend(name)
    if chosen in fitting:
        return chosen
    if reading:
        names = " or ".join(repr(backend.name) for backend in reading)
        raise OptionError(
            f"The backend {name!r} cannot run {str(file)!r}, but {names} can. Leave the backend "
            f"out, or load the model that the file was exported from."
        )
    raise OptionError(
        f"The backend {name!r} runs {' and '.join(chosen.suffixes)} files only. Export the model "
        f"to such a file first, and load that."
    )


def resolve_precision(precision: str | None, native: Sequence[str], fastest: str, who: str) -> str:
    """The precision: None is float32, and "auto" the fastest. `native` are those that `who` has.

    Raises OptionError for what is no precision of a network, and DeviceError for others.
    """
    if precision is None:
        return "float32"
    if precision == "auto":
        return fastest
    if precision in native:
        return precision
    if precision == "int8":
        raise OptionError(EXPORT_INT8)
    if precision not in PRECISIONS:
        raise OptionError(
            f"precision is {precision!r}; allowed are {', '.join(map(repr, PRECISIONS))}."
            f"{did_you_mean(precision, PRECISIONS)}"
        )
    raise DeviceError(
        f"{who} cannot compute in {precision}; it can in {', '.join(native)}. Choose one of them, "
        f"or another device or backend."
    )


def choose_batch_size(spec: ModelSpec, device: torch.device, precision: str) -> int:
    """Return the number of windows per batch that suits a device and a precision."""
    window_bytes = spec.crop**2 * _VALUE_BYTES[precision]
    largest = max(1, int(_BATCH_BYTES[device.type] / window_bytes))
    if spec.fit_size is None:
        return largest
    # The last batch is filled up with zeros: choose the size that wastes the fewest windows.
    count = len(windows(*spec.fit_size, spec.crop, spec.stride))
    return min(range(largest, largest // 2, -1), key=lambda size: -count % size)
