"""The JSON lines that say what became of each image."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.drawn import photograph, photographs
from support.models import tiny_weights

from vesselseg import OptionError, OutputError, load_model
from vesselseg.batch.jobs import Job
from vesselseg.batch.manifest import (
    Manifest,
    ParquetManifest,
    describe,
    describe_existing,
    describe_failure,
)
from vesselseg.batch.manifest import read_manifest as read

pytestmark = pytest.mark.usefixtures("one_thread")


def job(folder: Path) -> Job:
    (eye,) = photographs(folder, ["eye.png"])
    return Job(str(eye), {"mask": str(folder / "out.png"), "fov": str(folder / "out_fov.png")})


def test_a_row_says_what_was_segmented_and_how(tmp_path: Path) -> None:
    model = load_model(tiny_weights(tmp_path / "tiny.pth"))
    one = job(tmp_path)
    result = model(one.name, threshold=0.25)
    assert describe(one, result) == {
        "input": one.name,
        "outputs": {"mask": str(tmp_path / "out.png"), "fov": str(tmp_path / "out_fov.png")},
        "model": "tiny",
        "sha256": model.sha256,
        "scale": "native",
        "backend": "torch",
        "device": "cpu",
        "precision": "float32",
        "threshold": 0.25,
        "seconds": None,
        "vessel_fraction": round(float(result.mask[result.field_of_view].mean()), 6),
    }
    assert not result.field_of_view.all()  # so that the fraction is not that of the whole frame
    assert describe_failure(one, ValueError("why")) == {"input": one.name, "error": "why"}


def test_a_lost_row_is_recovered_from_the_results(tmp_path: Path) -> None:
    model = load_model(tiny_weights(tmp_path / "tiny.pth"))
    one = job(tmp_path)
    result = model(one.name, threshold=0.25)
    result.save(one.outputs["mask"])
    assert describe_existing(one) == describe(one, result)


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_files_of_others_have_a_row_without_settings(tmp_path: Path, content: bytes) -> None:
    one = job(tmp_path)
    Path(one.outputs["mask"]).write_bytes(content)
    row = describe_existing(one)
    assert row["input"] == one.name
    assert row["model"] is row["sha256"] is row["vessel_fraction"] is None
    Image.fromarray(photograph(1)).save(one.outputs["mask"])
    assert describe_existing(one)["vessel_fraction"] is None


def test_each_row_is_whole_at_once_and_the_end_is_sorted(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.jsonl"
    manifest = Manifest(path, [{"input": "c"}])
    manifest.add({"input": "b", "seconds": 1.0})
    assert path.read_bytes() == b'{"input": "c"}\n{"input": "b", "seconds": 1.0}\n'
    manifest.add({"input": "a", "error": "ß\n"})
    assert [row["input"] for row in read(path)] == ["c", "b", "a"]
    manifest.finish()
    assert [row["input"] for row in read(path)] == ["a", "b", "c"]
    assert len(path.read_text().splitlines()) == 3


def test_a_row_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text('{"input": "a"}\n{"input": "b", "mod')
    assert read(path) == [{"input": "a"}]
    assert read(tmp_path / "missing.jsonl") == []


def test_a_file_that_is_not_a_manifest_is_not_replaced(tmp_path: Path) -> None:
    (eye,) = photographs(tmp_path, ["eye.png"])
    table = tmp_path / "table.csv"
    table.write_text("name,dice\n")
    (tmp_path / "list.json").write_text(json.dumps([1]))
    for path in (eye, table, tmp_path / "list.json", tmp_path):
        with pytest.raises(OptionError, match="is not a manifest of vesselseg"):
            Manifest(path)
    assert table.read_text() == "name,dice\n"
    Manifest(tmp_path / "run.jsonl", [{"input": "a"}]).close()
    Manifest(tmp_path / "run.jsonl").close()
    assert read(tmp_path / "run.jsonl") == []


def test_a_manifest_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        Manifest(tmp_path / "file" / "run.jsonl")


# Parquet

parquet: Any = None
with contextlib.suppress(ImportError):
    from pyarrow import parquet
needs_pyarrow = pytest.mark.skipif(parquet is None, reason="pyarrow comes with vesselseg[ray]")

ROW = {
    "input": "b.png", "outputs": {"mask": "out/b.png"}, "model": "tiny", "sha256": "00",
    "scale": 0.5, "backend": "torch", "device": "cpu", "precision": "float32", "threshold": 0.5,
    "seconds": 0.1, "vessel_fraction": 0.2,
}  # fmt: skip


def row(name: str, **others: Any) -> dict[str, Any]:
    return {**ROW, "outputs": {"mask": f"out/{name}"}, "input": name, **others}


def flat(name: str, **others: Any) -> dict[str, Any]:
    """A row as a table has it."""
    columns = dict.fromkeys(("error", "probability", "overlay", "fov"))
    values = {key: value for key, value in ROW.items() if key != "outputs"}
    return {**columns, **values, "input": name, "mask": f"out/{name}", "scale": "0.5", **others}


@needs_pyarrow
def test_a_failed_photograph_has_no_files(tmp_path: Path) -> None:
    manifest = ParquetManifest(str(tmp_path / "m.parquet"))
    manifest.add({"input": "b.png", "error": "damaged"})
    assert {k: v for k, v in manifest.rows["b.png"].items() if v is not None} == {
        "input": "b.png",
        "error": "damaged",
    }


@needs_pyarrow
def test_what_is_finished_is_one_sorted_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "m.parquet"
    manifest = ParquetManifest(str(file))
    manifest.begin([])
    for name in ("b.png", "a.png", "c.png"):
        manifest.add(row(name))
        manifest.flush()
    manifest.finish()
    assert parquet.read_table(file).to_pylist() == [flat("a.png"), flat("b.png"), flat("c.png")]
    assert list(file.parent.iterdir()) == [file]


@needs_pyarrow
def test_an_interrupted_run_keeps_what_was_written(tmp_path: Path) -> None:
    file = str(tmp_path / "m.parquet")
    first = ParquetManifest(file)
    first.begin([flat("a.png", error="damaged")])
    first.add(row("b.png"))
    first.flush()
    first.add(row("a.png"))
    first.flush()
    first.add(row("never-written.png"))  # and nothing more of this run
    second = ParquetManifest(file)
    assert second.rows == {"a.png": flat("a.png"), "b.png": flat("b.png")}
    second.begin(second.rows.values())
    assert list(tmp_path.iterdir()) == [Path(file)]


@needs_pyarrow
def test_rows_are_written_after_some_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("vesselseg.batch.manifest.time.monotonic", lambda: now)
    file = str(tmp_path / "m.parquet")
    manifest = ParquetManifest(file)
    manifest.begin([])
    manifest.add(row("a.png"))
    assert ParquetManifest(file).rows == {}
    now = 11.0
    manifest.add(row("b.png"))
    assert sorted(ParquetManifest(file).rows) == ["a.png", "b.png"]


@needs_pyarrow
def test_a_file_of_others_is_not_replaced(tmp_path: Path) -> None:
    import pyarrow as pa

    text, table = tmp_path / "text.parquet", tmp_path / "table.parquet"
    text.write_text("not Parquet")
    parquet.write_table(pa.table({"input": ["a"]}), table)
    for file in (text, table):
        before = file.read_bytes()
        with pytest.raises(OptionError, match="not a Parquet manifest of vesselseg"):
            ParquetManifest(str(file))
        assert file.read_bytes() == before


@needs_pyarrow
def test_a_place_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        ParquetManifest(str(tmp_path / "file" / "m.parquet")).begin([])
