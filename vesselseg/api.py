"""Load models and segment photographs: the functions that most programs need.

A model name becomes a model spec (registry), a verified file (cache), a network (weights), a
backend and finally a :class:`Segmenter`.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, Union

import torch

from . import cache
from .backends import choose_backend
from .choices import BackendName, Precision, canonical_device, canonical_precision
from .errors import CheckpointError, OptionError, UnknownModelError, did_you_mean
from .files import exists, is_file, sha256
from .images import MAX_PIXELS, ImageLike
from .process import check_fork
from .registry import EMBEDDED, REGISTRY, find_spec
from .result import Segmentation
from .segmenter import Segmenter
from .spec import ModelSpec, Scale
from .unet import UNet
from .weights import build_network, load_network
from .weights import read as read_weights

PathLike: TypeAlias = Union[str, "os.PathLike[str]"]
Model: TypeAlias = Union[str, "os.PathLike[str]", ModelSpec]
_SUFFIXES = (".pth", ".pt", ".ckpt", ".onnx")  # of texts that are paths rather than names


def load_model(
    model: Model | None = None,
    *,
    weights: PathLike | None = None,
    device: str | torch.device = "auto",
    precision: Precision | None = None,
    backend: BackendName | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: bool = True,
) -> Segmenter:
    """Load a model for repeated use.

    Parameters
    ----------
    model : str, path, ModelSpec or None
        A name (:func:`vesselseg.list_models`), whose weights are downloaded if they are not in
        the cache; a model spec of your own; a file saved by :meth:`Segmenter.save`; an ONNX file
        written by :meth:`Segmenter.export`; or None for the model in the package.
    weights : path, optional
        A local weights file to read instead, used the way `model` says.
    device : str or torch.device
        "auto" (CUDA, then MPS, then the CPU), "cpu", "cuda", "cuda:1" or "mps".
    precision : {"float32", "bfloat16", "float16", "int8", "auto"}, optional
        None means float32, or int8 for a file that was exported in int8, which runs in no other
        precision. "auto" is the fastest precision that the device computes natively: bfloat16 or
        float32 on a CPU, float16 on a GPU. Short words such as "bf16", "fp16" and "half" are
        understood.
    backend : {"torch", "onnxruntime", "openvino"}, optional
        The program that runs the network. None means PyTorch, or ONNX Runtime for an ONNX file.
        OpenVINO runs on CPUs, in float32 and bfloat16, and int8 files. ONNX Runtime runs ONNX
        files only, in float32.
    stride : int, optional
        Distance between the starts of the windows in pixels, up to the model's crop: a smaller
        one lets them overlap more. None uses the model's own.
    batch_size : int, optional
        Windows that the network computes at once; None chooses what suits the device.
    max_pixels : int
        Larger photographs, and scales that would enlarge one further, are rejected; by default
        those of more than 200 million pixels. This guards against files that unpack to more than
        the memory holds.
    progress : bool
        Show a bar while weights are downloaded, if standard error is a terminal.

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
        If the weights cannot be downloaded.
    DeviceError
        If the device, or the precision on it, is not available, or this process was forked from
        one that had used vesselseg.
    MissingExtraError
        If a package that the backend needs is not installed.
    OptionError
        If another argument is outside what is described here.

    Examples
    --------
    >>> import vesselseg
    >>> model = vesselseg.load_model(device="cpu")
    >>> model.spec.fov_diameter
    1000
    """
    device, precision = canonical_device(device), canonical_precision(precision)
    spec, file = resolve_model(model, weights)
    kind = choose_backend(backend, file)
    if file is not None and file.suffix.lower() in kind.suffixes:
        if spec is not None:
            raise OptionError(
                f"{str(file)!r} holds both its network and its model spec. Pass it alone, as the "
                f"model."
            )
        check_fork(torch.device("cpu"), kind.name)
        loaded = kind.from_file(file, device, precision)
        spec, digest = loaded.spec, sha256(file)
    else:
        chosen = kind.choose(device, precision)  # before any download
        check_fork(chosen[0], kind.name)
        network, spec, digest = obtain_network(spec, file, progress=progress)
        loaded = kind(network, spec, *chosen)
    if stride is not None:
        spec = dataclasses.replace(spec, stride=stride)
    return Segmenter(loaded, spec, sha256=digest, batch_size=batch_size, max_pixels=max_pixels)


def segment(
    image: ImageLike,
    *,
    model: Model | Segmenter | None = None,
    device: str | torch.device | None = None,
    precision: Precision | None = None,
    backend: BackendName | None = None,
    scale: Scale | None = None,
    threshold: float = 0.5,
    bits: int | None = None,
) -> Segmentation:
    """Segment the vessels of one photograph.

    The four models used last are kept in memory for the next call;
    :func:`vesselseg.clear_models` releases them.

    Parameters
    ----------
    image : path, bytes, binary file object, PIL image, ndarray or Tensor
        Arrays are (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey; tensors are (3, H, W) or (H, W).
        uint8, uint16, or float in [0, 1]. Any size from 1 x 1 up.
    model : str, path, ModelSpec, Segmenter or None
        A name (:func:`vesselseg.list_models`), a model spec, a model file, a loaded model, or
        None for the model in the package.
    device : str or torch.device, optional
        "auto" (CUDA, then MPS, then the CPU), "cpu", "cuda", "cuda:1" or "mps". None is "auto", or
        the device of a loaded model. With a loaded model, `device`, `precision` and `backend`
        must be its own.
    precision : {"float32", "bfloat16", "float16", "int8", "auto"}, optional
        As :func:`load_model` takes it; None is its default, or that of a loaded model.
    backend : {"torch", "onnxruntime", "openvino"}, optional
        The program that runs the network. None means PyTorch, or ONNX Runtime for an ONNX file.
    scale : {"fit", "native", "fov"}, float or None
        How to bring the photograph to the network's scale: fit it into the size of the model's
        data set, as published; leave it alone; bring its field of view to the diameter that the
        model was trained on; or multiply its size by a factor. None uses the model's own rule.
    threshold : float
        Pixels with a higher probability are vessel, in [0, 1].
    bits : int, optional
        Significant bits in 16-bit images, for example 12 if values run from 0 to 4095.

    Returns
    -------
    Segmentation
        ``mask``, (H, W) bool; ``probability``, (H, W) float32 in [0, 1]; ``field_of_view``,
        (H, W) bool; and ``provenance``, a dict.

    Raises
    ------
    FileNotFoundError
        If `image` or a model file does not exist.
    ImageError
        If `image` is not an accepted image or cannot be decoded.
    VesselsegError
        If the model cannot be loaded; see :func:`load_model`.
    OptionError
        If another argument is outside what is described here.

    Examples
    --------
    >>> import vesselseg
    >>> result = vesselseg.segment("eye.jpg")
    >>> result.mask.shape, result.probability.dtype
    ((1411, 1411), dtype('float32'))
    >>> result.save("vessels.png")
    """
    choices: dict[str, Any] = {"device": device, "precision": precision, "backend": backend}
    if isinstance(model, Segmenter):
        loaded = load_or_check(model, **choices)
    else:
        spec, file = resolve_model(model, None)
        file_state = None
        if file is not None and is_file(file):
            stat = file.stat()  # a file that was replaced is loaded again
            file_state = (file.resolve(), stat.st_mtime_ns, stat.st_size)
        key = (spec, file, file_state, *map(str, choices.values()))
        loaded = _MODELS.get(key, lambda: load_or_check(model, **choices))
    return loaded(image, scale=scale, threshold=threshold, bits=bits)


def load_or_check(
    model: Model | Segmenter | None, *, progress: bool = True, **choices: Any
) -> Segmenter:
    """Load a model with choices of :func:`load_model`, of which those that are None do not count.

    A loaded model is returned if they are its own; else OptionError says which is not.
    """
    choices = {name: value for name, value in choices.items() if value is not None}
    if not isinstance(model, Segmenter):
        return load_model(model, progress=progress, **choices)
    own = {**vars(model), "stride": model.spec.stride}
    for name, canonical in (("device", canonical_device), ("precision", canonical_precision)):
        if name in choices:
            choices[name] = canonical(choices[name])
    for name, value in choices.items():
        if not (value == own[name] or value == "auto" or _is_same_device(value, own[name])):
            raise OptionError(
                f"{name} is {value!r}, but the model was loaded with {str(own[name])!r}. Leave "
                f"{name} out, or load the model with it: load_model(..., {name}={value!r})."
            )
    return model


def _is_same_device(chosen: object, own: object) -> bool:
    """Whether a device such as "cuda" means one such as cuda:0."""
    if not isinstance(own, torch.device):
        return False
    return str(chosen) in (str(own), f"{own.type}:{own.index or 0}", own.type)


def download(
    model: str | ModelSpec,
    *,
    progress: bool | Callable[[int, int | None], None] = True,
    force: bool = False,
) -> Path:
    """Download the weights of a model, unless they are in the cache already.

    Parameters
    ----------
    model : str or ModelSpec
        A name (:func:`vesselseg.list_models`) or a model spec of your own.
    progress : bool or callable
        True shows a bar if standard error is a terminal. A function is called with the number
        of bytes received and that of the whole file (None if the server does not say). An
        exception that it raises ends the download, which a later call resumes.
    force : bool
        Download the file even if it is in the cache. It is rejected if it differs from that one.

    Returns
    -------
    Path
        The verified file.

    Raises
    ------
    UnknownModelError
        If there is no model of that name.
    DownloadError
        If the file cannot be downloaded or written. The message lists every source with its
        answer, and how to get the file by hand.

    Notes
    -----
    If several threads or processes ask for a file, one of them downloads it and all get it. A
    file is accepted if its length is complete, its SHA-256 is the one pinned in the model spec
    or recorded at the first download, and it holds all weights of the model. The digits in a
    published file name are evidence only: if they differ, a warning is logged.

    Examples
    --------
    >>> import vesselseg
    >>> file = vesselseg.download("unet_s5-d16_drive")  # doctest: +SKIP
    """
    return cache.obtain(_to_spec(model), _verify, progress=progress, force=force).path


def import_file(file: PathLike, model: str | ModelSpec, *, force: bool = False) -> Path:
    """Copy a weights file that you already have into the cache, after the same checks.

    Parameters
    ----------
    file : path
        The weights file.
    model : str or ModelSpec
        The model that it belongs to.
    force : bool
        Import it also if its SHA-256 does not begin with the digits of the published file names.
        The model is then marked as unverified in results, manifests and reports.

    Returns
    -------
    Path
        The verified file in the cache.

    Raises
    ------
    FileNotFoundError, UnknownModelError
        If there is no such file, or no such model.
    CheckpointError
        If it does not hold the weights of the model, or its SHA-256 differs from the one that the
        model spec pins or, without `force`, from the published digits.
    DownloadError
        If the cache folder cannot be written.

    Examples
    --------
    >>> import vesselseg
    >>> file = vesselseg.import_file("some-file.pth", "unet_s5-d16_drive")  # doctest: +SKIP
    """
    return cache.import_file(file, _to_spec(model), _verify, force=force).path


def find_cached(model: str | ModelSpec) -> Path | None:
    """The verified weights file of a model if it is on this machine, else None.

    Parameters
    ----------
    model : str or ModelSpec
        A name (:func:`vesselseg.list_models`) or a model spec of your own.

    Returns
    -------
    Path or None

    Raises
    ------
    UnknownModelError
        If there is no model of that name.

    Examples
    --------
    >>> import vesselseg
    >>> vesselseg.find_cached("unet_s5-c16_chase-hrf-fives").name
    'unet_s5-c16_chase-hrf-fives.pth'
    """
    cached = cache.find_cached(_to_spec(model), _verify)
    return None if cached is None else cached.path


def clear_models() -> None:
    """Release the models that :func:`segment` keeps in memory."""
    _MODELS.clear()


_verify = load_network  # verifies a file for the cache, which builds no networks itself


def resolve_model(
    model: Model | None, weights: PathLike | None
) -> tuple[ModelSpec | None, Path | None]:
    """The model spec and the file that the arguments of :func:`load_model` name."""
    file = None if weights is None else Path(weights)
    if model is None:
        return (EMBEDDED if file is None else None), file
    if isinstance(model, (str, os.PathLike)) and _is_path(model):
        if file is not None:
            raise OptionError("Both model and weights are files. Pass the model's name.")
        return None, Path(model)
    return _to_spec(model), file


def _to_spec(model: Model) -> ModelSpec:
    """The model spec of a name; a model spec is returned as it is."""
    if isinstance(model, ModelSpec):
        return model
    if isinstance(model, (str, os.PathLike)):
        try:
            return find_spec(str(model))
        except UnknownModelError as error:
            if not exists(model):
                raise
            hint = f"To load what is called so here, pass its path: './{model}'."
            raise UnknownModelError(f"{error} {hint}") from None
    raise OptionError(
        f"model is of type {type(model).__name__}; it must be a name, a path or a ModelSpec."
    )


def _is_path(model: PathLike) -> bool:
    """Whether a model argument means a file rather than a name."""
    if not isinstance(model, str):
        return True
    if model in REGISTRY:
        return False
    if Path(model).suffix.lower() in _SUFFIXES or Path(model).name != model:
        return True
    # A folder or file that is called like a data set does not make a path of a name.
    return is_file(model) and not did_you_mean(model, REGISTRY)


def obtain_network(
    spec: ModelSpec | None, file: Path | None, *, progress: bool = True
) -> tuple[UNet, ModelSpec, str]:
    """The network, its model spec and the SHA-256 of its weights file."""
    if file is None:
        assert spec is not None
        cached = cache.obtain(spec, _verify, progress=progress)
        network = cached.content or _verify(cached.path, spec)
        return network, spec, cached.sha256
    content = read_weights(file)
    digest = sha256(file)
    if spec is None:
        spec = content.spec or _find_by_digest(digest)
    if spec is None:
        raise CheckpointError(
            f"{str(file)!r} does not say which model it is. Name the model, for example "
            f"'unet_s5-d16_drive', and pass the file as its weights."
        )
    return build_network(content, spec), spec, digest


def _find_by_digest(digest: str) -> ModelSpec | None:
    """The published model whose file has this SHA-256, as far as its known digits say."""
    return next((spec for spec in REGISTRY.values() if spec.matches(digest)), None)


class ModelCache:
    """The models that :func:`segment` used last.

    Each is loaded by the first thread that asks for it; other models do not wait for that.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def get(self, key: Hashable, load: Callable[[], Segmenter]) -> Segmenter:
        """Return the cached model, loading it on a miss."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
        with entry.lock:
            if entry.model is None:
                try:
                    entry.model = load()
                except BaseException:
                    with self._lock:
                        self._entries.pop(key, None)  # a failure takes no place from a model
                    raise
            model = entry.model
        with self._lock:
            self._entries[key] = entry
            self._entries.move_to_end(key)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
        return model

    def clear(self) -> None:
        """Forget all models."""
        with self._lock:
            self._entries.clear()


@dataclass(eq=False)
class _Entry:
    """A model in the cache, None until it is loaded."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    model: Segmenter | None = None


_MODELS = ModelCache(size=4)
