"""What the server keeps in memory: models, and the last results."""

from __future__ import annotations

import io
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ..api import find_cached
from ..errors import UnknownModelError
from ..registry import list_models
from ..result import Segmentation
from ..segmenter import Segmenter

FILES = (
    "photograph.png",
    "probability.f32",
    "mask.png",
    "overlay.png",
    "probability.png",
    "fov.png",
)
"""What the page can ask for; see :func:`encode`."""


class OfferedModels:
    """The models that the page offers: those on this machine, loaded when first chosen.

    `first`, which the page calls `name`, is always in memory; `load` loads the others by name.
    """

    def __init__(self, first: Segmenter, name: str, load: Callable[[str], Segmenter]) -> None:
        self.first = (name, first)
        self.other = (name, first)  # the one chosen last, if it is another one
        self.load = load

    def names(self) -> list[str]:
        """The first model, the embedded one, and the published ones in the cache.

        They are looked up each time, so that a model downloaded in the meantime is offered. The
        network is not used.
        """
        first = self.first[0]
        available = [spec.name for spec in list_models() if find_cached(spec)]
        return [first, *(name for name in available if name != first)]

    def get(self, name: str) -> Segmenter:
        """The model of that name, "" for the first.

        Raises
        ------
        UnknownModelError
            If it is not one of :meth:`names`.
        """
        for known, model in (self.first, self.other):
            if name in (known, ""):
                return model
        if name not in self.names():
            raise UnknownModelError(
                f"The model {name!r} is not on this machine. Available are: "
                f"{', '.join(self.names())}. `vesselseg models` lists all, and `vesselseg download "
                f"NAME` downloads one."
            )
        self.other = self.first  # release the last one before the next is loaded
        self.other = (name, self.load(name))
        return self.other[1]


class RecentResults:
    """The last few segmentations, by tokens that cannot be guessed."""

    def __init__(self, size: int = 4) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._results: OrderedDict[str, Segmentation] = OrderedDict()

    def add(self, result: Segmentation) -> str:
        """Keep a result; return its token."""
        token = secrets.token_urlsafe(16)
        with self._lock:
            self._results[token] = result
            while len(self._results) > self._size:
                self._results.popitem(last=False)
        return token

    def get(self, token: str) -> Segmentation | None:
        """The result of that token, or None if it is no longer kept."""
        with self._lock:
            if token in self._results:
                self._results.move_to_end(token)
            return self._results.get(token)

    def forget(self, token: str) -> None:
        """Release a result."""
        with self._lock:
            self._results.pop(token, None)


def encode(result: Segmentation, file: str, opacity: float) -> bytes:
    """One of `FILES`.

    ``mask.png``, ``overlay.png``, ``probability.png`` and ``fov.png`` are those of
    :meth:`Segmentation.save`, the overlay with `opacity`. ``photograph.png`` is the photograph as
    it was decoded and turned upright, and ``probability.f32`` is float32 (H, W), little-endian,
    row by row.

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
        kind: Any = file.removesuffix(".png")
        result.write(stream, kind, opacity=opacity)
    return stream.getvalue()
