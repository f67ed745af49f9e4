"""Files of ``Segmenter.export``, run through ONNX Runtime."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from .. import backend
from ..errors import CheckpointError, DeviceError, OptionError, ResourceError
from ..files import sha256
from ..spec import ModelSpec
from . import require

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ENDS = [
    ("image", "tensor(uint8)", ["N", 3, "H", "W"]),
    ("logits", "tensor(float)", ["N", 2, "H", "W"]),
]
_SILENT = 4  # ONNX Runtime prints to stderr below this level; what fails is raised anyway


@dataclass(frozen=True)
class OnnxFile:
    """An exported model as it lies on the disk: a :class:`vesselseg.backends.Runtime`.

    Pickled, it is no more than this; where it is unpickled, the same file has to be there.
    """

    path: Path
    sha256: str
    multiple: int
    name: ClassVar[str] = "onnxruntime"

    @staticmethod
    def choose(device: str | torch.device, precision: str) -> tuple[torch.device, str]:
        """The device and the precision meant, both of them there."""
        return choose_device(device), choose_precision(precision)

    def start(self, _: ModelSpec, device: torch.device, __: str) -> OnnxBackend:
        """The file at work."""
        return OnnxBackend(self, device)

    def network(self, done: str) -> NoReturn:
        """Nothing that can be written: the file is the network."""
        raise OptionError(
            f"A model that runs from an ONNX file cannot be {done}: copy the file itself, "
            f"{str(self.path)!r}, or load the model it was exported from."
        )

    def about(self) -> dict[str, str]:
        """Version of ONNX Runtime."""
        return {"onnxruntime": str(require("onnxruntime", "onnx").__version__)}


def is_onnx(path: str | os.PathLike[str]) -> bool:
    """Whether a path has the suffix of ONNX files."""
    return Path(path).suffix.lower() == ".onnx"


def read(path: str | os.PathLike[str]) -> tuple[OnnxFile, ModelSpec]:
    """An exported file, and the record in its metadata.

    Raises
    ------
    MissingExtraError
        If ONNX Runtime is not installed.
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is damaged, or was not written by :meth:`vesselseg.Segmenter.export`.

    Notes
    -----
    ONNX files carry no check sum: a value changed in one cannot be seen without its digest.
    """
    path = Path(path).absolute()
    runtime = require("onnxruntime", "onnx")
    options = _options(runtime)
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = _session(runtime, path, options, [_PROVIDERS["cpu"]])
    content = session.get_modelmeta().custom_metadata_map.get("spec")
    try:
        values = json.loads(content)
    except (TypeError, ValueError):
        values = None
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{str(path)!r} has no record of how its network is used. Models for vesselseg are "
            f"written by `vesselseg export` or Segmenter.export()."
        )
    record = ModelSpec.from_dict(values)
    ends = (*session.get_inputs(), *session.get_outputs())
    found = [(end.name, end.type, end.shape) for end in ends]
    if found != _ENDS:
        raise CheckpointError(
            f"{str(path)!r} has the inputs and outputs {found}; exported models have {_ENDS}. "
            f"Export the model again."
        )
    return OnnxFile(path, sha256(path), 2 ** (record.depth - 1)), record


def choose_device(device: str | torch.device) -> torch.device:
    """The device meant: for "auto" CUDA where PyTorch and ONNX Runtime both have it, or the CPU.

    Raises
    ------
    DeviceError
        If there is no such device here, or ONNX Runtime does not run on it.
    """
    providers = require("onnxruntime", "onnx").get_available_providers()
    if device == "auto":
        both = torch.cuda.is_available() and _PROVIDERS["cuda"] in providers
        return torch.device("cuda" if both else "cpu")
    chosen = backend.choose_device(device)
    if _PROVIDERS.get(chosen.type) not in providers:
        here = ", ".join(kind for kind, provider in _PROVIDERS.items() if provider in providers)
        raise DeviceError(
            f"The ONNX Runtime that is installed does not run on {str(device)!r}; it does on: "
            f"{here}. For CUDA install onnxruntime-gpu in place of onnxruntime; an exported model "
            f"does not run on MPS."
        )
    return chosen


def choose_precision(precision: str) -> str:
    """float32, the only precision of an exported model, also where "auto" is asked for.

    Raises
    ------
    OptionError
        If there is no such precision.
    DeviceError
        If it is another one.
    """
    if precision not in backend.PRECISIONS:
        raise OptionError(
            f"precision is {precision!r}; for an exported model allowed are 'float32' and 'auto'."
        )
    if precision not in ("float32", "auto"):
        raise DeviceError(
            f"An exported model computes in float32, not in {precision}. For {precision} load the "
            f"model itself, by its name or from its weights."
        )
    return "float32"


class OnnxBackend:
    """An exported file on a device, as the callable that :func:`vesselseg.sliding.slide` takes.

    Parameters
    ----------
    file : OnnxFile
        Its digest is checked again: a file that was replaced is another model.
    device : torch.device
        From :func:`choose_device`; windows come from there and logits go back to it.

    Raises
    ------
    MissingExtraError, FileNotFoundError, CheckpointError
        As :func:`read`, and where the file has changed.
    DeviceError
        If ONNX Runtime cannot be started on the device; never another one in its place.
    """

    def __init__(self, file: OnnxFile, device: torch.device) -> None:
        runtime = require("onnxruntime", "onnx")
        providers: list[Any] = [_PROVIDERS["cpu"]]
        if device.type == "cuda":
            # Convolutions in float32 itself, not rounded to TF32, as PyTorch is told to do it.
            place = {"device_id": device.index or 0, "use_tf32": 0}
            providers.insert(0, (_PROVIDERS["cuda"], place))
        self._session = _session(runtime, file.path, _options(runtime), providers)
        if sha256(file.path) != file.sha256:
            raise CheckpointError(
                f"{str(file.path)!r} is not the file any more that this model was loaded from. "
                f"Load it again."
            )
        if _PROVIDERS[device.type] not in self._session.get_providers():
            raise DeviceError(
                f"ONNX Runtime could not start on {str(device)!r}: the CUDA and cuDNN that it was "
                f"built for seem to be missing. device='cpu' works without."
            )

    def __call__(self, windows: Tensor) -> Tensor:
        """Windows (N, 3, h, w) uint8 RGB -> logits (N, 2, h, w) float32.

        Raises
        ------
        ResourceError
            If the device has too little memory for them.
        """
        pixels = windows.contiguous().cpu().numpy()
        try:
            (logits,) = self._session.run(None, {"image": pixels})
        except Exception as error:  # ONNX Runtime has no exception for this
            if "alloc" not in str(error):
                raise
            raise ResourceError(
                f"{len(windows)} windows at once do not fit into the memory of "
                f"{str(windows.device)!r}. Choose a smaller batch_size."
            ) from error
        return torch.from_numpy(logits).to(windows.device)


def _options(runtime: Any) -> Any:
    """Settings of one session; those of the process stay as they are."""
    options = runtime.SessionOptions()
    options.log_severity_level = _SILENT
    # As many threads as the host gave PyTorch. Left alone, ONNX Runtime would take one for each
    # core, pin them there, and let them spin while there is nothing to do.
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _session(runtime: Any, path: Path, options: Any, providers: list[Any]) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"There is no model file {str(path)!r}.")
    if not path.is_file():
        raise CheckpointError(f"{str(path)!r} is a folder; an exported model (.onnx) is needed.")
    try:
        return runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # of many kinds, all of which mean the same here
        detail = str(error).partition("\n")[0][:200]
        raise CheckpointError(
            f"{str(path)!r} is damaged or no ONNX file ({detail}). Export the model again."
        ) from error
