"""A model in use: photographs in, vessels out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import fov, prepare, weights
from ._version import __version__
from .engine import choose_batch_size
from .engines import Runtime
from .errors import OptionError
from .images import MAX_PIXELS, RGB, ImageLike, choose_max_pixels, to_rgb
from .record import Checkpoint
from .result import Segmentation
from .sliding import Net, slide
from .transfers import Download, one_ahead, upload


@dataclass
class _Photograph:
    """One image on its way through the network."""

    rgb: RGB
    view: fov.FieldOfView
    scaled: RGB


class Segmenter:
    """A loaded model. Made by :func:`load_model`; may be shared between threads and pickled.

    Results are reproducible: the same version on the same machine with the same settings gives
    the same bits, however images are grouped.
    """

    def __init__(
        self,
        runtime: Runtime,
        checkpoint: Checkpoint,
        *,
        sha256: str,
        device: torch.device,
        precision: str,
        batch_size: int | None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._runtime = runtime
        self._asked_batch_size = batch_size
        self._engine: Net = runtime.start(checkpoint, device, precision)
        self.checkpoint = checkpoint
        self.engine = runtime.name
        self.sha256 = sha256
        self.device = device
        self.precision = precision
        self.batch_size = choose_batch_size(batch_size, checkpoint, device, precision)
        self.max_pixels = choose_max_pixels(max_pixels)
        # A GPU works on the next image while this process sees to the one before.
        self._apart = device.type == "cuda"

    def __call__(
        self, image: ImageLike, *, scale: str | float | None = None, threshold: float = 0.5
    ) -> Segmentation:
        """Segment one photograph.

        Parameters
        ----------
        image : path, bytes, binary file object, PIL image, ndarray or Tensor
            Arrays are (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey, tensors (3, H, W) or
            (H, W); uint8, uint16, or float in [0, 1]. Any size from 1 x 1 up.
        scale : {"fit", "native", "fov"}, float or None
            How the image is brought to the network's scale: fitted into the size of the
            model's data set, as published; left alone; its field of view brought to the
            model's diameter, or range of them; a factor; or, None, the model's own rule.
        threshold : float
            Pixels of a higher probability are vessel, in [0, 1].

        Returns
        -------
        Segmentation

        Raises
        ------
        FileNotFoundError
            If `image` is a path that does not exist.
        ImageError
            If `image` is not an image that is accepted, or cannot be decoded.
        OptionError
            If `scale` or `threshold` is outside what is described here.
        """
        return next(self.segment_many([image], scale=scale, threshold=threshold))

    def segment_many(
        self,
        images: Iterable[ImageLike],
        *,
        scale: str | float | None = None,
        threshold: float = 0.5,
    ) -> Iterator[Segmentation]:
        """Segment photographs one after another; windows of several share batches.

        Parameters
        ----------
        images : iterable
            Of what :meth:`__call__` takes. Read as results are asked for; on a GPU, and where
            windows of one do not fill a batch, somewhat ahead.
        scale, threshold
            As for :meth:`__call__`.

        Returns
        -------
        iterator of Segmentation
            In the order of `images`; the same, bit for bit, as one by one.

        Raises
        ------
        FileNotFoundError, ImageError, OptionError
            As :meth:`__call__`; those of an image when its turn comes.
        """
        if isinstance(images, (str, bytes, os.PathLike)):
            raise OptionError(
                f"segment_many takes several images, not {images!r}; for one, call the model."
            )
        rule = prepare.check_scale(scale, self.checkpoint)
        number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
        if not (number and 0 <= threshold <= 1):
            raise OptionError(f"threshold is {threshold!r}; it has to be a number from 0 to 1.")
        found = (
            (photograph, self._probability(photograph, margin))
            for photograph, margin in self._run(images, rule, self._margin)
        )
        return (
            self._segmentation(photograph, probability.array(), rule, float(threshold))
            for photograph, probability in (one_ahead(found) if self._apart else found)
        )

    def logits(self, image: ImageLike, *, scale: str | float | None = None) -> Tensor:
        """Mean logits of the windows, at the photograph's own size.

        Parameters
        ----------
        image, scale
            As for :meth:`__call__`.

        Returns
        -------
        Tensor (2, H, W)
            Background and vessel; float32, on the CPU, without gradient. Nothing is masked.

        Raises
        ------
        FileNotFoundError, ImageError, OptionError
            As :meth:`__call__`.
        """
        rule = prepare.check_scale(scale, self.checkpoint)
        photograph, logits = next(self._run([image], rule, self._engine))
        return prepare.restore(logits, *photograph.rgb.shape[:2]).cpu()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights, float32, and their record; ``load_model(path)`` reads them.

        Raises
        ------
        OutputError
            If the file cannot be written.
        OptionError
            If the model was loaded from an ONNX file.
        """
        weights.save(path, self._runtime.network("saved"), self.checkpoint)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the network as an ONNX file, for other languages and runtimes.

        It takes windows, "image", uint8 RGB (N, 3, H, W), H and W multiples of "multiple" in the
        file's metadata, and gives "logits", float32 (N, 2, H, W), background and vessel. The
        metadata has the record and the weights' digest. ``load_model("NAME.onnx")`` runs it.

        Raises
        ------
        MissingExtraError
            If the extra ``vesselseg[onnx]`` is not installed.
        OutputError
            If the file cannot be written.
        OptionError
            If the model was itself loaded from an ONNX file.
        """
        from .engines.onnx_export import export

        network = self._runtime.network("exported")
        export(path, network, self.checkpoint, self.sha256)

    def to(self, device: str | torch.device) -> Segmenter:
        """The same model on another device; this one stays as it is.

        Raises
        ------
        DeviceError
            If the device is not there, or cannot compute in the model's precision.
        """
        settings = (str(device), self.precision, self._asked_batch_size, self.max_pixels)
        return rebuild(self._runtime, self.checkpoint, self.sha256, *settings)

    def __reduce__(self) -> tuple[Any, ...]:
        # Built anew where it is unpickled: an engine belongs to its process and device.
        state = (self._runtime, self.checkpoint, self.sha256, str(self.device), self.precision)
        return rebuild, (*state, self._asked_batch_size, self.max_pixels)

    def __repr__(self) -> str:
        return f"<Segmenter {self.checkpoint.name} on {self.device} in {self.precision}>"

    def _margin(self, windows: Tensor) -> Tensor:
        """The vessel logit minus the background logit, (N, 1, h, w).

        All that a mask needs: averaging and resampling are linear, and the softmax of two logits
        is the sigmoid of their difference. Half of the memory, and one map restored, not two.
        """
        return torch.diff(self._engine(windows), dim=1)

    def _run(
        self, images: Iterable[ImageLike], rule: str | float, net: Net
    ) -> Iterator[tuple[_Photograph, Tensor]]:
        """Each image with what `net` gives, (K, h, w) at the network's scale, on the device."""
        waiting: deque[_Photograph] = deque()

        def tensors() -> Iterator[Tensor]:
            for image in images:
                rgb = to_rgb(image, self.max_pixels)
                view = fov.find(rgb)
                scaled = prepare.to_network(rgb, view, rule, self.checkpoint, self.max_pixels)
                waiting.append(_Photograph(rgb, view, scaled))
                yield upload(torch.from_numpy(scaled), self.device).permute(2, 0, 1)

        for logits in slide(
            tensors(),
            net,
            crop=self.checkpoint.crop,
            stride=self.checkpoint.stride,
            batch_size=self.batch_size,
            multiple=self._runtime.multiple,
        ):
            yield waiting.popleft(), logits

    def _probability(self, photograph: _Photograph, margin: Tensor) -> Download:
        """Of vessels, (H, W) in [0, 1], at the photograph's own size."""
        return Download(prepare.restore(margin, *photograph.rgb.shape[:2])[0].sigmoid_())

    def _segmentation(
        self,
        photograph: _Photograph,
        probability: NDArray[np.float32],
        rule: str | float,
        threshold: float,
    ) -> Segmentation:
        if self.checkpoint.mask_outside_fov:
            probability[~photograph.view.mask] = 0
        provenance = {
            "vesselseg": __version__,
            "torch": str(torch.__version__),
            "model": self.checkpoint.name,
            "sha256": self.sha256,
            "scale": rule,
            "network_size": list(photograph.scaled.shape[:2]),
            "fov_diameter": photograph.view.diameter and round(photograph.view.diameter, 1),
            "engine": self.engine,
            **self._runtime.about(),
            "device": str(self.device),
            "precision": self.precision,
            "threshold": threshold,
        }
        mask = probability > np.float32(threshold)
        return Segmentation(mask, probability, photograph.view.mask, provenance, photograph.rgb)


def rebuild(
    runtime: Runtime,
    checkpoint: Checkpoint,
    sha256: str,
    device: str,
    precision: str,
    batch_size: int | None,
    max_pixels: int,
) -> Segmenter:
    """A Segmenter of the same weights; raises DeviceError where the device is missing."""
    chosen, precision = runtime.choose(device, precision)
    return Segmenter(
        runtime,
        checkpoint,
        sha256=sha256,
        device=chosen,
        precision=precision,
        batch_size=batch_size,
        max_pixels=max_pixels,
    )
