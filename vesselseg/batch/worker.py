"""What a worker of a Ray cluster does: fetch images, segment them, bring the results away."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

from ..segmenter import Segmenter, rebuild
from . import storage
from .manifest import Line, describe_failure
from .parquet import Row, to_row, to_table
from .plan import Job
from .run import run

logger = logging.getLogger(__name__)

Tasks: TypeAlias = "dict[str, dict[str, str]]"  # name -> kind of picture -> place

_READERS = 4  # threads that fetch what lies behind addresses, and files that wait
_DEATHS = 2  # of a worker that had this image and no other: one may be chance
_DIED = "Each worker that had this image died, for want of memory or by a crash; see Ray's log."


class Ledger:
    """Which images workers died of: an actor of its own, for they cannot tell any more.

    Ray tries the images of a worker that died again, and for ever. The first time they share
    batches and threads; after a death they come one by one, and here it is noted which.
    """

    def __init__(self) -> None:
        self._attempts: Counter[str] = Counter()
        self._begun: Counter[str] = Counter()

    def attempt(self, names: list[str]) -> tuple[int, dict[str, int]]:
        """Note that these are begun: how often they were, and how many deaths each brought."""
        self._attempts[names[0]] += 1
        return self._attempts[names[0]], {name: self._begun[name] for name in names}

    def begin(self, name: str) -> None:
        """Note that a worker has this image and no other."""
        self._begun[name] += 1

    def end(self, name: str) -> None:
        """Note that it lived."""
        del self._begun[name]


class Worker:
    """A model in a process of Ray: names of images and outputs in, rows of the manifest out.

    Parameters
    ----------
    model : ray.ObjectRef
        Of the Segmenter.
    ledger : ray.ActorHandle
        Of the run's :class:`Ledger`.
    device, precision : str or None
        Where and how to compute here; both None for what the Segmenter says.
    scale, threshold, style
        As for :func:`vesselseg.batch.run.run`.
    folder : str
        What paths are relative to.
    """

    def __init__(
        self,
        model: Any,
        ledger: Any,
        device: str | None,
        precision: str | None,
        scale: str | float | None,
        threshold: float,
        style: str,
        folder: str,
    ) -> None:
        import ray

        loaded: Segmenter = ray.get(model)
        if device or precision:
            loaded = rebuild(
                loaded._runtime,
                loaded.spec,
                loaded.sha256,
                device or str(loaded.device),
                precision or loaded.precision,
                loaded._asked_batch_size,
                loaded.max_pixels,
            )
        self._model = loaded
        self._ledger = ledger
        self._options: dict[str, Any] = {"scale": scale, "threshold": threshold, "style": style}
        self._folder = folder

    def __call__(self, batch: Any) -> Any:
        import ray

        tasks: Tasks = {row.pop("input"): row for row in batch.to_pylist()}
        attempt, deaths = ray.get(self._ledger.attempt.remote(list(tasks)))
        if attempt == 1:
            try:
                return to_table(self._segment(tasks))
            except Exception as error:  # found again, and told, with the image that it is of
                logger.warning("%r; the images are tried one by one.", error)
        rows: list[Row] = []
        for name, outputs in tasks.items():
            if deaths[name] >= _DEATHS:
                rows.append(to_row({"input": name, "error": _DIED}, {}))
                continue
            ray.get(self._ledger.begin.remote(name))
            try:
                rows += self._segment({name: outputs})
            except Exception as error:
                rows.append(to_row({"input": name, "error": repr(error)}, {}))
            ray.get(self._ledger.end.remote(name))
        return to_table(rows)

    def _segment(self, tasks: Tasks) -> list[Row]:
        rows: list[Row] = []

        def report(job: Job, line: Line) -> None:
            outputs = tasks[job.name]
            remote = [kind for kind, place in outputs.items() if storage.is_address(place)]
            if "error" not in line:
                try:
                    for kind in remote:
                        storage.write_bytes(outputs[kind], job.outputs[kind].read_bytes())
                except Exception as error:  # whatever the library behind the address raises
                    line = describe_failure(job, error)
            for kind in remote:
                job.outputs[kind].unlink(missing_ok=True)
            rows.append(to_row(line, outputs))

        with (
            tempfile.TemporaryDirectory() as scratch,
            ThreadPoolExecutor(_READERS) as readers,
        ):
            jobs = self._jobs(tasks, Path(scratch), readers, report)
            run(jobs, self._model, report, **self._options)
        return rows

    def _jobs(
        self,
        tasks: Tasks,
        scratch: Path,
        readers: ThreadPoolExecutor,
        report: Callable[[Job, Line], None],
    ) -> Iterator[Job]:
        """Jobs on files here: what lies behind addresses is fetched, and written to `scratch`."""
        ahead: deque[tuple[Job, Future[bytes] | None]] = deque()
        for number, (name, outputs) in enumerate(tasks.items()):
            paths = {
                kind: scratch / f"{number}_{kind}.png"
                if storage.is_address(place)
                else Path(self._folder, place)
                for kind, place in outputs.items()
            }
            job = Job(name, Path(self._folder, name), paths)
            remote = storage.is_address(name)
            ahead.append((job, readers.submit(storage.read_bytes, name) if remote else None))
            if len(ahead) > _READERS:
                yield from _fetched(*ahead.popleft(), report)
        while ahead:
            yield from _fetched(*ahead.popleft(), report)


def _fetched(
    job: Job, content: Future[bytes] | None, report: Callable[[Job, Line], None]
) -> Iterator[Job]:
    """The job with its content; none if it could not be had."""
    try:
        fetched = dataclasses.replace(job, image=content.result()) if content else job
    except Exception as error:  # whatever the library behind the address raises
        report(job, describe_failure(job, error))
        return
    yield fetched
