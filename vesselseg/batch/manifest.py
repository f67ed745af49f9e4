"""The manifest of a run: one row for each photograph, as JSON lines or as a Parquet table."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from ..errors import MissingExtraError, OptionError, OutputError
from ..files import whole_file
from ..fov import find_field_of_view
from ..images import to_rgb
from ..result import KINDS, Segmentation
from .jobs import Job, is_address, open_filesystem

logger = logging.getLogger(__name__)

Row: TypeAlias = "dict[str, Any]"

SETTINGS = ("model", "sha256", "scale", "backend", "device", "precision", "threshold")
_START = '{"input":'
_TEXT_COLUMNS = ("input", "error", *KINDS, *SETTINGS[:-1])
_NUMBER_COLUMNS = ("threshold", "seconds", "vessel_fraction")
_FLUSH_SECONDS = 10.0  # what a crash can cost


def describe(job: Job, result: Segmentation) -> Row:
    """The row of a photograph that was segmented; "seconds" is None."""
    return to_row(job, result.provenance, result.vessel_fraction())


def describe_failure(job: Job, error: BaseException) -> Row:
    """The row of a photograph that failed."""
    return {"input": job.name, "error": str(error) or type(error).__name__}


def describe_existing(job: Job) -> Row:
    """The row of results that an earlier run wrote.

    Settings come from the mask's file and the fraction is counted again; "seconds" is None, like
    everything that a file not written by vesselseg does not say.
    """
    provenance: dict[str, Any] = {}
    fraction = None
    try:
        with Image.open(job.outputs["mask"]) as opened:
            provenance = json.loads(opened.info.get("vesselseg", "{}"))
            mask = np.asarray(opened) > 127
        inside = find_field_of_view(to_rgb(job.name)).mask
        if mask.shape == inside.shape and inside.any():
            fraction = float(mask[inside].mean())
    except Exception as error:  # the files of others can make a decoder raise anything
        logger.debug("%r is not a mask of ours: %s", job.outputs["mask"], error)
    return to_row(job, provenance, fraction)


def describe_all_existing(jobs: Iterable[Job]) -> list[Row]:
    """Rows of results that an earlier run wrote, read by several threads."""
    with ThreadPoolExecutor(4) as readers:
        return list(readers.map(describe_existing, jobs))


def to_row(job: Job, provenance: dict[str, Any], fraction: float | None) -> Row:
    """A row in the order of its entries."""
    return {
        "input": job.name,
        "outputs": dict(job.outputs),
        **{name: provenance.get(name) for name in SETTINGS},
        "seconds": None,
        "vessel_fraction": None if fraction is None else round(fraction, 6),
    }


def sort_key(row: Row) -> tuple[str, str]:
    """Rows are sorted by input, then by outputs."""
    return row["input"], str(row.get("outputs"))


class Manifest:
    """A file of JSON lines. Each row is whole as soon as it is added; in the end they are sorted.

    Parameters
    ----------
    path : Path
        Its folder is created; an older manifest is replaced.
    rows : iterable of dict
        What it begins with.

    Raises
    ------
    OptionError
        If the file exists and is not a manifest.
    OutputError
        If it cannot be written.
    """

    def __init__(self, path: Path, rows: Iterable[Row] = ()) -> None:
        self.path = path
        kept = list(rows)
        read_manifest(path)  # anything else than a manifest is not replaced
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.rewrite(kept)
            # Unbuffered: after a failed write, nothing is left for `close` to write again.
            self.stream = path.open("ab", buffering=0)
        except OSError as error:
            raise self.unwritable(error) from error

    def add(self, row: Row) -> None:
        """Append a row and hand it to the operating system."""
        line = to_line(row)
        try:
            if self.stream.write(line) != len(line):
                raise OSError("no space left")
        except OSError as error:
            raise self.unwritable(error) from error

    def finish(self) -> None:
        """Sort the rows, whatever order they were added in."""
        self.close()
        self.rewrite(sorted(read_manifest(self.path), key=sort_key))

    def close(self) -> None:
        """Close the file; nothing can be added any more."""
        self.stream.close()

    def rewrite(self, rows: Iterable[Row]) -> None:
        """Replace the file by these rows."""
        with whole_file(self.path) as part:
            part.write_bytes(b"".join(map(to_line, rows)))

    def unwritable(self, error: OSError) -> OutputError:
        """The error for a file that cannot be written."""
        reason = error.strerror or error
        return OutputError(f"The manifest {str(self.path)!r} cannot be written: {reason}.")


def to_line(row: Row) -> bytes:
    """A row as a line of JSON."""
    return json.dumps(row).encode() + b"\n"


def read_manifest(path: Path) -> list[Row]:
    """Rows of a manifest; none if there is no file, and not the last one if it is cut off.

    Raises
    ------
    OptionError
        If the file is not a manifest.
    """
    if not path.exists():
        return []
    try:
        if not path.is_file():
            raise ValueError("a folder or a device")
        content = path.read_text(encoding="utf-8")
        if any(not line.startswith(_START) for line in content.splitlines()):
            raise ValueError("it has other lines")
        whole, _, _ = content.rpartition("\n")  # what follows was cut off
        return [json.loads(line) for line in whole.splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(
            f"{str(path)!r} is not a manifest of vesselseg and is not replaced ({error}). Choose "
            f"another name, or move it away."
        ) from error


class ParquetManifest:
    """A Parquet table at a path or address, with a column for each kind of picture.

    While a run goes on, rows are written every few seconds to part files in ``NAME.parts/``. An
    interrupted run leaves them there, and `rows` then has what they hold.

    Parameters
    ----------
    place : str
        Path or address of the file.

    Raises
    ------
    MissingExtraError
        If pyarrow is not installed.
    OptionError
        If something else than such a manifest is there: it is not replaced.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        address = place if is_address(place) else Path(place).absolute().as_uri()
        self.filesystem, self.path = open_filesystem(address)
        self.folder = f"{self.path}.parts"
        self.count = 0
        self.waiting: list[Row] = []
        self.flushed = time.monotonic()
        self.rows: dict[str, Row] = {}
        for path in [self.path, *self.parts()]:
            self.rows.update((row["input"], row) for row in self.read(path))

    def begin(self, rows: Iterable[Row]) -> None:
        """Replace what was there by these rows."""
        self.rows = {row["input"]: row for row in rows}
        self.finish()

    def add(self, row: Row) -> None:
        """Add a row. It is in a file some seconds later at the latest, if more rows come."""
        flat = {name: row.get(name) for name in (*_TEXT_COLUMNS, *_NUMBER_COLUMNS)}
        if row.get("error") is None:
            flat.update(row["outputs"])
            flat["scale"] = str(row["scale"])  # a rule's name or a factor
        self.rows[row["input"]] = flat
        self.waiting.append(flat)
        if time.monotonic() - self.flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are in no file yet."""
        if self.waiting:
            self.write(f"{self.folder}/{self.count:06}.parquet", self.waiting)
            self.count += 1
        self.waiting = []
        self.flushed = time.monotonic()

    def finish(self) -> None:
        """Write all rows into one file, sorted by input, and remove the parts."""
        self.write(self.path, sorted(self.rows.values(), key=lambda row: str(row["input"])))
        self.waiting = []
        try:
            if self.filesystem.exists(self.folder):
                self.filesystem.rm(self.folder, recursive=True)
        except OSError as error:
            raise OutputError(f"{self.folder!r} cannot be removed: {error}.") from error

    def parts(self) -> list[str]:
        """The part files, in the order in which they were written."""
        if not self.filesystem.isdir(self.folder):
            return []
        found = self.filesystem.ls(self.folder, detail=False)
        return sorted(path for path in found if path.endswith(".parquet"))

    def read(self, path: str) -> list[Row]:
        """Rows of one file; none if it does not exist."""
        from pyarrow import ArrowException
        from pyarrow import parquet as pq

        if not self.filesystem.exists(path):
            return []
        try:
            table = pq.read_table(io.BytesIO(self.filesystem.cat_file(path)))
            if table.schema != to_table([]).schema:
                raise ValueError("it has other columns")
        except (OSError, ValueError, ArrowException) as error:
            raise OptionError(
                f"{path!r} is not a Parquet manifest of vesselseg and is not replaced ({error}). "
                f"Choose another name, or move it away."
            ) from error
        rows: list[Row] = table.to_pylist()
        return rows

    def write(self, path: str, rows: Iterable[Row]) -> None:
        """Write one file, whole or not at all."""
        from pyarrow import parquet as pq

        content = io.BytesIO()
        pq.write_table(to_table(rows), content)
        part = f"{path}.part"
        try:
            self.filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.filesystem.pipe_file(part, content.getvalue())
            self.filesystem.mv(part, path)
        except OSError as error:
            raise OutputError(f"The manifest {path!r} cannot be written: {error}.") from error


def to_table(rows: Iterable[Row]) -> Any:
    """Rows -> pyarrow.Table, with the same columns and types whatever the rows hold."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingExtraError(
            'Parquet manifests need pyarrow: pip install "vesselseg[ray]".'
        ) from error
    columns = [(name, pa.string()) for name in _TEXT_COLUMNS]
    columns += [(name, pa.float64()) for name in _NUMBER_COLUMNS]
    return pa.Table.from_pylist(list(rows), schema=pa.schema(columns))
