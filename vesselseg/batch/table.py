"""Tables with a row for each photograph: manifests, measures, segments.

While a run goes on, rows are JSON lines: in the file itself if that is its format, else beside
it, as ``NAME.rows.jsonl`` or, at an address, in the folder ``NAME.rows``. When the run is done,
the table is JSON lines, CSV or Parquet, by its ending, sorted by input.
"""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import OptionError, OutputError, redact, require
from ..files import exists, insist, is_file
from .places import is_address, open_filesystem, suffix_of, write_bytes

Row: TypeAlias = "dict[str, Any]"

_TEXTS = (
    "input", "error", "mask", "probability", "overlay", "fov", "dicom", "measures_overlay", "model",
    "sha256", "spec", "input_version", "scale", "backend", "device", "precision", "style",
    "warning",
)  # fmt: skip
"""Columns of text; the others are numbers, or true and false."""

_ESCAPED = re.compile(r"\\u(dc[89a-f][0-9a-f])")
_START = '{"input":'  # of each line
_FLUSH_SECONDS = 10.0  # at an address: what a crash can cost


class Table:
    """A table at a path or an address.

    `rows` are those that were there: of a finished run, or of one that was interrupted. Raises
    OptionError for another ending, or if the file is there and is not such a table.
    """

    def __init__(self, place: str) -> None:
        self.place, suffix = place, suffix_of(place)
        if suffix not in _FORMATS:
            raise OptionError(redact(f"The table {place!r} must end in {', '.join(_FORMATS)}."))
        if suffix == ".parquet":
            require("pyarrow", "ray")
        self.encode, self.decode = _FORMATS[suffix]
        self.is_journal = suffix == ".jsonl" and not is_address(place)
        self.journal: _File | _Parts
        if is_address(place):
            self.journal = _Parts(place)
        else:
            self.journal = _File(Path(place if self.is_journal else f"{place}.rows.jsonl"))
        self.rows = self._read()

    def begin(self, rows: Iterable[Row]) -> None:
        """Start a run with these rows, of an earlier one; the others are dropped."""
        self.rows = list(rows)
        self.journal.begin(self.rows)

    def add(self, *rows: Row) -> None:
        """Add rows; they are on the disk when this returns, or at an address some seconds later."""
        self.rows += rows
        self.journal.add(rows)

    def flush(self) -> None:
        """Write what :meth:`add` has not written yet."""
        self.journal.flush()

    def finish(self) -> None:
        """Write the whole table, sorted by input, and remove what was beside it."""
        ordered = sorted(self.rows, key=lambda row: str(row["input"]))
        write_bytes(self.place, self.encode(ordered))
        if not self.is_journal:
            self.journal.remove()

    def _read(self) -> list[Row]:
        try:
            left = self.journal.read()
            if left is not None:
                return left
            filesystem, path = open_filesystem(self.place)
            if not filesystem.exists(path):
                return []
            if not filesystem.isfile(path):
                raise ValueError("a folder or a device")
            return self.decode(bytes(filesystem.cat_file(path)))
        except Exception as error:  # other files and the library behind an address raise anything
            message = f"{self.place!r} is not a table of vesselseg and is not replaced ({error})."
            raise OptionError(redact(f"{message} Choose another name, or move it away.")) from error


class _File:
    """JSON lines in a file on this machine, added one by one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Row] | None:
        """The rows, or None if there is no file."""
        if not exists(self.path):
            return None
        if not is_file(self.path):
            raise ValueError("a folder or a device")
        return _from_json_lines(self.path.read_bytes())

    def begin(self, rows: list[Row]) -> None:
        write_bytes(str(self.path), _to_json_lines(rows))

    def add(self, rows: Iterable[Row]) -> None:
        try:
            with insist(lambda: self.path.open("ab")) as stream:
                stream.write(_to_json_lines(rows))
        except OSError as error:
            raise OutputError(
                f"The table {str(self.path)!r} cannot be written: {error.strerror or error}."
            ) from error

    def flush(self) -> None:
        pass

    def remove(self) -> None:
        try:
            insist(lambda: self.path.unlink(missing_ok=True))
        except OSError as error:
            raise OutputError(f"{str(self.path)!r} cannot be removed: {error}.") from error


class _Parts:
    """JSON lines at an address, where nothing can be added to a file: in ever more files."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.filesystem, path = open_filesystem(place)
        self.folder = f"{path}.rows"
        self.count = 0
        self.waiting: list[Row] = []
        self.flushed = time.monotonic()

    def read(self) -> list[Row] | None:
        """The rows, or None if there are no files."""
        parts = [path for path in self.filesystem.find(self.folder) if path.endswith(".jsonl")]
        if not parts:
            return None
        contents = [bytes(self.filesystem.cat_file(part)) for part in sorted(parts)]
        return [row for content in contents for row in _from_json_lines(content)]

    def begin(self, rows: list[Row]) -> None:
        self.remove()
        self.waiting = list(rows)
        self.flush()

    def add(self, rows: Iterable[Row]) -> None:
        self.waiting += rows
        if time.monotonic() - self.flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            place = f"{self.place}.rows/{self.count:06}.jsonl"
            write_bytes(place, _to_json_lines(self.waiting))
            self.count += 1
        self.waiting = []
        self.flushed = time.monotonic()

    def remove(self) -> None:
        try:
            if self.filesystem.exists(self.folder):
                self.filesystem.rm(self.folder, recursive=True)
        except Exception as error:  # the library behind an address can raise anything
            raise OutputError(redact(f"{self.folder!r} cannot be removed: {error}.")) from error


