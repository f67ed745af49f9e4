"""The OpenVINO backend, on CPUs: networks in float32 and bfloat16, exported files also in int8."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, DeviceError, ResourceError, require
from ..spec import ModelSpec
from ..telemetry import import_without_telemetry
from ..unet import UNet
from . import Backend, onednn, onnx_export, onnx_file, pytorch, resolve_precision
from .onnx_file import OnnxFile

_COMPILED = 3  # shapes of batches that stay compiled; each has a copy of the weights


class OpenVinoBackend(Backend):
    """A network or an exported file in OpenVINO, on the CPU.

    It is compiled at the first batch of each shape, with as many threads as PyTorch has then.
    Threads that share it take turns, since each batch uses all processors. The weights of a network
    are shared.
    """

    name = "openvino"
    suffixes = (".onnx",)

    def __init__(
        self,
        source: UNet | OnnxFile,
        spec: ModelSpec | None,
        device: str | torch.device,
        precision: str | None,
    ) -> None:
        self.source = source
        self.device = _choose_device(device)
        self.versions = {"openvino": str(load_openvino().__version__)}
        if isinstance(source, UNet):
            assert spec is not None
            self.network, self.spec = source, spec
            self.precision = _choose_precision(precision)
            model = _read_network(source, spec)
        else:
            model, metadata = _read_file(source)
            self.spec, self.precision = onnx_file.read_metadata(metadata, precision, source.label)
            if self.precision != "int8":
                self.precision = _choose_precision(precision)
        # In int8 the layers that stay float run in bfloat16 where the CPU computes it natively.
        rounded = self.precision != "float32" and "bfloat16" in _native_precisions()
        hint = "bf16" if rounded else "f32"
        self.compiled = lru_cache(maxsize=_COMPILED)(partial(_compile_model, model, hint))
        self._lock = threading.Lock()

    @staticmethod
    def choose(device: str | torch.device, precision: str | None) -> tuple[torch.device, str]:
        return _choose_device(device), _choose_precision(precision)

    @classmethod
    def from_file(
        cls, path: Path, device: str | torch.device, precision: str | None
    ) -> OpenVinoBackend:
        return cls(onnx_file.read(path), None, device, precision)

    def __call__(self, windows: Tensor) -> Tensor:
        # Not a copy: windows from `slide` are in this order in memory.
        pixels = windows.permute(0, 2, 3, 1).contiguous().numpy()
        try:
            with self._lock, _keep_signal_stack():
                request = self.compiled(pixels.shape, torch.get_num_threads())
                (output,) = request.infer([pixels], share_inputs=True).values()
                logits = torch.from_numpy(np.array(output))
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "alloc" not in str(error):
                raise
            raise ResourceError(
                f"{len(windows)} windows at once do not fit into memory. Choose a smaller "
                f"batch size, or use a model with smaller windows."
            ) from error
        logits[:, 1] += logits[:, 0]  # it was the difference, see _change_ends
        return logits


class _SignalStack(ctypes.Structure):
    """The ``stack_t`` of Linux: where a thread runs the handlers of signals."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def _keep_signal_stack() -> Iterator[None]:
    """A block after which this thread handles signals where it did before.

    A model of OpenVINO 2026.4 gives the thread that it first runs in a stack for signals, and
    frees it when it is released. The next signal, such as Ctrl-C, then ends the process with
    SIGSEGV.
    """
    if sys.platform != "linux":
        yield
        return
    library, before = ctypes.CDLL(None), _SignalStack()
    library.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        library.sigaltstack(ctypes.byref(before), None)


def _compile_model(model: Any, hint: str, shape: tuple[int, ...], threads: int) -> Any:
    """An inference request for batches of one shape, (N, h, w, 3)."""
    model = model.clone()
    model.reshape(list(shape))
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": "1",
        "ENABLE_CPU_PINNING": False,  # the host's threads keep their affinity
    }
    return load_openvino().Core().compile_model(model, "CPU", settings).create_infer_request()


