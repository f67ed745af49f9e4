"""Folders from Python: the files of the command, a summary, errors, resumption."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from support.drawn import photographs, pixels, tree, twelve_bits
from support.models import tiny_weights

import vesselseg
from vesselseg import ImageError, OptionError, segment_folder
from vesselseg.batch.folder import Summary
from vesselseg.batch.table import Table
from vesselseg.cli import main

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


@pytest.mark.parametrize(("ending", "skipped"), [(".tif", 1), (".npy", 0)])
def test_other_formats_are_skipped_if_they_say_their_settings(
    ending: str, skipped: int, tmp_path: Path, folder: Path, model: Path
) -> None:
    out = tmp_path / f"vessels{ending}"
    segment_folder(folder / "a.png", out, model=model)
    summary = segment_folder(folder / "a.png", out, model=model, resume=True)
    assert (summary.segmented, summary.skipped) == (1 - skipped, skipped)


def test_a_bad_photograph_is_recorded_and_the_rest_goes_on(
    tmp_path: Path, folder: Path, model: Path
) -> None:
    (folder / "b.png").write_bytes(b"no image")
    manifest = tmp_path / "run.jsonl"
    summary = segment_folder(
        folder, tmp_path / "out", model=model, recursive=True, manifest=manifest
    )
    assert (summary.segmented, summary.failed) == (2, 1)
    assert "could not be decoded" in Table(str(manifest)).rows[1]["error"]


def test_or_its_error_is_raised_once_earlier_results_are_written(
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
def test_wrong_options(
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
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for progress in (True, False):
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        segment_folder(folder, tmp_path / "out", model=model, progress=progress)
        assert ("2/2" in terminal.getvalue()) == progress
