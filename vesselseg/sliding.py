"""Sliding-window inference with any network, averaging the logits of overlapping windows.

Source: mmsegmentation 1.2.2, ``EncoderDecoder.slide_inference``. For every stride up to the crop
the windows are the same, and logits (not probabilities) are averaged uniformly. To change the
overlap, change `stride`. Shrinking windows is our own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key")
Network = Callable[[Tensor], Tensor]


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


class Stitcher(Generic[Key]):
    """One image, the sum of its windows' logits, and how many windows are still missing."""

    def __init__(self, key: Key, image: Tensor, windows: list[Window]) -> None:
        self.key = key
        self.image = image
        self.windows = windows
        self.window_size = windows[0].size if windows else (0, 0)
        self.missing = len(windows)
        self.sums = torch.empty(0, 0, 0)

    def add(self, window: Window, logits: Tensor) -> None:
        """Add the logits (K, h, w) of one window."""
        if self.missing == len(self.windows):
            size = (len(logits), *self.image.shape[-2:])
            self.sums = torch.zeros(size, dtype=torch.float32, device=logits.device)
        self.sums[:, window.top : window.bottom, window.left : window.right] += logits
        self.missing -= 1

    def mean(self) -> Tensor:
        """Logits (K, H, W), averaged over the windows that cover each pixel."""
        assert not self.missing
        # How many windows cover a pixel is a product of rows and columns.
        for axis, ends in ((1, {w[:2] for w in self.windows}), (2, {w[2:] for w in self.windows})):
            counts = torch.zeros(self.sums.shape[axis], dtype=torch.float32)
            for first, last in ends:
                counts[first:last] += 1
            shape = [len(counts) if i == axis else 1 for i in range(3)]
            self.sums.div_(counts.view(shape).to(self.sums.device))
        return self.sums


def slide(
    images: Iterable[tuple[Key, Tensor | None]],
    network: Network,
    *,
    crop: int,
    stride: int,
    batch_size: int,
    size_divisor: int = 1,
    shrink_windows: bool = False,
) -> Iterator[tuple[Key, Tensor]]:
    """Logits of each image, in order; windows of several images share batches.

    Parameters
    ----------
    images : iterable of (key, Tensor (C, H, W) or None)
        Read one by one, when windows are needed. Keys are handed through; one that comes without
        an image keeps its place.
    network : callable
        Windows (N, C, h, w) -> logits (N, K, h, w), with h and w divisible by `size_divisor`.
    crop, stride : int
        Side of the windows and distance between their starts, in pixels; stride <= crop.
    batch_size : int
        Windows per call of `network`. The last batch is filled up with zeros, so that every
        call has the same shape and logits do not depend on how images are grouped.
    size_divisor : int
        Windows of an image that is smaller than the crop are extended to the next multiple of
        this by repeating their last row and column. The logits are cropped back.
    shrink_windows : bool
        Whether windows are shrunk to what covers each image: no more of them, with at least the
        same overlap, in multiples of `size_divisor`.

    Yields
    ------
    key, Tensor (K, H, W)
        float32, on the device of the logits; empty for a key without an image.
    """
    waiting: deque[Stitcher[Key]] = deque()  # images in order, some of their windows in the batch
    batch: list[tuple[Stitcher[Key], Window]] = []
    for key, image in images:
        if image is None:
            stitcher = Stitcher(key, torch.empty(0), [])
        else:
            height, width = image.shape[-2:]
            shrink_to = size_divisor if shrink_windows else None
            stitcher = Stitcher(key, image, windows(height, width, crop, stride, shrink_to))
        waiting.append(stitcher)
        for window in stitcher.windows:
            if batch and batch[0][0].window_size != stitcher.window_size:
                run_batch(batch, network, batch_size, size_divisor)  # windows of one size only
            batch.append((stitcher, window))
            if len(batch) == batch_size:
                run_batch(batch, network, batch_size, size_divisor)
        while waiting and not waiting[0].missing:
            first = waiting.popleft()
            yield first.key, first.mean()
    if batch:
        run_batch(batch, network, batch_size, size_divisor)
    while waiting:
        first = waiting.popleft()
        yield first.key, first.mean()


def run_batch(
    batch: list[tuple[Stitcher[Key], Window]], network: Network, batch_size: int, size_divisor: int
) -> None:
    """Run the network on a batch of windows, add the logits to their images, empty the batch."""
    first = batch[0][0]
    height, width = first.window_size
    # In channels-last order whole rows are copied, and convolutions are fastest.
    size = (
        batch_size,
        round_up(height, size_divisor),
        round_up(width, size_divisor),
        len(first.image),
    )
    stack = torch.zeros(size, dtype=first.image.dtype, device=first.image.device)
    stack = stack.permute(0, 3, 1, 2)
    for place, (stitcher, window) in zip(stack, batch, strict=False):
        pixels = stitcher.image[:, window.top : window.bottom, window.left : window.right]
        place[:, :height, :width] = pixels
        place[:, height:, :width] = pixels[:, -1:]
        place[:, :, width:] = place[:, :, width - 1 : width].clone()
    logits = network(stack)
    for values, (stitcher, window) in zip(logits, batch, strict=False):
        stitcher.add(window, values[:, :height, :width])
    batch.clear()
