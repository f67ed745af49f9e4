"""``vesselseg measure``: a table of vessel measures, from photographs or from masks."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, OptionError, VesselsegError
from . import arguments

if TYPE_CHECKING:
    from ..measures import Measures

_EPILOG = """\
examples:
  vesselseg measure photographs/ -o measures.csv
  vesselseg measure vessels/ --masks -o measures.csv --segments segments.csv

The documentation of vesselseg.measure defines the measures. Units are part of their names: _px is
pixels, _fov the share of the field of view's diameter. Needs the extra:
pip install "vesselseg[measure]".

exit code: 0 done; 1 some images failed, and have an error in the table; 2 wrong usage."""


_UNITS = {name: f"{name}_px" for name in ("length", "chord", "width")}  # of segments


def add_parsers(commands: Any) -> None:
    """Add the parser of ``measure``."""
    parser = commands.add_parser(
        "measure",
        help="measure density, length, branching, width, dimension and tortuosity",
        description="Measure the vessels of photographs, or of masks, over the field of view. The "
        "table has a row for each image.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="+", metavar="IMAGE",
        help="an image file, a folder, or a pattern in quotes")  # fmt: skip
    add = parser.add_argument_group("measures").add_argument
    add("-o", "--out", required=True, metavar="FILE", help="table to write, CSV (required)")
    add("--segments", metavar="FILE",
        help="also write a table with a row for each segment (default: no)")  # fmt: skip
    add("--masks", action="store_true",
        help="the images are masks, white on black; from folders, those that vesselseg wrote are "
        "taken. NAME_fov.png beside NAME.png is the field of view, or else the whole frame "
        "(default: they are photographs)")  # fmt: skip
    add("--mm-per-pixel", type=arguments.factor, metavar="MM",
        help="size of a pixel on the retina, to add millimetres (default: unknown)")  # fmt: skip
    add("-r", "--recursive", action="store_true",
        help="search the folders in folders (default: no)")  # fmt: skip
    arguments.add_run_options(arguments.add_model_options(parser))
    parser.set_defaults(run=measure)


def measure(options: argparse.Namespace) -> int:
    """Write the tables."""
    from tqdm import tqdm

    from ..batch.jobs import find_local, identity, make_folder

    find = find_masks if options.masks else find_local
    names = [name for text in options.inputs for name, _ in sorted(find(text, options.recursive))]
    if not names:
        hint = ""
        if options.masks:
            hint = " From folders, masks that vesselseg wrote are taken; pass others as a pattern."
        raise OptionError(f"There is nothing to measure in {', '.join(options.inputs)}.{hint}")
    if options.segments and identity(options.segments) == identity(options.out):
        raise OptionError(f"--out and --segments are both {options.out!r}. Name two files.")
    for table in filter(None, (options.out, options.segments)):
        make_folder(Path(table).parent)
    measure_one = measure_mask if options.masks else measure_photographs(options)
    rows: list[dict[str, Any]] = []
    segments: list[dict[str, Any]] = []
    failed = 0
    for name in tqdm(names, unit="image", disable=None):
        try:
            measures = measure_one(name, options.mm_per_pixel)
        except (VesselsegError, OSError, MemoryError) as error:
            if isinstance(error, ImportError):
                raise
            failed += 1
            tqdm.write(f"vesselseg: {name}: {error}", file=sys.stderr)
            rows.append({"input": name, "error": str(error)})
            continue
        rows.append({"input": name, **measures.to_dict()})
        columns = {_UNITS.get(name, name): measures.segments[name] for name in measures.segments}
        segments += (
            {"input": name, **dict(zip(columns, values, strict=True))}
            for values in zip(*columns.values(), strict=True)
        )
    write_table(options.out, rows)
    if options.segments:
        write_table(options.segments, segments)
    print(f"vesselseg: {len(names) - failed} measured, {failed} failed; table: {options.out}")
    return 1 if failed else 0


def measure_photographs(options: argparse.Namespace) -> Callable[[str, float | None], Measures]:
    """A function that segments a photograph and measures the result."""
    model = arguments.load_model(options)

    def measure_photograph(name: str, mm_per_pixel: float | None) -> Measures:
        result = model(name, scale=options.scale, threshold=options.threshold, bits=options.bits)
        return result.measure(mm_per_pixel=mm_per_pixel)

    return measure_photograph


def measure_mask(name: str, mm_per_pixel: float | None) -> Measures:
    """Measure a mask, in the field of view beside it if there is one."""
    from ..evaluation.datasets import read_label
    from ..measures import measure
    from ..result import read_provenance

    path = Path(name)
    kind = read_provenance(path).get("kind", "mask")
    if kind != "mask":
        raise ImageError(f"{name!r} is not a mask: vesselseg wrote it as {kind}.")
    fov = path.with_name(f"{path.stem}_fov{path.suffix}")
    inside = read_label(fov) if fov.exists() else None
    return measure(read_label(path), fov=inside, mm_per_pixel=mm_per_pixel)


def find_masks(text: str, recursive: bool) -> Iterator[tuple[str, Path]]:
    """The masks that a path or pattern means: of a folder, files that vesselseg wrote as masks."""
    from ..batch.jobs import find_files
    from ..result import read_provenance

    is_folder = Path(text).is_dir()
    for path, place in find_files(text, recursive):
        kind = read_provenance(path).get("kind")
        if path == Path(text) or kind == "mask" or (kind is None and not is_folder):
            yield str(path), Path(place)


def write_table(path: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all; the columns of the fullest row come first."""
    from ..files import whole_file

    names = dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row)
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(names), lineterminator="\n")
    writer.writeheader()
    for row in rows:  # a measure that a segment does not have, NaN, is an empty cell
        writer.writerow({name: "" if value != value else value for name, value in row.items()})
    with whole_file(path) as part:
        part.write_text(stream.getvalue(), encoding="utf-8")
