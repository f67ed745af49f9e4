"""A loaded model: photographs in, segmentations out."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import weights
from ._version import __version__
from .backends import Backend
from .choices import Precision, canonical_device, canonical_precision
from .errors import OptionError
from .familiarity import FAMILIARITY_LIMIT, familiarity, find_faults, undecided_fraction
from .fov import FieldOfView, find_field_of_view
from .images import (
    MAX_PIXELS,
    Decoded,
    ImageLike,
    check_bits,
    decode,
    is_single,
)
from .preprocess import NetworkInput, check_scale, preprocess
from .process import check_fork, progress_bar
from .result import Segmentation, check_threshold
from .sliding import Stitcher, WindowQueue, restore, slide
from .spec import ModelSpec, Scale, check_integer
from .unet import UNet

logger = logging.getLogger(__name__)


class _Options(NamedTuple):
    """How photographs are segmented, checked: what `Segmenter.__call__` takes."""

    scale: Scale
    threshold: float
    bits: int | None


class _Photograph(NamedTuple):
    """A photograph, and what the network sees of it."""

    decoded: Decoded
    fov: FieldOfView
    seen: NetworkInput
    pixels: Tensor  # of `seen`, uint8 (3, h, w) on the device

    def warnings(self) -> list[str]:
        """What may have been misread, or is unlike what the network was trained on."""
        faults = find_faults(self.decoded.rgb, self.fov)
        said = [*self.decoded.warnings, self.fov.warning, *faults, self.seen.warning]
        return [warning for warning in said if warning]


class Segmenter:
    """A loaded model, made by :func:`vesselseg.load_model`.

    It can be shared between threads and pickled. Results are reproducible: the same version on
    the same machine with the same settings gives the same bits, however images are grouped.

    Attributes
    ----------
    spec : ModelSpec
        What is known of the weights.
    sha256 : str
        Digest of the weights file.
    backend : str
        "torch", "onnxruntime" or "openvino".
    device : torch.device
    precision : str
        "float32", "bfloat16", "float16" or "int8".
    batch_size : int
        Windows that the network computes at once.
    max_pixels : int
        Larger photographs are rejected.
    prefetch : int
        Photographs that are given to the network ahead of the one that is returned.
    """

    def __init__(
        self,
        backend: Backend,
        spec: ModelSpec,
        *,
        sha256: str,
        batch_size: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._backend = backend
        self._batch_size_option = batch_size
        self.spec = spec
        self.sha256 = sha256
        self.backend = backend.name
        self.device = backend.device
        self.precision = backend.precision
        if batch_size is None:
            batch_size = backend.batch_size(spec)
        self.batch_size = check_integer("batch_size", batch_size)
        self.max_pixels = check_integer("max_pixels", max_pixels)
        # A GPU computes the next photograph while this process finishes the one before.
        self.prefetch = 1 if self.device.type == "cuda" else 0

    def __call__(
        self,
        image: ImageLike,
        *,
        scale: Scale | None = None,
        threshold: float = 0.5,
        bits: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Segmentation:
        """Segment one photograph.

        Parameters
        ----------
        image : path, bytes, binary file object, PIL image, ndarray or Tensor
            Arrays are (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey; tensors are (3, H, W) or
            (H, W). uint8, uint16, or float in [0, 1]. Any size from 1 x 1 up.
        scale : {"fit", "native", "fov"}, float or None
            How to bring the photograph to the network's scale: fit it into the size of the
            model's data set, as published; leave it alone; bring its field of view to the
            diameter that the model was trained on; or multiply its size by a factor. None uses
            the model's own rule.
        threshold : float
            Pixels with a higher probability are vessel, in [0, 1].
        bits : int, optional
            Significant bits in 16-bit images, for example 12 if values run from 0 to 4095.
        progress : callable, optional
            Called with the number of windows that are computed, and of all. An exception that it
            raises ends the computation.

        Returns
        -------
        Segmentation

        Raises
        ------
        FileNotFoundError
            If `image` is a path that does not exist.
        ImageError
            If `image` is not an accepted image or cannot be decoded.
        OptionError
            If `scale`, `threshold` or `bits` is outside what is described here, or the
            photograph has more than 100,000 windows at that scale.
        DeviceError
            If this process was forked from one that had used vesselseg.
        """
        options = self._check_options(scale, threshold, bits)
        photograph = self._preprocess(image, options)
        logit = slide(
            photograph.pixels,
            self._vessel_logit,
            progress=progress,
            **self._window_options(options),
        )
        logit = restore(logit, photograph.seen.placement)
        copy = _to_host(logit[0].sigmoid_())
        return self._to_segmentation(photograph, copy, options)

    @overload
    def segment_many(
        self,
        images: Iterable[ImageLike],
        *,
        scale: Scale | None = None,
        threshold: float = 0.5,
        bits: int | None = None,
        on_error: Literal["raise"] = "raise",
        progress: bool = False,
    ) -> Iterator[Segmentation]: ...

    @overload
    def segment_many(
        self,
        images: Iterable[ImageLike],
        *,
        scale: Scale | None = None,
        threshold: float = 0.5,
        bits: int | None = None,
        on_error: Literal["yield"],
        progress: bool = False,
    ) -> Iterator[Segmentation | Exception]: ...

    def segment_many(
        self,
        images: Iterable[ImageLike],
        *,
        scale: Scale | None = None,
        threshold: float = 0.5,
        bits: int | None = None,
        on_error: Literal["raise", "yield"] = "raise",
        progress: bool = False,
    ) -> Iterator[Segmentation] | Iterator[Segmentation | Exception]:
        """Segment several photographs; windows of several share batches.

        Parameters
        ----------
        images : iterable
            Of images as :meth:`__call__` takes them. They are read as results are asked for,
            and a little ahead on a GPU or where the windows of one do not fill a batch. An
            exception among them counts as the error of an image that could not be read.
        scale : {"fit", "native", "fov"}, float or None
            How to bring the photographs to the network's scale; None uses the model's own rule.
        threshold : float
            Pixels with a higher probability are vessel, in [0, 1].
        bits : int, optional
            Significant bits in 16-bit images, for example 12 if values run from 0 to 4095.
        on_error : {"raise", "yield"}
            What to do about an image that fails, in decoding or in the network: raise its error,
            which ends the iterator, or yield its error in place of a result and go on.
        progress : bool
            Whether to show a bar on standard error.

        Returns
        -------
        iterator of Segmentation, or of Segmentation and Exception
            In the order of `images`, bit for bit the same as one by one.

        Raises
        ------
        FileNotFoundError, ImageError
            For an image that cannot be used, after the images before it were yielded, unless
            `on_error` is "yield".
        OptionError
            If `images` is a single image, or another argument is outside what is described here.
        """
        if is_single(images):
            raise OptionError(
                f"segment_many takes several images, not one of type {type(images).__name__}; for "
                f"one, call the model."
            )
        if on_error not in ("raise", "yield"):
            raise OptionError(f"on_error is {on_error!r}; allowed are 'raise' and 'yield'.")
        options = self._check_options(scale, threshold, bits)
        results = self._segment_each(images, options, on_error)
        if not progress:
            return results
        count = len(images) if isinstance(images, Sized) else None
        return iter(progress_bar(anywhere=True, iterable=results, total=count, unit="image"))

    def _segment_each(
        self, images: Iterable[ImageLike], options: _Options, on_error: str
    ) -> Iterator[Any]:
        """Results in the order of the images.

        Whatever an image raises, in any step, takes its place until its turn comes.
        """
        queue = WindowQueue(self._vessel_logit, **self._window_options(options))
        computing: deque[Any] = deque()  # photographs with windows in the queue, or errors
        copying: deque[Any] = deque()  # photographs whose results are copied, or errors

        def begin(image: ImageLike) -> tuple[_Photograph, Stitcher]:
            photograph = self._preprocess(image, options)
            return photograph, queue.add(photograph.pixels)

        def start_copy(computed: tuple[_Photograph, Stitcher]) -> tuple[_Photograph, _HostCopy]:
            photograph, stitcher = computed
            logit = restore(stitcher.average(), photograph.seen.placement)
            return photograph, _to_host(logit[0].sigmoid_())

        def finish(copied: tuple[_Photograph, _HostCopy]) -> Segmentation:
            return self._to_segmentation(*copied, options)

        def deliver() -> Segmentation | Exception:
            result: Segmentation | Exception = _attempt(finish, copying.popleft())
            if isinstance(result, Exception) and on_error == "raise":
                raise result
            return result

        iterator, failure, is_last = iter(images), None, False
        while not is_last:
            try:
                image = next(iterator)
            except StopIteration:
                is_last = True
            except Exception as error:  # of the iterator: it comes after the results before it
                failure, is_last = error, True
            else:
                computing.append(_attempt(begin, image))
                is_last = on_error == "raise" and isinstance(computing[-1], Exception)
            if is_last:
                queue.flush()
            while computing and (
                isinstance(computing[0], Exception) or computing[0][1].is_finished
            ):
                copying.append(_attempt(start_copy, computing.popleft()))
                if len(copying) > self.prefetch:
                    yield deliver()
        while copying:
            yield deliver()
        if failure is not None:
            raise failure

    def logits(
        self, image: ImageLike, *, scale: Scale | None = None, bits: int | None = None
    ) -> Tensor:
        """Logits of one photograph, averaged over its windows, at its own size.

        Parameters
        ----------
        image : path, bytes, binary file object, PIL image, ndarray or Tensor
            As :meth:`__call__` takes it.
        scale : {"fit", "native", "fov"}, float or None
            How to bring the photograph to the network's scale; None uses the model's own rule.
        bits : int, optional
            Significant bits in 16-bit images, for example 12 if values run from 0 to 4095.

        Returns
        -------
        Tensor (2, H, W)
            Background and vessel; float32, on the CPU, without gradient. The bias for small
            fields of view is included, and nothing is masked. With the scale "fov", what lies
            beyond the rectangle around the field of view is not computed: 0 and -1000.

        Raises
        ------
        FileNotFoundError, ImageError
            If the image cannot be used.
        OptionError
            If `scale` is outside what is described here.
        """
        options = self._check_options(scale, 0.5, bits)
        photograph = self._preprocess(image, options)
        _log(photograph.warnings(), photograph.decoded.label)
        logits = slide(photograph.pixels, self._backend, **self._window_options(options))
        return restore(logits, photograph.seen.placement).cpu()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the float32 weights and the model spec; ``load_model(path)`` reads them.

        Raises
        ------
        OutputError
            If the file cannot be written.
        OptionError
            If the model was loaded from an ONNX file.
        """
        weights.save(path, self._network("saved"), self._marked_spec())

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        precision: Literal["float32", "int8"] = "float32",
        calibration: Sequence[ImageLike] | None = None,
        bits: int | None = None,
    ) -> None:
        """Write the network as an ONNX file, for other languages and runtimes.

        Its input "image" takes windows, uint8 RGB (N, 3, H, W), with H and W divisible by
        "size_divisor" in the file's metadata. Its output is "logits", float32 (N, 2, H, W),
        background and vessel. The metadata holds the model spec, the precision and the digest of
        the weights. ``load_model("NAME.onnx")`` runs it.

        Parameters
        ----------
        path : path
            The file to write, ``NAME.onnx``.
        precision : {"float32", "int8"}
            "int8" quantises the network in a process of its own, which takes seconds for a small
            network and minutes for a large one. The file is a quarter as large and agrees with
            float32 on nearly all pixels. Run it with
            ``load_model("NAME.onnx", backend="openvino")``.
        calibration : sequence of images, optional
            For int8: a few representative photographs, as :meth:`__call__` takes them, from which
            the ranges of values are taken. None uses one that is part of the package.
        bits : int, optional
            Significant bits in 16-bit images of the `calibration`.

        Raises
        ------
        MissingExtraError
            If the extra ``vesselseg[onnx]`` is not installed, or for int8 ``vesselseg[openvino]``.
        OutputError
            If the file cannot be written.
        FileNotFoundError, ImageError
            If an image of the calibration cannot be used.
        ResourceError
            If the network cannot be quantised for lack of memory.
        OptionError
            If the model was itself loaded from an ONNX file, or an argument is outside what is
            described here.

        Examples
        --------
        >>> import vesselseg
        >>> model = vesselseg.load_model(device="cpu")
        >>> model.export("vessels.onnx")
        >>> model.export("vessels-int8.onnx", precision="int8")  # doctest: +SKIP
        """
        from .backends import onnx_export, quantize

        network, spec = self._network("exported"), self._marked_spec()
        selected = None
        if bits is not None and calibration is None:
            raise OptionError(f"{bits!r} bits are for the images of a calibration. Leave bits out.")
        if precision == "int8":
            selected = quantize.calibration_windows(calibration, spec, self.max_pixels, bits)
        elif precision != "float32":
            raise OptionError(
                f"precision is {precision!r}; files are exported in 'float32' or 'int8'."
            )
        elif calibration is not None:
            raise OptionError("A calibration is for the precision 'int8'. Leave it out.")
        exported = onnx_export.build(network, spec)
        if selected is not None:
            exported = quantize.quantize(exported, selected)
        onnx_export.write(path, exported, spec, self.sha256, precision)

    def to(
        self, device: str | torch.device | None = None, precision: Precision | None = None
    ) -> Segmenter:
        """The same model on another device or in another precision; this one is not changed.

        Parameters
        ----------
        device : str or torch.device, optional
            As :func:`vesselseg.load_model` takes it. None keeps the model's.
        precision : {"float32", "bfloat16", "float16", "int8", "auto"}, optional
            As :func:`vesselseg.load_model` takes it. None keeps the model's.

        Raises
        ------
        DeviceError
            If the device, or the precision on it, is not available.
        OptionError
            If there is no such precision, or the model must be exported in it.
        """
        return Segmenter(
            self._backend.to(
                self.device if device is None else canonical_device(device),
                self.precision if precision is None else canonical_precision(precision),
            ),
            self.spec,
            sha256=self.sha256,
            batch_size=self._batch_size_option,
            max_pixels=self.max_pixels,
        )

    def __repr__(self) -> str:
        return f"<Segmenter {self.spec.name} on {self.device} in {self.precision}>"

    def _marked_spec(self) -> ModelSpec:
        # A saved file has no sources to compare with, so it says itself whether it is unverified.
        return dataclasses.replace(self.spec, unverified=not self.spec.matches(self.sha256))

    def _network(self, action: str) -> UNet:
        if self._backend.network is None:
            raise OptionError(
                f"A model that runs from an ONNX file cannot be {action}. Copy the file itself, or "
                f"load the model that it was exported from."
            )
        return self._backend.network

    def _check_options(self, scale: Scale | None, threshold: float, bits: int | None) -> _Options:
        check_fork(self.device, self.backend)
        return _Options(check_scale(scale, self.spec), check_threshold(threshold), check_bits(bits))

    def _preprocess(self, image: ImageLike | Decoded, options: _Options) -> _Photograph:
        decoded = decode(image, self.max_pixels, options.bits)
        fov = find_field_of_view(decoded.rgb)
        seen = preprocess(decoded.rgb, fov, options.scale, self.spec, self.max_pixels)
        pixels = _to_device(torch.from_numpy(np.ascontiguousarray(seen.pixels)), self.device)
        return _Photograph(decoded, fov, seen, pixels.permute(2, 0, 1))

    def _window_options(self, options: _Options) -> dict[str, Any]:
        """What `slide` and `WindowQueue` take besides the network."""
        return {
            "crop": self.spec.crop,
            "stride": self.spec.stride,
            "batch_size": self.batch_size,
            "size_divisor": self.spec.size_divisor,
            "shrink_windows": options.scale == "fov",
        }

    def _vessel_logit(self, windows: Tensor) -> Tensor:
        # The vessel logit minus the background logit is all that a mask needs: averaging and
        # resampling are linear, and the softmax of two logits is the sigmoid of their difference.
        # That halves memory and resampling.
        return torch.diff(self._backend(windows), dim=1)

    def _to_segmentation(
        self, photograph: _Photograph, copy: _HostCopy, options: _Options
    ) -> Segmentation:
        decoded, fov, seen, _ = photograph
        probability = copy.wait()
        warnings = photograph.warnings()
        familiar = familiarity(probability, seen.scaled, fov.mask, self.spec)
        if familiar is not None and familiar < FAMILIARITY_LIMIT:
            warnings.append(
                f"The photograph is unlike those that model {self.spec.name!r} was trained on "
                f"(familiarity {familiar:.2f} of 1): look at the overlay."
            )
        undecided = undecided_fraction(probability, fov.mask)
        _log(warnings, decoded.label)
        provenance: dict[str, Any] = {
            "vesselseg": __version__,
            "torch": str(torch.__version__),
            "model": self.spec.name,
            "sha256": self.sha256,
            "unverified": not self.spec.matches(self.sha256),
            "spec": self.spec.digest,
            "stride": self.spec.stride,
            "scale": options.scale,
            "bits": options.bits,
            "size": list(decoded.rgb.shape[:2]),
            "network_size": list(seen.placement.whole),
            "fov_diameter": None if fov.diameter is None else round(fov.diameter, 1),
            "vessel_bias": round(seen.placement.vessel_bias, 3),
            "backend": self.backend,
            **self._backend.versions,
            "device": str(self.device),
            "precision": self.precision,
            "threshold": options.threshold,
            "familiarity": None if familiar is None else round(familiar, 3),
            "undecided_fraction": None if undecided is None else round(undecided, 6),
            "warning": " ".join(warnings),
        }
        mask = probability > np.float32(options.threshold)
        return Segmentation(mask, probability, fov.mask, provenance, decoded.rgb)


