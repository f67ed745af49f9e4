"""Sliding-window inference with any network, averaging the logits of overlapping windows.

Source: mmsegmentation 1.2.2, ``EncoderDecoder.slide_inference``. For every stride up to the crop
the windows are the same, and logits (not probabilities) are averaged uniformly. To change the
overlap, change `stride`. Shrinking windows is our own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import OptionError, ResourceError

Network: TypeAlias = Callable[[Tensor], Tensor]
Progress: TypeAlias = Callable[[int, int], None]

_MAX_WINDOWS = 100_000
"""Of one image; more would take hours."""

_NOTHING = -1000.0
"""The vessel logit of what is not computed: its probability is 0 in float32."""


class Window(NamedTuple):
    """Rows ``top:bottom`` and columns ``left:right`` of an image, in pixels."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left


def starts(length: int, crop: int, stride: int) -> list[int]:
    """First pixels of the windows along one side.

    One window starts every `stride` pixels; the last is shifted back to end at the border. A
    side shorter than `crop` is one window of that length.
    """
    last = max(length - crop, 0)
    count = -(-last // stride) + 1  # ceil(last / stride) + 1
    return [min(i * stride, last) for i in range(count)]


def shrink(length: int, crop: int, stride: int, divisor: int) -> tuple[int, int]:
    """Crop and stride of the smallest windows that do for a side what `crop` and `stride` do.

    There are no more windows, they overlap by at least as much, and their length is `crop` or a
    multiple of `divisor`.
    """
    if length <= crop:  # a single window, as long as the side
        return crop, stride
    count, overlap = len(starts(length, crop, stride)), crop - stride
    least = -(-(length + (count - 1) * overlap) // count)  # ceil, the overlaps counted twice
    shrunk = min(round_up(least, divisor), crop)
    return shrunk, shrunk - overlap


def windows(
    height: int, width: int, crop: int, stride: int, shrink_to: int | None = None
) -> list[Window]:
    """All windows of a `height` x `width` image, row by row, all of the same size.

    With `shrink_to`, they are as small as :func:`shrink` makes them, in multiples of it.
    """
    sides = []
    for length in (height, width):
        along = (crop, stride) if shrink_to is None else shrink(length, crop, stride, shrink_to)
        shorter = min(along[0], length)
        sides.append([(start, start + shorter) for start in starts(length, *along)])
    rows, columns = sides
    return [Window(*row, *column) for row in rows for column in columns]


def round_up(length: int, divisor: int) -> int:
    """The smallest multiple of `divisor` that is at least `length`."""
    return -(-length // divisor) * divisor


class Stitcher:
    """One image, the sum of its windows' logits, and how many windows are still missing.

    `progress` is called with the windows that are added and that there are. What it raises counts
    as an error of the network.
    """

    def __init__(
        self, image: Tensor, windows: list[Window], progress: Progress | None = None
    ) -> None:
        self.image = image
        self.windows = windows
        self.progress = progress
        self.window_size = windows[0].size
        self.missing = len(windows)
        self.error: Exception | None = None  # of the network, if it failed on this image
        self.sums = torch.empty(0, 0, 0, device="cpu")

    @property
    def is_finished(self) -> bool:
        """Whether all windows are computed, or the network failed on one."""
        return self.error is not None or not self.missing

    def add(self, window: Window, logits: Tensor) -> None:
        """Add the logits (K, h, w) of one window."""
        if self.missing == len(self.windows):
            size = (len(logits), *self.image.shape[-2:])
            self.sums = torch.zeros(size, dtype=torch.float32, device=logits.device)
        self.sums[:, window.top : window.bottom, window.left : window.right] += logits
        self.missing -= 1
        if self.progress is not None:
            self.progress(len(self.windows) - self.missing, len(self.windows))

    def average(self) -> Tensor:
        """Logits (K, H, W), averaged over the windows that cover each pixel.

        Raises what the network raised on this image.
        """
        if self.error is not None:
            raise self.error
        assert not self.missing
        # How many windows cover a pixel is a product of rows and columns.
        for axis, ends in ((1, {w[:2] for w in self.windows}), (2, {w[2:] for w in self.windows})):
            counts = torch.zeros(self.sums.shape[axis], dtype=torch.float32, device="cpu")
            for first, last in ends:
                counts[first:last] += 1
            shape = [len(counts) if i == axis else 1 for i in range(3)]
            self.sums.div_(counts.view(shape).to(self.sums.device))
        return self.sums


class WindowQueue:
    """Windows of one image after another, computed in full batches.

    Windows of several images share batches, so that small images use a network as well as large
    ones. The last batch is filled up with zeros: every batch has the same shape, and the logits
    of an image do not depend on the images beside it.

    Parameters
    ----------
    network : callable
        Windows (N, C, h, w) -> logits (N, K, h, w), with h and w divisible by `size_divisor`.
    crop, stride : int
        Side of the windows and distance between their starts, in pixels; stride <= crop.
    batch_size : int
        Windows per call of `network`.
    size_divisor : int
        Windows of an image that is smaller than the crop are extended to the next multiple of
        this by repeating their last row and column. The logits are cropped back.
    shrink_windows : bool
        Whether windows are shrunk to what covers each image: no more of them, with at least the
        same overlap, in multiples of `size_divisor`.
    """

    def __init__(
        self,
        network: Network,
        *,
        crop: int,
        stride: int,
        batch_size: int,
        size_divisor: int = 1,
        shrink_windows: bool = False,
    ) -> None:
        self.network = network
        self.crop, self.stride = crop, stride
        self.batch_size, self.size_divisor = batch_size, size_divisor
        self.shrink_windows = shrink_windows
        self.batch: list[tuple[Stitcher, Window]] = []

    def add(self, image: Tensor, progress: Progress | None = None) -> Stitcher:
        """Queue the windows of an image (C, H, W), and compute the batches that are full.

        Raises OptionError if it has more than 100,000 windows.
        """
        height, width = image.shape[-2:]
        count = len(starts(height, self.crop, self.stride))
        count *= len(starts(width, self.crop, self.stride))
        if count > _MAX_WINDOWS:
            raise OptionError(
                f"{width} x {height} pixels at the network's scale are {count:,} windows of "
                f"{self.crop} pixels with a stride of {self.stride}; at most {_MAX_WINDOWS:,} are "
                f"accepted. Choose a smaller scale or a larger stride."
            )
        shrink_to = self.size_divisor if self.shrink_windows else None
        every = windows(height, width, self.crop, self.stride, shrink_to)
        stitcher = Stitcher(image, every, progress)
        if self.batch and self.batch[0][0].window_size != stitcher.window_size:
            self.flush()  # a batch has windows of one size
        for window in stitcher.windows:
            if stitcher.error is None:
                self.batch.append((stitcher, window))
            if len(self.batch) == self.batch_size:
                self.flush()
        return stitcher

    def flush(self) -> None:
        """Compute the windows that wait, and add their logits to their images.

        If the network fails on a batch, the windows of each image are tried by themselves, so
        that an image on which it fails has an `error` and the others are right.
        """
        batch, self.batch = self.batch, []
        try:
            self._compute(batch)
        except Exception as error:
            images = list(dict.fromkeys(stitcher for stitcher, _ in batch))
            if len(images) == 1:
                images[0].error = error
                return
            for image in images:
                self.batch = [part for part in batch if part[0] is image]
                self.flush()

    def _compute(self, batch: list[tuple[Stitcher, Window]]) -> None:
        if not batch:
            return
        first = batch[0][0]
        height, width = first.window_size
        # In channels-last order whole rows are copied, and convolutions are fastest.
        size = (
            self.batch_size,
            round_up(height, self.size_divisor),
            round_up(width, self.size_divisor),
            len(first.image),
        )
        try:
            stack = torch.zeros(size, dtype=first.image.dtype, device=first.image.device)
        except RuntimeError as error:
            raise ResourceError(
                f"{self.batch_size:,} windows of {height} x {width} pixels do not fit into the "
                f"memory of {first.image.device}. Choose a smaller batch size."
            ) from error
        stack = stack.permute(0, 3, 1, 2)
        for place, (stitcher, window) in zip(stack, batch, strict=False):
            pixels = stitcher.image[:, window.top : window.bottom, window.left : window.right]
            place[:, :height, :width] = pixels
            place[:, height:, :width] = pixels[:, -1:]
            place[:, :, width:] = place[:, :, width - 1 : width].clone()
        logits = self.network(stack)
        for values, (stitcher, window) in zip(logits, batch, strict=False):
            stitcher.add(window, values[:, :height, :width])


class Placement(NamedTuple):
    """Where the logits of a region belong in a photograph."""

    region: Window
    """Of the photograph at the network's scale: what is computed."""
    whole: tuple[int, int]
    """Height and width of the photograph at the network's scale."""
    size: tuple[int, int]
    """Height and width of the photograph itself."""
    vessel_bias: float = 0.0
    """What is added to the vessel logit, the last one."""


def restore(logits: Tensor, placement: Placement) -> Tensor:
    """Logits (K, h, w) of a region -> logits of the photograph at its own size, (K, H, W).

    Outside the region there are no vessels: the last logit is very low there. Resizing is
    bilinear, as in mmsegmentation.
    """
    region, whole, size, bias = placement
    if logits.shape[-2:] != whole:
        part = logits
        logits = part.new_zeros(len(part), *whole)
        logits[-1] = _NOTHING
        logits[:, region.top : region.bottom, region.left : region.right] = part
    logits[-1] += bias
    if whole == size:
        return logits
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]


def slide(
    image: Tensor, network: Network, *, progress: Progress | None = None, **options: Any
) -> Tensor:
    """Logits (K, H, W) of one image (C, H, W); `options` are those of :class:`WindowQueue`."""
    queue = WindowQueue(network, **options)
    stitcher = queue.add(image, progress)
    queue.flush()
    return stitcher.average()
