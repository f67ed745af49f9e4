"""Photograph -> what the network sees of it, and logits back to the photograph's size."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from .errors import OptionError
from .fov import FieldOfView
from .images import MAX_PIXELS, RGB
from .sliding import Placement, Window
from .spec import SCALES, ModelSpec, Scale, is_factor, plain

_LARGEST_GUESS = 4.0  # to which tiny images are enlarged without a field of view to go by
_GAIN_RANGE = (0.25, 8.0)  # beyond it, a channel holds more noise than fundus
_MARGIN = 10  # pixels at the network's scale that are computed beside the field of view
_SAMPLES = 256  # rows and columns, about, that channel means are taken over


def check_scale(scale: Scale | None, spec: ModelSpec) -> Scale:
    """Return the caller's scale rule, or the model's own if that is None.

    Raises OptionError if it is not a scale rule, or the model lacks the size that it needs.
    """
    if scale is None:
        return spec.scale
    scale = plain(scale)
    if is_factor(scale):
        return float(scale)
    if scale not in SCALES:
        raise OptionError(
            f"scale is {scale!r}; it must be {', '.join(map(repr, SCALES))}, a positive factor, or "
            f"None for the model's own rule ({spec.scale!r})."
        )
    if (scale == "fit" and spec.fit_size is None) or (scale == "fov" and spec.fov_range is None):
        raise OptionError(
            f"Model {spec.name!r} has no size for the scale {scale!r}. Its own scale is "
            f"{spec.scale!r}; 'native' and factors are for all models."
        )
    return scale


class NetworkInput(NamedTuple):
    """What the network sees of a photograph."""

    scaled: RGB
    """The photograph at the network's scale and in its colours, uint8 (h, w, 3)."""
    placement: Placement
    """The region of it that the network computes, and the way back."""
    warning: str
    """That the field of view is missing or of an unusual size, or ""."""

    @property
    def pixels(self) -> RGB:
        """The pixels of the region."""
        top, bottom, left, right = self.placement.region
        return self.scaled[top:bottom, left:right]


def preprocess(
    image: RGB, fov: FieldOfView, scale: Scale, spec: ModelSpec, max_pixels: int = MAX_PIXELS
) -> NetworkInput:
    """Bring a photograph to the network's scale and colours, and choose what is computed.

    "fit" is the published pipeline: OpenCV's bilinear resampling, not antialiased. All other
    rules antialias when they reduce. Raises OptionError if the photograph would have more than
    `max_pixels` at the network's scale.
    """
    height, width = image.shape[:2]
    factor = scale_factor(height, width, fov.diameter, scale, spec)
    size = (max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1))
    if size[0] * size[1] > max_pixels:
        raise OptionError(
            f"The scale {scale!r} would enlarge {width} x {height} pixels to {size[1]} x "
            f"{size[0]}; at most {max_pixels:,} pixels are accepted. Choose a smaller scale, or "
            f"raise the limit of pixels."
        )
    region = region_to_compute(*size, fov, scale)
    placement = Placement(region, size, (height, width), vessel_bias(fov.diameter, spec))
    warning = unfamiliar_size(fov.diameter, max(size) / max(height, width), scale, spec)
    scaled = image
    if size != (height, width):
        scaled = resize_like_opencv(image, size) if scale == "fit" else resize(image, size)
    if spec.fov_rgb_mean is not None:
        scaled = apply_channel_gains(scaled, channel_gains(image, fov, spec.fov_rgb_mean))
    return NetworkInput(scaled, placement, warning)


def resize(image: RGB, size: tuple[int, int]) -> RGB:
    """Resize bilinearly to (height, width), antialiased where that reduces, as Pillow does.

    A few values are off by 1 from Pillow's. PyTorch is faster, since it computes uint8 with
    vector instructions.
    """
    copied = torch.tensor(image, device="cpu")  # since images may be read-only
    pixels = copied.permute(2, 0, 1)[None]
    scaled = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    return np.asarray(scaled[0].permute(1, 2, 0).contiguous())


def resize_like_opencv(image: RGB, size: tuple[int, int]) -> RGB:
    """Resize an image to `size`, (height, width), without antialiasing, as OpenCV does.

    mmsegmentation resizes photographs with OpenCV's ``INTER_LINEAR``, so equal results need equal
    rounding, bit for bit. OpenCV rounds each weight to a multiple of 1/2048, keeps 7 binary digits
    after the point of the sum along a row, and 2 of each of the two products along a column.
    """
    top, bottom, top_weight, bottom_weight = _taps(image.shape[0], size[0], clamp=False)
    left, right, left_weight, right_weight = _taps(image.shape[1], size[1], clamp=True)

    def weighted_rows(rows: NDArray[np.intp], weights: NDArray[np.int32]) -> NDArray[np.int32]:
        lines = image[rows]
        sums = lines[:, left] * left_weight[:, None] + lines[:, right] * right_weight[:, None]
        return np.asarray(((sums >> 4) * weights[:, None, None]) >> 16)

    rows = weighted_rows(top, top_weight) + weighted_rows(bottom, bottom_weight)
    return ((rows + 2) >> 2).astype(np.uint8)


