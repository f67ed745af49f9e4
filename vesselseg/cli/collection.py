"""``vesselseg segment --executor ray``: the same command on the workers of a Ray cluster."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OptionError

if TYPE_CHECKING:
    from ..batch.parquet import Row


def segment_collection(options: argparse.Namespace, kinds: Sequence[str]) -> int:
    """Segment what the options say; return the exit code."""
    from tqdm import tqdm

    from ..api import load_model
    from ..batch.plan import Job
    from ..ray import segment_dataset
    from .progress import Progress

    if "-" in (options.out, *options.inputs):
        raise OptionError("--executor ray needs files and folders, not standard input or output.")
    if options.part != (1, 1):
        raise OptionError("--part is for runs without Ray, which shares the images out itself.")
    # PyTorch's precision depends on where the workers are; OpenVINO's is prepared once, here.
    here = {"precision": options.precision} if options.backend != "torch" else {}
    model = load_model(
        options.model,
        weights=options.weights,
        device="cpu",
        backend=options.backend,
        calibration=options.calibration,
        batch_size=options.batch_size,
        **here,
    )
    begun = time.perf_counter()
    with tqdm(unit="image", disable=None, file=sys.stderr) as bar:
        progress = Progress(bar, None)

        def report(row: Row) -> None:
            progress(Job(row["input"], Path(row["input"]), {}), row)

        summary = segment_dataset(
            options.inputs,
            options.out,
            model=model,
            device=options.device,
            precision=options.precision,
            scale=options.scale,
            threshold=options.threshold,
            kinds=kinds,
            style=options.overlay_style,
            recursive=options.recursive,
            manifest=options.manifest,
            resume=options.skip_existing,
            address=options.address,
            report=report,
        )
    print(
        f"vesselseg: {summary.segmented} segmented, {summary.skipped} skipped, "
        f"{summary.failed} failed, in {time.perf_counter() - begun:.1f} s; "
        f"manifest: {summary.manifest}",
        file=sys.stderr,
    )
    return 1 if summary.failed else 0
