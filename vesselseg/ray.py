"""Collections that outgrow one machine, on Ray (extra ``ray``).

::

    from vesselseg.ray import segment_dataset

    segment_dataset("s3://eyes/photographs", "s3://eyes/vessels", address="auto")

Lists of photographs go to workers, which hold a model each, read their photographs, segment them
and write the results. Ray's object store holds the model and some text, but no pictures. Every
machine needs vesselseg and access to the files.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import dicom
from .api import Model, PathLike, load_or_check
from .backends import find_backend
from .batch.folder import OnError, OnOutcome, Summary, run_collection, run_here, to_places
from .batch.jobs import Job, plan_jobs, results_folder
from .batch.places import join
from .batch.table import Row
from .batch.work import Work
from .choices import BackendName, Precision, canonical_device, canonical_precision
from .errors import DeviceError, OptionError, VesselsegError, require
from .measures import check_options
from .result import Style
from .segmenter import Segmenter
from .spec import Scale, check_integer

__all__ = ["segment_dataset"]

_BATCH = 32  # photographs handed out together, and again if their worker dies
_STORE_BYTES = 512 * 2**20  # object store of a Ray of our own: the model and text
_DEATHS = 2  # of a worker that had one photograph only, before the photograph is given up
_DIED = "Every worker that had this photograph died, out of memory or in a crash; see Ray's log."


def segment_dataset(
    inputs: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    model: Model | Segmenter | None = None,
    kinds: Sequence[str] = ("mask",),
    recursive: bool = False,
    keep_endings: bool = False,
    resume: bool = False,
    manifest: PathLike | None = None,
    scale: Scale | None = None,
    threshold: float = 0.5,
    bits: int | None = None,
    style: Style = "tint",
    measure: bool = False,
    mm_per_pixel: float | None = None,
    fill_holes: int = 20,
    min_size: int = 20,
    device: str | None = None,
    precision: Precision | None = None,
    backend: BackendName | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    max_pixels: int | None = None,
    on_error: OnError = "continue",
    on_row: Callable[[Row], None] | None = None,
    progress: bool = True,
    workers: int | None = None,
    address: str | None = None,
) -> Summary:
    """Segment a collection of photographs on the workers of a Ray cluster.

    The files are byte for byte those that :func:`vesselseg.segment_folder` writes on such a
    machine. Photographs that fail are recorded and skipped, and so is one that makes its worker
    die; the other photographs of that worker are done again.

    Parameters
    ----------
    inputs : path, or sequence of paths
        Files, folders and glob patterns, or addresses of files and folders that fsspec opens, such
        as ``s3://bucket/folder``. Paths must mean the same on all machines.
    out : path
        Folder for the results, or its address. The layout is that of the inputs.
    model : str, path, ModelSpec, Segmenter or None
        A name (:func:`vesselseg.list_models`), a model spec, a model file, a loaded model, or
        None for the model in the package. It is loaded here once and sent to the workers.
    kinds : sequence of {"mask", "probability", "overlay", "fov", "dicom"}
        Files to write for each photograph, as :func:`vesselseg.segment_folder` takes them.
    recursive : bool
        Whether to search subfolders.
    keep_endings : bool
        Whether to name results after the whole file name, ``eye.jpg.png`` instead of ``eye.png``.
    resume : bool
        Whether to skip photographs that are done, by the rule of
        :func:`vesselseg.segment_folder`. Results at addresses are not read for it: the manifest
        says what they are.
    manifest : path, optional
        Table with a row for each photograph, or its address, ending in ``.parquet``, ``.csv`` or
        ``.jsonl``. None means ``manifest.parquet`` in the folder of the results.
    scale : {"fit", "native", "fov"}, float or None
        How to bring photographs to the network's scale; None uses the model's own rule.
    threshold : float
        Pixels with a higher probability are vessel, in [0, 1].
    bits : int, optional
        Significant bits in 16-bit images, for example 12 if values run from 0 to 4095.
    style : {"tint", "outline"}
        Style of overlays.
    measure : bool
        Whether to add the measures of the vessels to the rows; see :func:`vesselseg.measure`.
    mm_per_pixel : float, optional
        Size of a pixel on the retina, in millimetres, for the measures.
    fill_holes, min_size : int
        For the measures: holes of at most this many pixels are filled, and parts of fewer pixels
        removed.
    device, precision : str, optional
        Of the workers. None means "auto" and the model's default, or those of a loaded model.
    backend, stride, batch_size, max_pixels : optional
        As :func:`vesselseg.load_model` takes them. With a loaded model they must be its own.
    on_error : {"continue", "raise"}
        What to do about a photograph that fails: record its error in the manifest and go on, or
        raise its error.
    on_row : callable, optional
        Called with the manifest's row of each photograph when it is finished, in any order.
    progress : bool
        Whether to show a bar if standard error is a terminal.
    workers : int, optional
        Processes with a model and a CPU each. None means one for each GPU of the cluster or, if
        there is none or `device` is not CUDA, one for each CPU.
    address : str, optional
        Of a running cluster, as ``ray.init`` takes it. None uses the Ray that this program has
        initialised, or RAY_ADDRESS, or else starts one on this machine for this call.

    Returns
    -------
    Summary
        Numbers of photographs that were segmented, repeated, skipped and failed, and the manifest.

    Raises
    ------
    MissingExtraError
        If Ray is not installed.
    OptionError, ImageError
        If an argument is outside what is described here, or a folder cannot be read.
    DeviceError
        If the cluster has no such device, or the workers cannot start.
    OutputError
        If the manifest cannot be written.
    VesselsegError, FileNotFoundError
        If the model cannot be loaded; see :func:`vesselseg.load_model`.

    Examples
    --------
    >>> from vesselseg.ray import segment_dataset
    >>> segment_dataset(  # doctest: +SKIP
    ...     "s3://eyes/photographs", "s3://eyes/vessels", address="auto", resume=True
    ... )
    """
    for module in ("ray", "pyarrow"):
        require(module, "ray")
    device, precision = canonical_device(device), canonical_precision(precision)
    if workers is not None:
        workers = check_integer("workers", workers)
    places, target = to_places(inputs), os.fspath(out)
    if "-" in places:
        raise OptionError("Standard input stays on this machine. Pass files or folders.")
    if not isinstance(model, Segmenter):
        device = device or "auto"
    measuring = check_options(mm_per_pixel=mm_per_pixel, fill_holes=fill_holes, min_size=min_size)
    work = Work(
        scale=scale, threshold=threshold, bits=bits, style=style,
        measuring=measuring if measure else None, precision=precision, folder=str(Path.cwd()),
    )  # fmt: skip
    jobs = plan_jobs(places, target, kinds=kinds, recursive=recursive, keep_endings=keep_endings)
    if manifest is None:
        manifest = join(results_folder(jobs, target), "manifest.parquet")

    def load() -> Segmenter:
        return load_or_check(
            model, backend=backend, stride=stride, batch_size=batch_size, max_pixels=max_pixels,
            device=None if isinstance(model, Segmenter) else "cpu", progress=progress,
        )  # fmt: skip

    return run_collection(
        jobs,
        work,
        load,
        out=target,
        resume=resume,
        table=os.fspath(manifest),
        on_error=on_error,
        on_row=on_row,
        progress=progress,
        execute=partial(
            run_on_cluster, address=address, workers=workers, device=device, precision=precision
        ),
    )


def run_on_cluster(
    jobs: Sequence[Job],
    model: Segmenter | None,
    work: Work,
    on_outcome: OnOutcome,
    *,
    address: str | None,
    workers: int | None = None,
    device: str | None,
    precision: Precision | None,
) -> None:
    """Do the work on a cluster, in any order; restart workers that die and repeat their jobs."""
    import ray

    with _connect(address), contextlib.ExitStack() as at_end:
        resources = ray.cluster_resources()
        own_device = "cpu" if model is None else str(model.device)
        takes_gpu = model is not None and "cuda" in find_backend(model.backend).devices
        if model is None or (device == "auto" and not takes_gpu):
            device = "cpu"  # a GPU of the cluster would be idle
        use_gpu = _uses_gpu(device or own_device, resources)
        if use_gpu:
            device = "cuda"  # the GPU that Ray gives to the worker
        count = workers or max(int(resources.get("GPU" if use_gpu else "CPU", 1)), 1)
        size = min(_BATCH, math.ceil(len(jobs) / (4 * count)))
        queue = deque(jobs[start : start + size] for start in range(0, len(jobs), size))
        actor = ray.remote(num_cpus=1, num_gpus=int(use_gpu), max_restarts=-1)(_Worker)
        reference = [ray.put(model)]  # in a list, Ray hands it on as it is
        idle: list[Any] = []
        busy: dict[Any, tuple[Any, Sequence[Job]]] = {}  # by the reference to the outcomes
        deaths: Counter[str] = Counter()

        def wait_until_ready(worker: Any) -> None:
            """Give it nothing to do until it has started, again after its death."""
            busy[worker.run.options(max_task_retries=-1).remote([], reference)] = worker, []

        def repeat(batch: Sequence[Job], error: Exception) -> None:
            """Queue the jobs of a batch that failed again; a single one may be given up."""
            job = batch[0]
            if len(batch) > 1:  # any of them can be the reason: they are tried one by one
                queue.extend([job] for job in batch)
            elif isinstance(error, ray.exceptions.RayTaskError):
                on_outcome(job, VesselsegError(repr(error.cause)))
            elif deaths[job.name] + 1 == _DEATHS:
                on_outcome(job, VesselsegError(_DIED))
            else:
                deaths[job.name] += 1
                queue.append(batch)

        for _ in range(min(count, len(queue))):
            worker = actor.remote(device, precision, work)
            at_end.callback(ray.kill, worker)
            wait_until_ready(worker)
        while queue or any(batch for _, batch in busy.values()):
            (finished,), _ = ray.wait([*busy])
            worker, batch = busy.pop(finished)
            try:
                outcomes = ray.get(finished)
            except ray.exceptions.RayError as error:
                if not batch:
                    reason = str(error).strip().rpartition("\n")[2]
                    raise DeviceError(f"The workers cannot start: {reason}") from error
                repeat(batch, error)
                wait_until_ready(worker)
            else:
                for job, outcome in outcomes:
                    on_outcome(job, outcome)
                idle.append(worker)
            while idle and queue:
                worker, batch = idle.pop(), queue.popleft()
                busy[worker.run.remote(batch, reference)] = worker, batch


def _uses_gpu(device: str, resources: Mapping[str, float]) -> bool:
    """Whether each worker gets a GPU; DeviceError if the device needs one and there is none."""
    has_gpu = resources.get("GPU", 0) >= 1
    if device.startswith("cuda") and not has_gpu:
        raise DeviceError(
            "The Ray cluster has no GPU. Choose the device 'cpu', or start its nodes with "
            "--num-gpus."
        )
    return has_gpu and (device == "auto" or device.startswith("cuda"))


@contextlib.contextmanager
def _connect(address: str | None) -> Iterator[None]:
    """A Ray to work with; one that was started or connected here is left at the end."""
    import ray

    if ray.is_initialized():
        if address is not None:
            raise OptionError(
                "This program has initialised Ray already, so address cannot be chosen. Leave it "
                "out, or call ray.shutdown() first."
            )
        yield
        return
    chosen = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"configure_logging": False, "log_to_driver": False}
    if chosen == "local":
        options.update(include_dashboard=False, object_store_memory=_STORE_BYTES)
    try:
        ray.init(chosen, **options)
    except (ConnectionError, ValueError) as error:
        raise OptionError(
            f"There is no Ray cluster at {chosen!r}: {error}. `ray status` says where one runs."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


class _Worker:
    """A model in a process of Ray; a device or precision of None is the model's.

    The model comes with each call rather than to the constructor, whose arguments Ray could lose
    before it restarts a worker that died.
    """

    def __init__(self, device: str | None, precision: Precision | None, work: Work) -> None:
        dicom.silence()
        self.device, self.precision, self.work = device, precision, work
        self.model: Segmenter | None = None  # until the first call, or if masks are measured

    def run(self, jobs: Sequence[Job], reference: list[Any]) -> list[tuple[Job, Row | Exception]]:
        import ray

        if self.model is None:
            (self.model,) = ray.get(reference)
            if self.model is not None and (self.device or self.precision):
                self.model = self.model.to(self.device, self.precision)
        outcomes: list[tuple[Job, Row | Exception]] = []

        def keep(job: Job, outcome: Row | Exception) -> None:
            if isinstance(outcome, Exception) and not isinstance(outcome, VesselsegError | OSError):
                outcome = VesselsegError(repr(outcome))  # not every exception can be sent
            outcomes.append((job, outcome))

        run_here(jobs, self.model, self.work, keep)
        return outcomes
