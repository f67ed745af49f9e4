"""Folders from Python: the files of the command, a summary, errors, resumption."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import Terminal
from support.drawn import photograph, photographs, pixels, tree, twelve_bits
from support.faults import MOST, FailingBackend, faulty_folder
from support.models import tiny_weights

import vesselseg
from vesselseg import (
    ImageError,
    OptionError,
    OutputError,
    Segmentation,
    Segmenter,
    segment_folder,
    weights,
)
from vesselseg.batch.folder import Summary
from vesselseg.batch.table import Table
from vesselseg.cli import main
from vesselseg.files import whole_file
from vesselseg.result import read_provenance

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_weights(tmp_path / "tiny.pth")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photographs(tmp_path / "in", ["a.png", "b.png", "sub/c.png"])
    return tmp_path / "in"


def test_writes_the_files_of_the_command(tmp_path: Path, folder: Path, model: Path) -> None:
    options = {"model": model, "kinds": ["mask", "fov"], "recursive": True}
    summary = segment_folder(folder, tmp_path / "out", **options)
    assert summary == Summary(segmented=3)
    words = [folder, "-r", "--fov", "--model", model, "-o", tmp_path / "command"]
    assert main(list(map(str, words))) == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "command")
    loaded = vesselseg.load_model(model)
    again = segment_folder([folder / "a.png"], tmp_path / "loaded", model=loaded, kinds=())
    assert again.segmented == 1
    assert list(tree(tmp_path / "loaded")) == ["a.png"]


def test_skips_what_is_done_and_repeats_what_is_not(
    tmp_path: Path, folder: Path, model: Path
) -> None:
    out, manifest = tmp_path / "out", tmp_path / "run.jsonl"
    segment_folder(folder / "a.png", out, model=model)
    segment_folder(folder / "b.png", out, model=model, threshold=0.2)
    rows: list[object] = []
    summary = segment_folder(
        folder, out, model=model, resume=True, manifest=manifest, on_row=rows.append
    )
    assert summary == Summary(segmented=1, repeated=1, skipped=1, manifest=str(manifest))
    assert [Path(row["input"]).name for row in Table(str(manifest)).rows] == ["a.png", "b.png"]
    assert len(rows) == 1


@pytest.mark.skipif(os.name != "posix", reason="processes are looked up on POSIX systems only")
def test_what_a_killed_run_left_of_a_file_is_removed(
    tmp_path: Path, folder: Path, model: Path
) -> None:
    with whole_file(tmp_path / "a.png") as part:
        part.touch()
        name = part.name
    with subprocess.Popen([sys.executable, "-c", ""]) as killed:
        pass
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name.replace(f"-{os.getpid()}-", f"-{killed.pid}-")).touch()
    segment_folder(folder, tmp_path / "out", model=model)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


def test_rows_of_existing_results_have_their_bits(
    tmp_path: Path, folder: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    eye = folder / "a.png"
    Image.fromarray(twelve_bits(pixels(eye)[..., 1])).save(eye)
    rows = []
    for name in ("first.jsonl", "second.jsonl"):
        manifest = tmp_path / name
        segment_folder(eye, tmp_path / "out", model=model, bits=12, resume=True, manifest=manifest)
        (row,) = Table(str(manifest)).rows
        rows.append({**row, "seconds": None})
    assert rows[0] == rows[1]
    assert "16-bit values" not in caplog.text


def test_the_seconds_of_the_rows_add_up_to_the_run(
    tmp_path: Path, folder: Path, model: Path
) -> None:
    loaded = vesselseg.load_model(model, device="cpu")
    rows: list[dict[str, Any]] = []
    start = time.perf_counter()
    segment_folder(folder, tmp_path / "out", model=loaded, recursive=True, on_row=rows.append)
    elapsed = time.perf_counter() - start
    seconds = [row["seconds"] for row in rows]
    assert len(seconds) == 3
    assert min(seconds) >= 0
    assert 0 < sum(seconds) < elapsed + 0.01  # each is rounded


@pytest.mark.parametrize(("ending", "skipped"), [(".tif", 1), (".npy", 0)])
def test_other_formats_are_skipped_if_they_say_their_settings(
    ending: str, skipped: int, tmp_path: Path, folder: Path, model: Path
) -> None:
    out = tmp_path / f"vessels{ending}"
    segment_folder(folder / "a.png", out, model=model)
    summary = segment_folder(folder / "a.png", out, model=model, resume=True)
    assert (summary.segmented, summary.skipped) == (1 - skipped, skipped)


def test_an_error_is_raised_if_asked_for_once_earlier_results_are_written(
    tmp_path: Path, model: Path
) -> None:
    names = [f"{number:02}.png" for number in range(40)]
    folder = photographs(tmp_path / "in", names)[0].parent
    (folder / "01.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"01\.png' could not be decoded"):
        segment_folder(folder, tmp_path / "out", model=model, on_error="raise")
    written = sorted(tree(tmp_path / "out"))
    assert written[0] == "00.png"
    assert len(written) < 20


def test_the_first_of_several_errors_is_raised(
    tmp_path: Path, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_are_written = threading.Barrier(2, timeout=30)

    def fail(place: str, _: bytes) -> None:
        both_are_written.wait()
        raise OutputError(f"{place} is lost")

    monkeypatch.setattr("vesselseg.batch.work.write_bytes", fail)
    with pytest.raises(OutputError, match=r"a\.png is lost"):
        segment_folder(folder, tmp_path / "out", model=model, on_error="raise")


def failing_model(file: Path, **options: Any) -> Segmenter:
    """A model that fails on photographs with a white corner."""
    content = weights.read(file)
    spec = content.spec
    assert spec is not None
    backend = FailingBackend(weights.build_network(content, spec), spec, "cpu", "float32")
    return Segmenter(backend, spec, sha256="0" * 64, **options)


def rows_of(place: Path) -> dict[str, dict[str, Any]]:
    return {Path(row["input"]).name: row for row in Table(str(place)).rows}


class TestEveryFault:
    """Whatever one photograph raises at any stage is its own row's error."""

    @pytest.mark.slow
    def test_is_in_its_row_and_the_rest_is_written(self, tmp_path: Path, model: Path) -> None:
        count = 20
        failing = faulty_folder(tmp_path / "in", tmp_path / "out", count)
        manifest = tmp_path / "run.csv"
        summary = segment_folder(
            tmp_path / "in", tmp_path / "out", manifest=manifest,
            model=failing_model(model, max_pixels=MOST),
        )  # fmt: skip
        assert (summary.segmented, summary.failed) == (
            count - len(failing), len(failing)
        )  # fmt: skip
        rows = rows_of(manifest)
        assert len(rows) == count
        for name, row in rows.items():
            if name in failing:
                assert failing[name] in row["error"]
            else:
                assert row["error"] is None
                assert pixels(tmp_path / "out" / name).shape == (row["height"], row["width"])

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"max_pixels": 1800}, "at most 1,800 are accepted"),
            ({"scale": 5000.0, "max_pixels": 10**6}, "would enlarge"),
            ({"stride": 1, "scale": 9.0, "max_pixels": 10**6}, "windows of 32 pixels with a str"),
        ],
    )
    def test_that_comes_from_options_is_in_its_row_too(
        self, tmp_path: Path, folder: Path, model: Path, options: dict[str, Any], said: str
    ) -> None:
        large = np.pad(photograph(1), [(0, 5), (0, 5), (0, 0)])
        Image.fromarray(large).save(folder / "b.png")
        summary = segment_folder(
            folder, tmp_path / "out", model=model, manifest=tmp_path / "m.jsonl", **options
        )
        rows = rows_of(tmp_path / "m.jsonl")
        assert said in rows["b.png"]["error"]
        assert summary.segmented + summary.failed == len(rows) == 2


