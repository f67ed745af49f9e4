"""Many photographs through one model: decoding, the network and encoding overlap.

::

    readers (threads)  ->  network (the caller's thread)  ->  writers (threads)
          at most _AHEAD photographs wait        at most _AHEAD results wait
"""

from __future__ import annotations

import io
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from .. import dicom
from ..errors import VesselsegError
from ..images import RGB, to_rgb
from ..result import FORMATS, Segmentation, Style
from ..segmenter import Segmenter
from ..spec import Scale
from .jobs import Job, is_address, make_folder, names_dicom, read_bytes, write_bytes
from .manifest import Row, describe

_THREADS = 4  # readers, and writers; decoders and encoders release the interpreter
_AHEAD = 4  # photographs: decoded ones of 8 megapixels take 25 MB, their results 70 MB

# A failed allocation is a MemoryError of NumPy or a RuntimeError of PyTorch.
_NETWORK_ERRORS = (MemoryError, RuntimeError)
_FILE_ERRORS = (VesselsegError, OSError, MemoryError)

Fail = Callable[[Job, Exception], None]  # reports a job that failed


def run(
    jobs: Iterable[Job],
    model: Segmenter,
    on_row: Callable[[Job, Row], None],
    *,
    scale: Scale | None = None,
    threshold: float = 0.5,
    style: Style = "tint",
    folder: str = "",
    stdin: bytes = b"",
    bits: int | None = None,
    on_failure: Callable[[Exception], None] = lambda _: None,
) -> None:
    """Segment photographs and write their outputs; one that fails does not stop the others.

    `on_row` is called with a job and its row of the manifest when all its files are written or it
    failed; then the row has an "error", and `on_failure` is called with the exception first. Both
    are called in this thread. Rows come roughly in the order of the jobs. "seconds" is the time
    since the network's result before, so that seconds add up to the run.

    `folder` is where relative paths start, by default the working directory; `stdin` is the content
    of the job ``-``. After a KeyboardInterrupt, results that the network finished are still written
    and reported.
    """

    def source(job: Job) -> bytes | Path:
        if job.name == "-":
            return stdin
        return read_bytes(job.name) if is_address(job.name) else Path(folder, job.name)

    def read(job: Job) -> RGB:
        file = source(job)
        if any(map(names_dicom, job.outputs.values())):
            dicom.read_source(file)  # an error before any work
        return to_rgb(file, bits=bits)

    def write(job: Job, result: Segmentation, seconds: float) -> Row:
        result.provenance["bits"] = bits  # the model got it decoded
        write_outputs(job, result, style, folder, lambda: source(job))
        return describe(job, result.provenance, result.vessel_fraction(), seconds)

    def fail(job: Job, error: Exception) -> None:
        on_failure(error)
        on_row(job, {"input": job.name, "error": str(error) or type(error).__name__})

    with ThreadPoolExecutor(_THREADS) as readers, ThreadPoolExecutor(_THREADS) as writers:
        photographs = read_ahead(jobs, read, readers, fail)
        output = Output(write, writers, on_row, fail)
        try:
            for job, result in segment_each(photographs, model, scale, threshold, fail):
                output.add(job, result)
        finally:
            output.report(0)


def read_ahead(
    jobs: Iterable[Job], read: Callable[[Job], RGB], pool: ThreadPoolExecutor, fail: Fail
) -> Iterator[tuple[Job, RGB]]:
    """Jobs with their photographs, in order; some are read ahead of the one that is asked for."""
    unread = iter(jobs)
    reading: deque[tuple[Job, Future[RGB]]] = deque()
    while True:
        for job in itertools.islice(unread, 1 + _AHEAD - len(reading)):
            reading.append((job, pool.submit(read, job)))
        if not reading:
            return
        job, future = reading.popleft()
        try:
            rgb = future.result()
        except _FILE_ERRORS as error:
            fail(job, error)
        else:
            yield job, rgb


def segment_each(
    photographs: Iterator[tuple[Job, RGB]],
    model: Segmenter,
    scale: Scale | None,
    threshold: float,
    fail: Fail,
) -> Iterator[tuple[Job, Segmentation]]:
    """Jobs with their results, in order; a photograph that is too large fails by itself."""
    in_network: deque[tuple[Job, RGB]] = deque()

    def into_network() -> Iterator[tuple[Job, RGB]]:
        for job, rgb in photographs:
            in_network.append((job, rgb))
            yield job, rgb

    while True:
        try:
            results = model.segment_keyed(into_network(), scale=scale, threshold=threshold)
            for job, result in results:
                in_network.popleft()
                yield job, result
            return
        except _NETWORK_ERRORS:
            if not in_network:
                raise
        # One photograph in the network was too large: try each by itself, then go on.
        while in_network:
            job, rgb = in_network.popleft()
            try:
                result = model(rgb, scale=scale, threshold=threshold)
            except _NETWORK_ERRORS as error:
                fail(job, error)
            else:
                yield job, result


class Output:
    """Results that threads write, each reported in the caller's thread once it is written."""

    def __init__(
        self,
        write: Callable[[Job, Segmentation, float], Row],
        pool: ThreadPoolExecutor,
        on_row: Callable[[Job, Row], None],
        fail: Fail,
    ) -> None:
        self.write, self.pool, self.on_row, self.fail = write, pool, on_row, fail
        self.writing: deque[tuple[Job, Future[Row]]] = deque()
        self.last_result = time.perf_counter()

    def add(self, job: Job, result: Segmentation) -> None:
        """Start to write a result; wait for the oldest if too many are not written."""
        now = time.perf_counter()
        future = self.pool.submit(self.write, job, result, now - self.last_result)
        self.last_result = now
        self.writing.append((job, future))
        self.report(_AHEAD)

    def report(self, unwritten: int) -> None:
        """Report results that are written; wait for the oldest if more than so many are not."""
        while self.writing and (len(self.writing) > unwritten or self.writing[0][1].done()):
            job, future = self.writing.popleft()
            try:
                row = future.result()
            except _FILE_ERRORS as error:
                self.fail(job, error)
            else:
                self.on_row(job, row)


def write_outputs(
    job: Job,
    result: Segmentation,
    style: Style,
    folder: str,
    source: Callable[[], bytes | Path],
) -> None:
    """Write all files of a job; `source` gives its photograph, to which DICOM files refer."""

    def write_to(target: Path | io.BytesIO, kind: str, suffix: str) -> None:
        if names_dicom(suffix):
            result.save_dicom(target, source())
        else:
            result.save(target, kind, format=FORMATS[suffix], style=style)  # type: ignore[arg-type]

    for kind, place in job.outputs.items():
        suffix = PurePosixPath(place).suffix.lower()
        if is_address(place):
            stream = io.BytesIO()
            write_to(stream, kind, suffix)
            write_bytes(place, stream.getvalue())
        else:
            path = Path(folder, place)
            make_folder(path.parent)
            write_to(path, kind, suffix)
