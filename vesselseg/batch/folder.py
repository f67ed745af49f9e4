"""Collections: skip what is done, run the rest, and record it; folders on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from ..api import Model, PathLike, load_or_check
from ..choices import BackendName, Precision
from ..errors import OptionError
from ..files import exists, make_folder, remove_abandoned
from ..measures import check_options
from ..process import progress_bar
from ..result import Style, is_whole, read_provenance
from ..segmenter import Segmenter
from ..spec import Scale
from .engine import run
from .jobs import KINDS, MEASURES_OVERLAY, Job, plan_jobs, results_folder
from .places import is_address, parent, suffix_of
from .table import Row, Table
from .work import SEGMENTS, Work

OnOutcome: TypeAlias = "Callable[[Job, Row | Exception], None]"
OnError: TypeAlias = Literal["continue", "raise"]

_THREADS = 4  # that look at results of earlier runs


@dataclass
class Summary:
    """What became of the photographs of a run.

    Attributes
    ----------
    segmented : int
        Photographs that were segmented, or masks that were measured.
    repeated : int
        How many of these had results of other settings or of another version of the photograph,
        which were replaced.
    skipped : int
        Photographs whose results were there already.
    failed : int
        Photographs that failed; their rows have the error.
    manifest : str or None
        Path or address of the manifest.
    """

    segmented: int = 0
    repeated: int = 0
    skipped: int = 0
    failed: int = 0
    manifest: str | None = None


def segment_folder(
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
    device: str | torch.device | None = None,
    precision: Precision | None = None,
    backend: BackendName | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    max_pixels: int | None = None,
    on_error: OnError = "continue",
    on_row: Callable[[Row], None] | None = None,
    progress: bool = True,
) -> Summary:
    """Segment photographs in files and folders and write the results to files.

    This is what the command ``vesselseg segment`` does: photographs are decoded and results
    encoded in threads beside the network, and files are written whole or not at all.

    Parameters
    ----------
    inputs : path, or sequence of paths
        Image files, folders, and patterns such as ``"photographs/*.tif"``.
    out : path
        Folder for the results, which keep their place below the folder that you passed; for a
        single photograph also a file ending in ``.png``, ``.tif``, ``.tiff``, ``.npy`` or ``.dcm``.
    model : str, path, ModelSpec, Segmenter or None
        As :func:`vesselseg.segment` takes it.
    kinds : sequence of {"mask", "probability", "overlay", "fov", "dicom"}
        Files to write for each photograph. The mask is always written; "dicom" is a DICOM
        Segmentation object, ``NAME_seg.dcm``, for photographs that are DICOM files.
    recursive : bool
        Whether to search subfolders.
    keep_endings : bool
        Whether to name results after the whole file name, ``eye.jpg.png`` instead of ``eye.png``.
    resume : bool
        Whether to skip photographs whose results all exist, are whole, and agree with everything
        that decides their content: weights, model spec, scale, threshold, bits, precision, backend,
        style of overlays, and the photograph's file. Others are replaced. NPY files do not say how
        they were made, so they are skipped only if the manifest does.
    manifest : path, optional
        Table with a row for each photograph, ending in ``.jsonl``, ``.csv`` or ``.parquet``.
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
    device, precision, backend, stride, batch_size, max_pixels : optional
        As :func:`vesselseg.load_model` takes them. With a loaded model they must be its own.
    on_error : {"continue", "raise"}
        What to do about a photograph that fails at any stage: count it, record its error in the
        manifest, and go on; or raise its error once the results before it are written.
    on_row : callable, optional
        Called with a dict for each photograph that is finished: its row of the manifest.
    progress : bool
        Whether to show a bar if standard error is a terminal.

    Returns
    -------
    Summary
        Numbers of photographs that were segmented, repeated, skipped, and failed.

    Raises
    ------
    OptionError
        If there is no photograph, two would write the same file, or an argument is outside what
        is described here. Nothing was done then.
    OutputError
        If `out` or `manifest` cannot be written.
    VesselsegError, FileNotFoundError
        If the model cannot be loaded; or, with `on_error` "raise", for a photograph that fails.

    Examples
    --------
    >>> import vesselseg
    >>> vesselseg.segment_folder("photographs", "vessels", kinds=("mask", "overlay"))
    Summary(segmented=2, repeated=0, skipped=0, failed=0, manifest=None)
    >>> vesselseg.segment_folder("photographs", "vessels", resume=True)
    Summary(segmented=0, repeated=0, skipped=2, failed=0, manifest=None)
    """
    places = to_places(inputs)
    refuse_addresses([os.fspath(out), *places])
    measuring = check_options(mm_per_pixel=mm_per_pixel, fill_holes=fill_holes, min_size=min_size)
    work = Work(
        scale=scale, threshold=threshold, bits=bits, style=style,
        measuring=measuring if measure else None,
    )  # fmt: skip
    jobs = plan_jobs(
        places, os.fspath(out), kinds=kinds, recursive=recursive, keep_endings=keep_endings
    )

    def load() -> Segmenter:
        return load_or_check(
            model, device=device, precision=precision, backend=backend, stride=stride,
            batch_size=batch_size, max_pixels=max_pixels, progress=progress,
        )  # fmt: skip

    return run_collection(
        jobs,
        work,
        load,
        out=os.fspath(out),
        resume=resume,
        table=None if manifest is None else os.fspath(manifest),
        on_error=on_error,
        on_row=on_row,
        progress=progress,
    )


def to_places(inputs: PathLike | Sequence[PathLike]) -> list[str]:
    """One path or several, as texts."""
    several = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    return [os.fspath(each) for each in several]


def run_collection(
    jobs: Sequence[Job],
    work: Work,
    load: Callable[[], Segmenter | None],
    *,
    out: str | None = None,
    resume: bool = False,
    table: str | None = None,
    segments: str | None = None,
    on_error: OnError = "continue",
    on_begin: Callable[[Summary], None] | None = None,
    on_row: Callable[[Row], None] | None = None,
    progress: bool = True,
    execute: Callable[[Sequence[Job], Any, Work, OnOutcome], None] | None = None,
) -> Summary:
    """Do the work on all jobs that are not done, and record every photograph in the tables.

    Whatever a photograph raises at any stage becomes the error of its row. Only an interrupt, a
    table that cannot be written, or a model that cannot be loaded ends the run.

    `load` is called if there is anything to compare or do. `table` has a row for each photograph,
    `segments` one for each segment of its vessels. `on_begin` is called before the first photograph
    with the summary, which then counts, and `on_row` with the row of each that is finished.
    `progress` shows a bar if standard error is a terminal. `execute` runs jobs elsewhere; by
    default they run in threads here.
    """
    if on_error not in ("continue", "raise"):
        raise OptionError(f"on_error is {on_error!r}; allowed are 'continue' and 'raise'.")
    manifest = None if table is None else Table(table)
    segment_table = None if segments is None else Table(segments)
    tables = [each for each in (manifest, segment_table) if each is not None]
    for folder in {parent(place) for job in jobs for place in job.outputs.values()}:
        if not is_address(folder):
            remove_abandoned(Path(folder))
    if jobs and out is not None and not is_address(out):  # an error before any work
        make_folder(Path(results_folder(jobs, out)))
    model = load() if jobs else None
    if model is not None:
        work = replace(work, max_pixels=model.max_pixels)
    to_do, to_describe, repeated = list(jobs), list[Job](), 0
    if jobs:
        expected = work.expected(model)  # raises for a scale that the model does not have
        if resume:
            to_do, to_describe, repeated = _plan(jobs, work, expected, manifest, segment_table)
    redone = {_key(job) for job in (*to_do, *to_describe)}
    kept: list[Row] = []
    if manifest is not None:
        if resume:
            kept = [row for row in manifest.rows if (row["input"], row.get("mask")) not in redone]
        manifest.begin(kept)
    if segment_table is not None:
        inputs = {row["input"] for row in kept}
        segment_table.begin(row for row in segment_table.rows if row["input"] in inputs)
    summary = Summary(repeated=repeated, skipped=len(jobs) - len(to_do), manifest=table)
    if on_begin is not None:
        on_begin(summary)
    bar = progress_bar(shown=progress, unit="image", total=len(to_do))

    def record(job: Job, outcome: Row | Exception) -> Row:
        if isinstance(outcome, Exception):
            text = str(outcome) or type(outcome).__name__
            outcome = {"input": job.name, "error": text, **job.outputs}
        parts = outcome.pop(SEGMENTS, [])
        if manifest is not None:
            manifest.add(outcome)
        if segment_table is not None:
            segment_table.add(*parts)
        return outcome

    def finish(job: Job, outcome: Row | Exception) -> None:
        row = record(job, outcome)
        error = outcome if isinstance(outcome, Exception) else None
        summary.failed += error is not None
        summary.segmented += error is None
        bar.update()
        if on_row is not None:
            on_row(row)
        if error is not None and on_error == "raise" and summary.failed == 1:
            raise error

    def describe(job: Job, outcome: Row | Exception) -> None:
        if isinstance(outcome, Exception):
            summary.skipped -= 1
            finish(job, outcome)
        else:
            record(job, outcome)

    try:
        run(to_describe, None, work.read_existing, work.finish_existing, describe)
        if to_do:
            (execute or run_here)(to_do, model, work, finish)
    finally:
        bar.close()
        for each in tables:
            each.flush()  # however this run ends, the next one resumes from here
    for each in tables:
        each.finish()
    return summary


def run_here(
    jobs: Sequence[Job], model: Segmenter | None, work: Work, on_outcome: OnOutcome
) -> None:
    """Do the work in threads of this process."""
    run(
        jobs, model, work.read, work.finish, on_outcome,
        scale=work.scale, threshold=work.threshold,
    )  # fmt: skip


def refuse_addresses(places: Sequence[str]) -> None:
    """Raise OptionError for addresses, which only a Ray cluster reads and writes."""
    if any(map(is_address, places)):
        raise OptionError(
            "Addresses need Ray: --executor ray, or vesselseg.ray.segment_dataset. Without it, "
            "pass files and folders."
        )


def _key(job: Job) -> tuple[str, str | None]:
    return job.name, job.outputs.get("mask")


def _plan(
    jobs: Sequence[Job],
    work: Work,
    expected: Mapping[str, Any],
    manifest: Table | None,
    segment_table: Table | None,
) -> tuple[list[Job], list[Job], int]:
    """The jobs to do, those to describe, and how many of the first have results of other settings.

    A job is to be described if it is done, but its row is missing or lacks measures.
    """
    rows = [] if manifest is None else manifest.rows
    row_of = {(row["input"], row.get("mask")): row for row in rows}
    has_segments = {row["input"] for row in segment_table.rows} if segment_table else set()

    def state(job: Job) -> Literal["to do", "to describe", "done"]:
        version = work.version(job)
        if version is None:
            return "to do"
        row = row_of.get(_key(job), {})
        wanted = {**expected, "input_version": version}
        outputs = {kind: job.outputs.get(kind) for kind in (*KINDS, MEASURES_OVERLAY)}
        has_row = not row.get("error") and _agrees(row, {**wanted, **outputs})
        if not all(_is_written(job, kind, wanted, work, has_row) for kind in job.outputs):
            return "to do"
        if work.measuring is not None:
            has_row = has_row and "density" in row and _agrees(row, work.measuring)
        if segment_table is not None and row.get("length_px"):
            has_row = has_row and job.name in has_segments
        if has_row or manifest is None:
            return "done"
        mask = job.outputs.get("mask", "")
        is_readable = mask and not is_address(mask) and suffix_of(mask) in (".png", ".tif", ".tiff")
        return "to describe" if is_readable else "to do"

    with ThreadPoolExecutor(_THREADS) as threads:
        states = list(threads.map(state, jobs))
    to_do, to_describe = (
        [job for job, found in zip(jobs, states, strict=True) if found == wanted]
        for wanted in ("to do", "to describe")
    )
    repeated = sum(_has_results(job, row_of.get(_key(job))) for job in to_do)
    return to_do, to_describe, repeated


def _has_results(job: Job, row: Row | None) -> bool:
    """Whether there are results that differ from what is wanted, rather than none."""
    if job.outputs:
        return all(not is_address(place) and exists(place) for place in job.outputs.values())
    return row is not None and not row.get("error")


def _agrees(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    # As texts, since tables hold some numbers, such as a factor among scale rules, as texts.
    return all(str(found.get(name)) == str(value) for name, value in wanted.items())


def _is_written(job: Job, kind: str, wanted: Mapping[str, Any], work: Work, has_row: bool) -> bool:
    """Whether a file of a job is there, whole, and says that it is what is wanted.

    Of files that cannot say so, NPY and those at addresses, the row says it.
    """
    place = job.outputs[kind]
    if is_address(place):
        return has_row
    if suffix_of(place) == ".npy":
        return has_row and is_whole(place)
    provenance = read_provenance(place)
    if kind == "overlay":
        wanted = {**wanted, "style": work.style}
    elif kind == MEASURES_OVERLAY:
        wanted = {**wanted, **(work.measuring or {}), "color_by": work.color_by}
    return _agrees(provenance, wanted) and is_whole(place)