class TestResuming:
    """Done is what agrees in everything that decides its content."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "change",
        [
            {"stride": 16}, {"precision": "bfloat16"}, {"threshold": 0.4}, {"scale": 0.5},
            {"bits": 8}, {"style": "outline"}, {"fov_rgb_mean": (100.0, 90.0, 80.0)},
            {"photograph": "replaced"}, {"mask": "replaced"}, {"mask": "missing"},
        ],
    )  # fmt: skip
    def test_repeats_what_differs(
        self, tmp_path: Path, folder: Path, model: Path, change: dict[str, Any]
    ) -> None:
        options: dict[str, Any] = {
            "model": vesselseg.load_model(model, device="cpu"), "kinds": ["overlay"],
            "manifest": tmp_path / "m.jsonl", "resume": True,
        }  # fmt: skip
        out = tmp_path / "out"
        segment_folder(folder, out, **options)
        assert segment_folder(folder, out, **options).skipped == 2
        if "photograph" in change:
            Image.fromarray(photograph(5)).save(folder / "a.png")
        elif change.get("mask") == "replaced":
            Image.fromarray(photograph(5)).save(out / "a.png")
        elif change.get("mask") == "missing":
            (out / "a.png").unlink()
        elif "fov_rgb_mean" in change:
            content = weights.read(model)
            assert content.spec is not None
            spec = replace(content.spec, **change)
            options["model"] = vesselseg.load_model(spec, weights=model, device="cpu")
        elif "stride" in change or "precision" in change:
            options["model"] = vesselseg.load_model(model, device="cpu", **change)
        else:
            options.update(change)
        expected = tmp_path / "expected"
        count = 1 if {"photograph", "mask"} & change.keys() else 2
        summary = segment_folder(folder, out, **options)
        assert (summary.segmented, summary.skipped) == (count, 2 - count)
        segment_folder(folder, expected, **{**options, "manifest": None})
        assert tree(out) == tree(expected)
        assert segment_folder(folder, out, **options).skipped == 2

    @pytest.mark.slow
    def test_adds_measures_to_masks_that_are_there(
        self, tmp_path: Path, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("skan", reason="needs the extra measure")
        out, options = tmp_path / "out", {"model": vesselseg.load_model(model, device="cpu")}
        segment_folder(folder, out, manifest=tmp_path / "whole.csv", measure=True, **options)
        before = tree(out)
        with monkeypatch.context() as patch:
            patch.setattr(type(options["model"]), "segment_many", None)  # no network
            summary = segment_folder(
                folder, out, manifest=tmp_path / "later.csv", measure=True, resume=True, **options
            )
        assert (summary.segmented, summary.skipped) == (0, 2)
        assert tree(out) == before
        whole, later = rows_of(tmp_path / "whole.csv"), rows_of(tmp_path / "later.csv")
        assert whole["a.png"]["density"] > 0
        assert [{**row, "seconds": None} for row in whole.values()] == list(later.values())

    @pytest.mark.slow
    def test_leaves_rows_that_have_their_measures_as_they_are(
        self, tmp_path: Path, folder: Path, model: Path
    ) -> None:
        pytest.importorskip("skan", reason="needs the extra measure")
        table = tmp_path / "m.csv"
        options: dict[str, Any] = {"model": model, "manifest": table, "measure": True}
        segment_folder(folder, tmp_path / "out", **options)
        assert rows_of(table)["a.png"]["length_px"] > 0
        before = table.read_bytes()
        assert segment_folder(folder, tmp_path / "out", resume=True, **options).skipped == 2
        assert table.read_bytes() == before

    @pytest.mark.parametrize("ending", [".png", ".npy"])
    def test_repeats_what_is_damaged(
        self, tmp_path: Path, folder: Path, model: Path, ending: str
    ) -> None:
        out = tmp_path / f"vessels{ending}"
        options: dict[str, Any] = {
            "model": vesselseg.load_model(model, device="cpu"), "resume": True,
            "manifest": tmp_path / "m.jsonl",
        }  # fmt: skip
        segment_folder(folder / "a.png", out, **options)
        whole = out.read_bytes()
        assert segment_folder(folder / "a.png", out, **options).skipped == 1
        damaged = bytearray(whole)
        damaged[-20] ^= 1  # among the pixels; what is said of them is before
        out.write_bytes(whole[:-20] if ending == ".npy" else damaged)
        assert segment_folder(folder / "a.png", out, **options).segmented == 1
        assert out.read_bytes() == whole

    def test_is_not_stopped_by_a_mask_that_cannot_be_described(
        self, tmp_path: Path, folder: Path, model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, options = tmp_path / "out", {"model": vesselseg.load_model(model, device="cpu")}
        segment_folder(folder, out, **options)
        provenance = read_provenance(out / "a.png")
        Segmentation(
            np.zeros((3, 3), bool), np.zeros((3, 3), np.float32), np.zeros((3, 3), bool),
            provenance, np.zeros((3, 3, 3), np.uint8),
        ).save(out / "a.png")  # fmt: skip
        summary = segment_folder(folder, out, manifest=tmp_path / "m.jsonl", resume=True, **options)
        assert (summary.segmented, summary.skipped, summary.failed) == (0, 1, 1)
        assert "differ in size" in rows_of(tmp_path / "m.jsonl")["a.png"]["error"]
        words = [folder, "-o", out, "--model", model, "--manifest", tmp_path / "new.jsonl"]
        assert main([*map(str, words), "--device", "cpu", "--resume"]) == 1
        assert "0 segmented, 1 skipped, 1 failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "choice",
    [{"device": "cuda:99"}, {"precision": "bfloat16"}, {"backend": "openvino"}, {"stride": 7},
     {"batch_size": 99}, {"max_pixels": 99}],
)  # fmt: skip
def test_a_choice_that_is_not_the_loaded_models_is_an_error(
    choice: dict[str, Any], tmp_path: Path, folder: Path, model: Path
) -> None:
    loaded = vesselseg.load_model(model, device="cpu")
    (name,) = choice
    with pytest.raises(OptionError, match=f"{name} is .*, but the model was loaded with"):
        segment_folder(folder, tmp_path / "out", model=loaded, **choice)
    own = {**vars(loaded), "stride": loaded.spec.stride}[name]
    assert segment_folder(folder, tmp_path / "out", model=loaded, **{name: own}).segmented == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "skip"}, "on_error is 'skip'; allowed are 'continue' and 'raise'"),
        ({"kinds": ["masks"]}, "kinds has 'masks'; allowed are 'mask'"),
        ({"kinds": "overlay"}, "kinds is 'overlay'; it must be a sequence"),
        ({"style": "dots"}, "style is 'dots'; allowed are 'tint' and 'outline'"),
        ({"scale": "half"}, "scale is 'half'"),
        ({"threshold": 2}, "threshold is 2"),
        ({"inputs": "s3://bucket/eyes"}, "Addresses need Ray"),
        ({"inputs": "*.none"}, "There is nothing to segment"),
    ],
)
def test_wrong_options_are_rejected_before_anything_is_written(
    tmp_path: Path, folder: Path, model: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        segment_folder(**{"inputs": folder, "out": tmp_path / "out", "model": model, **options})
    assert not tree(tmp_path / "out")


def test_nothing_is_printed_where_there_is_no_terminal(
    tmp_path: Path, folder: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    segment_folder(folder, tmp_path / "out", model=model)
    said = capfd.readouterr()
    assert said.out == said.err == ""


def test_the_bar_is_shown_on_a_terminal(
    tmp_path: Path, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for progress in (True, False):
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        segment_folder(folder, tmp_path / "out", model=model, progress=progress)
        assert ("2/2" in terminal.getvalue()) == progress
