"""The ONNX Runtime backend: files written by :meth:`vesselseg.Segmenter.export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, DeviceError, OptionError, ResourceError, require
from ..files import sha256
from ..spec import ModelSpec
from . import pytorch

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
TENSORS = [
    ("image", "tensor(uint8)", ["N", 3, "H", "W"]),
    ("logits", "tensor(float)", ["N", 2, "H", "W"]),
]


class OnnxBackend:
    """An exported file in ONNX Runtime: a :class:`vesselseg.backends.Backend`.

    Pickled, it is only its path, device and digest: a file with another digest is rejected. ONNX
    files have no checksum, so only the digest reveals a changed value.
    """

    name = "onnxruntime"
    network: None = None

    def __init__(
        self, path: Path, device: str | torch.device, expected_sha256: str | None = None
    ) -> None:
        self.device, self.precision = self.choose(device, "float32")
        path = self.path = path.absolute()
        if not path.exists():
            raise FileNotFoundError(f"There is no model file {str(path)!r}.")
        if not path.is_file():
            raise CheckpointError(f"{str(path)!r} is a folder, not an exported model (.onnx).")
        runtime = require("onnxruntime", "onnx")
        self.versions = {"onnxruntime": str(runtime.__version__)}
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # prints nothing to stderr; failures are raised anyway
        options.intra_op_num_threads = torch.get_num_threads()  # as many as the host gave PyTorch
        options.inter_op_num_threads = 1
        # By default ONNX Runtime pins its threads to cores and lets idle threads spin.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # As in PyTorch here, float32 convolutions are not rounded to TF32.
        cuda = (PROVIDERS["cuda"], {"device_id": self.device.index or 0, "use_tf32": 0})
        providers = [cuda] if self.device.type == "cuda" else []
        try:
            self.session = runtime.InferenceSession(
                str(path), options, providers=[*providers, PROVIDERS["cpu"]]
            )
        except Exception as error:  # of many kinds, which all mean the same here
            detail = str(error).partition("\n")[0][:200]
            raise CheckpointError(
                f"{str(path)!r} is damaged or not an ONNX file ({detail}). Export the model again."
            ) from error
        if PROVIDERS[self.device.type] not in self.session.get_providers():
            raise DeviceError(
                f"ONNX Runtime could not start on {str(self.device)!r}: the CUDA and cuDNN "
                f"libraries that it was built for seem to be missing. device='cpu' works without "
                f"them."
            )
        try:
            values = json.loads(self.session.get_modelmeta().custom_metadata_map.get("spec", ""))
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise CheckpointError(
                f"{str(path)!r} contains no model spec. Use a file written by `vesselseg export` "
                f"or Segmenter.export()."
            )
        self.spec = ModelSpec.from_dict(values)
        ends = (*self.session.get_inputs(), *self.session.get_outputs())
        tensors = [(end.name, end.type, end.shape) for end in ends]
        if tensors != TENSORS:
            raise CheckpointError(
                f"{str(path)!r} has the inputs and outputs {tensors}, but must have {TENSORS}. "
                f"Export the model again."
            )
        self.sha256 = sha256(self.path)
        if expected_sha256 not in (None, self.sha256):
            raise CheckpointError(
                f"{str(path)!r} has been replaced since this model was loaded from it. Load the "
                f"model again."
            )

    @staticmethod
    def choose(device: str | torch.device, precision: str) -> tuple[torch.device, str]:
        """Resolve "auto": CUDA if PyTorch and ONNX Runtime both have it, else the CPU; float32."""
        providers = require("onnxruntime", "onnx").get_available_providers()
        if precision in ("bfloat16", "float16", "int8"):
            raise DeviceError(
                f"ONNX files run in float32, not in {precision}. For {precision} load the model by "
                f"its name or from its weights."
            )
        if precision not in ("float32", "auto"):
            raise OptionError(
                f"precision is {precision!r}; for ONNX files 'float32' and 'auto' are allowed."
            )
        if device == "auto":
            has_cuda = torch.cuda.is_available() and PROVIDERS["cuda"] in providers
            return torch.device("cuda" if has_cuda else "cpu"), "float32"
        chosen = pytorch.choose_device(device)
        if PROVIDERS.get(chosen.type) not in providers:
            available = [kind for kind, provider in PROVIDERS.items() if provider in providers]
            raise DeviceError(
                f"The installed ONNX Runtime cannot use device {str(device)!r}, but "
                f"{', '.join(available)}. For CUDA, install onnxruntime-gpu in place of "
                f"onnxruntime; ONNX files do not run on MPS."
            )
        return chosen, "float32"

    def to(self, device: torch.device, precision: str) -> OnnxBackend:  # noqa: ARG002
        return OnnxBackend(self.path, device, self.sha256)

    def __reduce__(self) -> tuple[Any, ...]:
        return OnnxBackend, (self.path, self.device, self.sha256)

    def __call__(self, windows: Tensor) -> Tensor:
        """Windows (N, 3, h, w), uint8 RGB -> logits (N, 2, h, w), float32; or ResourceError."""
        pixels = windows.contiguous().cpu().numpy()
        try:
            (logits,) = self.session.run(None, {"image": pixels})
        except Exception as error:  # ONNX Runtime has no exception for lack of memory
            if "alloc" not in str(error):
                raise
            raise ResourceError(
                f"{len(windows)} windows at once do not fit into the memory of "
                f"{str(windows.device)!r}. Choose a smaller batch_size."
            ) from error
        return torch.from_numpy(logits).to(windows.device)
