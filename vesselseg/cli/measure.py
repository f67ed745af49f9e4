"""``vesselseg measure``: a table of vessel measures, from photographs or from masks."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import OptionError, install_command
from . import arguments, collection

_EPILOG = f"""\
examples:
  vesselseg measure photographs/ -o measures.csv
  vesselseg measure vessels/ --masks -o measures.csv --segments segments.csv

The documentation of vesselseg.measure defines the measures. Units are part of their names: _px is
pixels, _fov the share of the field of view's diameter. Images that fail have an error in the
table.

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
    add("--segments", metavar="FILE",
        help="also write a table with a row for each segment (default: no)")  # fmt: skip
    add("--masks", action="store_true",
        help="the images are masks, white on black; from folders, those that vesselseg wrote are "
        "taken. NAME_fov.png beside NAME.png is the field of view, or else the whole frame "
        "(default: they are photographs)")  # fmt: skip
    add("--mm-per-pixel", type=arguments.factor, metavar="MM",
        help="size of a pixel on the retina, to add millimetres (default: unknown)")  # fmt: skip
    arguments.add_run_options(arguments.add_model_options(parser))
    collection.add_options(parser)
    parser.set_defaults(run=_measure)


def _measure(options: argparse.Namespace) -> int:
    """Write the tables."""
    from ..batch.folder import make_work
    from ..batch.jobs import Job, find_photographs
    from ..batch.places import identity
    from ..batch.work import MaskWork, Work
    from ..measures import require_skan

    collection.check_options(options)
    if options.segments and identity(options.segments) == identity(options.output):
        raise OptionError(f"--output and --segments are both {options.output!r}. Name two files.")
    names: set[str] = set()
    for text in options.inputs:
        if options.masks:
            if text == "-":
                raise OptionError("Standard input can be a photograph, but not a mask.")
            names.update(name for name, _ in _find_masks(text, options.recursive))
        else:
            names.update(
                name for name, _ in find_photographs(text, options.output, options.recursive)
            )
    if not names:
        hint = ""
        if options.masks:
            hint = " From folders, masks that vesselseg wrote are taken; pass others as a pattern."
        raise OptionError(f"There is nothing to measure in {', '.join(options.inputs)}.{hint}")
    require_skan()
    is_on_ray = options.executor == "ray"
    folder = str(Path.cwd()) if is_on_ray else ""
    work: Work
    if options.masks:
        work = MaskWork(mm_per_pixel=options.mm_per_pixel, folder=folder)
    else:
        work = make_work(
            scale=options.scale,
            threshold=options.threshold,
            bits=options.bits,
            style="tint",
            measure=True,
            mm_per_pixel=options.mm_per_pixel,
            precision=options.precision if is_on_ray else None,
            folder=folder,
            stdin=arguments.read_standard_input() if "-" in names else b"",
        )
    return collection.run(
        options,
        collection.take_part([Job(name, {}) for name in sorted(names)], options),
        work,
        verb="measured",
        where=f"table: {options.output}",
        needs_model=not options.masks,
        table=options.output,
        segments=options.segments,
    )


def _find_masks(text: str, recursive: bool) -> Iterator[tuple[str, Path]]:
    """The masks that a path or pattern means: of a folder, files that vesselseg wrote as masks."""
    from ..batch.search import LeftOut, find_files
    from ..files import is_folder
    from ..result import read_provenance

    left_out = LeftOut()
    for path, place in find_files(text, recursive, left_out):
        kind = read_provenance(path).get("kind")
        if path == Path(text) or kind == "mask" or (kind is None and not is_folder(text)):
            yield str(path), Path(place)
        else:
            left_out.add(path, "not a mask that vesselseg wrote")
    left_out.log(text)
