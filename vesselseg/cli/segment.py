"""``vesselseg segment``: photographs, folders and patterns in, masks out."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError, OutputError
from . import arguments

if TYPE_CHECKING:
    from ..batch.jobs import Job
    from ..batch.manifest import Row
    from ..segmenter import Segmenter

_DESCRIPTION = """\
Segment the vessels in fundus photographs. For each IMAGE the mask is written to
OUT/FOLDER/NAME.png: 0 and 255, one channel, of the photograph's size. FOLDER is the place of the
image below the folder that you passed; images passed by name go to OUT itself."""

_EPILOG = """\
examples:
  vesselseg eye.jpg -o vessels.png
  vesselseg photographs/ --recursive -o vessels/ --overlay
  vesselseg 'photographs/*_left.tif' -o vessels/ --manifest vessels/run.jsonl
  vesselseg - < eye.jpg > vessels.png

Files that vesselseg wrote are not taken from folders, so OUT can lie among the photographs. After
an interruption, rerun with --skip-existing to finish.

exit code: 0 done; 1 some images failed, with a message each; 2 wrong usage, nothing was done;
130 interrupted, all files that are there are whole."""


def add_parsers(commands: Any) -> None:
    """Add the parser of ``segment``."""
    parser = commands.add_parser(
        "segment",
        help="segment photographs; `vesselseg IMAGE... -o OUT` is short for it",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="+", metavar="IMAGE",
        help="an image file, a folder, a pattern in quotes, or - for standard input")  # fmt: skip
    add = parser.add_argument_group("results").add_argument
    add("-o", "--out", metavar="OUT", help="folder; for a single image also a file ending in .png; "
        "- is standard output (default: - if IMAGE is -, else required)")  # fmt: skip
    add("--probability", action="store_true",
        help="also write NAME_probability.png: 16 bits, 65535 is 1 (default: no)")  # fmt: skip
    add("--overlay", action="store_true",
        help="also write NAME_overlay.png: vessels over the photograph (default: no)")  # fmt: skip
    add("--overlay-style", choices=("tint", "outline"), default="tint",
        help="vessels coloured, or only their border (default: %(default)s)")  # fmt: skip
    add("--fov", action="store_true",
        help="also write NAME_fov.png: the field of view, 0 and 255 (default: no)")  # fmt: skip
    add("--manifest", metavar="FILE", help="write a row of JSON for each image: input, outputs, "
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
        help="search the folders in folders (default: no)")  # fmt: skip
    add("--skip-existing", action="store_true",
        help="skip images whose results all exist (default: segment them again)")  # fmt: skip
    add("--part", type=part, default=(1, 1), metavar="I/N",
        help="the I-th of N shares of the sorted list, I from 1 to N (default: 1/1)")  # fmt: skip
    add = parser.add_argument_group("more than one machine").add_argument
    add("--executor", choices=("local", "ray"), default="local",
        help="ray: on the workers of a Ray cluster; IMAGE and OUT can be addresses such as "
        "s3://bucket/folder, and --skip-existing goes by the manifest; needs vesselseg[ray] "
        "(default: %(default)s)")  # fmt: skip
    add("--address", metavar="ADDRESS", help="of the Ray cluster, such as auto or "
        "HOST:6379 (default: RAY_ADDRESS, or else a Ray on this machine for this run)")  # fmt: skip
    parser.set_defaults(run=segment)


def part(text: str) -> tuple[int, int]:
    """A share of the list, such as 2/8."""
    number, _, total = text.partition("/")
    if not (number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N, such as 2/8")
    return int(number), int(total)


def segment(options: argparse.Namespace) -> int:
    """Segment what the options name."""
    out = options.out or ("-" if options.inputs == ["-"] else None)
    if out is None:
        raise OptionError("There is no place for the results. Name a folder: -o OUT.")
    kinds = ["mask"]
    if options.overlay_style != "tint":
        options.overlay = True
    kinds += [kind for kind in ("probability", "overlay", "fov") if getattr(options, kind)]
    if options.executor == "ray":
        return segment_on_ray(options, kinds)
    if options.address is not None:
        raise OptionError("--address is that of a Ray cluster. Add --executor ray.")
    if out == "-":
        return segment_to_standard_output(options, kinds)
    return segment_files(options, out, kinds)


def segment_files(options: argparse.Namespace, out: str, kinds: Sequence[str]) -> int:
    """Segment files on this machine."""
    from tqdm import tqdm

    from ..batch.jobs import is_address, plan_jobs, share
    from ..batch.manifest import Manifest, describe_all_existing, read_manifest
    from ..batch.pipeline import make_folder, run

    if any(map(is_address, [out, *options.inputs])):
        raise OptionError("Addresses need --executor ray. Without it, pass files and folders.")
    jobs = plan_jobs(options.inputs, out, kinds=kinds, recursive=options.recursive)
    jobs = share(jobs, *options.part)
    skipped = [job for job in jobs if options.skip_existing and job.is_done]
    to_do = [job for job in jobs if job not in skipped]
    rows = read_manifest(Path(options.manifest)) if options.manifest else []
    again = {job.name for job in to_do}
    rows = [row for row in rows if options.skip_existing and row["input"] not in again]
    if jobs:  # a place that cannot be written to is reported before any work
        mask = jobs[0].outputs["mask"]
        make_folder(Path(mask).parent if mask == out else Path(out))
    model = load_model(options) if to_do else None
    contents = {"-": sys.stdin.buffer.read()} if any(job.name == "-" for job in to_do) else {}
    manifest = Manifest(Path(options.manifest), rows) if options.manifest else None
    start = time.perf_counter()
    with (
        contextlib.closing(manifest) if manifest else contextlib.nullcontext(),
        tqdm(total=len(to_do), unit="image", disable=None, file=sys.stderr) as bar,
        named_warnings(bar) as names,
    ):
        progress = Progress(bar)

        def on_row(job: Job, row: Row) -> None:
            if manifest:
                manifest.add(row)
            progress.add(job.name, row)

        try:
            if manifest:
                known = {(row["input"], str(row.get("outputs"))) for row in rows}
                lost = [job for job in skipped if (job.name, str(job.outputs)) not in known]
                for row in describe_all_existing(lost):
                    manifest.add(row)
            if model:
                run(
                    to_do,
                    model,
                    on_row,
                    scale=options.scale,
                    threshold=options.threshold,
                    style=options.overlay_style,
                    contents=contents,
                    on_start=names.set,
                )
            if manifest:
                manifest.finish()
        finally:
            bar.close()
            progress.summarize(len(skipped), time.perf_counter() - start, out)
    return 1 if progress.failed else 0


def segment_on_ray(options: argparse.Namespace, kinds: Sequence[str]) -> int:
    """Segment a collection on a Ray cluster."""
    from tqdm import tqdm

    from ..ray import segment_dataset

    if "-" in (options.out, *options.inputs):
        raise OptionError("--executor ray needs files and folders, not standard input or output.")
    if options.part != (1, 1):
        raise OptionError("--part is for runs without Ray, which divides the images itself.")
    # PyTorch's precision depends on the workers' devices; OpenVINO's is prepared once, here.
    changes: dict[str, Any] = {"device": "cpu", "batch_size": options.batch_size}
    if options.backend != "openvino":
        changes["precision"] = "float32"
    model = arguments.load_model(options, **changes)
    start = time.perf_counter()
    with tqdm(unit="image", disable=None, file=sys.stderr) as bar:
        progress = Progress(bar)

        def on_row(row: Row) -> None:
            progress.add(row["input"], row)

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
            on_row=on_row,
        )
    where = f"{options.out}; manifest: {summary.manifest}"
    progress.summarize(summary.skipped, time.perf_counter() - start, where)
    return 1 if summary.failed else 0


def segment_to_standard_output(options: argparse.Namespace, kinds: Sequence[str]) -> int:
    """Segment one image and write its mask to standard output."""
    source, *others = options.inputs
    if others or Path(source).is_dir():
        raise OptionError("Standard output takes the mask of one image file. Pass -o FOLDER.")
    if len(kinds) > 1 or options.manifest or options.skip_existing or options.part != (1, 1):
        raise OptionError(
            "Standard output takes the mask alone: --probability, --overlay, --fov, --manifest, "
            "--skip-existing and --part need a folder, -o FOLDER."
        )
    if sys.stdout.isatty():
        raise OptionError("The mask is a PNG file, not for a terminal. Use -o FILE.png or > FILE.")
    image = sys.stdin.buffer.read() if source == "-" else source
    result = load_model(options)(image, scale=options.scale, threshold=options.threshold)
    content = io.BytesIO()
    result.write(content)
    try:
        sys.stdout.buffer.write(content.getvalue())
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OutputError(f"Standard output cannot be written: {error}.") from error
    return 0


def load_model(options: argparse.Namespace) -> Segmenter:
    """Load the model; a scale that it does not have is an error now, not with the first image."""
    from ..preprocess import check_scale

    model = arguments.load_model(options, batch_size=options.batch_size)
    check_scale(options.scale, model.spec)
    return model


class Progress:
    """Counts images on a bar and prints why one failed."""

    def __init__(self, bar: Any) -> None:
        self.done = self.failed = 0
        self.bar = bar

    def add(self, name: str, row: Row) -> None:
        """Count an image that is finished."""
        error = row.get("error")
        if error is None:
            self.done += 1
        else:
            self.failed += 1
            named = error if name in error else f"{name}: {error}"
            self.bar.write(f"vesselseg: {named}", file=sys.stderr)
        self.bar.update()

    def summarize(self, skipped: int, seconds: float, where: str) -> None:
        """Print the summary."""
        print(
            f"vesselseg: {self.done} segmented, {skipped} skipped, {self.failed} failed, in "
            f"{seconds:.1f} s; results: {where}",
            file=sys.stderr,
        )


class NameFilter(logging.Filter):
    """Puts the name of the current image in front of a warning."""

    prefix = ""

    def set(self, job: Job) -> None:
        """Name the image that is next."""
        self.prefix = f"{job.name}: ".replace("%", "%%")

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = f"{self.prefix}{record.msg}"
        return True


@contextlib.contextmanager
def named_warnings(bar: Any) -> Iterator[NameFilter]:
    """Warnings about an image name it, and are printed above the bar if there is one."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    names = NameFilter()
    logger = logging.getLogger("vesselseg.preprocess")
    logger.addFilter(names)
    try:
        with contextlib.nullcontext() if bar.disable else logging_redirect_tqdm():
            yield names
    finally:
        logger.removeFilter(names)
