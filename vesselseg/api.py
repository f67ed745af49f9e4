"""From a name or a file to a model: ``load_model``, and ``segment`` for a single line."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias, Union

import torch

from . import cache
from . import weights as weights_files
from .registry import REGISTRY, EMBEDDED, find_spec
from .backends.pytorch import TorchRuntime
from .backends import Runtime, onnx
from .backends.openvino import OpenVinoRuntime
from .errors import CheckpointError, OptionError, did_you_mean
from .files import sha256
from .images import MAX_PIXELS, ImageLike
from .spec import ModelSpec
from .result import Segmentation
from .segmenter import Segmenter
from .unet import UNet

Model: TypeAlias = Union[str, "os.PathLike[str]", ModelSpec]

_RUNTIMES: dict[str, type[TorchRuntime] | type[OpenVinoRuntime]] = {
    "torch": TorchRuntime,
    "openvino": OpenVinoRuntime,
}


def load_model(
    model: Model | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    precision: str = "float32",
    backend: str = "torch",
    calibration: Sequence[ImageLike] | None = None,
    batch_size: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Segmenter:
    """Load a model once, to be used many times.

    Parameters
    ----------
    model : str, path, ModelSpec or None
        A name (:func:`vesselseg.list_models`), whose weights are downloaded if they are not in
        the cache yet; a record of your own; a file saved by :meth:`Segmenter.save`; an ONNX file
        written by :meth:`Segmenter.export`, which runs through ONNX Runtime in float32 on the
        CPU or CUDA; or None for the model that is part of the package.
    weights : path
        A local file to read instead, with the windows and the scale of `model`.
    device : str or torch.device
        "auto" takes CUDA, then MPS, then the CPU; or "cpu", "cuda", "cuda:1", "mps".
    precision : {"float32", "bfloat16", "float16", "int8", "auto"}
        "auto" is the fastest that the device computes natively: bfloat16 or float32 on a CPU,
        float16 on a GPU. "int8" is OpenVINO's, and "float16" is PyTorch's.
    backend : {"torch", "openvino"}
        What computes: PyTorch, or OpenVINO, on CPUs alone, which computes in "int8" too. An
        ONNX file has its own.
    calibration : sequence of what :meth:`Segmenter.__call__` takes
        For "int8" alone: photographs such as the model will see, from which the ranges of its
        maps are taken. None for one that is part of the package. It takes half a minute the
        first time; the result is kept in the cache folder.
    batch_size : int
        Windows computed at once; None for what suits the device.
    max_pixels : int
        Larger images are refused, and scales that would make larger ones: a guard against
        files that unpack to more than the memory holds.

    Returns
    -------
    Segmenter

    Raises
    ------
    UnknownModelError
        If there is no model of that name.
    FileNotFoundError, CheckpointError
        If the weights file does not exist, is damaged, or holds another network.
    DownloadError
        If the weights can be had from nowhere.
    DeviceError
        If the device, or the precision on it, is not available.
    ImageError
        If a calibration image is not an image that is accepted.
    MissingExtraError
        If what runs an ONNX file, OpenVINO or, for "int8", NNCF is needed and not installed.
    OptionError
        If another argument is outside what is described here.
    """
    runtime: Runtime
    kind = _runtime(backend)
    if file := _onnx_file(model, weights, backend):
        chosen, precision = onnx.OnnxFile.choose(device, precision)
        _refuse_calibration(calibration, precision)
        runtime, spec = onnx.read(file)
        digest = runtime.sha256
    else:
        chosen, precision = kind.choose(device, precision)
        _refuse_calibration(calibration, precision)
        network, spec, digest = _load(model, weights)
        if precision == "int8":
            from .backends.openvino_int8 import quantized

            content = quantized(network, spec, calibration, max_pixels)
            runtime = OpenVinoRuntime(network, content)
        else:
            runtime = kind(network)
    return Segmenter(
        runtime,
        spec,
        sha256=digest,
        device=chosen,
        precision=precision,
        batch_size=batch_size,
        max_pixels=max_pixels,
    )


def segment(
    image: ImageLike,
    *,
    model: Model | Segmenter | None = None,
    device: str | torch.device = "auto",
    precision: str = "float32",
    backend: str = "torch",
    scale: str | float | None = None,
    threshold: float = 0.5,
) -> Segmentation:
    """Segment the vessels of one photograph.

    The last four models are kept in memory for the next call; :func:`vesselseg.clear_models`
    lets them go.

    Parameters
    ----------
    image, scale, threshold
        As for :meth:`Segmenter.__call__`.
    model, device, precision, backend
        As for :func:`load_model`. A :class:`Segmenter` is used as it is.

    Returns
    -------
    Segmentation

    Raises
    ------
    VesselsegError, FileNotFoundError
        As :func:`load_model` and :meth:`Segmenter.__call__`.
    """
    if not isinstance(model, Segmenter):
        model = _MODELS.get(model, device, precision, backend)
    return model(image, scale=scale, threshold=threshold)


def _runtime(backend: str) -> type[TorchRuntime] | type[OpenVinoRuntime]:
    if backend not in _RUNTIMES:
        raise OptionError(
            f"backend is {backend!r}; allowed are {', '.join(map(repr, _RUNTIMES))}."
            f"{did_you_mean(backend, _RUNTIMES)} ONNX Runtime runs the files of `vesselseg export`: "
            f"give the file as the model."
        )
    return _RUNTIMES[backend]


def _refuse_calibration(calibration: Sequence[ImageLike] | None, precision: str) -> None:
    if calibration is not None and precision != "int8":
        raise OptionError(
            f"calibration is for precision='int8' with backend='openvino'; this is {precision}. "
            f"Leave it out."
        )


def _onnx_file(
    model: Model | None, weights: str | os.PathLike[str] | None, backend: str
) -> str | os.PathLike[str] | None:
    """The ONNX file that is meant, if one is."""
    files = [x for x in (model, weights) if isinstance(x, (str, os.PathLike)) and onnx.is_onnx(x)]
    if files and None not in (model, weights):
        raise OptionError(
            f"{str(files[0])!r} has its network and its record in one; give it alone: "
            f"load_model({str(files[0])!r})."
        )
    if files and backend != "torch":
        raise OptionError(
            f"{str(files[0])!r} is run by ONNX Runtime, not by {backend!r}. For that load the model "
            f"that it was exported from; for this leave backend out."
        )
    return files[0] if files else None


def _load(model: Model | None, file: str | os.PathLike[str] | None) -> tuple[UNet, ModelSpec, str]:
    """Network, record and digest of what :func:`load_model` was asked for."""
    if model is None and file is not None:
        model, file = os.fspath(file), None  # a file alone has to say what it is
    if model is None:
        model = EMBEDDED
    if isinstance(model, ModelSpec):
        record = model
    elif isinstance(model, (str, os.PathLike)):
        if not _is_path(model):
            record = find_spec(str(model))
        elif file is None:
            return _load_file(Path(model))
        else:
            raise OptionError("Both model and weights are files; give the model's name.")
    else:
        raise OptionError(
            f"model is of type {type(model).__name__}; it has to be a name, a path or a ModelSpec."
        )
    path = Path(file) if file is not None else cache.download(record)
    content = weights_files.read(path)
    return weights_files.to_network(content, record), record, sha256(path)


def _load_file(path: Path) -> tuple[UNet, ModelSpec, str]:
    """A file alone: of our own layout, or one of the published files by its digest."""
    content = weights_files.read(path)
    digest = sha256(path)
    record = content.record
    if record is None:
        known = (
            spec
            for spec in REGISTRY.values()
            for source in spec.sources
            if source.sha256 == digest or (source.digits and digest.startswith(source.digits))
        )
        record = next(known, None)
    if record is None:
        raise CheckpointError(
            f"{str(path)!r} does not say which model it is. Give the model's name and the file: "
            f"load_model('unet_s5-d16_drive', weights={str(path)!r})."
        )
    return weights_files.to_network(content, record), record, digest


def _is_path(model: str | os.PathLike[str]) -> bool:
    if not isinstance(model, str) or model in REGISTRY:
        return not isinstance(model, str)
    return Path(model).suffix in (".pth", ".pt", ".ckpt", ".onnx") or Path(model).exists()


class _Models:
    """The last few models that :func:`segment` used, each loaded once by whichever thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._loaded: OrderedDict[Any, Segmenter] = OrderedDict()

    def get(
        self, model: Model | None, device: str | torch.device, precision: str, backend: str
    ) -> Segmenter:
        state: Any = None
        if isinstance(model, (str, os.PathLike)) and _is_path(model) and Path(model).exists():
            stat = Path(model).stat()  # a file that was replaced is loaded again
            model, state = Path(model).resolve(), (stat.st_mtime_ns, stat.st_size)
        key = (model, state, str(device), precision, backend)
        with self._lock:
            if key not in self._loaded:
                self._loaded[key] = load_model(
                    model, device=device, precision=precision, backend=backend
                )
            self._loaded.move_to_end(key)
            while len(self._loaded) > self._most:
                self._loaded.popitem(last=False)
            return self._loaded[key]

    def clear(self) -> None:
        with self._lock:
            self._loaded.clear()


_MODELS = _Models(most=4)


def clear_models() -> None:
    """Forget the models that :func:`segment` keeps in memory."""
    _MODELS.clear()
