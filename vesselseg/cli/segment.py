"""``vesselseg segment``: images, folders and patterns in, masks out."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError, OutputError
from . import arguments

if TYPE_CHECKING:
    from ..batch.manifest import Line
    from ..batch.plan import Job
    from ..segmenter import Segmenter

_DESCRIPTION = """\
Find the vessels in photographs of the retina. For each IMAGE the mask is written to
OUT/FOLDER/NAME.png: 0 and 255, one channel, of the photograph's size. FOLDER is where the image
lies below the folder that was given; images that were given by name go to OUT itself."""

_EPILOG = """\
examples:
  vesselseg eye.jpg -o vessels.png
  vesselseg photographs/ --recursive -o vessels/ --overlay
  vesselseg 'photographs/*_left.tif' -o vessels/ --manifest vessels/run.jsonl
  vesselseg - < eye.jpg > vessels.png

Files that vesselseg wrote are no input when they lie in a folder, so that OUT may lie among the
photographs. After an interruption, the same line with --skip-existing does the rest.

exit code: 0 done; 1 some images failed, as was said; 2 wrong usage, nothing was done;
130 interrupted, all files there are whole."""


def add_parsers(commands: Any) -> None:
    """Add the parser of ``segment``."""
    parser = commands.add_parser(
        "segment",
        help="segment photographs; `vesselseg IMAGE... -o OUT` is short for it",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE",
        help="an image file, a folder, a pattern in quotes, or - for standard input",
    )
    add = parser.add_argument_group("results").add_argument
    add("-o", "--out", metavar="OUT", help="folder; for a single image also a file ending in .png; "
        "- is standard output (default: - if IMAGE is -, else it has to be given)")  # fmt: skip
    add("--probability", action="store_true",
        help="write NAME_probability.png, too: 16 bits, 65535 is 1 (default: no)")  # fmt: skip
    add("--overlay", action="store_true",
        help="write NAME_overlay.png, too: vessels over the photograph (default: no)")  # fmt: skip
    add("--overlay-style", choices=("tint", "outline"), default="tint",
        help="vessels coloured, or only their border (default: %(default)s)")  # fmt: skip
    add("--fov", action="store_true",
        help="write NAME_fov.png, too: the field of view, 0 and 255 (default: no)")  # fmt: skip
    add("--manifest", metavar="FILE", help="write JSON lines, one per image: input, outputs, "
        "model, sha256 of its weights, scale, backend, device, precision, threshold, seconds, "
        "fraction of the field of view that is vessel; or the error. Runs at the same time need a "
        "FILE each (default: none; on Ray a Parquet file, OUT/manifest.parquet)")  # fmt: skip
    add = arguments.add_model_options(parser).add_argument
    add("--scale", type=arguments.scale, metavar="RULE",
        help="fit (into the size of the model's data set), native, fov (field of view brought to "
        "the model's diameter), or a factor (default: the model's own rule)")  # fmt: skip
    add("--threshold", type=arguments.threshold, default=0.5, metavar="P",
        help="pixels above this probability are vessel, 0 to 1 (default: %(default)s)")  # fmt: skip
    add("--batch-size", type=arguments.positive, metavar="N",
        help="windows computed at once (default: what suits the device)")  # fmt: skip
    add = parser.add_argument_group("which images").add_argument
    add("-r", "--recursive", action="store_true",
        help="look into the folders in folders (default: no)")  # fmt: skip
    add("--skip-existing", action="store_true",
        help="leave out images whose results all exist (default: do them again)")  # fmt: skip
    add("--part", type=_part, default=(1, 1), metavar="I/N",
        help="the I-th of N shares of the sorted list, I from 1 to N (default: 1/1)")  # fmt: skip
    add = parser.add_argument_group("more than one machine").add_argument
    add("--executor", choices=("local", "ray"), default="local",
        help="ray: on the workers of a Ray cluster, IMAGE and OUT may also be addresses such as "
        "s3://bucket/folder, and --skip-existing goes by the manifest; needs vesselseg[ray] "
        "(default: %(default)s)")  # fmt: skip
    add("--address", metavar="ADDRESS", help="of the Ray cluster, such as auto or "
        "HOST:6379 (default: RAY_ADDRESS, or else a Ray on this machine for this run)")  # fmt: skip
    parser.set_defaults(run=_segment)


def _segment(options: argparse.Namespace) -> int:
    from ..batch.plan import make_plan, share

    out = options.out or ("-" if options.inputs == ["-"] else None)
    if out is None:
        raise OptionError("There is no place for the results: give a folder, -o OUT.")
    kinds = ["mask"]
    if options.overlay_style != "tint":
        options.overlay = True
    kinds += [kind for kind in ("probability", "overlay", "fov") if getattr(options, kind)]
    if options.executor == "ray":
        from .collection import segment_collection

        return segment_collection(options, kinds)
    if options.address is not None:
        raise OptionError("--address is that of a Ray cluster: give --executor ray, too.")
    if out == "-":
        return _to_standard_output(options, kinds)
    jobs = make_plan(options.inputs, out, kinds=kinds, recursive=options.recursive)
    jobs = share(jobs, *options.part)
    to_do: list[Job] = []
    skipped: list[Job] = []
    for job in jobs:
        (skipped if options.skip_existing and job.done else to_do).append(job)
    lines = _earlier_lines(options, to_do)
    for job in jobs[:1]:  # a place that cannot be written to is told at once
        mask = job.outputs["mask"]
        _make_folder(mask.parent if mask == Path(out) else Path(out))
    model = _load(options) if to_do else None
    return _run(options, model, to_do, skipped, lines)


def _run(
    options: argparse.Namespace,
    model: Segmenter | None,
    to_do: Sequence[Job],
    skipped: Sequence[Job],
    lines: Sequence[Line],
) -> int:
    from tqdm import tqdm

    from ..batch.manifest import Manifest
    from ..batch.run import describe_all, run
    from .progress import Progress, named_warnings

    manifest = Manifest(Path(options.manifest), lines) if options.manifest else None
    begun = time.perf_counter()
    with (
        contextlib.closing(manifest) if manifest else contextlib.nullcontext(),
        tqdm(total=len(to_do), unit="image", disable=None, file=sys.stderr) as bar,
        named_warnings(bar) as names,
    ):
        progress = Progress(bar, manifest)
        try:
            if manifest:
                told = {(line["input"], line.get("outputs", {}).get("mask")) for line in lines}
                known = [(job, (job.name, str(job.outputs["mask"]))) for job in skipped]
                for _, line in describe_all([job for job, key in known if key not in told]):
                    manifest.add(line)
            if model:
                run(
                    map(_with_content, to_do),
                    model,
                    progress,
                    scale=options.scale,
                    threshold=options.threshold,
                    style=options.overlay_style,
                    started=names.set,
                )
            if manifest:
                manifest.finish()
        finally:
            bar.close()
            print(
                f"vesselseg: {progress.done} segmented, {len(skipped)} skipped, "
                f"{progress.failed} failed, in {time.perf_counter() - begun:.1f} s",
                file=sys.stderr,
            )
    return 1 if progress.failed else 0


def _earlier_lines(options: argparse.Namespace, to_do: Sequence[Job]) -> list[Line]:
    """Lines of the manifest that still hold; the file is looked at before any work."""
    from ..batch.manifest import read

    if not options.manifest:
        return []
    lines = read(Path(options.manifest))
    again = {job.name for job in to_do}
    return [x for x in lines if x["input"] not in again] if options.skip_existing else []


def _load(options: argparse.Namespace) -> Segmenter:
    from ..api import load_model
    from ..preprocess import check_scale

    model = load_model(
        options.model,
        weights=options.weights,
        device=options.device,
        precision=options.precision,
        backend=options.backend,
        calibration=options.calibration,
        batch_size=options.batch_size,
    )
    check_scale(options.scale, model.spec)  # now, not when the first image comes
    return model


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {str(folder)!r} cannot be made: {error}.") from error


def _with_content(job: Job) -> Job:
    return dataclasses.replace(job, image=sys.stdin.buffer.read()) if job.name == "-" else job


def _to_standard_output(options: argparse.Namespace, kinds: Sequence[str]) -> int:
    (source, *others) = options.inputs
    if others or Path(source).is_dir():
        raise OptionError("Standard output takes the mask of one image file. Give -o FOLDER.")
    if len(kinds) > 1 or options.manifest or options.skip_existing or options.part != (1, 1):
        raise OptionError(
            "Standard output takes the mask alone: --probability, --overlay, --fov, --manifest, "
            "--skip-existing and --part need a folder, -o FOLDER."
        )
    if sys.stdout.isatty():
        raise OptionError("The mask is a PNG file, not for a terminal. Give -o FILE.png or > FILE.")
    image = sys.stdin.buffer.read() if source == "-" else source
    result = _load(options)(image, scale=options.scale, threshold=options.threshold)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "mask.png")
        result.save(file)
        try:
            sys.stdout.buffer.write(file.read_bytes())
            sys.stdout.buffer.flush()
        except OSError as error:
            raise OutputError(f"Standard output cannot be written: {error}.") from error
    return 0


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N, such as 2/8")
    return int(part), int(parts)
