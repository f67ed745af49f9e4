"""The manifest of a run: one row for each photograph, as JSON lines or as a Parquet table."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..errors import OptionError, OutputError
from ..files import whole_file
from ..formats import open_picture
from ..images import field_of_view
from ..result import read_provenance
from .jobs import KINDS, Job, is_address, make_folder, open_filesystem

logger = logging.getLogger(__name__)

Row: TypeAlias = "dict[str, Any]"

SETTINGS = (
    "model", "sha256", "unverified", "scale", "bits", "backend", "device", "precision",
    "threshold", "size", "fov_diameter", "familiarity", "warning",
)  # fmt: skip
_START = '{"input":'
_COLUMNS = ("input", "error", *KINDS, *SETTINGS, "seconds", "vessel_fraction")
_FLUSH_SECONDS = 10.0  # what a crash can cost


def describe(
    job: Job, provenance: dict[str, Any], fraction: float | None, seconds: float | None = None
) -> Row:
    """The row of a photograph that was segmented."""
    return {
        "input": job.name,
        "outputs": dict(job.outputs),
        **{name: provenance.get(name) for name in SETTINGS},
        "seconds": None if seconds is None else round(seconds, 3),
        "vessel_fraction": None if fraction is None else round(fraction, 6),
    }


def describe_existing(job: Job) -> Row:
    """The row of results that an earlier run wrote.

    Settings come from the mask's file and the fraction is counted again; "seconds" is None, like
    everything that a file not written by vesselseg does not say.
    """
    fraction = None
    provenance = read_provenance(job.outputs["mask"])
    try:
        with Path(job.outputs["mask"]).open("rb") as stream, open_picture(stream) as opened:
            mask = np.asarray(opened) > 127
        inside = field_of_view(job.name, bits=provenance.get("bits"))
        if mask.shape == inside.shape and inside.any():
            fraction = float(mask[inside].mean())
    except Exception as error:  # the files of others can make a decoder raise anything
        logger.debug("%r is not a mask of ours: %s", job.outputs["mask"], error)
    return describe(job, provenance, fraction)


def read_manifest(path: Path) -> list[Row]:
    """Rows of JSON lines, except for a last one that is cut off; none if there is no file."""
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


def write_manifest(path: Path, rows: Iterable[Row]) -> None:
    """Replace a manifest by these rows, sorted by input, then by outputs; create its folder."""
    ordered = sorted(rows, key=lambda row: (row["input"], str(row.get("outputs"))))
    make_folder(path.parent)
    with whole_file(path) as part:
        part.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in ordered))


def append_row(path: Path, row: Row) -> None:
    """Add a row to a manifest and hand it to the operating system."""
    try:
        with path.open("ab") as stream:
            stream.write(json.dumps(row).encode() + b"\n")
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"The manifest {str(path)!r} cannot be written: {reason}.") from error


class ParquetManifest:
    """A Parquet table at a path or address, with a column for each kind of file.

    While a run goes on, rows are written every few seconds to part files in ``NAME.parts/``. An
    interrupted run leaves them there, and `rows` then has what they hold.
    """

    def __init__(self, place: str) -> None:
        import pyarrow as pa

        types = dict.fromkeys(_COLUMNS, pa.string())
        for name in ("threshold", "fov_diameter", "familiarity", "seconds", "vessel_fraction"):
            types[name] = pa.float64()
        types.update(unverified=pa.bool_(), bits=pa.int64(), size=pa.list_(pa.int64()))
        self.schema = pa.schema(types.items())
        self.place = place
        address = place if is_address(place) else Path(place).absolute().as_uri()
        self.filesystem, self.path = open_filesystem(address)
        self.folder = f"{self.path}.parts"
        self.count = 0
        self.waiting: list[Row] = []
        self.flushed = time.monotonic()
        self.rows: dict[str, Row] = {}
        parts = [path for path in self.filesystem.find(self.folder) if path.endswith(".parquet")]
        for path in [self.path, *sorted(parts)]:
            self.rows.update((row["input"], row) for row in self.read(path))

    def add(self, row: Row) -> None:
        """Add a row. It is in a file some seconds later at the latest, if more rows come."""
        flat = {name: row.get(name) for name in self.schema.names}
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

    def merge(self) -> None:
        """Write all rows into one file, sorted by input, and remove the parts."""
        self.write(self.path, sorted(self.rows.values(), key=lambda row: str(row["input"])))
        try:
            if self.filesystem.exists(self.folder):
                self.filesystem.rm(self.folder, recursive=True)
        except OSError as error:
            raise OutputError(f"{self.folder!r} cannot be removed: {error}.") from error

    def read(self, path: str) -> list[Row]:
        """Rows of one file; none if it does not exist."""
        from pyarrow import ArrowException
        from pyarrow import parquet as pq

        if not self.filesystem.exists(path):
            return []
        try:
            table = pq.read_table(io.BytesIO(self.filesystem.cat_file(path)))
            if table.schema != self.schema:
                raise ValueError("it has other columns")
        except (OSError, ValueError, ArrowException) as error:
            raise OptionError(
                f"{path!r} is not a Parquet manifest of vesselseg and is not replaced ({error}). "
                f"Choose another name, or move it away."
            ) from error
        return list(table.to_pylist())

    def write(self, path: str, rows: list[Row]) -> None:
        """Write one file, whole or not at all."""
        import pyarrow as pa
        from pyarrow import parquet as pq

        content = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=self.schema), content)
        part = f"{path}.part"
        try:
            self.filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.filesystem.pipe_file(part, content.getvalue())
            self.filesystem.mv(part, path)
        except OSError as error:
            raise OutputError(f"The manifest {path!r} cannot be written: {error}.") from error
