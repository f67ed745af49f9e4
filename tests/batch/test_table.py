"""Tables: JSON lines while a run goes on; JSON lines, CSV or Parquet when it is done."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from vesselseg import OptionError, OutputError
from vesselseg.batch.table import Table

needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="pyarrow comes with vesselseg[ray]"
)
FORMATS = ["jsonl", "csv", pytest.param("parquet", marks=needs_pyarrow)]

ROWS: list[dict[str, Any]] = [
    {"input": "b.png", "mask": "out/b.png", "sha256": "1234", "scale": "fov", "bits": None,
     "unverified": False, "threshold": 0.5, "height": 40, "warning": "", "seconds": 0.1},
    {"input": 'ä, "a".png', "mask": "out/a.png", "sha256": "00", "scale": 0.5, "bits": 12,
     "unverified": True, "threshold": 1.0, "height": 44, "warning": "two\nlines", "seconds": None},
    {"input": "c.png", "error": "damaged", "mask": "out/c.png"},
]  # fmt: skip


def place(folder: Path, ending: str, *, far: bool) -> str:
    path = folder / "my eyes" / f"m.{ending}"
    return f"local://{path}" if far else str(path)


def known(row: dict[str, Any]) -> dict[str, Any]:
    """What a row says, whichever the format: all columns, numbers among text as text."""
    values = {name: value for name, value in row.items() if value not in (None, "")}
    return {**values, "scale": str(values.get("scale"))}


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("ending", FORMATS)
class TestEveryFormat:
    def test_comes_back_sorted(self, ending: str, far: bool, tmp_path: Path) -> None:
        table = Table(place(tmp_path, ending, far=far))
        assert table.rows == []
        table.begin(ROWS[:1])
        table.add(*ROWS[1:])
        table.finish()
        again = Table(place(tmp_path, ending, far=far)).rows
        expected = sorted(ROWS, key=lambda row: row["input"])
        assert list(map(known, again)) == list(map(known, expected))
        assert [path.name for path in (tmp_path / "my eyes").iterdir()] == [f"m.{ending}"]

    def test_keeps_the_rows_of_an_interrupted_run(
        self, ending: str, far: bool, tmp_path: Path
    ) -> None:
        first = Table(place(tmp_path, ending, far=far))
        first.begin([])
        first.add(ROWS[0])
        first.finish()
        second = Table(place(tmp_path, ending, far=far))
        second.begin(second.rows)
        second.add(ROWS[1])
        second.flush()
        second.add({"input": "lost"})  # not flushed at an address, cut off in a file
        for journal in (tmp_path / "my eyes").glob("m*"):
            if journal.is_file() and journal.suffix == ".jsonl":
                journal.write_bytes(journal.read_bytes()[:-6])
        third = Table(place(tmp_path, ending, far=far))
        assert list(map(known, third.rows)) == list(map(known, ROWS[:2]))
        third.begin(third.rows)
        third.finish()
        assert [path.name for path in (tmp_path / "my eyes").iterdir()] == [f"m.{ending}"]

    def test_is_empty_without_rows(self, ending: str, far: bool, tmp_path: Path) -> None:
        table = Table(place(tmp_path, ending, far=far))
        table.begin([])
        table.finish()
        assert Table(place(tmp_path, ending, far=far)).rows == []

    def test_replaces_no_file_of_others(self, ending: str, far: bool, tmp_path: Path) -> None:
        file = Path(place(tmp_path, ending, far=False))
        file.parent.mkdir()
        for content in (b"name,dice\n", b"[1]", b'{"input": "a"}\n{"input":\n', b"\x89PNG\r\n"):
            file.write_bytes(content)
            with pytest.raises(OptionError, match="is not a table of vesselseg and is not replac"):
                Table(place(tmp_path, ending, far=far))
            assert file.read_bytes() == content
        file.unlink()
        file.mkdir()
        with pytest.raises(OptionError, match="is not a table of vesselseg"):
            Table(place(tmp_path, ending, far=far))


@pytest.mark.parametrize("ending", FORMATS)
def test_names_that_are_not_utf_8_are_kept(ending: str, tmp_path: Path) -> None:
    name = os.fsdecode(b"eye \xff.png")
    table = Table(place(tmp_path, ending, far=False))
    table.begin([])
    table.add({"input": name, "seconds": 1.0})
    table.finish()
    (row,) = Table(table.place).rows
    assert row["input"] == name


def test_json_lines_are_whole_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.jsonl"
    table = Table(str(path))
    table.begin([{"input": "c"}])
    table.add({"input": "b", "seconds": 1.0})
    assert path.read_bytes() == b'{"input": "c"}\n{"input": "b", "seconds": 1.0}\n'
    table.add({"input": "a", "error": "ß\n"})
    table.finish()
    assert [json.loads(line)["input"] for line in path.read_text().splitlines()] == ["a", "b", "c"]


def test_csv_has_all_columns_and_empty_cells(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    table = Table(str(path))
    table.begin(ROWS)
    assert not path.exists()
    assert Path(f"{path}.rows.jsonl").exists()
    table.finish()
    first, *rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
    assert list(first)[:3] == ["input", "error", "mask"]
    assert first["input"] == "b.png"
    assert first["bits"] == ""
    assert first["unverified"] == "false"
    assert rows[0]["error"] == "damaged"
    assert rows[1]["warning"] == "two\nlines"


@needs_pyarrow
def test_parquet_has_the_types_of_the_columns(tmp_path: Path) -> None:
    from pyarrow import parquet

    table = Table(str(tmp_path / "m.parquet"))
    table.begin(ROWS)
    table.finish()
    schema = parquet.read_table(tmp_path / "m.parquet").schema
    types = {name: str(schema.field(name).type) for name in schema.names}
    assert types["input"] == types["scale"] == types["sha256"] == "string"
    assert types["threshold"] == types["seconds"] == "double"
    assert (types["height"], types["unverified"]) == ("int64", "bool")


def test_at_an_address_rows_are_written_after_some_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("vesselseg.batch.table.time.monotonic", lambda: now)
    table = Table(f"local://{tmp_path}/m.jsonl")
    table.begin([])
    table.add({"input": "a"})
    assert Table(table.place).rows == []
    now = 60.0
    table.add({"input": "b"})
    assert [row["input"] for row in Table(table.place).rows] == ["a", "b"]


@pytest.mark.parametrize("far", [False, True])
def test_a_table_that_cannot_be_written_is_reported(far: bool, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    table = Table(place(tmp_path / "file", "jsonl", far=far))
    with pytest.raises(OutputError, match=r"cannot be (written|created|removed): "):
        table.begin([{"input": "a"}])

    def add() -> None:
        table.add({"input": "a"})
        table.flush()

    with pytest.raises(OutputError, match=r"cannot be (written|created): "):
        add()


def test_a_table_whose_rows_beside_it_cannot_be_removed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(str(tmp_path / "m.csv"))
    table.begin(ROWS[:1])

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", fail)
    with pytest.raises(OutputError, match=r"m\.csv\.rows\.jsonl' cannot be removed: .* denied"):
        table.finish()


@pytest.mark.parametrize("name", ["eye.png", "m.xlsx", "m", "s3://bucket/m.txt"])
def test_another_ending_is_rejected(name: str) -> None:
    with pytest.raises(OptionError, match=r"must end in \.jsonl, \.csv, \.parquet"):
        Table(name)
