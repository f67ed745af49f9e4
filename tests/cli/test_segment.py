"""``vesselseg segment`` as it is used: files, folders, pipes, interruptions."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from support import LAUNCH, Terminal, wait_for
from support.dicom import SECRET, dicom_file, secret_file
from support.drawn import photograph, photographs, pixels, tree, twelve_bits
from support.models import TINY, tiny_weights

import vesselseg
from vesselseg.cli import main
from vesselseg.files import sha256

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_weights(tmp_path_factory.mktemp("model") / "tiny.pth"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def without_seconds(path: str | Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(path)]


# What is written


@pytest.mark.parametrize("short", [True, False])
def test_a_photograph_in_a_mask_out(model: str, short: bool) -> None:
    photographs(Path(), ["eye.jpg"])
    command = [] if short else ["segment"]
    assert main([*command, "eye.jpg", "-o", "vessels.png", "--model", model]) == 0
    expected = vesselseg.load_model(model)("eye.jpg")
    mask = pixels(Path("vessels.png"))
    assert mask.dtype == np.uint8
    assert (mask == np.where(expected.mask, 255, 0)).all()
    with Image.open("vessels.png") as opened:
        assert json.loads(opened.text["vesselseg"]) == {
            "kind": "mask", **expected.provenance, "input_version": sha256("eye.jpg"),
        }  # fmt: skip


def test_without_an_output_results_go_to_the_working_folder(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(Path("p"), ["eye.jpg", "sub/b.png"])
    (Path("p") / "1.2.840.10008").write_bytes(dicom_file(photograph(0)))
    for words, results in [
        (["p/eye.jpg"], {"eye_vessels.png"}),
        (["p/sub/b.png", "--fov"], {"b_vessels.png", "b_vessels_fov.png"}),
        (["p/eye.jpg", "--keep-endings"], {"eye.jpg_vessels.png"}),
        (["p/1.2.840.10008"], {"1.2.840.10008_vessels.png"}),
        (["p/", "-r"], {f"p_vessels/{x}.png" for x in ("eye", "sub/b", "1.2.840.10008")}),
    ]:
        before = set(tree(Path()))
        assert main([*words, "--model", model]) == 0
        assert set(tree(Path())) - before == results
        said = capsys.readouterr().err
        assert any(f"results: {result.partition('/')[0]}\n" in said for result in results)


def test_without_an_output_nothing_is_replaced(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(Path("p"), ["eye.jpg"])
    for words, place in (["p/eye.jpg"], "eye_vessels.png"), (["p"], "p_vessels/eye.png"):
        command = [*words, "--model", model]
        assert main(command) == 0
        mask = Path(place).read_bytes()
        for content in (mask, b"precious"):
            Path(place).write_bytes(content)
            assert main(command) == 2
            assert f"{place!r} exists already. Nothing was done. Pass -o" in capsys.readouterr().err
            assert Path(place).read_bytes() == content
        assert main([*command, "--resume"]) == 2  # it is nothing of ours
        Path(place).write_bytes(mask)
        assert main([*command, "--resume"]) == 0
        assert "0 segmented, 1 skipped" in capsys.readouterr().err
        Path(place).write_bytes(b"precious")
        assert main([*command, "-o", place.partition("/")[0]]) == 0  # named, it is replaced
        assert Path(place).read_bytes() == mask


def test_unusual_names_are_kept(model: str) -> None:
    names = ["with space", "größe 血管", "-dash", "two.dots", "x" * 251]
    paths = photographs(Path(), [f"{name}.jpg" for name in names])
    assert main(["--model", model, "-o", "out", "--", *map(str, paths)]) == 0
    assert sorted(tree(Path("out"))) == sorted(f"{name}.png" for name in names)


def test_the_other_pictures_stand_beside_the_mask(model: str) -> None:
    photographs(Path(), ["p/eye.jpg"])
    extra = ["--probability", "--overlay-style", "outline", "--fov", "--threshold", "0.4"]
    assert main(["p", "-o", "out", "--model", model, *extra]) == 0
    assert main(["p", "-o", "tinted", "--model", model, "--overlay"]) == 0
    result = vesselseg.load_model(model)("p/eye.jpg", threshold=0.4)
    names = ["eye.png", "eye_fov.png", "eye_overlay.png", "eye_probability.png"]
    assert sorted(tree(Path("out"))) == names
    assert (pixels(Path("out/eye.png")) == result.mask * np.uint8(255)).all()
    assert (pixels(Path("out/eye_fov.png")) == result.field_of_view * np.uint8(255)).all()
    outlined = np.asarray(result.overlay(style="outline"))
    assert (pixels(Path("out/eye_overlay.png")) == outlined).all()
    tinted = np.asarray(result.at_threshold(0.5).overlay())
    assert (pixels(Path("tinted/eye_overlay.png")) == tinted).all()
    probability = pixels(Path("out/eye_probability.png"))
    assert probability.max() > 255  # 16 bits
    assert (probability == np.rint(result.probability * 65535.0)).all()


def test_folders_keep_their_places(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    photographs(Path("p"), ["a.png", "sub/b.png"])
    assert main(["p", "-o", "p/results", "--recursive", "--model", model]) == 0
    first = tree(Path("p"))
    assert {"results/a.png", "results/sub/b.png"} < set(first)
    # Results among the photographs do not become photographs.
    assert main(["p", "-o", "p/results", "--recursive", "--model", model]) == 0
    assert tree(Path("p")) == first
    said = capsys.readouterr()
    assert said.out == ""
    assert "2 segmented, 0 skipped, 0 failed" in said.err


def test_options_reach_the_model(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs(Path(), ["eye.jpg"])
    load = vesselseg.load_model
    sizes = []

    def noted(*arguments: Any, **options: Any) -> vesselseg.Segmenter:
        segmenter = load(*arguments, **options)
        sizes.append(segmenter.batch_size)
        return segmenter

    monkeypatch.setattr("vesselseg.api.load_model", noted)
    options = ["--scale", "0.5", "--precision", "bfloat16", "--device", "cpu", "--batch-size", "7"]
    more = ["--manifest", "run.jsonl", "--threshold", "0.3"]
    assert main(["eye.jpg", "-o", "out", "--model", model, *options, *more]) == 0
    assert sizes == [7]
    (line,) = lines("run.jsonl")
    result = load(model, precision="bfloat16", device="cpu")("eye.jpg", scale=0.5, threshold=0.3)
    assert (pixels(Path("out/eye.png")) == result.mask * np.uint8(255)).all()
    told = {k: line[k] for k in ("model", "sha256", "scale", "device", "precision", "threshold")}
    assert told == {k: result.provenance[k] for k in told}


def test_weights_are_read_with_the_windows_of_the_named_model(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(Path(), ["eye.jpg"])
    named = ["--model", "unet_s5-d16_drive", "--weights", model]
    assert main(["eye.jpg", "-o", "out", *named]) == 2  # a narrow network is not that one
    assert "tiny.pth" in capsys.readouterr().err
    assert main(["eye.jpg", "-o", "out", "--weights", model]) == 0


def test_a_bar_is_drawn_on_a_terminal_only(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs(Path("p"), ["1.png", "2.png"])
    said = {}
    for kind in (Terminal, io.StringIO):
        with monkeypatch.context() as patch:
            patch.setattr("sys.stderr", kind())
            assert main(["p", "missing.png", "-o", "out", "--model", model]) == 1
            said[kind] = sys.stderr.getvalue()  # type: ignore[attr-defined]
        assert "There is no image 'missing.png'" in said[kind]
    assert "3/3" in said[Terminal]
    for option in ("--no-progress", "--quiet"):
        with monkeypatch.context() as patch:
            patch.setattr("sys.stderr", Terminal())
            assert main(["p", "missing.png", "-o", "out", "--model", model, option]) == 1
            alone, *rest = sys.stderr.getvalue().splitlines()  # type: ignore[attr-defined]
        assert "There is no image 'missing.png'" in alone
        assert len(rest) == (option == "--no-progress")  # the line at the end
    assert len(said[io.StringIO].splitlines()) == 2  # the failure and the line at the end


# DICOM


def dicom_folder() -> Path:
    folder = Path("p")
    folder.mkdir()
    for seed, name in enumerate(("left.dcm", "IM000001")):
        (folder / name).write_bytes(dicom_file(photograph(seed), PatientID="4711"))
    return folder


@pytest.mark.slow
def test_dicom_photographs_give_masks_and_segmentation_objects(model: str) -> None:
    dicom_folder()
    assert main(["p", "-o", "out", "--model", model, "--dicom"]) == 0
    names = ["IM000001.png", "IM000001_seg.dcm", "left.png", "left_seg.dcm"]
    assert sorted(tree(Path("out"))) == names
    for seed, stem in enumerate(("left", "IM000001")):
        written = pydicom.dcmread(f"out/{stem}_seg.dcm")
        assert written.PatientID == "4711"
        mask = vesselseg.load_model(model)(photograph(seed)).mask
        assert np.array_equal(written.pixel_array > 0, mask)
        assert np.array_equal(pixels(Path(f"out/{stem}.png")) > 0, mask)
    assert main(["p/left.dcm", "-o", "vessels.dcm", "--model", model, "--overlay"]) == 0
    assert pydicom.dcmread("vessels.dcm").Modality == "SEG"
    assert Path("vessels_overlay.png").exists()


def test_segmentation_objects_say_which_settings_they_come_from(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dicom_folder()
    for options, said in [
        ([], "2 segmented, 0 skipped"),
        ([], "0 segmented, 2 skipped"),
        (
            ["--threshold", "0.4"],
            "(2 again, since their settings or files differed), 0 skipped",
        ),
    ]:
        words = ["p", "-o", "out", "--model", model, "--dicom", "--resume", *options]
        assert main(words) == 0
        assert said in capsys.readouterr().err
    for path in Path("out").glob("*.png"):
        path.unlink()
    assert main(["p/left.dcm", "-o", "out/left_seg.dcm", "--model", model, "--threshold", "0.4",
                 "--resume"]) == 0  # fmt: skip
    assert "0 segmented, 1 skipped" in capsys.readouterr().err


def test_segmentation_objects_of_other_photographs_are_an_error_for_each(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dicom_folder()
    photographs(Path("p"), ["eye.jpg"])
    assert main(["p", "-o", "out", "--model", model, "--dicom"]) == 1
    said = capsys.readouterr().err
    assert "eye.jpg' is no DICOM file. A Segmentation object refers to" in said
    assert "2 segmented, 0 skipped, 1 failed" in said
    assert "eye.png" not in tree(Path("out"))


def test_no_value_of_a_dicom_header_leaves_but_in_segmentation_objects(
    model: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path("p")
    folder.mkdir()
    (folder / "a.dcm").write_bytes(secret_file())
    (folder / "b.dcm").write_bytes(secret_file()[:5000])
    extra = ["--probability", "--overlay", "--fov", "--dicom", "--manifest", "out/run.jsonl"]
    assert main(["p", "-o", "out", "--model", model, *extra]) == 1
    assert "1 segmented, 0 skipped, 1 failed" in (said := capfd.readouterr().err)
    assert SECRET not in said.encode()
    files = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert [name for name, content in files.items() if SECRET in content] == ["a_seg.dcm"]
    assert len(files) == 6


# Standard input and output


def standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_pipe_brings_and_takes_a_picture(
    model: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (eye,) = photographs(Path(), ["eye.jpg"])
    expected = vesselseg.load_model(model)(eye).mask
    for place in ([], ["-o", "-"]):
        standard_input(monkeypatch, eye.read_bytes())
        assert main(["-", *place, "--model", model]) == 0
        with Image.open(io.BytesIO(capfdbinary.readouterr().out)) as mask:  # and nothing else
            assert (np.asarray(mask) == np.where(expected, 255, 0)).all()
    assert main(["eye.jpg", "-o", "-", "--model", model]) == 0
    assert capfdbinary.readouterr().out.startswith(b"\x89PNG")
    standard_input(monkeypatch, eye.read_bytes())
    assert main(["-", "eye.jpg", "-o", "out", "--model", model]) == 0
    assert (pixels(Path("out/stdin.png")) == pixels(Path("out/eye.png"))).all()
    standard_input(monkeypatch, b"nothing of the kind")
    assert main(["-", "--model", model]) == 1
    assert b"could not be decoded" in capfdbinary.readouterr().err


# Wrong usage: exit code 2 before any work


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a/eye.png", "b/eye.png"], "Several photographs need a folder for their results"),
        (["a/eye.png", "out.png"], "To write 'out.png', pass -o out.png."),
        (["a/*.png"], "Several photographs need a folder for their results"),
        (["s3://bucket/a.png", "-o", "out"], "Addresses need Ray: --executor ray"),
        (["a", "-o", "a"], "'a/eye.png' would be overwritten"),
        (["a/eye.png", "b/eye.png", "-o", "-"], "the mask of one image file"),
        (["a/eye.png", "-o", "-", "--overlay"], "the mask alone"),
        (["a", "-o", "out", "--scale=fit", "--manifest=m.csv"], "has no size for the scale 'fit'"),
        (["a", "-o", "out", "--measure"], "--measure needs a table for the measures"),
    ],
)
def test_wrong_usage_is_reported(
    model: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(Path(), ["a/eye.png", "b/eye.png"])
    before = tree(Path())
    assert main(["segment", *words, "--model", model]) == 2
    assert said in capsys.readouterr().err
    assert tree(Path()) == before


@pytest.mark.parametrize(
    "option",
    ["--threshold=1.5", "--threshold=x", "--scale=half", "--scale=-1", "--scale=nan", "--part=3/2",
     "--part=0/2", "--part=2", "--batch-size=0", "--overlay-style=dots", "--precision=int4",
     "--backend=tensorflow"],
)  # fmt: skip
def test_values_outside_what_is_allowed_are_reported(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["eye.jpg", "-o", "out", option])
    assert stopped.value.code == 2
    assert option.split("=")[1] in capsys.readouterr().err


# Failures and interruptions


def test_unreadable_images_are_reported_and_the_rest_goes_on(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(Path("p"), ["1.png", "2.png", "3.png"])
    Path("p/2.png").write_bytes(b"no image")
    assert main(["p", "missing.jpg", "-o", "out", "--model", model, "--manifest", "m.jsonl"]) == 1
    assert sorted(tree(Path("out"))) == ["1.png", "3.png"]
    said = capsys.readouterr().err
    assert "'p/2.png' could not be decoded" in said
    assert "There is no image 'missing.jpg'" in said
    assert "2 segmented, 0 skipped, 2 failed" in said
    assert [(line["input"], "error" in line) for line in lines("m.jsonl")] == [
        ("missing.jpg", True),
        ("p/1.png", False),
        ("p/2.png", True),
        ("p/3.png", False),
    ]


@pytest.mark.slow
def test_the_first_failure_can_end_a_run(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    photographs(Path("p"), [f"{i}.png" for i in range(40)])
    Path("p/1.png").write_bytes(b"no image")
    command = ["p", "-o", "out", "--model", model, "--manifest", "m.jsonl"]
    assert main([*command, "--on-error", "stop"]) == 1
    said = capsys.readouterr().err
    assert said.count("'p/1.png' could not be decoded") == 1
    assert "0 skipped, 1 failed" in said
    inputs = [line["input"] for line in lines("m.jsonl")]
    assert inputs[:2] == ["p/0.png", "p/1.png"]
    assert len(inputs) < 40
    photographs(Path("p"), ["1.png"])
    assert main([*command, "--resume"]) == 0
    assert len(lines("m.jsonl")) == 40


def test_warnings_name_their_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_weights(tmp_path / "wide.pth", replace(TINY, fov_diameter=600.0))
    photographs(Path("p"), ["100%s.png", "b.png"])
    assert main(["p", "-o", "out", "--model", "wide.pth"]) == 0
    *said, _ = capsys.readouterr().err.splitlines()
    assert [line.partition(" The field of view is")[0] for line in said] == [
        "WARNING: p/100%s.png:",
        "WARNING: p/b.png:",
    ]
    assert main(["p", "-o", "out", "--model", "wide.pth", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_resuming_leaves_out_what_is_complete(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(Path("p"), ["1.png", "2.png", "3.png"])
    again = ["p", "-o", "out", "--model", model, "--overlay", "--resume"]
    assert main(again) == 0
    expected = tree(Path("out"))
    Path("out/2_overlay.png").unlink()
    assert main(again) == 0
    assert "1 segmented, 2 skipped" in capsys.readouterr().err
    assert tree(Path("out")) == expected


def test_resuming_replaces_results_of_other_settings(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(Path("p"), ["1.png", "2.png"])
    tiny_weights(tmp_path / "other", seed=5)
    other = ["--model", "other"]
    assert main(["p", "-o", "fresh", *other]) == 0
    assert main(["p/1.png", "-o", "out", "--model", model]) == 0
    assert main(["p/2.png", "-o", "out", *other]) == 0
    capsys.readouterr()
    assert main(["p", "-o", "out", *other, "--resume"]) == 0
    said = capsys.readouterr().err
    assert "1 segmented (1 again, since their settings or files differed), 1 skipped" in said
    assert tree(Path("out")) == tree(Path("fresh"))


def test_a_run_that_never_began_has_no_summary(capsys: pytest.CaptureFixture[str]) -> None:
    photographs(Path("p"), ["1.png"])
    assert main(["p", "-o", "out", "--model", "drive"]) == 2
    said = capsys.readouterr().err
    assert "There is no model 'drive'" in said
    assert "segmented" not in said


def test_keep_endings_keeps_photographs_of_one_name_apart(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(Path("p"), ["eye.png", "eye.bmp"])
    assert main(["p", "-o", "out", "--model", model]) == 2
    assert "--keep-endings" in capsys.readouterr().err
    assert main(["p", "-o", "out", "--model", model, "--keep-endings"]) == 0
    assert sorted(tree(Path("out"))) == ["eye.bmp.png", "eye.png.png"]


def test_bits_of_16_bit_files(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    (eye,) = photographs(Path("p"), ["eye.png"])
    grey = pixels(eye)[..., 1]
    Image.fromarray(twelve_bits(grey)).save("deep.png")
    Image.fromarray(grey).save("grey.png")
    assert main(["deep.png", "grey.png", "-o", "out", "--model", model, "--bits", "12"]) == 1
    assert "12 bits are for uint16" in capsys.readouterr().err
    assert main(["grey.png", "-o", "out", "--model", model]) == 0
    assert (pixels(Path("out/deep.png")) == pixels(Path("out/grey.png"))).all()


def test_bits_of_a_file_whose_mask_goes_to_standard_output(
    model: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (eye,) = photographs(Path("p"), ["eye.png"])
    grey = pixels(eye)[..., 1]
    Image.fromarray(twelve_bits(grey)).save("deep.png")
    Image.fromarray(grey).save("grey.png")
    for name, options in (("deep.png", ["--bits", "12"]), ("grey.png", [])):
        assert main([name, "-o", "-", "--model", model, *options]) == 0
        Path(f"{name}.mask.png").write_bytes(capfdbinary.readouterr().out)
    assert (pixels(Path("deep.png.mask.png")) == pixels(Path("grey.png.mask.png"))).all()


def test_parts_together_are_the_whole(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    photographs(Path("p"), [f"{i}.png" for i in range(5)])
    assert main(["p", "-o", "whole", "--model", model]) == 0
    for part, count in (("1/3", 2), ("2/3", 2), ("3/3", 1), ("6/6", 0)):
        assert main(["p", "-o", "out", "--model", model, "--part", part]) == 0
        assert f"{count} segmented" in capsys.readouterr().err.splitlines()[-1]
    assert tree(Path("out")) == tree(Path("whole"))
    empty = ["p", "-o", "out", "--model", model, "--part", "6/6", "--manifest", "empty.jsonl"]
    assert main(empty) == 0
    assert lines("empty.jsonl") == []


def test_a_manifest_goes_on_where_results_are_skipped(model: str) -> None:
    photographs(Path("p"), ["1.png", "2.png", "3.png", "4.png"])
    command = ["p", "-o", "out", "--model", model, "--manifest", "m.jsonl"]
    assert main(command) == 0
    expected = without_seconds("m.jsonl")
    kept = Path("m.jsonl").read_text().splitlines(keepends=True)
    # As an interruption leaves it: a line not written yet, an old error, a result missing.
    Path("m.jsonl").write_text(
        f'{kept[0]}{{"input": "p/3.png", "error": "x", "mask": "out/3.png"}}\n{kept[3][:40]}'
    )
    Path("out/3.png").unlink()
    assert main([*command, "--resume"]) == 0
    assert without_seconds("m.jsonl") == expected
    assert [line["seconds"] is None for line in lines("m.jsonl")] == [False, True, False, True]
    # Without --resume it begins anew.
    assert main(["p/1.png", *command[1:]]) == 0
    assert without_seconds("m.jsonl") == expected[:1]


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes to stop a run half-way")
def test_a_run_killed_half_way_is_finished_by_resuming(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"sub/{i:03}.png" for i in range(100)]
    for folder in ("undisturbed", "killed"):
        photographs(Path(folder, "p"), names)
    command = ["p", "-o", "out", "-r", "--fov", "--model", model, "--manifest", "run/m.jsonl"]
    monkeypatch.chdir("undisturbed")
    assert main(command) == 0

    monkeypatch.chdir("../killed")
    content = Path("p/sub/050.png").read_bytes()
    Path("p/sub/050.png").unlink()
    os.mkfifo("p/sub/050.jpg")  # opening it takes until somebody writes: the run stops here
    process = start("p/sub/050.jpg", *command)
    wait_for(lambda: len(list(Path("out").rglob("*_fov.png"))) >= 45)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()  # type: ignore[union-attr]
    done = len(list(Path("out").rglob("*_fov.png")))
    assert 45 <= done <= 50
    assert 0 < len(lines("run/m.jsonl")) <= done

    Path("p/sub/050.jpg").unlink()
    Path("p/sub/050.png").write_bytes(content)
    assert main([*command, "--resume"]) == 0
    results = tree(Path("out"))
    assert {k: v for k, v in results.items() if not k.endswith(".part")} == tree(
        Path("../undisturbed/out")
    )
    assert without_seconds("run/m.jsonl") == without_seconds("../undisturbed/run/m.jsonl")
    assert len(lines("run/m.jsonl")) == 100


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes to stop a run half-way")
def test_ctrl_c_ends_with_130_and_whole_files_only(model: str) -> None:
    photographs(Path("p"), [f"{i:02}.png" for i in range(40) if i != 20])
    os.mkfifo("p/20.jpg")
    process = start("p", "p/20.jpg", "-o", "out", "--model", model, "--manifest", "m.jsonl")
    pipes: list[int] = []

    def is_being_read() -> bool:
        with contextlib.suppress(OSError):  # as long as nobody reads it
            pipes.append(os.open("p/20.jpg", os.O_WRONLY | os.O_NONBLOCK))
        return bool(pipes)

    wait_for(is_being_read)
    wait_for(lambda: len(list(Path().glob("out/*.png"))) >= 14)
    process.send_signal(signal.SIGINT)
    os.close(pipes[0])  # the reader gets an empty file and ends
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    written = sorted(Path("out").iterdir())
    assert all(pixels(path).shape == photograph(0).shape[:2] for path in written)
    assert [line["mask"] for line in lines("m.jsonl")] == list(map(str, written))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_ends_a_run_with_one_message(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_as_usual = Path.open

    def open_full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        place = Path("/dev/full") if mode == "ab" else path
        return open_as_usual(place, mode, *arguments, **options)

    photographs(Path("p"), ["1.png", "2.png"])
    monkeypatch.setattr(Path, "open", open_full)
    assert main(["p", "-o", "out", "--model", model, "--manifest", "m.jsonl"]) == 1
    errors = capsys.readouterr().err
    assert "The table 'm.jsonl' cannot be written: No space left on device" in errors
    assert "Traceback" not in errors


def test_a_place_that_cannot_be_written_is_reported_before_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    photographs(Path("p"), ["1.png"])
    Path("file").touch()
    assert main(["p", "-o", "file/out", "--model", "missing.pth"]) == 2
    assert "The folder 'file/out' cannot be created" in capsys.readouterr().err
    assert main(["p", "-o", "file/", "--model", "missing.pth"]) == 2
    said = "The folder 'file' cannot be created: there is a file of that name."
    assert said in capsys.readouterr().err
