"""Batches of windows through any callable, and the mean of their logits.

Nothing here knows the network: `net` is whatever maps a batch of windows (N, C, h, w) to logits
(N, K, h, w). Overlapping logits are averaged uniformly, as ``EncoderDecoder.slide_inference`` of
mmsegmentation 1.2.2 does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from .windows import Window, round_up, starts, windows

Net = Callable[[Tensor], Tensor]


class _Canvas:
    """One image, the sum of its windows' logits, and the number of windows still to come."""

    def __init__(self, image: Tensor, crop: int, stride: int) -> None:
        self.image = image
        self.height, self.width = image.shape[-2:]
        self.crop, self.stride = crop, stride
        self.windows = windows(self.height, self.width, crop, stride)
        self.missing = len(self.windows)
        self.sums: Tensor | None = None

    @property
    def window_size(self) -> tuple[int, int]:
        return min(self.crop, self.height), min(self.crop, self.width)

    def add(self, window: Window, logits: Tensor) -> None:
        if self.sums is None:
            size = (len(logits), self.height, self.width)
            self.sums = torch.zeros(size, dtype=torch.float32, device=logits.device)
        self.sums[:, window.top : window.bottom, window.left : window.right] += logits
        self.missing -= 1

    def mean(self) -> Tensor:
        assert self.sums is not None
        assert not self.missing
        rows = self._counts(self.height)
        columns = self._counts(self.width)
        return self.sums.div_(rows[:, None]).div_(columns)  # no map of counts is made

    def _counts(self, length: int) -> Tensor:
        """How many windows cover each pixel of one side."""
        assert self.sums is not None
        counts = torch.zeros(length, dtype=torch.float32)
        for start in starts(length, self.crop, self.stride):
            counts[start : start + self.crop] += 1
        return counts.to(self.sums.device)


def slide(
    images: Iterable[Tensor],
    net: Net,
    *,
    crop: int,
    stride: int,
    batch_size: int,
    multiple: int = 1,
) -> Iterator[Tensor]:
    """Logits of each image, in order, from windows that share batches across images.

    Parameters
    ----------
    images : iterable of Tensor (C, H, W)
        Read one by one as windows are needed.
    net : callable
        Windows (N, C, h, w) -> logits (N, K, h, w), h and w multiples of `multiple`.
    crop, stride : int
        Side of the windows and distance of their starts, in pixels; stride <= crop.
    batch_size : int
        Windows in one call of `net`. The last batch is filled up with zeros: every call has the
        same shape, so that a window's logits do not depend on how images were grouped.
    multiple : int
        An image with a side shorter than the crop gives windows of that length. Their last row
        and column are repeated up to the next multiple of this, and cut off afterwards.

    Yields
    ------
    Tensor (K, H, W)
        float32, on the device of the logits.
    """
    canvases: deque[_Canvas] = deque()  # in order of arrival
    batch: list[tuple[_Canvas, Window]] = []
    source, failure = iter(images), None
    while True:
        try:
            image = next(source)
        except StopIteration:
            break
        except Exception as error:  # raised when its turn has come, behind what is before it
            failure = error
            break
        canvas = _Canvas(image, crop, stride)
        if batch and batch[0][0].window_size != canvas.window_size:
            _run(batch, net, batch_size, multiple)  # a batch has windows of one size
        canvases.append(canvas)
        for window in canvas.windows:
            batch.append((canvas, window))
            if len(batch) == batch_size:
                _run(batch, net, batch_size, multiple)
        while canvases and not canvases[0].missing:
            yield canvases.popleft().mean()
    if batch:
        _run(batch, net, batch_size, multiple)
    while canvases:
        yield canvases.popleft().mean()
    if failure is not None:
        raise failure


def _run(batch: list[tuple[_Canvas, Window]], net: Net, batch_size: int, multiple: int) -> None:
    """Send the batch through the network, add its logits to their canvases, empty it."""
    first = batch[0][0]
    height, width = first.window_size
    # Channels last: whole rows are copied, and convolutions like it.
    tall, wide = round_up(height, multiple), round_up(width, multiple)
    size = (batch_size, tall, wide, len(first.image))
    stack = torch.zeros(size, dtype=first.image.dtype, device=first.image.device)
    stack = stack.permute(0, 3, 1, 2)
    for place, (canvas, window) in zip(stack, batch, strict=False):
        tile = canvas.image[:, window.top : window.bottom, window.left : window.right]
        place[:, :height, :width] = tile
        place[:, height:, :width] = tile[:, -1:]
        place[:, :, width:] = place[:, :, width - 1 : width].clone()
    logits = net(stack)
    for part, (canvas, window) in zip(logits, batch, strict=False):
        canvas.add(window, part[:, :height, :width])
    batch.clear()
