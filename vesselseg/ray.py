"""Collections that outgrow one machine, on Ray: ``pip install "vesselseg[ray]"``.

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
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import dicom
from .api import Model, load_model
from .backends import BackendName, Precision, find_backend
from .batch.folder import Summary
from .batch.jobs import Job, join, plan_jobs
from .batch.manifest import ParquetManifest, Row
from .batch.pipeline import run
from .errors import DeviceError, OptionError, require
from .images import check_bits
from .preprocess import check_scale
from .result import Style, check_style, check_threshold
from .segmenter import Segmenter
from .spec import Scale, is_integer, plain

_BATCH = 32  # photographs handed out together, and again if their worker dies
_STORE_BYTES = 512 * 2**20  # object store of a Ray of our own: the model and text
_DEATHS = 2  # of a worker that had one photograph only, before the photograph is given up
_DIED = "Every worker that had this photograph died, out of memory or in a crash; see Ray's log."


def segment_dataset(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    model: Model | Segmenter | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    backend: BackendName | None = None,
    scale: Scale | None = None,
    threshold: float = 0.5,
    kinds: Sequence[str] = ("mask",),
    style: Style = "tint",
    recursive: bool = False,
    keep_endings: bool = False,
    bits: int | None = None,
    manifest: str | os.PathLike[str] | None = None,
    resume: bool = True,
    workers: int | None = None,
    address: str | None = None,
    on_row: Callable[[Row], None] = lambda _: None,
) -> Summary:
    """Segment a collection of photographs on the workers of a Ray cluster.

    The files are byte for byte those that ``vesselseg segment`` writes on such a machine.
    Photographs that fail are recorded and skipped, and so is one that makes its worker die; the
    other photographs of that worker are done again.

    Parameters
    ----------
    inputs : path, or sequence of paths
        Files, folders and glob patterns, or addresses of files and folders that fsspec opens, such
        as ``s3://bucket/folder``. Paths must mean the same on all machines.
    out : path
        Folder for the results, or its address. The layout is that of the inputs.
    model : str, path, ModelSpec, Segmenter or None
        As :func:`vesselseg.load_model` takes it, or a loaded model. It is loaded here once and
        sent to the workers.
    device, precision : str, optional
        For the workers. None means "auto", and the precision that :func:`vesselseg.load_model`
        chooses; or those of a loaded model.
    backend : {"torch", "onnxruntime", "openvino"}, optional
        As :func:`vesselseg.load_model` takes it; a loaded model has its own.
    scale : {"fit", "native", "fov"}, float or None
        How to bring photographs to the network's scale; None uses the model's own rule.
    threshold : float
        Pixels with a higher probability are vessel, in [0, 1].
    kinds : sequence of {"mask", "probability", "overlay", "fov", "dicom"}
        Files to write for each photograph, as :func:`vesselseg.segment_folder` takes them.
    style : {"tint", "outline"}
        Style of overlays.
    recursive : bool
        Whether to search the folders in folders.
    keep_endings : bool
        Whether to name results after the whole file name, ``eye.jpg.png`` instead of ``eye.png``.
    bits : int, optional
        Bits that 16-bit values use, if not all, such as 12 for values up to 4095.
    manifest : path, optional
        Parquet file, or its address, with a row for each photograph: input, error, the files
        written (mask, probability, overlay, fov, dicom), model, sha256 of its weights and whether
        they are unverified, scale, bits, backend, device, precision, threshold, size, diameter of
        the field of view, familiarity, warning, seconds, and the fraction of the field of view that
        is vessel.
        None means ``manifest.parquet`` in `out`.
    resume : bool
        Whether to skip photographs that the manifest has as done with the same weights, scale,
        backend, precision and threshold, to the same files. False replaces the manifest.
    workers : int, optional
        Processes with a model and a CPU each. None means one for each GPU of the cluster or, if
        there is none or `device` is not CUDA, one for each CPU.
    address : str, optional
        Of a running cluster, as ``ray.init`` takes it. None uses the Ray that this program has
        initialised, or RAY_ADDRESS, or else starts one on this machine for this call.
    on_row : callable
        Called with the manifest's row of each photograph when it is finished, in any order.

    Returns
    -------
    Summary
        Numbers of photographs that were segmented, skipped and failed, and the manifest.

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
    ...     "s3://eyes/photographs", "s3://eyes/vessels", address="auto"
    ... )
    """
    for module in ("ray", "pyarrow"):
        require(module, "ray")
    check_style(style)
    workers, bits, threshold = plain(workers), check_bits(bits), check_threshold(threshold)
    if workers is not None and not is_integer(workers, 1, 10**6):
        raise OptionError(f"workers is {workers!r}; it must be a positive integer.")
    places = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    texts = [os.fspath(place) for place in places]
    if "-" in texts:
        raise OptionError("Standard input stays on this machine. Pass files or folders.")
    target = os.fspath(out)
    jobs = plan_jobs(texts, target, kinds=kinds, recursive=recursive, keep_endings=keep_endings)
    folder = str(Path(target).parent) if target.lower().endswith(".png") else target
    table = ParquetManifest(os.fspath(manifest or join(folder, "manifest.parquet")))

    if isinstance(model, Segmenter):
        loaded = model
        if backend not in (None, loaded.backend):
            raise OptionError(
                f"backend is {backend!r}, but the model was loaded with {loaded.backend!r}. Leave "
                f"backend out, or load the model with it."
            )
    else:
        loaded = load_model(model, device="cpu", backend=backend)
        device = device or "auto"
    if device == "auto" and "cuda" not in find_backend(loaded.backend).devices:
        device = "cpu"  # a GPU of the cluster would be idle
    expected = {
        "error": None,
        "sha256": loaded.sha256,
        "scale": str(check_scale(scale, loaded.spec)),
        "bits": bits,
        "threshold": threshold,
        "backend": loaded.backend,
        "precision": precision or loaded.precision,
    }
    if precision == "auto":
        del expected["precision"]  # the worker chooses it

    def is_done(job: Job) -> bool:
        row = table.rows.get(job.name)
        return row is not None and row.items() >= {**expected, **job.outputs}.items()

    to_do = [job for job in jobs if not (resume and is_done(job))]
    again = {job.name for job in to_do}
    table.rows = {name: row for name, row in table.rows.items() if resume and name not in again}
    table.merge()
    failed = 0
    if to_do:
        options = {
            "device": device, "precision": precision, "scale": scale, "threshold": threshold,
            "style": style, "bits": bits, "folder": str(Path.cwd()),
        }  # fmt: skip
        try:
            with (
                connect(address),
                contextlib.closing(run_on_cluster(to_do, loaded, options, workers)) as rows,
            ):
                for row in rows:
                    failed += row.get("error") is not None
                    table.add(row)
                    on_row(table.rows[row["input"]])
        finally:
            table.flush()  # however this run ends, the next one resumes from here
    table.merge()
    return Summary(len(to_do) - failed, 0, len(jobs) - len(to_do), failed, table.place)


def run_on_cluster(
    jobs: Sequence[Job], model: Segmenter, options: dict[str, Any], workers: int | None
) -> Generator[Row]:
    """A row for every job, in any order. Workers that die are restarted, their jobs repeated."""
    import ray

    resources = ray.cluster_resources()
    use_gpu = uses_gpu(options["device"] or str(model.device), resources)
    if use_gpu:
        options = {**options, "device": "cuda"}  # the GPU that Ray gives to the worker
    count = workers or max(int(resources.get("GPU" if use_gpu else "CPU", 1)), 1)
    size = min(_BATCH, math.ceil(len(jobs) / (4 * count)))
    queue = deque(jobs[start : start + size] for start in range(0, len(jobs), size))
    actor = ray.remote(num_cpus=1, num_gpus=int(use_gpu), max_restarts=-1)(Worker)
    reference = ray.put(model)
    pool = [actor.remote(reference, **options) for _ in range(min(count, len(queue)))]
    idle: list[Any] = []
    busy: dict[Any, tuple[Any, Sequence[Job]]] = {}  # by the reference to the rows
    deaths: Counter[str] = Counter()

    def wait_until_ready(worker: Any) -> None:
        """Give it nothing to do until it has started, again after its death."""
        busy[worker.segment.options(max_task_retries=-1).remote([])] = worker, []

    def repeat(batch: Sequence[Job], error: Exception) -> list[Row]:
        """Queue the jobs of a batch that failed again; a single one that is given up has a row."""
        name = batch[0].name
        if len(batch) > 1:  # any of them can be the reason: they are tried one by one
            queue.extend([job] for job in batch)
        elif isinstance(error, ray.exceptions.RayTaskError):
            return [{"input": name, "error": repr(error.cause)}]
        elif deaths[name] + 1 == _DEATHS:
            return [{"input": name, "error": _DIED}]
        else:
            deaths[name] += 1
            queue.append(batch)
        return []

    try:
        for worker in pool:
            wait_until_ready(worker)
        while queue or any(batch for _, batch in busy.values()):
            (finished,), _ = ray.wait([*busy])
            worker, batch = busy.pop(finished)
            try:
                yield from ray.get(finished)
                idle.append(worker)
            except ray.exceptions.RayError as error:
                if not batch:
                    reason = str(error).strip().rpartition("\n")[2]
                    raise DeviceError(f"The workers cannot start: {reason}") from error
                yield from repeat(batch, error)
                wait_until_ready(worker)
            while idle and queue:
                worker, batch = idle.pop(), queue.popleft()
                busy[worker.segment.remote(batch)] = worker, batch
    finally:
        for worker in pool:
            ray.kill(worker)


def uses_gpu(device: str, resources: Mapping[str, float]) -> bool:
    """Whether each worker gets a GPU; DeviceError if the device needs one and there is none."""
    has_gpu = resources.get("GPU", 0) >= 1
    if device.startswith("cuda") and not has_gpu:
        raise DeviceError(
            "The Ray cluster has no GPU. Pass device='cpu', or start its nodes with --num-gpus."
        )
    return has_gpu and (device == "auto" or device.startswith("cuda"))


@contextlib.contextmanager
def connect(address: str | None) -> Iterator[None]:
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


class Worker:
    """A model in a process of Ray.

    A device or precision of None is the model's. `options` are for the pipeline's `run`.
    """

    def __init__(
        self, model: Segmenter, device: str | None, precision: Precision | None, **options: Any
    ) -> None:
        dicom.silence()
        self.model = model.to(device, precision) if device or precision else model
        self.options = options

    def segment(self, jobs: Sequence[Job]) -> list[Row]:
        """Run jobs; return their rows of the manifest."""
        rows: list[Row] = []
        run(jobs, self.model, lambda _, row: rows.append(row), **self.options)
        return rows