def _to_json_lines(rows: Iterable[Row]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _from_json_lines(content: bytes) -> list[Row]:
    """Rows, except for a last one that is cut off."""
    *lines, rest = content.decode("utf-8").split("\n")
    if not all(line.startswith(_START) for line in lines) or not _START.startswith(rest[:8]):
        raise ValueError("it has other lines")
    return [json.loads(line) for line in lines]


def _columns(rows: Iterable[Row]) -> list[str]:
    """Input and error, and what the rows have, those with the most columns first."""
    names = dict.fromkeys(("input", "error"))
    for row in sorted(rows, key=len, reverse=True):
        names.update(dict.fromkeys(row))
    return list(names)


def _to_csv(rows: list[Row]) -> bytes:
    """Text as it is; numbers, true and false as in JSON; nothing for None."""

    def cell(value: Any) -> str | None:
        return value if value is None or isinstance(value, str) else json.dumps(value)

    columns = _columns(rows)
    return encode_csv([columns, *([cell(row.get(name)) for name in columns] for row in rows)])


def encode_csv(lines: Iterable[Sequence[Any]]) -> bytes:
    """A CSV file, with names in another encoding as they are."""
    stream = io.StringIO(newline="")
    plain = csv.writer(stream, lineterminator="\n")
    quoted = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for line in lines:
        # A carriage return ends a line for readers, but is not quoted by writers of "\n".
        has_return = any("\r" in value for value in line if isinstance(value, str))
        (quoted if has_return else plain).writerow(line)
    return stream.getvalue().encode("utf-8", "surrogateescape")


def _from_csv(content: bytes) -> list[Row]:
    def value(name: str, text: str) -> Any:
        if not text:
            return None
        return text if name in _TEXTS else json.loads(text)

    first, *lines = csv.reader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline=""))
    if first[:2] != ["input", "error"]:
        raise ValueError("it has other columns")
    return [
        {name: value(name, text) for name, text in zip(first, line, strict=True)} for line in lines
    ]


def _to_parquet(rows: list[Row]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    arrays = {}
    for name in _columns(rows):
        values = [row.get(name) for row in rows]
        if name in _TEXTS:
            # Parquet holds UTF-8 only; names in another encoding are escaped.
            texts = [v if v is None else str(v).encode("utf-8", "backslashreplace") for v in values]
            arrays[name] = pa.array(texts, pa.string())
        elif all(value is None for value in values):
            arrays[name] = pa.array(values, pa.float64())
        else:
            arrays[name] = pa.array(values)
    stream = io.BytesIO()
    parquet.write_table(pa.table(arrays), stream)
    return stream.getvalue()


def _from_parquet(content: bytes) -> list[Row]:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(io.BytesIO(content))
    except ArrowException as error:
        raise ValueError(str(error)) from error
    if table.column_names[:2] != ["input", "error"]:
        raise ValueError("it has other columns")
    rows: list[Row] = table.to_pylist()
    for row in rows:
        for name in row.keys() & set(_TEXTS):
            if row[name] is not None:  # as it was before it was escaped
                row[name] = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), row[name])
    return rows


_FORMATS = {
    ".jsonl": (_to_json_lines, _from_json_lines),
    ".csv": (_to_csv, _from_csv),
    ".parquet": (_to_parquet, _from_parquet),
}
"""Ending -> how rows are written and read."""
