"""Collections that outgrow one machine, on Ray: ``pip install 'vesselseg[ray]'``.

::

    from vesselseg.ray import segment_dataset

    segment_dataset("s3://eyes/photographs", "s3://eyes/vessels", address="auto")

Ray Data hands lists of images to workers, one model each; a worker reads its images, segments
them and writes the results. Pictures never pass through Ray's object store, which holds the
model and some text. Every machine needs vesselseg and access to the files. To run the tests and
the example of this module::

    pip install 'vesselseg[ray,test]'
    pytest tests/test_ray.py tests/batch/test_parquet.py tests/batch/test_storage.py
    python examples/ray_collection.py
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .api import Model, load_model
from .batch import storage
from .batch.storage import Task
from .batch.worker import Ledger, Worker
from .errors import DeviceError, MissingExtraError, OptionError
from .preprocess import check_scale
from .result import KINDS, STYLES
from .segmenter import Segmenter

if TYPE_CHECKING:
    from .batch.parquet import Row

_MOST = 32  # images that are handed out together, and done again if their worker dies
_STORE = 512 * 2**20  # bytes of object store in a Ray of our own: the model and text


@dataclass(frozen=True)
class Summary:
    """What :func:`segment_dataset` did.

    Attributes
    ----------
    segmented, skipped, failed : int
        Images; skipped are those that the manifest had as done.
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
    backend: str | None = None,
    scale: str | float | None = None,
    threshold: float = 0.5,
    kinds: Sequence[str] = ("mask",),
    style: str = "tint",
    recursive: bool = False,
    manifest: str | os.PathLike[str] | None = None,
    resume: bool = True,
    workers: int | None = None,
    address: str | None = None,
    report: Callable[[Row], None] = lambda _: None,
) -> Summary:
    """Segment a collection of photographs on the workers of a Ray cluster.

    The files are the same, byte for byte, as those of ``vesselseg segment`` on such a machine.
    Images that cannot be segmented are recorded and skipped; so is an image whose worker dies of
    it. Other images of a worker that dies are done again by another one.

    Parameters
    ----------
    inputs : path, or sequence of paths
        Files, folders and glob patterns, or addresses of files and folders, such as
        ``s3://bucket/folder``, that pyarrow or an installed fsspec can open. Paths have to mean
        the same on all machines.
    out : path
        Folder, or its address, that results are written to, in the layout of the inputs.
    model : str, path, ModelSpec, Segmenter or None
        As for :func:`vesselseg.load_model`. Loaded here once and sent to the workers.
    device, precision : str
        As for :func:`vesselseg.load_model`, where the workers are. None: "auto" and "float32",
        or those of a Segmenter. int8 takes a Segmenter that was loaded with it.
    backend : {"torch", "openvino"}
        As for :func:`vesselseg.load_model`; a Segmenter has its own. OpenVINO has to be installed
        where the workers are, and here.
    scale, threshold
        As for :meth:`Segmenter.__call__`.
    kinds : sequence of {"mask", "probability", "overlay", "fov"}
        Pictures to write for each image: "mask" and others.
    style : {"tint", "outline"}
        Of overlays.
    recursive : bool
        Whether the folders in folders are looked through too.
    manifest : path
        Parquet file, or its address, with a row per image: input, error, mask, probability,
        overlay, fov (the files written), model, sha256 of its weights, scale, backend, device,
        precision, threshold, seconds, and the fraction of the field of view that is vessel. None:
        ``manifest.parquet`` in `out`.
    resume : bool
        Whether images are skipped that the manifest has as done, with the same weights, scale,
        backend, precision and threshold, to the same files. False: all are done and the manifest is
        replaced.
    workers : int
        Processes with a model each. None: one for each GPU of the cluster, or, if there is none
        or `device` is not CUDA, one for each CPU. Each takes one CPU.
    address : str
        Of a running cluster, as ``ray.init`` takes it. None: the Ray that this program has
        initialised, or the environment's RAY_ADDRESS; else one on this machine, for this call.
    report : callable
        Called with the manifest's row of each image as it is finished, in any order.

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
        As :func:`vesselseg.load_model`.
    """
    _import_ray()
    from .batch.parquet import ParquetManifest

    if isinstance(inputs, (str, os.PathLike)):
        inputs = [inputs]
    out = os.fspath(out)
    _check(kinds, style, workers)
    tasks = storage.make_tasks(
        [os.fspath(place) for place in inputs], out, kinds=kinds, recursive=recursive
    )
    folder = os.path.dirname(out) if out.lower().endswith(".png") else out  # noqa: PTH120
    record = ParquetManifest(os.fspath(manifest or storage.join(folder, "manifest.parquet")))

    if not isinstance(model, Segmenter):
        model = load_model(model, device="cpu", backend=backend or "torch")
        device, precision = device or "auto", precision or "float32"
    elif backend not in (None, model.backend):
        raise OptionError(
            f"backend is {backend!r}, but the model was loaded with {model.backend!r}. Leave backend "
            f"out, or load the model with it."
        )
    if model.backend == "openvino" and device == "auto":
        device = "cpu"  # no GPU of the cluster is of use
    rule = check_scale(scale, model.spec)
    model.segment_many([], scale=scale, threshold=threshold)  # refuses wrong values here

    done = {"sha256": model.sha256, "scale": str(rule), "threshold": float(threshold)}
    done.update(backend=model.backend, precision=precision or model.precision)

    def is_done(task: Task) -> bool:
        row = record.rows.get(task.name)
        expected = {"error": None, **done, **task.outputs}
        if expected["precision"] == "auto":  # the worker chooses
            del expected["precision"]
        return row is not None and all(row[name] == value for name, value in expected.items())

    to_do = [task for task in tasks if not (resume and is_done(task))]
    again = {task.name for task in to_do}
    record.begin(row for name, row in record.rows.items() if resume and name not in again)
    failed = 0
    if to_do:
        settings = {
            "device": device, "precision": precision, "scale": scale, "threshold": threshold,
            "style": style, "folder": str(Path.cwd()),
        }  # fmt: skip
        try:
            with (
                _connection(address),
                contextlib.closing(_segment(to_do, model, settings, workers)) as rows,
            ):
                for row in rows:
                    failed += row["error"] is not None
                    record.add(row)
                    report(row)
        finally:
            record.flush()  # the next run goes on from here, however this one ended
    record.finish()
    return Summary(len(to_do) - failed, len(tasks) - len(to_do), failed, record.place)