def _taps(length: int, size: int, *, clamp: bool) -> tuple[NDArray[Any], ...]:
    """The two source pixels of each target pixel, and their weights in units of 1/2048.

    Beyond the border both are the outermost pixel. Along rows OpenCV then gives the first one
    all of the weight (`clamp`); along columns it leaves the weight split, which rounds
    differently.
    """
    position = ((np.arange(size) + 0.5) * (length / size) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.intp)
    fraction = (position - first).astype(np.float32)
    if clamp:
        fraction[(first < 0) | (first >= length - 1)] = 0
    unit = np.float32(2048)
    first_weight = np.rint((np.float32(1) - fraction) * unit).astype(np.int32)
    second_weight = np.rint(fraction * unit).astype(np.int32)
    last = length - 1
    return first.clip(0, last), (first + 1).clip(0, last), first_weight, second_weight


def scale_factor(
    height: int, width: int, diameter: float | None, scale: Scale, spec: ModelSpec
) -> float:
    """Factor by which an image is resized; `diameter` is that of its field of view, if known."""
    if scale == "native":
        return 1.0
    if scale == "fit":  # mmcv's `rescale_size`
        assert spec.fit_size is not None
        long, short = max(spec.fit_size), min(spec.fit_size)
        return min(long / max(height, width), short / min(height, width))
    if scale == "fov":
        assert spec.fov_range is not None
        least, most = spec.fov_range
        if diameter:
            return min(max(diameter, least), most) / diameter
        side = max(height, width)
        return min(min(max(side, least), most) / side, _LARGEST_GUESS)
    return float(scale)


def channel_gains(
    image: RGB, fov: FieldOfView, rgb_mean: tuple[float, float, float]
) -> tuple[float, ...]:
    """Gains that bring the means of R, G and B inside the field of view to `rgb_mean`.

    Another lamp or sensor multiplies each channel by a factor of its own (von Kries). The gains
    undo that, within limits.
    """
    step = max(1, min(image.shape[:2]) // _SAMPLES)
    inside = image[::step, ::step][fov.mask[::step, ::step]]
    means = inside.mean(axis=0) if len(inside) else np.zeros(3)
    gains = np.asarray(rgb_mean) / np.maximum(means, 1e-3)
    return tuple(float(gain) for gain in gains.clip(*_GAIN_RANGE))


def apply_channel_gains(image: RGB, gains: tuple[float, ...]) -> RGB:
    """Multiply each channel by its gain; round, and clip at 255."""
    table = np.outer(gains, np.arange(256)).round().clip(0, 255).astype(int)
    return np.array(Image.fromarray(image).point(table.ravel().tolist()))


def vessel_bias(diameter: float | None, spec: ModelSpec) -> float:
    """What a small field of view adds to the vessel logit; see `ModelSpec.small_fov_bias`."""
    if spec.small_fov_bias is None or diameter is None:
        return 0.0
    largest, bias = spec.small_fov_bias
    return bias * min(max(math.log2(largest / diameter), 0.0), 1.0)


def region_to_compute(height: int, width: int, fov: FieldOfView, scale: Scale) -> Window:
    """The part of a photograph, of this size at the network's scale, that the network computes.

    With the scale "fov" this is the rectangle around the field of view, else everything.
    """
    if scale != "fov":
        return Window(0, height, 0, width)
    ends = []
    for axis, length in ((1, height), (0, width)):
        inside = np.flatnonzero(fov.mask.any(axis=axis))
        factor = length / fov.mask.shape[1 - axis]
        ends.append(max(math.floor(inside[0] * factor) - _MARGIN, 0))
        ends.append(min(math.ceil((inside[-1] + 1) * factor) + _MARGIN, length))
    return Window(*ends)


def unfamiliar_size(diameter: float | None, factor: float, scale: Scale, spec: ModelSpec) -> str:
    """A warning if the field of view is missing, or far from the size trained on; else ""."""
    if spec.fov_range is None:
        return ""
    least, most = spec.fov_range
    expected = f"{least:g}" if least == most else f"{least:g} to {most:g}"
    if diameter is None:
        return (
            f"No field of view was found. Is this a fundus photograph with its dark border? Scale "
            f"{scale!r} was used; model {spec.name!r} expects a field of view {expected} pixels "
            f"wide."
        )
    if 0.5 * least <= diameter * factor <= 2 * most:
        return ""
    return (
        f"The field of view is {diameter * factor:.0f} pixels wide at the network's scale, but "
        f"model {spec.name!r} expects {expected}: it may miss vessels. The scale 'fov' would match "
        f"it."
    )
