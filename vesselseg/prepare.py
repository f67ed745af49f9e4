"""Photograph -> the network's scale and colours, and its logits back to the photograph's size."""

from __future__ import annotations

import logging
import math

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .errors import OptionError
from .fov import FieldOfView
from .images import MAX_PIXELS, RGB
from .record import Checkpoint

logger = logging.getLogger(__name__)

# Where no field of view gives the scale, tiny images are not blown up further than this.
_LARGEST_GUESS = 4.0

# Gains of a channel: beyond them there is more noise in it than fundus.
_GAINS = (0.25, 8.0)
_SAMPLES = 256  # rows and columns, about, that means are taken over


def check_scale(scale: str | float | None, checkpoint: Checkpoint) -> str | float:
    """The scale rule to follow: the caller's, or the record's own where that is None."""
    if scale is None:
        return checkpoint.scale
    if isinstance(scale, str):
        needed = {"fit": checkpoint.fit_size, "fov": checkpoint.fov_range, "native": True}
        if scale in needed and needed[scale] is None:
            raise OptionError(f"Model {checkpoint.name!r} has no size for scale={scale!r}.")
        if scale in needed:
            return scale
    elif isinstance(scale, (int, float)) and not isinstance(scale, bool) and 0 < scale < math.inf:
        return float(scale)
    raise OptionError(
        f"scale is {scale!r}; it has to be 'fit', 'native', 'fov', a positive factor, or None "
        f"for the model's own rule ({checkpoint.scale!r})."
    )


def to_network(
    image: RGB,
    view: FieldOfView,
    scale: str | float,
    checkpoint: Checkpoint,
    max_pixels: int = MAX_PIXELS,
) -> RGB:
    """A photograph as windows are cut from it: :func:`to_scale`, and the record's colours."""
    scaled = to_scale(image, scale, checkpoint, view.diameter, max_pixels)
    if checkpoint.fov_mean is None:
        return scaled
    return apply_gains(scaled, gains(image, view, checkpoint.fov_mean))


def gains(image: RGB, view: FieldOfView, means: tuple[float, float, float]) -> tuple[float, ...]:
    """What brings R, G and B to `means` inside the field of view, within limits.

    Another lamp or sensor multiplies each channel by a number of its own (von Kries); of that
    a photograph is freed here.
    """
    step = max(1, min(image.shape[:2]) // _SAMPLES)
    seen = image[::step, ::step][view.mask[::step, ::step]]
    now = seen.mean(axis=0) if len(seen) else np.zeros(3)
    found = np.asarray(means) / np.maximum(now, 1e-3)
    return tuple(float(gain) for gain in found.clip(*_GAINS))


def apply_gains(image: RGB, gains: tuple[float, ...]) -> RGB:
    """Each channel times its gain, rounded, 255 at most."""
    values = np.outer(gains, np.arange(256)).round().clip(0, 255).astype(int)
    return np.array(Image.fromarray(image).point(values.ravel().tolist()))


def to_scale(
    image: RGB,
    scale: str | float,
    checkpoint: Checkpoint,
    diameter: float | None,
    max_pixels: int = MAX_PIXELS,
) -> RGB:
    """Resize a photograph for the network.

    Parameters
    ----------
    image : ndarray of uint8 (H, W, 3)
    scale : "fit", "native", "fov" or float
        As :func:`check_scale` gives it.
    diameter : float or None
        Of the field of view, in pixels of `image`, if it was found.
    max_pixels : int
        Of what is returned.

    Returns
    -------
    ndarray of uint8 (h, w, 3)
        `image` itself where nothing is to be done.

    Raises
    ------
    OptionError
        If it would have more than `max_pixels`.

    Notes
    -----
    "fit" is the published pipeline, reduced without antialiasing as OpenCV does. All else is
    resampled by Pillow's bilinear filter, which antialiases when it reduces.
    """
    height, width = image.shape[:2]
    if scale == "fit":
        assert checkpoint.fit_size is not None
        factor = fit_factor(height, width, checkpoint.fit_size)
    elif scale == "fov":
        assert checkpoint.fov_range is not None
        least, most = checkpoint.fov_range
        seen = diameter if diameter else max(height, width)
        factor = min(max(seen, least), most) / seen
        if not diameter:
            factor = min(factor, _LARGEST_GUESS)
    else:
        factor = 1.0 if scale == "native" else float(scale)
    size = (max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1))
    if size[0] * size[1] > max_pixels:
        raise OptionError(
            f"scale={scale!r} would make {size[1]} x {size[0]} pixels of {width} x {height}; at "
            f"most {max_pixels:,} are accepted. Choose a smaller scale, or raise the limit: "
            f"load_model(..., max_pixels=...)."
        )
    _warn_of_scale(diameter, factor, scale, checkpoint)
    if size == (height, width):
        return image
    if scale == "fit":
        return resize_like_opencv(image, size)
    picture = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.array(picture)


