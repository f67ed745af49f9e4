"""Photographs and folders on this machine: skip what is done, segment the rest, record it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import OptionError
from ..files import remove_abandoned
from ..images import check_bits
from ..preprocess import check_scale
from ..result import Style, check_style, check_threshold, read_provenance
from ..segmenter import Segmenter
from ..spec import Scale
from .jobs import Job, is_address, make_folder, plan_jobs
from .manifest import Row, append_row, describe_existing, read_manifest, write_manifest
from .pipeline import run

if TYPE_CHECKING:
    import torch

    from ..api import Model, PathLike
    from ..backends import BackendName, Precision

_THREADS = 4  # that read results of earlier runs


@dataclass(frozen=True)
class Summary:
    """What became of the photographs of a run.

    Attributes
    ----------
    segmented : int
        Photographs whose results were written.
    repeated : int
        How many of these had results of another model, scale or threshold, which were replaced.
    skipped : int
        Photographs whose results were there already.
    failed : int
        Photographs that could not be segmented.
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
    skip_existing: bool = False,
    manifest: PathLike | None = None,
    scale: Scale | None = None,
    threshold: float = 0.5,
    bits: int | None = None,
    style: Style = "tint",
    device: str | torch.device = "auto",
    precision: Precision | None = None,
    backend: BackendName | None = None,
    on_error: Literal["continue", "raise"] = "continue",
    on_row: Callable[[Row], None] = lambda _: None,
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
        Whether to search the folders in folders.
    keep_endings : bool
        Whether to name results after the whole file name, ``eye.jpg.png`` instead of ``eye.png``.
    skip_existing : bool
        Whether to skip photographs whose results all exist and come from the same weights, scale
        and threshold. Other results are replaced, and so are NPY files, which do not say.
    manifest : path, optional
        File to which a row of JSON is written for each photograph.
    scale : {"fit", "native", "fov"}, float or None
        How to bring photographs to the network's scale; None uses the model's own rule.
    threshold : float
        Pixels with a higher probability are vessel, in [0, 1].
    bits : int, optional
        Bits that 16-bit values use, if not all, such as 12 for values up to 4095.
    style : {"tint", "outline"}
        Style of overlays.
    device, precision, backend
        As :func:`vesselseg.load_model` takes them. Not used with a loaded model.
    on_error : {"continue", "raise"}
        What to do about a photograph that fails: go on, and count it in the result and record it
        in the manifest; or stop and raise its error once the results before it are written.
    on_row : callable
        Called with a dict for each photograph that is finished: what the manifest has.
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
    >>> vesselseg.segment_folder("photographs", "vessels", skip_existing=True)
    Summary(segmented=0, repeated=0, skipped=2, failed=0, manifest=None)
    """
    from tqdm import tqdm

    from ..api import load_model

    if on_error not in ("continue", "raise"):
        raise OptionError(f"on_error is {on_error!r}; allowed are 'continue' and 'raise'.")
    several = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    places = [os.fspath(each) for each in several]
    check_style(style)
    refuse_addresses([os.fspath(out), *places])
    jobs = plan_jobs(
        places,
        os.fspath(out),
        kinds=kinds,
        recursive=recursive,
        keep_endings=keep_endings,
    )

    def load() -> Segmenter:
        if isinstance(model, Segmenter):
            return model
        return load_model(model, device=device, precision=precision, backend=backend)

    with tqdm(unit="image", disable=None if progress else True) as bar:

        def advance(row: Row) -> None:
            bar.update()
            on_row(row)

        return run_jobs(
            jobs,
            load,
            out=os.fspath(out),
            skip_existing=skip_existing,
            manifest=None if manifest is None else Path(manifest),
            on_plan=lambda count, *_: bar.reset(total=count),
            on_row=advance,
            stop_on_error=on_error == "raise",
            scale=scale,
            threshold=threshold,
            bits=bits,
            style=style,
        )


def run_jobs(
    jobs: Sequence[Job],
    load: Callable[[], Segmenter],
    *,
    out: str,
    skip_existing: bool = False,
    manifest: Path | None = None,
    on_plan: Callable[[int, int, int], None] = lambda *_: None,
    on_row: Callable[[Row], None] = lambda _: None,
    stop_on_error: bool = False,
    scale: Scale | None = None,
    threshold: float = 0.5,
    bits: int | None = None,
    **settings: Any,
) -> Summary:
    """Segment what is not done yet; `load` is called if there is anything to compare or do.

    `on_plan` is called with the numbers of photographs to segment, of those among them that have
    results of other settings, and of those that are skipped. `settings` are passed on to
    :func:`vesselseg.batch.pipeline.run`.
    """
    threshold, bits = check_threshold(threshold), check_bits(bits)
    rows = read_manifest(manifest) if manifest else []
    if not jobs:  # an empty share of the list
        on_plan(0, 0, 0)
        if manifest:
            write_manifest(manifest, rows if skip_existing else [])
        return Summary(manifest=None if manifest is None else str(manifest))
    for folder in {Path(place).parent for job in jobs for place in job.outputs.values()}:
        remove_abandoned(folder)
    mask = jobs[0].outputs["mask"]
    make_folder(Path(mask).parent if mask == out else Path(out))  # an error before any work
    model = load()
    expected = {
        "sha256": model.sha256,
        "scale": check_scale(scale, model.spec),
        "threshold": threshold,
        "bits": bits,
    }
    existing = [job for job in jobs if skip_existing and job.is_done]
    with ThreadPoolExecutor(_THREADS) as readers:
        is_same = readers.map(lambda job: has_settings(job, expected), existing)
        skipped = [job for job, same in zip(existing, is_same, strict=True) if same]
        masks = {job.outputs["mask"] for job in skipped}
        to_do = [job for job in jobs if job.outputs["mask"] not in masks]
        if manifest:
            names = {job.name for job in to_do}
            rows = [row for row in rows if skip_existing and row["input"] not in names]
            known = {(row["input"], str(row.get("outputs"))) for row in rows}
            lost = [job for job in skipped if (job.name, str(job.outputs)) not in known]
            write_manifest(manifest, [*rows, *readers.map(describe_existing, lost)])
    repeated = len(existing) - len(skipped)
    on_plan(len(to_do), repeated, len(skipped))
    failures: list[Exception] = []
    done = 0

    def until_failure() -> Iterator[Job]:
        for job in to_do:
            if failures and stop_on_error:
                return
            yield job

    def finish(_: Job, row: Row) -> None:
        nonlocal done
        done += "error" not in row
        if manifest:
            append_row(manifest, row)
        on_row(row)

    run(
        until_failure(), model, finish, on_failure=failures.append,
        scale=scale, threshold=threshold, bits=bits, **settings,
    )  # fmt: skip
    if manifest:
        write_manifest(manifest, read_manifest(manifest))
    if failures and stop_on_error:
        raise failures[0]
    place = None if manifest is None else str(manifest)
    return Summary(done, repeated, len(skipped), len(failures), place)


def has_settings(job: Job, expected: dict[str, Any]) -> bool:
    """Whether all results of a job were written by vesselseg with these settings."""
    for place in job.outputs.values():
        provenance = read_provenance(place)
        if any(provenance.get(name) != value for name, value in expected.items()):
            return False
    return True


def refuse_addresses(places: Sequence[str]) -> None:
    """Raise OptionError for addresses, which only a Ray cluster reads and writes."""
    if any(map(is_address, places)):
        raise OptionError(
            "Addresses need Ray: --executor ray, or vesselseg.ray.segment_dataset. Without it, "
            "pass files and folders."
        )
