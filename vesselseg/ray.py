"""Collections that outgrow one machine, on Ray: ``pip install "vesselseg[ray]"``.

::

    from vesselseg.ray import segment_dataset

    segment_dataset("s3://eyes/photographs", "s3://eyes/vessels", address="auto")

Ray Data hands lists of photographs to workers, which hold a model each, read their photographs,
segment them and write the results. Pictures never pass through Ray's object store, which holds
the model and some text. Every machine needs vesselseg and access to the files.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .api import BackendName, Model, load_model
from .backends import require
from .batch.jobs import Job, join, plan_jobs
from .batch.manifest import ParquetManifest, Row
from .batch.pipeline import run
from .errors import DeviceError, OptionError
from .preprocess import check_scale
from .result import KINDS, STYLES, Style, check_threshold
from .segmenter import Segmenter
from .spec import Scale, is_integer

logger = logging.getLogger(__name__)

_BATCH = 32  # photographs handed out together, and again if their worker dies
_STORE_BYTES = 512 * 2**20  # object store of a Ray of our own: the model and text
_DEATHS = 2  # of a worker that had one photograph only, before it is given up
_DIED = "Every worker that had this photograph died, out of memory or in a crash; see Ray's log."


@dataclass(frozen=True)
class Summary:
    """What :func:`segment_dataset` did.

    Attributes
    ----------
    segmented, skipped, failed : int
        Numbers of photographs; skipped are those that the manifest already had.
    manifest : str
        Path or address of the manifest.
    """

    segmented: int
    skipped: int
    failed: int
    manifest: str


def segment_dataset(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    model: Model | Segmenter | None = None,
    device: str | None = None,
    precision: str | None = None,
    backend: BackendName | None = None,
    scale: Scale | None = None,
    threshold: float = 0.5,
    kinds: Sequence[str] = ("mask",),
    style: Style = "tint",
    recursive: bool = False,
    manifest: str | os.PathLike[str] | None = None,
    resume: bool = True,
    workers: int | None = None,
    address: str | None = None,
    on_row: Callable[[Row], None] = lambda _: None,
) -> Summary:
    """Segment a collection of photographs on the workers of a Ray cluster.

    The files are byte for byte those that ``vesselseg segment`` writes on such a machine.
    Photographs that fail are recorded and skipped, and so is one that makes its worker die. The
    other photographs of a worker that dies are done again by another one.

    Parameters
    ----------
    inputs : path, or sequence of paths
        Files, folders and glob patterns, or addresses of files and folders, such as
        ``s3://bucket/folder``, that fsspec opens. Paths must mean the same on all machines.
    out : path
        Folder for the results, or its address. The layout is that of the inputs.
    model : str, path, ModelSpec, Segmenter or None
        As :func:`vesselseg.load_model` takes it, or a loaded model. It is loaded here once and
        sent to the workers.
    device, precision : str, optional
        For the workers. None means "auto" and "float32", or those of a loaded model. "int8"
        needs a model that was loaded with it.
    backend : {"torch", "onnxruntime", "openvino"}, optional
        As :func:`vesselseg.load_model` takes it; a loaded model has its own.
    scale : {"fit", "native", "fov"}, float or None
        How to bring photographs to the network's scale; None uses the model's own rule.
    threshold : float
        Pixels with a higher probability are vessel, in [0, 1].
    kinds : sequence of {"mask", "probability", "overlay", "fov"}
        Pictures to write for each photograph: "mask" and others.
    style : {"tint", "outline"}
        Style of overlays.
    recursive : bool
        Whether to search the folders in folders.
    manifest : path, optional
        Parquet file, or its address, with a row for each photograph: input, error, the files
        written (mask, probability, overlay, fov), model, sha256 of its weights, scale, backend,
        device, precision, threshold, seconds, and the fraction of the field of view that is
        vessel. None means ``manifest.parquet`` in `out`.
    resume : bool
        Whether to skip photographs that the manifest has as done with the same weights, scale,
        backend, precision and threshold, to the same files. False does all again and replaces
        the manifest.
    workers : int, optional
        Processes with a model each. None means one for each GPU of the cluster or, if there is
        none or `device` is not CUDA, one for each CPU. Each takes one CPU.
    address : str, optional
        Of a running cluster, as ``ray.init`` takes it. None uses the Ray that this program has
        initialised, or RAY_ADDRESS, or else starts one on this machine for this call.
    on_row : callable
        Called with the manifest's row of each photograph when it is finished, in any order.

    Returns
    -------
    Summary

    Raises
    ------
    MissingExtraError
        If Ray is not installed.
    OptionError, ImageError
        If an argument is outside what is described here, or a folder cannot be read.
    OutputError
        If the manifest cannot be written.
    VesselsegError, FileNotFoundError
        If the model cannot be loaded; see :func:`vesselseg.load_model`.
    """
    require("ray.data", "ray")
    if "mask" not in kinds or set(kinds) - set(KINDS):
        raise OptionError(f"kinds is {kinds!r}; allowed are 'mask' and others of {KINDS}.")
    if style not in STYLES:
        raise OptionError(f"style is {style!r}; allowed are 'tint' and 'outline'.")
    if workers is not None and not is_integer(workers, 1, 10**6):
        raise OptionError(f"workers is {workers!r}; it must be a positive integer.")
    places = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    texts = [os.fspath(place) for place in places]
    if "-" in texts:
        raise OptionError("Standard input stays on this machine. Pass files or folders.")
    target = os.fspath(out)
    jobs = plan_jobs(texts, target, kinds=kinds, recursive=recursive)
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
        device, precision = device or "auto", precision or "float32"
    if loaded.backend == "openvino" and device == "auto":
        device = "cpu"  # OpenVINO does not use a GPU of the cluster
    rule = check_scale(scale, loaded.spec)
    settings = {
        "sha256": loaded.sha256,
        "scale": str(rule),
        "threshold": check_threshold(threshold),
        "backend": loaded.backend,
        "precision": precision or loaded.precision,
    }
    if settings["precision"] == "auto":
        del settings["precision"]  # the worker chooses it

    def is_done(job: Job) -> bool:
        row = table.rows.get(job.name)
        expected = {"error": None, **settings, **job.outputs}
        return row is not None and all(row[name] == value for name, value in expected.items())

    to_do = [job for job in jobs if not (resume and is_done(job))]
    again = {job.name for job in to_do}
    table.begin(row for name, row in table.rows.items() if resume and name not in again)
    failed = 0
    if to_do:
        options = {
            "device": device, "precision": precision, "scale": scale, "threshold": threshold,
            "style": style, "folder": str(Path.cwd()),
        }  # fmt: skip
        try:
            with connect(address):
                for row in run_on_cluster(to_do, loaded, options, workers):
                    failed += row.get("error") is not None
                    table.add(row)
                    on_row(table.rows[row["input"]])
        finally:
            table.flush()  # however this run ends, the next one resumes from here
    table.finish()
    return Summary(len(to_do) - failed, len(jobs) - len(to_do), failed, table.place)


def run_on_cluster(
    jobs: Sequence[Job], model: Segmenter, options: dict[str, Any], workers: int | None
) -> Iterator[Row]:
    """A row for every job, in any order."""
    import ray
    import ray.data

    resources = ray.cluster_resources()
    device = options["device"] or str(model.device)
    has_gpu = resources.get("GPU", 0) >= 1
    if device.startswith("cuda") and not has_gpu:
        raise DeviceError(
            "The Ray cluster has no GPU. Pass device='cpu', or start its nodes with --num-gpus."
        )
    use_gpu = has_gpu and (device == "auto" or device.startswith("cuda"))
    if use_gpu:
        options = {**options, "device": "cuda"}  # the GPU that Ray gives to the worker
    pool = workers or max(int(resources.get("GPU" if use_gpu else "CPU", 1)), 1)
    attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
    size = min(_BATCH, math.ceil(len(jobs) / (4 * pool)))
    batches = [{"jobs": [*jobs[start : start + size]]} for start in range(0, len(jobs), size)]
    dataset = ray.data.from_items(batches, override_num_blocks=len(batches))
    dataset.context.enable_progress_bars = False
    results = dataset.map(
        Worker,
        fn_constructor_kwargs={**options, "model": ray.put(model), "attempts": attempts},
        compute=ray.data.ActorPoolStrategy(size=min(pool, len(batches))),
        num_cpus=1,
        num_gpus=1 if use_gpu else 0,
    )
    try:
        for result in results.iter_rows():
            yield from result["rows"]
    except ray.exceptions.ActorDiedError as error:  # only a worker that cannot start ends a run
        reason = str(error).strip().rpartition("\n")[2]
        raise DeviceError(f"The workers cannot start: {reason}") from error


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


class Attempts:
    """An actor that records which photographs workers died of, since they cannot say so.

    Ray retries the photographs of a worker that died, without end. At first they share batches
    and threads; after a death they come one by one, and the actor records which one was running.
    """

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.started: Counter[str] = Counter()

    def attempt(self, names: list[str]) -> tuple[int, dict[str, int]]:
        """Record an attempt; return how many there were, and the deaths of each photograph."""
        self.tried[names[0]] += 1
        return self.tried[names[0]], {name: self.started[name] for name in names}

    def start(self, name: str) -> None:
        """Record that a worker has this photograph and no other."""
        self.started[name] += 1

    def finish(self, name: str) -> None:
        """Record that it survived."""
        del self.started[name]


class Worker:
    """A model in a process of Ray: jobs in, rows of the manifest out.

    Parameters
    ----------
    model : ray.ObjectRef
        Of the Segmenter.
    attempts : ray.ActorHandle
        Of the run's :class:`Attempts`.
    device, precision : str or None
        For this worker; None keeps the Segmenter's.
    options : dict
        Arguments of :func:`vesselseg.batch.pipeline.run`.
    """

    def __init__(
        self, model: Any, attempts: Any, device: str | None, precision: str | None, **options: Any
    ) -> None:
        import ray

        self.model: Segmenter = ray.get(model)
        if device or precision:
            self.model = self.model.to(device, precision)
        self.attempts = attempts
        self.options = options

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import ray

        jobs: list[Job] = batch["jobs"]
        attempt, deaths = ray.get(self.attempts.attempt.remote([job.name for job in jobs]))
        if attempt == 1:
            try:
                return {"rows": self.segment(jobs)}
            except Exception as error:  # it comes again below, with its photograph
                logger.warning("%r; the photographs are tried one by one.", error)
        rows: list[Row] = []
        for job in jobs:
            if deaths[job.name] >= _DEATHS:
                rows.append({"input": job.name, "error": _DIED})
                continue
            ray.get(self.attempts.start.remote(job.name))
            try:
                rows += self.segment([job])
            except Exception as error:
                rows.append({"input": job.name, "error": repr(error)})
            ray.get(self.attempts.finish.remote(job.name))
        return {"rows": rows}

    def segment(self, jobs: Sequence[Job]) -> list[Row]:
        """Run jobs; return their rows."""
        rows: list[Row] = []
        run(jobs, self.model, lambda _, row: rows.append(row), **self.options)
        return rows
