"""Bilinear resampling of uint8 images, bit for bit as OpenCV's ``INTER_LINEAR`` does it.

mmsegmentation resizes photographs with it, so equal results need equal rounding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Taps = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int32], NDArray[np.int32]]


def resize_like_opencv(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image (H, W, 3), uint8, to `size`, (height, width), without antialiasing.

    OpenCV rounds each weight to a multiple of 1/2048, keeps 7 binary digits after the point of
    the sum along a row, and 2 of each of the two products along a column.
    """
    top, bottom, top_weight, bottom_weight = _taps(image.shape[0], size[0], clamp=False)
    left, right, left_weight, right_weight = _taps(image.shape[1], size[1], clamp=True)

    def weighted_rows(rows: NDArray[np.intp], weights: NDArray[np.int32]) -> NDArray[np.int32]:
        lines = image[rows]
        sums = lines[:, left] * left_weight[:, None] + lines[:, right] * right_weight[:, None]
        return np.asarray(((sums >> 4) * weights[:, None, None]) >> 16)

    rows = weighted_rows(top, top_weight) + weighted_rows(bottom, bottom_weight)
    return ((rows + 2) >> 2).astype(np.uint8)


def _taps(length: int, size: int, *, clamp: bool) -> Taps:
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
