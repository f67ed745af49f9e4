"""The one loop over many photographs: reading, the network and finishing overlap.

::

    readers (threads)  ->  network (the caller's thread)  ->  finishers (threads)
          at most _AHEAD photographs wait        at most _AHEAD results wait

Folders, measures, evaluation and the workers of a Ray cluster hand it what they read and what
they want of each result.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ..segmenter import Segmenter
from ..spec import Scale

_THREADS = 4  # readers, and finishers; decoders and encoders release the interpreter
_AHEAD = 4  # photographs: decoded ones of 8 megapixels take 25 MB, their results 70 MB


Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def run(
    jobs: Iterable[Job],
    model: Segmenter | None,
    read: Callable[[Job], tuple[Any, Any]],
    finish: Callable[[Job, Any, Any, float], Outcome],
    on_outcome: Callable[[Job, Outcome | Exception], None],
    *,
    scale: Scale | None = None,
    threshold: float = 0.5,
) -> None:
    """Read, segment and finish photographs; one that fails does not stop the others.

    Jobs are taken one by one, a few ahead. `read` is called in a thread with a job; it returns the
    image for the model, and anything that `finish` needs besides. `finish` is called in a thread
    with the job, what `read` returned besides, the result, and the seconds since the result before
    it, so that seconds add up to the run. Without a model, what was read is finished.

    `on_outcome` is called in this thread with each job, in order, and what `finish` returned, or
    what reading, the network or finishing raised. What it raises ends the run, after the results
    that the network has finished were reported. So does a KeyboardInterrupt.
    """
    in_network: deque[tuple[Job, Any]] = deque()
    finishing: deque[tuple[Job, Future[Outcome]]] = deque()

    def photographs() -> Iterator[Any]:
        """Images, or the errors of those that could not be read."""
        unread = iter(jobs)
        reading: deque[tuple[Job, Future[tuple[Any, Any]]]] = deque()
        while True:
            for job in itertools.islice(unread, 1 + _AHEAD - len(reading)):
                reading.append((job, readers.submit(read, job)))
            if not reading:
                return
            job, future = reading.popleft()
            image, known = _outcome(future), None
            if not isinstance(image, Exception):
                image, known = image
            in_network.append((job, known))
            yield image

    def report(most: int) -> None:
        """Report what is finished; wait for the oldest if more than `most` are not."""
        while finishing and (len(finishing) > most or finishing[0][1].done()):
            job, future = finishing[0]
            outcome = _outcome(future)  # an interrupt while this waits leaves it to be reported
            finishing.popleft()
            on_outcome(job, outcome)

    with ThreadPoolExecutor(_THREADS) as readers, ThreadPoolExecutor(_THREADS) as finishers:
        results: Iterator[Any] = photographs()
        if model is not None:
            results = model.segment_many(
                results, scale=scale, threshold=threshold, on_error="yield"
            )
        last_result = time.perf_counter()
        try:
            for result in results:
                job, known = in_network.popleft()
                now = time.perf_counter()
                if isinstance(result, Exception):
                    future: Future[Outcome] = Future()
                    future.set_exception(result)
                else:
                    future = finishers.submit(finish, job, known, result, now - last_result)
                last_result = now
                finishing.append((job, future))
                report(_AHEAD)
        finally:
            report(0)


def _outcome(future: Future[Any]) -> Any:
    """What a thread returned or raised, once it has."""
    try:
        return future.result()
    except Exception as error:
        return error
