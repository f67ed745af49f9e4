"""``vesselseg segment``: photographs, folders and patterns in, masks out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, OptionError, OutputError
from ..files import exists, is_folder
from ..formats import endings
from . import arguments, collection

if TYPE_CHECKING:
    from ..batch.jobs import Job

_DESCRIPTION = """\
Segment the vessels in fundus photographs. For each IMAGE the mask is written to
OUTPUT/FOLDER/NAME.png: 0 and 255, one channel, of the photograph's size. FOLDER is the place of the
image below the folder that you passed; images passed by name go to OUTPUT itself.

Without -o, the mask of one image is written to NAME_vessels.png in the working folder, and the
masks of one folder to FOLDER_vessels/ there. Neither replaces anything that exists."""

_EPILOG = """\
examples:
  vesselseg eye.jpg
  vesselseg eye.jpg -o vessels.png
  vesselseg photographs/ --recursive -o vessels/ --overlay
  vesselseg 'photographs/*_left.tif' -o vessels/ --manifest vessels/run.jsonl
  vesselseg - < eye.jpg > vessels.png

Files that vesselseg wrote are not taken from folders, so OUTPUT can lie among the photographs.
After an interruption all files that are there are whole; rerun with --resume to finish."""


def add_parsers(commands: Any) -> None:
    """Add the parser of ``segment``."""
    parser = commands.add_parser(
        "segment",
        help="segment photographs; `vesselseg IMAGE...` is short for it",
        usage="vesselseg [segment] IMAGE... [-o OUTPUT] [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("inputs", nargs="+", metavar="IMAGE",
        help="an image file, a folder, a pattern in quotes, or - for standard input. From folders "
        f"these files are taken: {' '.join(endings())}")  # fmt: skip
    add = parser.add_argument_group("results").add_argument
    add("-o", "--output", metavar="OUTPUT",
        help="folder; for a single image also a file ending in .png, .tif, .npy or .dcm; - is "
        "standard output (default: NAME_vessels.png or FOLDER_vessels/ in the working folder, - "
        "if IMAGE is -)")  # fmt: skip
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
        "for DICOM photographs; needs the extra dicom (default: no)")  # fmt: skip
    add("--keep-endings", action="store_true",
        help="name results after the whole file name, eye.jpg.png, so that eye.jpg and eye.tif can "
        "lie in one folder (default: eye.png)")  # fmt: skip
    add("--manifest", metavar="FILE",
        help="write a table, .jsonl, .csv or .parquet, with a row for each image: its results and "
        "how they were computed, or its error. Runs at the same time need a FILE each (default: "
        "none; on Ray OUTPUT/manifest.parquet)")  # fmt: skip
    add("--measure", action="store_true", help="add the measures of the vessels to the manifest; "
        "needs the extra measure (default: no)")  # fmt: skip
    arguments.add_measure_options(add)
    arguments.add_run_options(arguments.add_model_options(parser))
    collection.add_options(parser)
    parser.set_defaults(run=segment)


def segment(options: argparse.Namespace) -> int:
    """Segment what the options name."""
    out = options.output or _default_output(options)
    if options.style != "tint":
        options.overlay = True
    kinds = [kind for kind in ("probability", "overlay", "fov", "dicom") if getattr(options, kind)]
    collection.check_options(options)
    if out == "-":
        return _segment_to_standard_output(options, kinds)

    from ..batch.jobs import plan_jobs, results_folder
    from ..batch.places import join
    from ..batch.work import Work

    jobs = plan_jobs(
        options.inputs,
        out,
        kinds=kinds,
        recursive=options.recursive,
        keep_endings=options.keep_endings,
    )
    if options.output is None:
        _refuse_existing(jobs, out, resume=options.resume)
    table = options.manifest
    if table is None and options.executor == "ray":
        table = join(results_folder(jobs, out), "manifest.parquet")
    if options.measure and table is None:
        raise OptionError("--measure needs a table for the measures. Name it: --manifest FILE.csv.")
    work = Work(
        scale=options.scale,
        threshold=options.threshold,
        bits=options.bits,
        style=options.style,
        measuring=arguments.measure_options(options) if options.measure else None,
    )
    where = f"results: {out}" + (f"; manifest: {table}" if table else "")
    return collection.run(options, jobs, work, verb="segmented", where=where, out=out, table=table)


def _default_output(options: argparse.Namespace) -> str:
    """The output of one photograph or folder: a name of its own in the working folder."""
    from ..batch.places import is_address

    text: str = options.inputs[0]
    source = Path(text)
    is_several = is_address(text) or (not exists(text) and any(c in text for c in "*?["))
    if len(options.inputs) > 1 or is_several:
        last = options.inputs[-1]
        hint = "" if exists(last) or is_several else f" To write {last!r}, pass -o {last}."
        raise OptionError(f"Several photographs need a folder for their results: -o FOLDER.{hint}")
    if text == "-":
        return text
    if is_folder(text):
        return f"{source.resolve().name}_vessels"
    is_numbered = source.suffix[1:].isdecimal()  # a UID, after which DICOM files are named
    name = source.name if is_numbered or options.keep_endings else source.stem
    return f"{name}_vessels.png"


def _refuse_existing(jobs: Sequence[Job], out: str, *, resume: bool) -> None:
    """Raise OptionError if a job would replace a file; when resuming, one that is not ours."""
    from ..result import read_provenance

    for place in (place for job in jobs for place in job.outputs.values()):
        if exists(place) and not (resume and read_provenance(place)):
            raise OptionError(
                f"{place!r} exists already. Nothing was done. Pass -o {out} to replace it, "
                f"another place with -o, or --resume to skip results that are done."
            )


def _segment_to_standard_output(options: argparse.Namespace, others: Sequence[str]) -> int:
    """Segment one image and write its mask to standard output."""
    source = options.inputs[0]
    if len(options.inputs) > 1 or is_folder(source):
        raise OptionError("Standard output takes the mask of one image file. Pass -o FOLDER.")
    if others or options.manifest or options.measure or options.resume or options.part != (1, 1):
        raise OptionError(
            "Standard output takes the mask alone: --probability, --overlay, --fov, --dicom, "
            "--manifest, --measure, --resume and --part need a folder, -o FOLDER."
        )
    if sys.stdout.isatty():
        raise OptionError("The mask is a PNG file, not for a terminal. Use -o FILE.png or > FILE.")
    image = arguments.read_standard_input() if source == "-" else source
    model = arguments.load_model(options)
    try:
        result = model(image, scale=options.scale, threshold=options.threshold, bits=options.bits)
    except (ImageError, FileNotFoundError) as error:
        print(f"vesselseg: {error}", file=sys.stderr)
        return 1
    try:
        result.save(sys.stdout.buffer, format="png")
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OutputError(f"Standard output cannot be written: {error}.") from error
    return 0
