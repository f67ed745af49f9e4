"""The ONNX Runtime backend: files written by :meth:`vesselseg.Segmenter.export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, DeviceError, ResourceError
from ..telemetry import import_without_telemetry
from . import Backend, onnx_file, pytorch, resolve_precision
from .onnx_file import OnnxFile

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TENSORS = [
    ("image", "tensor(uint8)", ["N", 3, "H", "W"]),
    ("logits", "tensor(float)", ["N", 2, "H", "W"]),
]


class OnnxBackend(Backend):
    """An exported float32 file in ONNX Runtime.

    The content of the file is kept and pickled. ONNX files have no checksum, so only the digest
    reveals a changed value.
    """

    name = "onnxruntime"
    devices = tuple(_PROVIDERS)
    runs_weights = False
    suffixes = (".onnx",)

    def __init__(
        self, source: OnnxFile, _: object, device: str | torch.device, precision: str | None
    ) -> None:
        self.source, label = source, source.label
        runtime = _load_onnxruntime()
        self.device = _choose_device(device)
        self.versions = {"onnxruntime": str(runtime.__version__)}
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # prints nothing to stderr; failures are raised anyway
        options.intra_op_num_threads = torch.get_num_threads()  # as many as the host gave PyTorch
        options.inter_op_num_threads = 1
        # By default ONNX Runtime pins its threads to cores and lets idle threads spin.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # As in PyTorch here, float32 convolutions are not rounded to TF32.
        cuda = (_PROVIDERS["cuda"], {"device_id": self.device.index or 0, "use_tf32": 0})
        providers = [cuda] if self.device.type == "cuda" else []
        try:
            self.session = runtime.InferenceSession(
                source.content, options, providers=[*providers, _PROVIDERS["cpu"]]
            )
        except Exception as error:  # of many kinds, which all mean the same here
            raise onnx_file.damaged(label, error) from error
        if _PROVIDERS[self.device.type] not in self.session.get_providers():
            raise DeviceError(
                f"ONNX Runtime could not start on {str(self.device)!r}: the CUDA and cuDNN "
                f"libraries that it was built for seem to be missing. The device 'cpu' works "
                f"without them."
            )
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.spec, of_file = onnx_file.read_metadata(metadata, precision, label)
        if of_file == "int8":
            raise DeviceError(
                f"{label!r} is an int8 file, which ONNX Runtime computes no faster than float32. "
                f"Choose the backend 'openvino', or export the model in float32."
            )
        who = "The backend 'onnxruntime'"
        self.precision = resolve_precision(precision, ["float32"], "float32", who)
        ends = (*self.session.get_inputs(), *self.session.get_outputs())
        tensors = [(end.name, end.type, end.shape) for end in ends]
        if tensors != _TENSORS:
            raise CheckpointError(
                f"{label!r} has the inputs and outputs {tensors}, but must have {_TENSORS}. "
                f"Export the model again."
            )

    @classmethod
    def from_file(
        cls, path: Path, device: str | torch.device, precision: str | None
    ) -> OnnxBackend:
        return cls(onnx_file.read(path), None, device, precision)

    def __call__(self, windows: Tensor) -> Tensor:
        pixels = windows.contiguous().cpu().numpy()
        try:
            (logits,) = self.session.run(None, {"image": pixels})
        except Exception as error:  # ONNX Runtime has no exception for lack of memory
            if "alloc" not in str(error):
                raise
            raise ResourceError(
                f"{len(windows)} windows at once do not fit into the memory of "
                f"{str(windows.device)!r}. Choose a smaller batch size."
            ) from error
        return torch.from_numpy(logits).to(windows.device)


def _load_onnxruntime() -> Any:
    """Import ONNX Runtime without its telemetry, which writes to the home folder."""
    imported = "onnxruntime" in sys.modules
    runtime = import_without_telemetry("onnxruntime", "onnx")
    if not imported:
        runtime.disable_telemetry_events()  # for older builds for Windows
    return runtime


def _choose_device(device: str | torch.device) -> torch.device:
    """The device, for "auto" CUDA if PyTorch and ONNX Runtime both have it, else the CPU."""
    available = _load_onnxruntime().get_available_providers()
    if device == "auto":
        has_cuda = torch.cuda.is_available() and _PROVIDERS["cuda"] in available
        return torch.device("cuda" if has_cuda else "cpu")
    chosen = pytorch.choose_device(device)
    if _PROVIDERS.get(chosen.type) not in available:
        kinds = [kind for kind, provider in _PROVIDERS.items() if provider in available]
        raise DeviceError(
            f"The installed ONNX Runtime cannot use device {str(device)!r}, but "
            f"{', '.join(kinds)}. For CUDA, install onnxruntime-gpu in place of onnxruntime; ONNX "
            f"files do not run on MPS."
        )
    return chosen
