"""``vesselseg segment``: photographs, folders and patterns in, masks out."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError, OutputError
from . import arguments

if TYPE_CHECKING:
    from ..batch.manifest import Row

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

_SETTINGS = ("scale", "threshold", "style", "bits")  # options that a run takes as they are


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
    add("-o", "--out", metavar="OUT",
        help="folder; for a single image also a file ending in .png, .tif, .npy or .dcm; - is "
        "standard output (default: - if IMAGE is -, else required)")  # fmt: skip
    add("--probability", action="store_true",
        help="also write NAME_probability.png: 16 bits, 65535 is 1 (default: no)")  # fmt: skip
    add("--overlay", action="store_true",
        help="also write NAME_overlay.png: vessels over the photograph (default: no)")  # fmt: skip
    add("--overlay-style", dest="style", choices=("tint", "outline"), default="tint",
        help="vessels coloured, or only their border (default: %(default)s)")  # fmt: skip
    add("--fov", action="store_true",
        help="also write NAME_fov.png: the field of view, 0 and 255 (default: no)")  # fmt: skip
    add("--dicom", action="store_true",
        help="also write NAME_seg.dcm, a DICOM Segmentation object that refers to its photograph, "
        "for DICOM photographs; needs vesselseg[dicom] (default: no)")  # fmt: skip
    add("--keep-endings", action="store_true",
        help="name results after the whole file name, eye.jpg.png, so that eye.jpg and eye.tif can "
        "lie in one folder (default: eye.png)")  # fmt: skip
    add("--manifest", metavar="FILE", help="write a row of JSON for each image: input, outputs, "
        "model, sha256 of its weights and whether they are unverified, scale, backend, device, "
        "precision, threshold, size, diameter of the field of view, familiarity, warning, seconds, "
        "fraction of the field of view that is vessel; or the error. Runs at the same time need a "
        "FILE each (default: none; on Ray a Parquet file, OUT/manifest.parquet)")  # fmt: skip
    group = arguments.add_model_options(parser)
    arguments.add_run_options(group)
    add = group.add_argument
    add("--batch-size", type=arguments.positive, metavar="N",
        help="windows computed at once (default: what suits the device)")  # fmt: skip
    add = parser.add_argument_group("which images").add_argument
    add("-r", "--recursive", action="store_true",
        help="search the folders in folders (default: no)")  # fmt: skip
    add("--skip-existing", action="store_true",
        help="skip images whose results all exist and come from the same weights, scale and "
        "threshold (default: segment them again)")  # fmt: skip
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
    if options.style != "tint":
        options.overlay = True
    others = [kind for kind in ("probability", "overlay", "fov", "dicom") if getattr(options, kind)]
    if options.executor == "ray":
        return segment_on_ray(options, others)
    if options.address is not None:
        raise OptionError("--address is that of a Ray cluster. Add --executor ray.")
    if out == "-":
        return segment_to_standard_output(options, others)
    return segment_files(options, out, others)


def segment_files(options: argparse.Namespace, out: str, kinds: Sequence[str]) -> int:
    """Segment files on this machine."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from ..batch.folder import refuse_addresses, run_jobs
    from ..batch.jobs import plan_jobs

    refuse_addresses([out, *options.inputs])
    number, total = options.part
    jobs = plan_jobs(
        options.inputs,
        out,
        kinds=kinds,
        recursive=options.recursive,
        keep_endings=options.keep_endings,
    )[number - 1 :: total]
    stdin = sys.stdin.buffer.read() if any(job.name == "-" for job in jobs) else b""
    progress = Progress()
    warnings = logging.getLogger("vesselseg.segmenter")
    warnings.addFilter(in_manifest)
    try:
        with progress.bar, logging_redirect_tqdm([] if progress.bar.disable else None):
            run_jobs(
                jobs,
                lambda: arguments.load_model(options, batch_size=options.batch_size),
                out=out,
                skip_existing=options.skip_existing,
                manifest=Path(options.manifest) if options.manifest else None,
                on_plan=progress.plan,
                on_row=progress.add,
                stdin=stdin,
                **{name: getattr(options, name) for name in _SETTINGS},
            )
    finally:
        warnings.removeFilter(in_manifest)
        progress.summarize(out)
    return 1 if progress.failed else 0


