"""The OpenVINO backend, on CPUs: float32, bfloat16, and int8 (:mod:`.quantize`)."""

from __future__ import annotations

import sys
import threading
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DeviceError, OptionError, ResourceError, did_you_mean, require
from ..spec import ModelSpec
from ..unet import UNet
from . import onnx_export, pytorch

PRECISIONS = ("float32", "bfloat16", "int8", "auto")
COMPILED = 3  # shapes of batches that stay compiled; each has a copy of the weights
IMPORT_LOCK = threading.Lock()


class OpenVinoBackend:
    """The network in OpenVINO, on the CPU: a :class:`vesselseg.backends.Backend`.

    `network` is folded, float32, on the CPU; its weights are shared. It is compiled at the first
    batch of each shape, with as many threads as PyTorch has then. Threads that share it take
    turns, since each batch uses all processors. `quantized` is the network in int8, from
    :func:`vesselseg.backends.quantize.quantize`. It is pickled too, so that other machines get
    the same results and need not quantise.
    """

    name = "openvino"

    def __init__(
        self, network: UNet, spec: ModelSpec, precision: str, quantized: bytes | None = None
    ) -> None:
        self.network, self.spec, self.quantized = network, spec, quantized
        self.device, self.precision = self.choose("cpu", precision)
        self.versions = {"openvino": str(load_openvino().__version__)}
        if self.precision != "int8":
            model = read_network(network, spec)
        elif quantized is not None:
            model = unpack(quantized)
        else:
            raise OptionError(
                "This model was not quantised when it was loaded. Load it with "
                "load_model(..., backend='openvino', precision='int8')."
            )
        # In int8 the layers that stay float run in bfloat16 if the CPU has it.
        hint = "f32" if self.precision == "float32" else "bf16"
        self.compiled = lru_cache(maxsize=COMPILED)(partial(compile_model, model, hint))
        self._lock = threading.Lock()

    @staticmethod
    def choose(device: str | torch.device, precision: str) -> tuple[torch.device, str]:
        """Resolve "auto": the CPU, and bfloat16 if the CPU computes it natively, else float32."""
        if str(device).partition(":")[0] in ("cuda", "mps"):
            raise DeviceError(
                f"backend='openvino' runs on the CPU, not on {str(device)!r}. Choose device='cpu', "
                f"or backend='torch' for {str(device)!r}."
            )
        chosen = pytorch.choose_device("cpu" if device == "auto" else device)
        if precision not in (*PRECISIONS, "float16"):
            raise OptionError(
                f"precision is {precision!r}; with backend='openvino' allowed are "
                f"{', '.join(map(repr, PRECISIONS))}.{did_you_mean(precision, PRECISIONS)}"
            )
        capabilities = load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        native = ("bfloat16", "float32", "int8") if "BF16" in capabilities else ("float32", "int8")
        if precision == "auto":
            return chosen, native[0]
        if precision not in native:  # OpenVINO would compute in float32 instead
            raise DeviceError(
                f"backend='openvino' does not compute in {precision} on this CPU, only in "
                f"{', '.join(native)}. Choose one of them, or backend='torch'."
            )
        return chosen, precision

    def to(self, device: torch.device, precision: str) -> OpenVinoBackend:  # noqa: ARG002
        return OpenVinoBackend(self.network, self.spec, precision, self.quantized)

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenVinoBackend, (self.network, self.spec, self.precision, self.quantized)

    def __call__(self, windows: Tensor) -> Tensor:
        """Windows (N, 3, h, w), uint8 RGB -> logits (N, 2, h, w), float32; or ResourceError."""
        # Not a copy: windows from `slide` are in this order in memory.
        pixels = windows.permute(0, 2, 3, 1).contiguous().numpy()
        try:
            with self._lock:
                request = self.compiled(pixels.shape, torch.get_num_threads())
                (output,) = request.infer([pixels], share_inputs=True).values()
                logits = torch.from_numpy(np.array(output))
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "alloc" not in str(error):
                raise
            raise ResourceError(
                f"{len(windows)} windows at once do not fit into memory. Choose a smaller "
                f"batch_size, or use a model with smaller windows."
            ) from error
        logits[:, 1] += logits[:, 0]  # it was the difference, see read_network
        return logits


def compile_model(model: Any, hint: str, shape: tuple[int, ...], threads: int) -> Any:
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


def read_network(network: UNet, spec: ModelSpec) -> Any:
    """Return the network as an ``openvino.Model`` that shares its weights.

    It maps uint8 RGB (N, H, W, 3) to float32 (N, 2, H, W): the background logit, and the vessel
    logit minus the background logit. In bfloat16 OpenVINO rounds the output of the last
    convolution to 8 binary digits. The difference of two such logits would be lost where it
    matters, near zero; computed by the network, it keeps its sign.
    """
    openvino = load_openvino()
    passes = require("openvino.passes", "openvino")
    require("onnx", "openvino")
    graph = onnx_export.build(network, spec, weights_as_inputs=True)
    model = openvino.Core().read_model(graph.SerializeToString())
    state = network.state_dict()
    for key in ("head.classifier.weight", "head.classifier.bias"):
        state[key] = torch.cat([state[key][:1], state[key].diff(dim=0)])
    image = openvino.opset13.parameter([-1, -1, -1, 3], openvino.Type.u8, name="image")
    values = {"image": openvino.opset13.transpose(image, np.array([0, 3, 1, 2]))}
    for key, value in state.items():
        values[key] = openvino.op.Constant(np.ascontiguousarray(value), shared_memory=True)
    for parameter in model.get_parameters():
        for user in parameter.output(0).get_target_inputs():
            user.replace_source_output(values[parameter.get_friendly_name()].output(0))
        model.remove_parameter(parameter)
    model.add_parameters([image])
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())  # NNCF looks for biases that are constants
    manager.run_passes(model)
    return model


def load_openvino() -> Any:
    """Import OpenVINO without its telemetry, which writes to the home folder and sends events.

    OpenVINO works without the module ``openvino_telemetry``, so that is hidden from it.
    """
    name = "openvino_telemetry"
    with IMPORT_LOCK:
        if sys.modules.get("openvino") is not None:
            return sys.modules["openvino"]
        before = {name: sys.modules[name]} if name in sys.modules else {}
        sys.modules[name] = None  # type: ignore[assignment]
        try:
            return require("openvino", "openvino")
        finally:
            del sys.modules[name]
            sys.modules.update(before)


def unpack(content: bytes) -> Any:
    """The ``openvino.Model`` in 8 bytes for the length of its XML, the XML, and its weights."""
    openvino = load_openvino()
    end = 8 + int.from_bytes(content[:8], "little")
    weights = openvino.Tensor(np.frombuffer(content[end:], np.uint8))
    return openvino.Core().read_model(content[8:end], weights)
