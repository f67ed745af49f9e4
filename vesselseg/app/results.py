"""The last results, in memory and nowhere else."""

from __future__ import annotations

import dataclasses
import io
import secrets
import threading
from collections import OrderedDict

import numpy as np

from ..errors import OptionError
from ..result import Segmentation

FILES = ("photograph.png", "probability.f32", "mask.png", "overlay.png", "probability.png")
"""What the page can ask of a result; see :func:`encode`."""


class Results:
    """The last few segmentations by tokens that cannot be guessed.

    Parameters
    ----------
    most : int
        Kept at once; the one longest unused is forgotten for the next.
    """

    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Segmentation] = OrderedDict()

    def add(self, result: Segmentation) -> str:
        """Keep a result; its token."""
        token = secrets.token_urlsafe(16)
        with self._lock:
            self._kept[token] = result
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return token

    def get(self, token: str) -> Segmentation | None:
        """The result of that token, or None where it is no longer kept."""
        with self._lock:
            if token in self._kept:
                self._kept.move_to_end(token)
            return self._kept.get(token)

    def forget(self, token: str) -> None:
        """Let go of a result."""
        with self._lock:
            self._kept.pop(token, None)


def at_threshold(result: Segmentation, threshold: float) -> Segmentation:
    """The same probabilities with the mask of another threshold, as the model would give it.

    Raises
    ------
    OptionError
        If `threshold` is not in [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise OptionError(f"threshold is {threshold!r}; it has to be a number from 0 to 1.")
    return dataclasses.replace(
        result,
        mask=result.probability > np.float32(threshold),
        provenance={**result.provenance, "threshold": threshold},
    )


def encode(result: Segmentation, file: str, opacity: float) -> bytes:
    """One of `FILES`, in memory.

    ``mask.png``, ``overlay.png`` and ``probability.png`` are those of :meth:`Segmentation.save`,
    the overlay with `opacity`. For the page alone are ``photograph.png``, as it was decoded and
    turned upright, and ``probability.f32``: float32 (H, W), little-endian, row by row.

    Raises
    ------
    OptionError
        If `opacity` is not in [0, 1].
    """
    if file == "probability.f32":
        return result.probability.astype("<f4").tobytes()
    stream = io.BytesIO()
    if file == "photograph.png":
        result.overlay(opacity=0).save(stream, format="PNG", compress_level=1)
    else:
        result._write(stream, file.removesuffix(".png"), opacity=opacity)
    return stream.getvalue()
