"""Many photographs through one model: decoding, the network and encoding overlap.

::

    readers (threads)  ->  network (the caller's thread)  ->  writers (threads)
          at most _AHEAD photographs wait        at most _AHEAD results wait
"""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ..errors import OutputError, VesselsegError
from ..images import RGB, to_rgb
from ..result import Segmentation, Style
from ..segmenter import Segmenter
from ..spec import Scale
from .jobs import Job, is_address, read_bytes, write_bytes
from .manifest import Row, describe, describe_failure

_THREADS = 4  # readers, and writers; decoders and encoders release the interpreter
_AHEAD = 4  # photographs: decoded ones of 8 megapixels take 25 MB, their results 70 MB

# A failed allocation is a MemoryError of NumPy or a RuntimeError of PyTorch.
_NETWORK_ERRORS = (MemoryError, RuntimeError)
_FILE_ERRORS = (VesselsegError, OSError, MemoryError)

OnRow = Callable[[Job, Row], None]


def run(
    jobs: Iterable[Job],
    model: Segmenter,
    on_row: OnRow,
    *,
    scale: Scale | None = None,
    threshold: float = 0.5,
    style: Style = "tint",
    folder: str = "",
    contents: Mapping[str, bytes] | None = None,
    on_start: Callable[[Job], None] = lambda _: None,
) -> None:
    """Segment photographs and write their outputs; one that fails does not stop the others.

    Parameters
    ----------
    jobs : iterable of Job
        Read a few ahead of the network.
    model : Segmenter
    on_row : callable
        Called in this thread with each job and its row of the manifest, once all its files are
        written or it failed; then the row has an "error". Roughly in the order of `jobs`. "seconds"
        is the time since the network's result before, so that seconds add up to the run.
    scale : {"fit", "native", "fov"}, float or None
        How to bring photographs to the network's scale; None uses the model's own rule.
    threshold : float
        Pixels with a higher probability are vessel, in [0, 1].
    style : {"tint", "outline"}
        Style of overlays.
    folder : str
        Folder that relative paths start from; by default the working directory.
    contents : mapping of str to bytes, optional
        Content of jobs that are not read from a file, by name.
    on_start : callable
        Called in this thread with each job when its photograph reaches the network.

    Raises
    ------
    OptionError
        If `scale` or `threshold` is outside what is described here.

    Notes
    -----
    If it is interrupted (KeyboardInterrupt), results that the network finished are still written
    and reported.
    """
    in_network: deque[tuple[Job, RGB]] = deque()
    writing: deque[tuple[Job, float, Future[Row]]] = deque()
    last_result = time.perf_counter()

    def read(job: Job) -> RGB:
        if contents and job.name in contents:
            return to_rgb(contents[job.name])
        return to_rgb(read_bytes(job.name) if is_address(job.name) else Path(folder, job.name))

    def photographs(decoded: Iterator[tuple[Job, Future[RGB]]]) -> Iterator[tuple[Job, RGB]]:
        for job, future in decoded:
            try:
                rgb = future.result()
            except _FILE_ERRORS as error:
                on_row(job, describe_failure(job, error))
                continue
            in_network.append((job, rgb))
            on_start(job)
            yield job, rgb

    def finish_oldest() -> None:
        job, seconds, future = writing.popleft()
        try:
            row = future.result()
            row["seconds"] = round(seconds, 3)
        except _FILE_ERRORS as error:
            row = describe_failure(job, error)
        on_row(job, row)

    def write(job: Job, result: Segmentation) -> None:
        nonlocal last_result
        now = time.perf_counter()
        future = writers.submit(write_outputs, job, result, style, folder)
        writing.append((job, now - last_result, future))
        last_result = now
        while writing and (len(writing) > _AHEAD or writing[0][2].done()):
            finish_oldest()

    with ThreadPoolExecutor(_THREADS) as readers, ThreadPoolExecutor(_THREADS) as writers:
        decoded = submit_ahead(jobs, readers, read)
        try:
            is_finished = False
            while not is_finished:
                try:
                    for job, result in model.segment_keyed(
                        photographs(decoded), scale=scale, threshold=threshold
                    ):
                        in_network.popleft()
                        write(job, result)
                    is_finished = True
                except _NETWORK_ERRORS:
                    if not in_network:
                        raise
                # One photograph in the network was too large: try each by itself, then go on.
                while in_network:
                    job, rgb = in_network.popleft()
                    try:
                        write(job, model(rgb, scale=scale, threshold=threshold))
                    except _NETWORK_ERRORS as error:
                        on_row(job, describe_failure(job, error))
        finally:
            while writing:
                finish_oldest()


def submit_ahead(
    jobs: Iterable[Job], readers: ThreadPoolExecutor, read: Callable[[Job], RGB]
) -> Iterator[tuple[Job, Future[RGB]]]:
    """Jobs in order, a few of them being read ahead."""
    ahead: deque[tuple[Job, Future[RGB]]] = deque()
    for job in jobs:
        ahead.append((job, readers.submit(read, job)))
        if len(ahead) > _AHEAD:
            yield ahead.popleft()
    yield from ahead


def write_outputs(job: Job, result: Segmentation, style: Style, folder: str) -> Row:
    """Write all pictures of a job; return its row."""
    for kind, place in job.outputs.items():
        if is_address(place):
            stream = io.BytesIO()
            result.write(stream, kind, style=style)  # type: ignore[arg-type]
            write_bytes(place, stream.getvalue())
            continue
        path = Path(folder, place)
        make_folder(path.parent)
        result.save(path, kind, style=style)  # type: ignore[arg-type]
    return describe(job, result)


def make_folder(folder: Path) -> None:
    """Create a folder; OutputError if that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"The folder {str(folder)!r} cannot be created: {reason}.") from error
