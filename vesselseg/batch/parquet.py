"""The record of a run over many machines: a Parquet file with one row per image."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from ..errors import OptionError, OutputError
from ..result import KINDS
from . import storage
from .manifest import Line

Row: TypeAlias = "dict[str, Any]"

_MADE_WITH = ("model", "sha256", "scale", "backend", "device", "precision")
_TEXTS = ("input", "error", *KINDS, *_MADE_WITH)
_NUMBERS = ("threshold", "seconds", "vessel_fraction")
_EVERY = 10.0  # seconds between parts: what a crash of the driver may cost


def to_row(line: Line, outputs: Mapping[str, str]) -> Row:
    """A line of the manifest with a column for each kind of picture; None where it says nothing."""
    row: Row = {name: line.get(name) for name in (*_TEXTS, *_NUMBERS)}
    if line.get("error") is None:
        row.update(outputs)
        row["scale"] = str(line["scale"])  # a rule's name or a factor
    return row


def to_table(rows: Iterable[Row]) -> Any:
    """Rows -> pyarrow.Table, of the same columns and types whatever the rows hold."""
    import pyarrow as pa

    texts = [(name, pa.string()) for name in _TEXTS]
    numbers = [(name, pa.float64()) for name in _NUMBERS]
    return pa.Table.from_pylist(list(rows), schema=pa.schema(texts + numbers))


class ParquetManifest:
    """Rows are written in parts as they come, and brought together in one file in the end.

    Parts lie in ``NAME.parts/`` beside the file. They are there only while a run goes on, or
    after one that was interrupted; `rows` then has what they hold.

    Parameters
    ----------
    place : str
        Path or address of the file.

    Raises
    ------
    OptionError
        If something else than such a manifest is there: it is not replaced.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._filesystem, self._path = storage.find_filesystem(place)
        self._folder = f"{self._path}.parts"
        self._count = 0
        self._waiting: list[Row] = []
        self._written = time.monotonic()
        self.rows: dict[str, Row] = {}
        for path in (self._path, *self._parts()):
            self.rows.update((row["input"], row) for row in self._read(path))

    def begin(self, rows: Iterable[Row]) -> None:
        """Replace what was there by these rows."""
        self.rows = {row["input"]: row for row in rows}
        self._replace()

    def add(self, row: Row) -> None:
        """Take a row in; it is in a file some seconds later at most, if more rows come."""
        self.rows[row["input"]] = row
        self._waiting.append(row)
        if time.monotonic() - self._written > _EVERY:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are in no file yet."""
        if self._waiting:
            self._write(f"{self._folder}/{self._count:06}.parquet", self._waiting)
            self._count += 1
        self._waiting = []
        self._written = time.monotonic()

    def finish(self) -> None:
        """Bring all rows together, sorted by input."""
        self._replace()

    def _replace(self) -> None:
        # The whole file first, then away with the parts: nothing is lost between the two.
        self._write(self._path, sorted(self.rows.values(), key=lambda row: str(row["input"])))
        self._waiting = []
        try:
            if self._parts():
                self._filesystem.delete_dir(self._folder)
        except OSError as error:
            raise OutputError(f"{self._folder!r} cannot be removed: {error}.") from error

    def _parts(self) -> list[str]:
        from pyarrow import fs

        selector = fs.FileSelector(self._folder, allow_not_found=True)
        found = sorted(info.path for info in self._filesystem.get_file_info(selector))
        return [path for path in found if path.endswith(".parquet")]

    def _read(self, path: str) -> list[Row]:
        from pyarrow import ArrowException, fs
        from pyarrow import parquet as pq

        if self._filesystem.get_file_info(path).type == fs.FileType.NotFound:
            return []
        try:
            with self._filesystem.open_input_file(path) as stream:
                table = pq.read_table(stream)
            if table.schema != to_table([]).schema:
                raise ValueError("other columns")
        except (OSError, ValueError, ArrowException) as error:
            raise OptionError(
                f"{path!r} is not a Parquet manifest of vesselseg, so it is not replaced "
                f"({error}). Give another name, or move it away."
            ) from error
        rows: list[Row] = table.to_pylist()
        return rows

    def _write(self, path: str, rows: Iterable[Row]) -> None:
        from pyarrow import parquet as pq

        content = io.BytesIO()
        pq.write_table(to_table(rows), content)
        part = f"{path}.part"
        try:
            self._filesystem.create_dir(str(PurePosixPath(path).parent), recursive=True)
            with self._filesystem.open_output_stream(part) as stream:
                stream.write(content.getvalue())
            self._filesystem.move(part, path)
        except OSError as error:
            raise OutputError(f"The manifest {path!r} cannot be written: {error}.") from error
