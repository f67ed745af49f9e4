"""Many images through one model: decoding, the network and encoding overlap.

::

    readers (threads)  ->  network (the caller's thread)  ->  writers (threads)
          at most _AHEAD images wait          at most _AHEAD results wait
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ..errors import OutputError, VesselsegError
from ..images import RGB, to_rgb
from ..result import Segmentation
from ..segmenter import Segmenter
from .manifest import Line, describe, describe_existing, describe_failure
from .plan import Job

_THREADS = 4  # of readers, and of writers; decoders and encoders let go of the interpreter
_AHEAD = 4  # images: decoded ones of 8 megapixels take 25 MB, results of that size 70 MB

# A failing allocation is a MemoryError of NumPy or a RuntimeError of PyTorch.
_NETWORK_ERRORS = (MemoryError, RuntimeError)
_IMAGE_ERRORS = (VesselsegError, OSError, MemoryError)

Report = Callable[[Job, Line], None]


def run(
    jobs: Iterable[Job],
    model: Segmenter,
    report: Report,
    *,
    scale: str | float | None = None,
    threshold: float = 0.5,
    style: str = "tint",
    started: Callable[[Job], None] = lambda _: None,
) -> None:
    """Segment images and write their outputs; an image that fails does not stop the others.

    Parameters
    ----------
    jobs : iterable of Job
        Read a few ahead of the network.
    model : Segmenter
    report : callable
        Called in this thread with each job and its line of the manifest, once all its files
        are written, or once it failed: then the line has an "error". Roughly in the order of
        `jobs`. "seconds" have passed since the network gave the result before, so that they
        add up to the run.
    scale, threshold
        As for :meth:`Segmenter.segment_many`.
    style : {"tint", "outline"}
        Of overlays.
    started : callable
        Called in this thread with each job as its image comes to the network.

    Raises
    ------
    OptionError
        If `scale` or `threshold` is outside what is allowed.

    Notes
    -----
    If it is interrupted (KeyboardInterrupt), the results that the network had finished are
    still written and reported.
    """
    with (
        ThreadPoolExecutor(_THREADS) as readers,
        ThreadPoolExecutor(_THREADS) as writers,
        contextlib.closing(_Output(writers, report, style)) as output,
    ):
        decoded = _decoded(jobs, readers)
        waiting: deque[tuple[Job, RGB]] = deque()  # on their way through the network

        def photographs() -> Iterator[RGB]:
            for job, future in decoded:
                try:
                    rgb = future.result()
                except _IMAGE_ERRORS as error:
                    report(job, describe_failure(job, error))
                    continue
                waiting.append((job, rgb))
                started(job)
                yield rgb

        while True:
            results = model.segment_many(photographs(), scale=scale, threshold=threshold)
            try:
                for result in results:
                    output.add(waiting.popleft()[0], result)
                return
            except _NETWORK_ERRORS:
                if not waiting:
                    raise
            # One of those under way was too much. Each gets a try of its own, then it goes on.
            while waiting:
                job, rgb = waiting.popleft()
                try:
                    output.add(job, model(rgb, scale=scale, threshold=threshold))
                except _NETWORK_ERRORS as error:
                    report(job, describe_failure(job, error))


def describe_all(jobs: Sequence[Job]) -> Iterator[tuple[Job, Line]]:
    """Lines of the manifest for results that exist already."""
    with ThreadPoolExecutor(_THREADS) as readers:
        for start in range(0, len(jobs), 64):  # so that an interruption does not wait for all
            some = jobs[start : start + 64]
            yield from zip(some, readers.map(describe_existing, some), strict=True)


def _decoded(jobs: Iterable[Job], readers: ThreadPoolExecutor) -> Iterator[tuple[Job, Future[RGB]]]:
    """Jobs in order, their images being decoded."""
    ahead: deque[tuple[Job, Future[RGB]]] = deque()
    for job in jobs:
        ahead.append((job, readers.submit(to_rgb, job.image)))
        if len(ahead) > _AHEAD:
            yield ahead.popleft()
    yield from ahead


class _Output:
    """Results on their way to their files, reported in the order in which they were added."""

    def __init__(self, writers: ThreadPoolExecutor, report: Report, style: str) -> None:
        self._writers, self._report, self._style = writers, report, style
        self._pending: deque[tuple[Job, Future[Line], float]] = deque()
        self._last = time.perf_counter()

    def add(self, job: Job, result: Segmentation) -> None:
        now = time.perf_counter()
        future = self._writers.submit(_write, job, result, self._style)
        self._pending.append((job, future, now - self._last))
        self._last = now
        while self._pending and (len(self._pending) > _AHEAD or self._pending[0][1].done()):
            self._finish_first()

    def close(self) -> None:
        while self._pending:
            self._finish_first()

    def _finish_first(self) -> None:
        job, future, seconds = self._pending.popleft()
        try:
            line = future.result()
            line["seconds"] = round(seconds, 3)
        except _IMAGE_ERRORS as error:
            line = describe_failure(job, error)
        self._report(job, line)


def _write(job: Job, result: Segmentation, style: str) -> Line:
    for kind, path in job.outputs.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            folder = str(path.parent)
            raise OutputError(f"The folder {folder!r} cannot be made: {error}.") from error
        result.save(path, kind, style=style)
    return describe(job, result)
