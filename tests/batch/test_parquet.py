"""The Parquet manifest: rows, parts of an interrupted run, files of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vesselseg import OptionError, OutputError

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow comes with vesselseg[ray]")

from vesselseg.batch.parquet import ParquetManifest, to_row  # noqa: E402

LINE = {
    "input": "b.png", "outputs": {"mask": "out/b.png"}, "model": "tiny", "sha256": "00",
    "scale": 0.5, "backend": "torch", "device": "cpu", "precision": "float32", "threshold": 0.5,
    "seconds": 0.1, "vessel_fraction": 0.2,
}  # fmt: skip


def row(name: str, **others: Any) -> dict[str, Any]:
    return {**to_row(LINE, {"mask": f"out/{name}"}), "input": name, **others}


def test_a_row_has_a_column_for_each_kind_of_picture() -> None:
    done = to_row(LINE, {"mask": "far/b.png", "fov": "far/b_fov.png"})
    assert (done["mask"], done["fov"], done["overlay"]) == ("far/b.png", "far/b_fov.png", None)
    assert (done["scale"], done["vessel_fraction"], done["error"]) == ("0.5", 0.2, None)
    failed = to_row({"input": "b.png", "error": "damaged"}, {"mask": "far/b.png"})
    assert {k: v for k, v in failed.items() if v is not None} == {
        "input": "b.png",
        "error": "damaged",
    }


def test_what_is_finished_is_one_sorted_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "m.parquet"
    manifest = ParquetManifest(str(file))
    manifest.begin([])
    for name in ("b.png", "a.png", "c.png"):
        manifest.add(row(name))
        manifest.flush()
    manifest.finish()
    assert pq.read_table(file).to_pylist() == [row("a.png"), row("b.png"), row("c.png")]
    assert list(file.parent.iterdir()) == [file]


def test_an_interrupted_run_keeps_what_was_written(tmp_path: Path) -> None:
    file = str(tmp_path / "m.parquet")
    first = ParquetManifest(file)
    first.begin([row("a.png", error="damaged")])
    first.add(row("b.png"))
    first.flush()
    first.add(row("a.png"))
    first.flush()
    first.add(row("never-written.png"))  # and nothing more of this run
    second = ParquetManifest(file)
    assert second.rows == {"a.png": row("a.png"), "b.png": row("b.png")}
    second.begin(second.rows.values())
    assert list(tmp_path.iterdir()) == [Path(file)]


def test_rows_are_written_after_some_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("vesselseg.batch.parquet.time.monotonic", lambda: now)
    file = str(tmp_path / "m.parquet")
    manifest = ParquetManifest(file)
    manifest.begin([])
    manifest.add(row("a.png"))
    assert ParquetManifest(file).rows == {}
    now = 11.0
    manifest.add(row("b.png"))
    assert sorted(ParquetManifest(file).rows) == ["a.png", "b.png"]


def test_a_file_of_others_is_not_replaced(tmp_path: Path) -> None:
    import pyarrow as pa

    text, table = tmp_path / "text.parquet", tmp_path / "table.parquet"
    text.write_text("not Parquet")
    pq.write_table(pa.table({"input": ["a"]}), table)
    for file in (text, table):
        before = file.read_bytes()
        with pytest.raises(OptionError, match="not a Parquet manifest of vesselseg"):
            ParquetManifest(str(file))
        assert file.read_bytes() == before


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        ParquetManifest(str(tmp_path / "file" / "m.parquet")).begin([])
