"""The models that the page offers: those on this machine, loaded when first chosen."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .. import cache
from ..registry import list_models
from ..errors import UnknownModelError
from ..result import Segmentation
from ..segmenter import Segmenter


class Models:
    """Models by name, used by one request at a time.

    Parameters
    ----------
    first : Segmenter
        Offered first; always in memory.
    name : str
        What the page calls `first`.
    load : callable
        From the name of a model to the model.
    """

    def __init__(self, first: Segmenter, name: str, load: Callable[[str], Segmenter]) -> None:
        self._first = (name, first)
        self._other = (name, first)  # the last one chosen besides
        self._load = load
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """What can be chosen: the first model, the package's, and the published ones in the cache.

        Looked up anew each time, so that a model downloaded meanwhile is there. Nothing is asked
        of the network.
        """
        first = self._first[0]
        here = [record.name for record in list_models() if cache.cached(record)]
        return [first, *(name for name in here if name != first)]

    def segment(self, name: str, content: bytes) -> Segmentation:
        """Segment the image file `content` with the model `name`, "" for the first.

        Raises
        ------
        UnknownModelError
            If the model is not one of :meth:`names`.
        ImageError
            If `content` is no image that is accepted.
        """
        with self._lock:  # one network at a time: two would only share the same processors
            return self._get(name)(content)

    def _get(self, name: str) -> Segmenter:
        for known, model in (self._first, self._other):
            if name in (known, ""):
                return model
        if name not in self.names():
            raise UnknownModelError(
                f"The model {name!r} is not on this machine. Here are: {', '.join(self.names())}. "
                f"`vesselseg models` lists all, `vesselseg download NAME` gets one."
            )
        self._other = self._first  # let go of the last one before the next is loaded
        self._other = (name, self._load(name))
        return self._other[1]
