"""Window geometry in plain integers.

Source: mmsegmentation 1.2.2, ``EncoderDecoder.slide_inference``. For every stride up to the
crop these are its windows.
"""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """Rows ``top:bottom`` and columns ``left:right`` of an image, in pixels."""

    top: int
    bottom: int
    left: int
    right: int


def starts(length: int, crop: int, stride: int) -> list[int]:
    """First pixels of the windows along one side.

    One every `stride` pixels; the last is shifted back so that it ends at the border. A side
    shorter than `crop` is one window of that length.
    """
    last = max(length - crop, 0)
    count = -(-last // stride) + 1  # ceil(last / stride) + 1
    return [min(i * stride, last) for i in range(count)]


def windows(height: int, width: int, crop: int, stride: int) -> list[Window]:
    """All windows of a `height` x `width` image, row by row, each of the same size."""
    tall, wide = min(crop, height), min(crop, width)
    return [
        Window(top, top + tall, left, left + wide)
        for top in starts(height, crop, stride)
        for left in starts(width, crop, stride)
    ]


def round_up(length: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `length`."""
    return -(-length // multiple) * multiple