def _choose_device(device: str | torch.device) -> torch.device:
    """The CPU, or DeviceError for another device."""
    if str(device).partition(":")[0] in ("cuda", "mps"):
        raise DeviceError(
            f"The backend 'openvino' runs on the CPU, not on {str(device)!r}. Choose the device "
            f"'cpu', or the backend 'torch' for {str(device)!r}."
        )
    return pytorch.choose_device("cpu" if device == "auto" else device)


def _choose_precision(precision: str | None) -> str:
    """The precision of a network. In others OpenVINO would compute in float32 instead."""
    native = _native_precisions()
    return resolve_precision(precision, native, native[0], "The backend 'openvino'")


def _native_precisions() -> tuple[str, ...]:
    """The precisions of networks that the CPU has instructions for, the fastest first."""
    capabilities = load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    # On other processors with AVX-512 it emulates bfloat16.
    is_native = "BF16" in capabilities and onednn.has_bfloat16()
    return ("bfloat16", "float32") if is_native else ("float32",)


def _read_network(network: UNet, spec: ModelSpec) -> Any:
    """Return the network as an ``openvino.Model`` that shares its weights; see `_change_ends`."""
    openvino = load_openvino()
    require("onnx", "openvino")
    graph = onnx_export.build(network, spec, weights_as_inputs=True)
    model = openvino.Core().read_model(graph.SerializeToString())
    weights = network.state_dict()
    for parameter in model.get_parameters():
        value = weights.get(parameter.get_friendly_name())
        if value is not None:
            values = np.ascontiguousarray(value)
            _replace(parameter, openvino.op.Constant(values, shared_memory=True))
            model.remove_parameter(parameter)
    return _change_ends(model)


def _read_file(file: OnnxFile) -> tuple[Any, dict[str, str]]:
    """Return an exported file as an ``openvino.Model``, see `_change_ends`, and its metadata."""
    openvino = load_openvino()
    try:
        model = openvino.Core().read_model(file.content)
    except RuntimeError as error:
        raise onnx_file.damaged(file.label, error) from error
    metadata = {}
    if model.has_rt_info("framework"):
        metadata = model.get_rt_info("framework").value
    try:
        return _change_ends(model), metadata
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{file.label!r} holds another network than an exported model ({error}). Export the "
            f"model again."
        ) from error


def _change_ends(model: Any) -> Any:
    """Make a model take windows and give logits in the way that suits this module; return it.

    It then maps uint8 RGB (N, H, W, 3) to float32 (N, 2, H, W): the background logit, and the
    vessel logit minus the background logit. In bfloat16 OpenVINO rounds the output of the last
    convolution to 8 binary digits. The difference of two such logits would be lost where it
    matters, near zero; computed by the network, it keeps its sign.
    """
    openvino = load_openvino()
    nodes = {node.get_friendly_name(): node for node in model.get_ops()}
    for name in ("head.classifier.weight", "head.classifier.bias"):
        values = nodes[name].data
        differences = np.concatenate([values[:1], np.diff(values, axis=0)])
        _replace(nodes[name], openvino.op.Constant(differences))
    image = openvino.opset13.parameter([-1, -1, -1, 3], openvino.Type.u8, name="image")
    _replace(nodes["image"], openvino.opset13.transpose(image, np.array([0, 3, 1, 2])))
    model.remove_parameter(nodes["image"])
    model.add_parameters([image])
    model.validate_nodes_and_infer_types()
    return model


def _replace(node: Any, new: Any) -> None:
    """Let those who use the output of a node use that of `new`, which gets its name."""
    new.set_friendly_name(node.get_friendly_name())
    for user in node.output(0).get_target_inputs():
        user.replace_source_output(new.output(0))


def load_openvino() -> Any:
    """Import OpenVINO without its telemetry, which writes to the home folder."""
    return import_without_telemetry("openvino", "openvino")
