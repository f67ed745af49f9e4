"""``vesselseg measure``: a table and drawings of vessel measures, of photographs or of masks."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from ..errors import OptionError, install_command
from . import arguments, collection

_EPILOG = f"""\
examples:
  vesselseg measure photographs/ -o measures.csv
  vesselseg measure photographs/ -o measures.csv --overlay drawn/
  vesselseg measure vessels/ --masks -o measures.csv --segments segments.csv

--columns lists what the columns of the tables mean. Units are part of their names: _px is pixels,
_fov diameters of the field of view. Images that fail have an error in the table.

needs an extra:
  {install_command("measure")}"""


def add_parsers(commands: Any) -> None:
    """Add the parser of ``measure``."""
    parser = commands.add_parser(
        "measure",
        help="measure density, length, branching, width, dimension and tortuosity",
        description="Measure the vessels of photographs, or of masks, over the field of view. The "
        "table has a row for each image.",
        usage="vesselseg measure IMAGE... -o OUTPUT [options]",
        epilog=_EPILOG,
    )
    parser.add_argument("inputs", nargs="+", metavar="IMAGE",
        help="an image file, a folder, a pattern in quotes, or - for standard input")  # fmt: skip
    add = parser.add_argument_group("measures").add_argument
    add("-o", "--output", required=True, metavar="OUTPUT",
        help="table to write, .csv, .parquet or .jsonl (required)")  # fmt: skip
    add("--columns", action=_PrintColumns, nargs=0,
        help="list the columns with their units, definitions and sources, and exit")  # fmt: skip
    add("--segments", metavar="FILE",
        help="also write a table with a row for each segment (default: no)")  # fmt: skip
    add("--overlay", metavar="FOLDER",
        help="also write FOLDER/NAME_measures.png: what was measured, drawn over the photograph "
        "with a legend, or over the mask with --masks (default: no)")  # fmt: skip
    add("--color-by", choices=("width", "segment"), default="width",
        help="colour of the centrelines in the overlay (default: %(default)s)")  # fmt: skip
    add("--keep-endings", action="store_true",
        help="name overlays after the whole file name, eye.jpg_measures.png "
        "(default: eye_measures.png)")  # fmt: skip
    add("--masks", action="store_true",
        help="the images are masks, white on black; from folders, those that vesselseg wrote are "
        "taken. NAME_fov.png beside NAME.png is the field of view, or else the whole frame "
        "(default: they are photographs)")  # fmt: skip
    arguments.add_measure_options(add)
    arguments.add_run_options(arguments.add_model_options(parser))
    collection.add_options(parser)
    parser.set_defaults(run=_measure)


class _PrintColumns(argparse.Action):
    """Print the columns and exit, as ``--help`` prints the options."""

    def __call__(self, *_: Any) -> None:
        from ..measures import COLUMNS, MM_COLUMNS, SEGMENT_COLUMNS

        lines = []
        for title, columns in (
            ("the table of images", COLUMNS),
            ("added by --mm-per-pixel", MM_COLUMNS),
            ("the table of segments", SEGMENT_COLUMNS),
        ):
            lines.append(f"{title}:")
            for name, unit, definition, source in columns:
                lines.append(f"  {name:18}{unit:13}{definition}")
                if source:
                    lines.append(f"{'':33}{source}")
            lines.append("")
        print("\n".join(lines))
        raise SystemExit(0)


def _measure(options: argparse.Namespace) -> int:
    from ..batch.folder import refuse_addresses
    from ..batch.jobs import Job, find_photographs, plan_overlays
    from ..batch.places import identity
    from ..batch.work import MaskWork, Work

    collection.check_options(options)
    if options.overlay and options.executor == "local":
        refuse_addresses([options.overlay])
    if options.segments and identity(options.segments) == identity(options.output):
        raise OptionError(f"--output and --segments are both {options.output!r}. Name two files.")
    found: dict[str, PurePath] = {}
    for text in options.inputs:
        if options.masks:
            found.update(_find_masks(text, options.recursive))
        else:
            found.update(find_photographs(text, options.output, options.recursive))
    if not found:
        hint = ""
        if options.masks:
            hint = " From folders, masks that vesselseg wrote are taken; pass others as a pattern."
        places = ", ".join(map(collection.printable, options.inputs))
        raise OptionError(f"There is nothing to measure in {places}.{hint}")
    work = (MaskWork if options.masks else Work)(
        scale=options.scale,
        threshold=options.threshold,
        bits=options.bits,
        measuring=arguments.measure_options(options),
        color_by=options.color_by,
    )
    if options.overlay:
        jobs = plan_overlays(found.items(), options.overlay, keep_endings=options.keep_endings)
    else:
        jobs = [Job(name, {}) for name in sorted(found)]
    where = f"table: {options.output}"
    if options.overlay:
        where += f"; overlays: {options.overlay}"
    return collection.run(
        options,
        jobs,
        work,
        verb="measured",
        where=where,
        needs_model=not options.masks,
        table=options.output,
        segments=options.segments,
    )


def _find_masks(text: str, recursive: bool) -> Iterator[tuple[str, PurePath]]:
    """The masks that a path or pattern means: of a folder, files that vesselseg wrote as masks."""
    from ..batch.search import LeftOut, find_files
    from ..files import is_folder
    from ..result import read_provenance

    if text == "-":
        raise OptionError("Standard input can be a photograph, but not a mask.")
    left_out = LeftOut()
    for path, place in find_files(text, recursive, left_out):
        kind = read_provenance(path).get("kind")
        if path == Path(text) or kind == "mask" or (kind is None and not is_folder(text)):
            yield str(path), place
        else:
            left_out.add(path, "not a mask that vesselseg wrote")
    left_out.log(text)
