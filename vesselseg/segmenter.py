"""A loaded model: photographs in, segmentations out."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast, overload

import numpy as np
import torch
from torch import Tensor

from . import weights
from ._version import __version__
from .backends import Backend, Precision, check_batch_size
from .backends.transfers import HostCopy, to_device, to_host
from .errors import OptionError, VesselsegError
from .familiarity import FAMILIARITY_LIMIT, familiarity, measure_sharpness
from .fov import FieldOfView, find_field_of_view
from .images import MAX_PIXELS, RGB, ImageLike, check_bits, check_max_pixels, to_rgb
from .preprocess import (
    check_scale,
    extend,
    preprocess,
    region_to_compute,
    restore,
    unfamiliar_size,
    vessel_bias,
)
from .result import Segmentation, check_threshold
from .sliding import Window, slide, starts
from .spec import ModelSpec, Scale
from .unet import UNet

logger = logging.getLogger(__name__)

Key = TypeVar("Key")
Result = TypeVar("Result")

MAX_WINDOWS = 100_000  # of one photograph; more would take hours


@dataclass
class Photograph(Generic[Key]):
    """A photograph on its way through the network."""

    key: Key
    rgb: RGB
    fov: FieldOfView
    network_size: tuple[int, int]
    region: Window  # that is computed, at the network's scale
    bias: float  # of the vessel logit
    sharpness: float | None  # at the network's scale, if the model's familiarity depends on it
    warning: str


class Failed(NamedTuple):
    """An image that could not be used; it keeps its place among the photographs."""

    key: Any
    error: Exception
    is_last: bool  # whether its error is raised, which ends the results


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
        self.batch_size = (
            backend.batch_size(spec) if batch_size is None else check_batch_size(batch_size)
        )
        self.max_pixels = check_max_pixels(max_pixels)
        # A GPU computes the next photograph while this process finishes the one before.
        self.prefetch = 1 if self.device.type == "cuda" else 0

    def __call__(
        self,
        image: ImageLike,
        *,
        scale: Scale | None = None,
        threshold: float = 0.5,
        bits: int | None = None,
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
            Bits that 16-bit values use, if not all, such as 12 for values up to 4095.

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
        """
        return next(self.segment_many([image], scale=scale, threshold=threshold, bits=bits))

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
            and a little ahead on a GPU or where the windows of one do not fill a batch.
        scale : {"fit", "native", "fov"}, float or None
            How to bring the photographs to the network's scale; None uses the model's own rule.
        threshold : float
            Pixels with a higher probability are vessel, in [0, 1].
        bits : int, optional
            Bits that 16-bit values use, if not all, such as 12 for values up to 4095.
        on_error : {"raise", "yield"}
            What to do about an image that cannot be used: raise its error, which ends the
            iterator, or yield its error in place of a result and go on.
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
        if isinstance(images, (str, bytes, os.PathLike)):
            raise OptionError(
                f"segment_many takes several images, not {images!r}; for one, call the model."
            )
        if on_error not in ("raise", "yield"):
            raise OptionError(f"on_error is {on_error!r}; allowed are 'raise' and 'yield'.")
        rule, threshold = check_scale(scale, self.spec), check_threshold(threshold)
        bits = check_bits(bits)
        keyed = ((None, image) for image in images)
        pairs = self._results(keyed, rule, threshold, bits, keep_errors=on_error == "yield")
        results = (result for _, result in pairs)
        if not progress:
            return results
        return show_progress(results, len(images) if isinstance(images, Sized) else None)

    def segment_keyed(
        self,
        images: Iterable[tuple[Key, ImageLike]],
        *,
        scale: Scale | None = None,
        threshold: float = 0.5,
        bits: int | None = None,
    ) -> Iterator[tuple[Key, Segmentation]]:
        """Segment several photographs, each with a key of yours, such as its name.

        Parameters
        ----------
        images : iterable of (key, image)
            Images as :meth:`__call__` takes them. Keys can be anything.
        scale : {"fit", "native", "fov"}, float or None
            How to bring the photographs to the network's scale; None uses the model's own rule.
        threshold : float
            Pixels with a higher probability are vessel, in [0, 1].
        bits : int, optional
            Bits that 16-bit values use, if not all, such as 12 for values up to 4095.

        Returns
        -------
        iterator of (key, Segmentation)
            In the order of `images`.

        Raises
        ------
        FileNotFoundError, ImageError
            For an image that cannot be used, after the images before it were yielded.
        OptionError
            If `scale` or `threshold` is outside what is described here.
        """
        rule, threshold = check_scale(scale, self.spec), check_threshold(threshold)
        bits = check_bits(bits)
        results = self._results(images, rule, threshold, bits, keep_errors=False)
        return cast("Iterator[tuple[Key, Segmentation]]", results)

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
            Bits that 16-bit values use, if not all, such as 12 for values up to 4095.

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
        rule, bits = check_scale(scale, self.spec), check_bits(bits)
        ((photograph, logits),) = self._slide([(None, image)], self._backend, rule, bits)
        if isinstance(photograph, Failed):
            raise photograph.error
        logits[1] += photograph.bias
        return restore(logits, *photograph.rgb.shape[:2]).cpu()

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
            Bits that 16-bit values of the `calibration` use, if not all.

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
            raise OptionError(f"bits={bits!r} is for the images of a calibration. Leave it out.")
        if precision == "int8":
            selected = quantize.calibration_windows(calibration, spec, self.max_pixels, bits)
        elif precision != "float32":
            raise OptionError(
                f"precision is {precision!r}; files are exported in 'float32' or 'int8'."
            )
        elif calibration is not None:
            raise OptionError("calibration is for precision='int8'. Leave it out.")
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
            If there is no such precision, or the model would have to be exported in it.
        """
        return Segmenter(
            self._backend.to(
                self.device if device is None else device,
                self.precision if precision is None else precision,
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

    def _results(
        self,
        images: Iterable[tuple[Key, ImageLike]],
        rule: Scale,
        threshold: float,
        bits: int | None,
        *,
        keep_errors: bool,
    ) -> Iterator[tuple[Key, Segmentation | Exception]]:
        def vessel_logit(windows: Tensor) -> Tensor:
            # The vessel logit minus the background logit is all that a mask needs: averaging and
            # resampling are linear, and the softmax of two logits is the sigmoid of their
            # difference. That halves memory and resampling.
            return torch.diff(self._backend(windows), dim=1)

        def result(
            photograph: Photograph[Key] | Failed, copy: HostCopy
        ) -> tuple[Key, Segmentation | Exception]:
            if isinstance(photograph, Photograph):
                return photograph.key, self._result(photograph, copy, rule, threshold, bits)
            if photograph.is_last:
                raise photograph.error
            return photograph.key, photograph.error

        pending: deque[tuple[Photograph[Key] | Failed, HostCopy]] = deque()
        failure: Exception | None = None
        try:
            for photograph, logit in self._slide(images, vessel_logit, rule, bits, keep_errors):
                if isinstance(photograph, Photograph):
                    logit += photograph.bias
                    logit = restore(logit, *photograph.rgb.shape[:2])[0].sigmoid_()
                pending.append((photograph, to_host(logit)))
                if len(pending) > self.prefetch:
                    yield result(*pending.popleft())
        except Exception as error:
            failure = error
        for photograph, copy in pending:
            yield result(photograph, copy)
        if failure is not None:
            raise failure

    def _prepare(
        self, key: Key, image: ImageLike, rule: Scale, bits: int | None
    ) -> tuple[Photograph[Key], Tensor]:
        """A photograph, and what the network sees of it: uint8 (3, h, w) on the device."""
        rgb = to_rgb(image, self.max_pixels, bits)
        fov = find_field_of_view(rgb)
        scaled = preprocess(rgb, fov, rule, self.spec, self.max_pixels)
        size = height, width = scaled.shape[:2]
        check_window_count(height, width, self.spec)
        region = region_to_compute(scaled, fov, rule)
        part = scaled[region.top : region.bottom, region.left : region.right]
        pixels = to_device(torch.from_numpy(np.ascontiguousarray(part)), self.device)
        bias = vessel_bias(fov.diameter, self.spec)
        sharpness = None
        if self.spec.least_sharpness is not None:
            sharpness = measure_sharpness(scaled, fov.mask)
        factor = max(size) / max(rgb.shape[:2])
        warning = unfamiliar_size(fov.diameter, factor, rule, self.spec)
        if warning:
            logger.warning("%s", warning)
        photograph = Photograph(key, rgb, fov, size, region, bias, sharpness, warning)
        return photograph, pixels.permute(2, 0, 1)

    def _slide(
        self,
        images: Iterable[tuple[Key, ImageLike]],
        network: Callable[[Tensor], Tensor],
        rule: Scale,
        bits: int | None,
        keep_errors: bool = False,
    ) -> Iterator[tuple[Photograph[Key] | Failed, Tensor]]:
        """Each photograph with the network's output (K, h, w) for it, at the network's scale."""

        def prepared() -> Iterator[tuple[Photograph[Key] | Failed, Tensor | None]]:
            try:
                for key, image in images:
                    try:
                        yield self._prepare(key, image, rule, bits)
                    except (VesselsegError, OSError, MemoryError) as error:
                        if not keep_errors:
                            raise
                        yield Failed(key, error, is_last=False), None
            except Exception as error:
                yield Failed(None, error, is_last=True), None

        for photograph, logits in slide(
            prepared(),
            network,
            crop=self.spec.crop,
            stride=self.spec.stride,
            batch_size=self.batch_size,
            size_divisor=self.spec.size_divisor,
            shrink_windows=rule == "fov",
        ):
            if isinstance(photograph, Photograph):
                logits = extend(logits, photograph.region, *photograph.network_size)
            yield photograph, logits

    def _result(
        self,
        photograph: Photograph[Any],
        copy: HostCopy,
        rule: Scale,
        threshold: float,
        bits: int | None,
    ) -> Segmentation:
        probability = copy.wait()
        fov = photograph.fov
        if self.spec.mask_outside_fov:
            probability[~fov.mask] = 0
        warning = photograph.warning
        familiar = familiarity(probability, fov.mask, photograph.sharpness, self.spec)
        if familiar is not None and familiar < FAMILIARITY_LIMIT:
            doubt = (
                f"The photograph is unlike those that model {self.spec.name!r} was trained on "
                f"(familiarity {familiar:.2f} of 1): look at the overlay."
            )
            logger.warning("%s", doubt)
            warning = f"{warning} {doubt}".strip()
        provenance: dict[str, Any] = {
            "vesselseg": __version__,
            "torch": str(torch.__version__),
            "model": self.spec.name,
            "sha256": self.sha256,
            "unverified": not self.spec.matches(self.sha256),
            "scale": rule,
            "bits": bits,
            "size": list(photograph.rgb.shape[:2]),
            "network_size": list(photograph.network_size),
            "fov_diameter": None if fov.diameter is None else round(fov.diameter, 1),
            "vessel_bias": round(photograph.bias, 3),
            "backend": self.backend,
            **self._backend.versions,
            "device": str(self.device),
            "precision": self.precision,
            "threshold": threshold,
            "familiarity": None if familiar is None else round(familiar, 3),
            "warning": warning,
        }
        mask = probability > np.float32(threshold)
        return Segmentation(mask, probability, fov.mask, provenance, photograph.rgb)


def show_progress(results: Iterator[Result], count: int | None) -> Iterator[Result]:
    """The same results, with a bar that counts them on standard error."""
    from tqdm import tqdm

    with tqdm(results, total=count, unit="image") as bar:
        yield from bar


def check_window_count(height: int, width: int, spec: ModelSpec) -> None:
    """Raise OptionError if an image at the network's scale has more windows than `MAX_WINDOWS`."""
    count = 1
    for side in (height, width):
        count *= len(starts(side, spec.crop, spec.stride))
    if count > MAX_WINDOWS:
        raise OptionError(
            f"{width} x {height} pixels at the scale of {spec.name!r} are {count:,} windows of "
            f"{spec.crop} pixels with a stride of {spec.stride}; at most {MAX_WINDOWS:,} are "
            f"accepted. Choose a smaller scale, or a model spec with a larger stride."
        )
