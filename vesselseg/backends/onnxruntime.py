"""The ONNX Runtime backend: files written by :meth:`vesselseg.Segmenter.export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import CheckpointError, DeviceError, OptionError, ResourceError
from ..files import sha256
from ..spec import ModelSpec
from . import pytorch, require

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
TENSORS = [
    ("image", "tensor(uint8)", ["N", 3, "H", "W"]),
    ("logits", "tensor(float)", ["N", 2, "H", "W"]),
]


class OnnxBackend:
    """An exported file in ONNX Runtime: a :class:`vesselseg.backends.Backend`.

    Pickled, it is only its path, device and digest: the same file must be there again.

    Parameters
    ----------
    path : Path
    device : str or torch.device
    expected_sha256 : str, optional
        If given, a file with another digest is rejected.

    Raises
    ------
    FileNotFoundError, CheckpointError
        If the file does not exist, is damaged, or was not written by vesselseg. ONNX files have
        no checksum, so that only the digest reveals a changed value.
    MissingExtraError, DeviceError
        If ONNX Runtime is not installed or cannot use the device.
    """

    name: ClassVar[str] = "onnxruntime"
    network: None = None

    def __init__(
        self, path: Path, device: str | torch.device, expected_sha256: str | None = None
    ) -> None:
        self.device, self.precision = self.choose(device, "float32")
        self.path = path.absolute()
        self.session = open_session(self.path, self.device)
        metadata = self.session.get_modelmeta().custom_metadata_map
        try:
            values = json.loads(metadata.get("spec", ""))
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

    @property
    def versions(self) -> dict[str, str]:
        """The version of ONNX Runtime."""
        return {"onnxruntime": str(require("onnxruntime", "onnx").__version__)}

    def to(self, device: torch.device, precision: str) -> OnnxBackend:  # noqa: ARG002
        """The same file on another device; `precision` is float32."""
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


def open_session(path: Path, device: torch.device) -> Any:
    """Open an ONNX file on a device, with as many threads as the host gave PyTorch."""
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # prints nothing to stderr; failures are raised anyway
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # By default ONNX Runtime pins its threads to cores and lets idle threads spin.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = [PROVIDERS["cpu"]]
    if device.type == "cuda":
        # As in PyTorch here, float32 convolutions are not rounded to TF32.
        cuda_options = {"device_id": device.index or 0, "use_tf32": 0}
        providers.insert(0, (PROVIDERS["cuda"], cuda_options))
    if not path.exists():
        raise FileNotFoundError(f"There is no model file {str(path)!r}.")
    if not path.is_file():
        raise CheckpointError(f"{str(path)!r} is a folder, not an exported model (.onnx).")
    try:
        session = runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # of many kinds, which all mean the same here
        detail = str(error).partition("\n")[0][:200]
        raise CheckpointError(
            f"{str(path)!r} is damaged or not an ONNX file ({detail}). Export the model again."
        ) from error
    if PROVIDERS[device.type] not in session.get_providers():
        raise DeviceError(
            f"ONNX Runtime could not start on {str(device)!r}: the CUDA and cuDNN libraries that "
            f"it was built for seem to be missing. device='cpu' works without them."
        )
    return session
