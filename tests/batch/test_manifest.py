"""The JSON lines that say what became of each image."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.drawn import photograph, photographs
from support.models import tiny_weights

from vesselseg import OptionError, OutputError, load_model
from vesselseg.batch.jobs import Job
from vesselseg.batch.manifest import (
    ParquetManifest,
    append_row,
    describe,
    describe_existing,
    read_manifest,
    write_manifest,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def job(folder: Path) -> Job:
    (eye,) = photographs(folder, ["eye.png"])
    return Job(str(eye), {"mask": str(folder / "out.png"), "fov": str(folder / "out_fov.png")})


def test_a_row_says_what_was_segmented_and_how_and_can_be_recovered_from_the_results(
    tmp_path: Path,
) -> None:
    model = load_model(tiny_weights(tmp_path / "tiny.pth"))
    one = job(tmp_path)
    result = model(one.name, threshold=0.25)
    row = describe(one, result.provenance, result.vessel_fraction(), 1.23456)
    assert row == {
        "input": one.name,
        "outputs": {"mask": str(tmp_path / "out.png"), "fov": str(tmp_path / "out_fov.png")},
        "model": "tiny",
        "sha256": model.sha256,
        "unverified": False,
        "scale": "native",
        "bits": None,
        "backend": "torch",
        "device": "cpu",
        "precision": "float32",
        "threshold": 0.25,
        "size": list(result.mask.shape),
        "fov_diameter": result.provenance["fov_diameter"],
        "familiarity": None,
        "warning": result.provenance["warning"],
        "seconds": 1.235,
        "vessel_fraction": round(float(result.mask[result.field_of_view].mean()), 6),
    }
    assert not result.field_of_view.all()  # so that the fraction is not that of the whole frame
    result.save(one.outputs["mask"])
    assert describe_existing(one) == {**row, "seconds": None}


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
    write_manifest(path, [{"input": "c"}])
    append_row(path, {"input": "b", "seconds": 1.0})
    assert path.read_bytes() == b'{"input": "c"}\n{"input": "b", "seconds": 1.0}\n'
    append_row(path, {"input": "a", "error": "ß\n"})
    rows = read_manifest(path)
    assert [row["input"] for row in rows] == ["c", "b", "a"]
    write_manifest(path, rows)
    assert read_manifest(path) == rows[::-1]
    assert len(path.read_text().splitlines()) == 3


def test_a_row_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text('{"input": "a"}\n{"input": "b", "mod')
    assert read_manifest(path) == [{"input": "a"}]
    assert read_manifest(tmp_path / "missing.jsonl") == []


@pytest.mark.parametrize("content", ["name,dice\n", "[1]", '{"input": "a"}\n{"input":\n', None])
def test_a_file_that_is_not_a_manifest_is_rejected(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "file").write_text(content)
    else:
        photographs(tmp_path, ["file.png"])[0].rename(tmp_path / "file")
    for path in (tmp_path / "file", tmp_path):
        with pytest.raises(OptionError, match="is not a manifest of vesselseg"):
            read_manifest(path)


def test_a_manifest_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "run.jsonl", tmp_path):
        with pytest.raises(OutputError, match=r"cannot be (written|created): "):
            write_manifest(path, [])
        with pytest.raises(OutputError, match=r"The manifest '.*' cannot be written"):
            append_row(path, {"input": "a"})


# Parquet

parquet: Any = None
with contextlib.suppress(ImportError):
    from pyarrow import parquet
needs_pyarrow = pytest.mark.skipif(parquet is None, reason="pyarrow comes with vesselseg[ray]")

ROW = {
    "input": "b.png", "outputs": {"mask": "out/b.png"}, "model": "tiny", "sha256": "00",
    "unverified": False, "scale": 0.5, "bits": None, "backend": "torch", "device": "cpu",
    "precision": "float32", "threshold": 0.5, "size": [40, 48], "fov_diameter": None,
    "familiarity": None, "warning": "", "seconds": 0.1, "vessel_fraction": 0.2,
}  # fmt: skip


def row(name: str) -> dict[str, Any]:
    return {**ROW, "outputs": {"mask": f"out/{name}"}, "input": name}


def flat(name: str) -> dict[str, Any]:
    """A row as a table has it."""
    columns = dict.fromkeys(("error", "probability", "overlay", "fov", "dicom"))
    values = {key: value for key, value in ROW.items() if key != "outputs"}
    return {**columns, **values, "input": name, "mask": f"out/{name}", "scale": "0.5"}


@needs_pyarrow
def test_what_is_finished_is_one_sorted_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "m.parquet"
    manifest = ParquetManifest(str(file))
    for one in (row("b.png"), row("a.png"), {"input": "c.png", "error": "damaged"}):
        manifest.add(one)
        manifest.flush()
    manifest.merge()
    failed = {**dict.fromkeys(flat("c.png")), "input": "c.png", "error": "damaged"}
    assert parquet.read_table(file).to_pylist() == [flat("a.png"), flat("b.png"), failed]
    assert list(file.parent.iterdir()) == [file]


@needs_pyarrow
def test_an_interrupted_run_keeps_what_was_written(tmp_path: Path) -> None:
    file = str(tmp_path / "m.parquet")
    first = ParquetManifest(file)
    first.add({"input": "a.png", "error": "damaged"})
    first.merge()
    for name in ("b.png", "a.png"):
        first.add(row(name))
        first.flush()
    first.add(row("never-written.png"))  # and nothing more of this run
    Path(f"{file}.parts", "000002.parquet.part").write_bytes(b"cut off")
    second = ParquetManifest(file)
    assert second.rows == {"a.png": flat("a.png"), "b.png": flat("b.png")}
    second.merge()
    assert list(tmp_path.iterdir()) == [Path(file)]


@needs_pyarrow
def test_rows_are_written_after_some_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("vesselseg.batch.manifest.time.monotonic", lambda: now)
    file = str(tmp_path / "m.parquet")
    manifest = ParquetManifest(file)
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
        with pytest.raises(OptionError, match="not a Parquet manifest of vesselseg"):
            ParquetManifest(str(file))
    with pytest.raises(OutputError, match="cannot be written"):
        ParquetManifest(str(text / "m.parquet")).merge()
