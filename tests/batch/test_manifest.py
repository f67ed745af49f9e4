"""The JSON lines that say what became of each image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from folders import photograph, photographs, tiny_model
from PIL import Image

from vesselseg import OptionError, OutputError, load_model
from vesselseg.batch.manifest import Manifest, describe, describe_existing, describe_failure, read
from vesselseg.batch.plan import Job

pytestmark = pytest.mark.usefixtures("one_thread")


def job(folder: Path) -> Job:
    (eye,) = photographs(folder, ["eye.png"])
    return Job(str(eye), eye, {"mask": folder / "out.png", "fov": folder / "out_fov.png"})


def test_a_line_says_what_was_made_from_what_and_how(tmp_path: Path) -> None:
    model = load_model(tiny_model(tmp_path / "tiny.pth"))
    one = job(tmp_path)
    result = model(one.image, threshold=0.25)
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


def test_a_lost_line_is_found_again_in_what_was_written(tmp_path: Path) -> None:
    model = load_model(tiny_model(tmp_path / "tiny.pth"))
    one = job(tmp_path)
    result = model(one.image, threshold=0.25)
    result.save(one.outputs["mask"])
    assert describe_existing(one) == describe(one, result)


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_of_files_that_vesselseg_did_not_write_it_is_said_that_nothing_is_known(
    tmp_path: Path, content: bytes
) -> None:
    one = job(tmp_path)
    one.outputs["mask"].write_bytes(content)
    line = describe_existing(one)
    assert line["input"] == one.name
    assert line["model"] is line["sha256"] is line["vessel_fraction"] is None
    Image.fromarray(photograph(1)).save(one.outputs["mask"])
    assert describe_existing(one)["vessel_fraction"] is None


def test_each_line_is_whole_at_once_and_the_end_is_sorted(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.jsonl"
    manifest = Manifest(path, [{"input": "c"}])
    manifest.add({"input": "b", "seconds": 1.0})
    assert path.read_bytes() == b'{"input": "c"}\n{"input": "b", "seconds": 1.0}\n'
    manifest.add({"input": "a", "error": "ß\n"})
    assert [line["input"] for line in read(path)] == ["c", "b", "a"]
    manifest.finish()
    assert [line["input"] for line in read(path)] == ["a", "b", "c"]
    assert len(path.read_text().splitlines()) == 3


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text('{"input": "a"}\n{"input": "b", "mod')
    assert read(path) == [{"input": "a"}]
    assert read(tmp_path / "missing.jsonl") == []


def test_a_file_that_is_no_manifest_is_not_replaced(tmp_path: Path) -> None:
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


def test_a_manifest_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        Manifest(tmp_path / "file" / "run.jsonl")