def _segment(
    tasks: Sequence[Task], model: Segmenter, settings: dict[str, Any], workers: int | None
) -> Generator[Row, None, None]:
    """A row for every task, in any order."""
    import pyarrow as pa

    ray = _import_ray()
    there = ray.cluster_resources()
    gpus = _use_gpus(settings["device"] or str(model.device), there)
    if gpus:
        settings = {**settings, "device": "cuda"}  # the one that Ray gives to the worker
    pool = workers or max(int(there.get("GPU" if gpus else "CPU", 1)), 1)
    ledger = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Ledger).remote()

    columns = {"input": [task.name for task in tasks]}
    for kind in tasks[0].outputs:
        columns[kind] = [task.outputs[kind] for task in tasks]
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    size = min(_MOST, math.ceil(len(tasks) / (4 * pool)))
    blocks = [table.slice(start, size) for start in range(0, len(tasks), size)]
    dataset = ray.data.from_arrow(blocks)
    dataset.context.enable_progress_bars = False
    results = dataset.map_batches(
        Worker,
        fn_constructor_kwargs={**settings, "model": ray.put(model), "ledger": ledger},
        batch_size=None,  # a block is a batch
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(pool, len(blocks))),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )
    try:
        for result in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from result.to_pylist()
    except ray.exceptions.ActorDiedError as error:  # others than at their start do not end a run
        reason = str(error).strip().rpartition("\n")[2]
        raise DeviceError(f"The workers cannot start: {reason}") from error


@contextlib.contextmanager
def _connection(address: str | None) -> Iterator[None]:
    """A Ray to work with; what was started or connected here is left again."""
    ray = _import_ray()
    if ray.is_initialized():
        if address is not None:
            raise OptionError(
                "This program has initialised Ray already, so address cannot be chosen: leave it "
                "out, or call ray.shutdown() before."
            )
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"configure_logging": False, "log_to_driver": False}
    if address == "local":
        options.update(include_dashboard=False, object_store_memory=_STORE)
    try:
        ray.init(address, **options)
    except (ConnectionError, ValueError) as error:
        raise OptionError(
            f"There is no Ray cluster at {address!r}: {error}. `ray status` says where one runs."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _use_gpus(device: str, resources: dict[str, float]) -> bool:
    there = resources.get("GPU", 0) >= 1
    if device.startswith("cuda") and not there:
        raise DeviceError(
            "The Ray cluster has no GPU. Give device='cpu', or start its nodes with --num-gpus."
        )
    return there and (device == "auto" or device.startswith("cuda"))


def _check(kinds: Sequence[str], style: str, workers: int | None) -> None:
    if "mask" not in kinds or set(kinds) - set(KINDS):
        raise OptionError(f"kinds is {kinds!r}; allowed are 'mask' and others of {KINDS}.")
    if style not in STYLES:
        raise OptionError(f"style is {style!r}; allowed are 'tint' and 'outline'.")
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise OptionError(f"workers is {workers!r}; it has to be a whole number from 1 up.")


def _import_ray() -> Any:
    try:
        importlib.import_module("ray.data")
    except ImportError as error:
        raise MissingExtraError(
            "Runs on Ray need Ray Data: pip install 'vesselseg[ray]'."
        ) from error
    return importlib.import_module("ray")