def fit_factor(height: int, width: int, fit_size: tuple[int, int]) -> float:
    """Factor that fits an image into a size, aspect kept (mmcv's ``rescale_size``)."""
    long, short = max(fit_size), min(fit_size)
    return min(long / max(height, width), short / min(height, width))


def resize_like_opencv(image: RGB, size: tuple[int, int]) -> RGB:
    """Bilinear resampling, bit for bit as OpenCV's ``INTER_LINEAR`` does it for uint8.

    Each weight is rounded to a multiple of 1/2048; the sum along a row keeps 7 binary digits
    after the point, and each of the two products along a column keeps 2.
    """
    (top, bottom, upper, lower), (left, right, nearer, farther) = (
        _taps(image.shape[0], size[0], clamp=False),
        _taps(image.shape[1], size[1], clamp=True),
    )

    def along_rows(rows: NDArray[np.intp], weights: NDArray[np.int32]) -> NDArray[np.int32]:
        lines = image[rows]
        sums = lines[:, left] * nearer[:, None] + lines[:, right] * farther[:, None]
        return np.asarray(((sums >> 4) * weights[:, None, None]) >> 16)

    return ((along_rows(top, upper) + along_rows(bottom, lower) + 2) >> 2).astype(np.uint8)


def _taps(
    length: int, size: int, *, clamp: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int32], NDArray[np.int32]]:
    """The two source pixels of each target pixel, and their weights in units of 1/2048.

    Beyond the border both are the outermost pixel. OpenCV then gives the first one all of the
    weight along rows (`clamp`), but leaves it split along columns, which rounds differently.
    """
    at = ((np.arange(size) + 0.5) * (length / size) - 0.5).astype(np.float32)
    first = np.floor(at).astype(np.intp)
    part = (at - first).astype(np.float32)
    if clamp:
        part[(first < 0) | (first >= length - 1)] = 0
    unit = np.float32(2048)
    weights = [np.rint(w * unit).astype(np.int32) for w in (np.float32(1) - part, part)]
    last = length - 1
    return first.clip(0, last), (first + 1).clip(0, last), weights[0], weights[1]


def restore(logits: Tensor, height: int, width: int) -> Tensor:
    """Logits (K, h, w) at the network's scale -> (K, height, width), bilinear."""
    if logits.shape[-2:] == (height, width):
        return logits
    size = (height, width)
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]


def _warn_of_scale(
    diameter: float | None, factor: float, scale: str | float, checkpoint: Checkpoint
) -> None:
    if checkpoint.fov_range is None:
        return
    least, most = checkpoint.fov_range
    expected = f"{least:g}" if least == most else f"{least:g} to {most:g}"
    if diameter is None:
        logger.warning(
            "No field of view was found: is it a fundus photograph with its dark border? "
            "Scale %r was followed; model %r expects a field of view of %s pixels.",
            scale, checkpoint.name, expected,
        )  # fmt: skip
    elif not 0.5 * least <= diameter * factor <= 2 * most:
        logger.warning(
            "The field of view is %.0f pixels wide in the network's input; model %r expects "
            "%s, and vessels of another width may be missed. scale='fov' would match it.",
            diameter * factor, checkpoint.name, expected,
        )  # fmt: skip