def _log(warnings: list[str], label: str) -> None:
    for warning in warnings:
        logger.warning("%s: %s", label, warning)


def _to_device(pixels: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to `device`; on CUDA through pinned memory, without waiting for it."""
    if device.type != "cuda":
        return pixels.to(device)
    return pixels.pin_memory().to(device, non_blocking=True)


def _to_host(values: Tensor) -> _HostCopy:
    """Start to copy a float32 tensor to the CPU; on CUDA without waiting for it."""
    if values.device.type != "cuda":
        return _HostCopy(values.cpu())
    pinned = values.to("cpu", non_blocking=True)
    return _HostCopy(pinned, torch.cuda.current_stream(values.device).record_event())


class _HostCopy(NamedTuple):
    """A copy to the CPU that may still be under way."""

    values: Tensor
    event: torch.cuda.Event | None = None

    def wait(self) -> NDArray[np.float32]:
        """The values, once they have arrived. The array is the caller's to keep."""
        values = self.values
        if self.event is not None:
            self.event.synchronize()
            values = values.clone()  # gives the scarce pinned memory back to PyTorch
        array: NDArray[np.float32] = values.numpy()
        return array


def _attempt(step: Callable[[Any], Any], given: Any) -> Any:
    """What a step makes of a value, or its error; the error of an earlier step is handed on."""
    if isinstance(given, Exception):
        return given
    try:
        return step(given)
    except Exception as error:
        return error