def segment_on_ray(options: argparse.Namespace, kinds: Sequence[str]) -> int:
    """Segment a collection on a Ray cluster."""
    from ..ray import segment_dataset

    if "-" in (options.out, *options.inputs):
        raise OptionError("--executor ray needs files and folders, not standard input or output.")
    if options.part != (1, 1):
        raise OptionError("--part is for runs without Ray, which divides the images itself.")
    # Device and precision are the workers'.
    model = arguments.load_model(
        options, device="cpu", precision=None, batch_size=options.batch_size
    )
    progress = Progress()
    progress.begun = time.perf_counter()
    names = (*_SETTINGS, "device", "precision", "recursive", "keep_endings", "manifest", "address")
    with progress.bar:
        summary = segment_dataset(
            options.inputs,
            options.out,
            model=model,
            kinds=kinds,
            resume=options.skip_existing,
            on_row=progress.add,
            **{name: getattr(options, name) for name in names},
        )
    progress.skipped = summary.skipped
    progress.summarize(f"{options.out}; manifest: {summary.manifest}")
    return 1 if summary.failed else 0


def segment_to_standard_output(options: argparse.Namespace, others: Sequence[str]) -> int:
    """Segment one image and write its mask to standard output."""
    source = options.inputs[0]
    if len(options.inputs) > 1 or Path(source).is_dir():
        raise OptionError("Standard output takes the mask of one image file. Pass -o FOLDER.")
    if others or options.manifest or options.skip_existing or options.part != (1, 1):
        raise OptionError(
            "Standard output takes the mask alone: --probability, --overlay, --fov, --dicom, "
            "--manifest, --skip-existing and --part need a folder, -o FOLDER."
        )
    if sys.stdout.isatty():
        raise OptionError("The mask is a PNG file, not for a terminal. Use -o FILE.png or > FILE.")
    image = sys.stdin.buffer.read() if source == "-" else source
    model = arguments.load_model(options, batch_size=options.batch_size)
    result = model(image, scale=options.scale, threshold=options.threshold, bits=options.bits)
    try:
        result.save(sys.stdout.buffer, format="png")
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OutputError(f"Standard output cannot be written: {error}.") from error
    return 0


def in_manifest(_: logging.LogRecord) -> bool:
    """A filter for warnings that the rows of the manifest have, with the name of the image."""
    return False


class Progress:
    """A bar that counts images, their warnings and errors, and a summary at the end."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self.bar = tqdm(unit="image", disable=None, file=sys.stderr)
        self.begun: float | None = None
        self.done = self.failed = self.repeated = self.skipped = 0

    def plan(self, count: int, repeated: int, skipped: int) -> None:
        """Begin to count; see :func:`vesselseg.batch.folder.run_jobs`."""
        self.bar.reset(total=count)
        self.begun = time.perf_counter()
        self.repeated, self.skipped = repeated, skipped

    def add(self, row: Row) -> None:
        """Count an image that is finished."""
        error = row.get("error")
        if error is None:
            self.done += 1
            if row["warning"]:
                self.bar.write(f"WARNING: {row['input']}: {row['warning']}", file=sys.stderr)
        else:
            self.failed += 1
            named = error if row["input"] in error else f"{row['input']}: {error}"
            self.bar.write(f"vesselseg: {named}", file=sys.stderr)
        self.bar.update()

    def summarize(self, where: str) -> None:
        """Print the summary of a run that began."""
        if self.begun is None:
            return
        seconds = time.perf_counter() - self.begun
        repeated = ""
        if self.repeated:
            repeated = f" ({self.repeated} again, since their settings differed)"
        print(
            f"vesselseg: {self.done} segmented{repeated}, {self.skipped} skipped, "
            f"{self.failed} failed, in {seconds:.1f} s; results: {where}",
            file=sys.stderr,
        )
