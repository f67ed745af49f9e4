"""``vesselseg evaluate``: what it prints, writes, rejects and returns."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys

import pytest
from support import drawn, models

from vesselseg import Segmenter
from vesselseg.cli import main
from vesselseg.errors import how_to_install


@pytest.fixture
def weights(tmp_path):
    return models.tiny_weights(tmp_path / "tiny.pth")


@pytest.fixture
def run(capsys):
    """Run the command: exit code, standard output and standard error."""

    def run(*arguments):
        try:
            code = main(["evaluate", *map(str, arguments)])
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def pairs(tmp_path):
    """The arguments that name three photographs and their labels."""
    return [drawn.pairs(tmp_path / "data"), "--dataset", "pairs"]


@pytest.mark.slow
def test_the_test_split_is_evaluated_and_named(tmp_path, weights, run):
    folder = drawn.chase_db1(tmp_path / "data")

    code, out, _ = run(folder, "--dataset", "chase_db1", "--model", weights)

    assert code == 0
    first, *lines = out.splitlines()
    assert first == "CHASE_DB1, test split: 8 of 8 images"
    assert sum(line.startswith("tiny ") for line in lines) == 5
    assert sum(line.startswith("second observer ") for line in lines) == 6
    assert "training" not in out


@pytest.mark.slow
def test_training_images_are_evaluated_only_when_asked_for_and_called_so(tmp_path, weights, run):
    folder = drawn.chase_db1(tmp_path / "data", numbers=range(1, 3))
    arguments = [folder, "--dataset", "chase_db1", "--model", weights]

    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "4 training images of CHASE_DB1, which are not a test" in err
    assert "--split train" in err

    files = ["--report", tmp_path / "report", "--json", tmp_path / "figures.json"]
    code, out, err = run(*arguments, "--split", "train", *files)
    assert code == 0
    assert out.startswith("CHASE_DB1, training images, not a test: 4 of 20 images")
    assert out.count("training images, not a test") == 7  # and in the heading of each table
    assert json.loads((tmp_path / "figures.json").read_text())["training_images"] is True
    html = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert '<p class="warning">Training images, not a test.</p>' in html


def test_labels_of_the_second_observer_that_cannot_be_read_are_found_before_a_model_runs(
    tmp_path, weights, run, monkeypatch
):
    folder = drawn.chase_db1(tmp_path / "data")
    for path in folder.rglob("*_2ndHO.png"):
        path.write_bytes(b"no picture")
    monkeypatch.setattr(Segmenter, "segment_many", None)  # a call would be another error

    code, out, err = run(folder, "--dataset", "chase_db1", "--model", weights)

    assert (code, out) == (2, "")
    assert "Image_11L_2ndHO.png' could not be decoded" in err


@pytest.mark.slow
def test_all_outputs_tell_of_the_same_figures(tmp_path, weights, run, pairs):
    page = tmp_path / "new" / "report" / "index.html"

    code, out, _ = run(
        *pairs, "--model", weights, "--device", "cpu", "--json", tmp_path / "figures.json",
        "--table", tmp_path / "figures.csv", "--report", page.parent, "--figures", "pdf",
    )  # fmt: skip

    assert code == 0
    (result,) = json.loads((tmp_path / "figures.json").read_text())["results"]
    with (tmp_path / "figures.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    images = [image["inside_field_of_view"]["dice"] for image in result["images"]]
    assert [float(row["dice"]) for row in rows] == images
    pooled = f"{100 * result['inside_field_of_view']['pooled']['dice']:.2f}"
    assert pooled in out
    html = page.read_text(encoding="utf-8")
    assert f"<td>{pooled}<small>" in html
    assert html.count("<figcaption>tiny</figcaption>") == 3
    for figure in ("roc.svg", "roc.pdf", "agreement-density.svg", "agreement-density.pdf"):
        assert (page.parent / "figures" / figure).exists()
    assert out.endswith(f"Report: {page}\n")
    beside = page.parent / "evaluation.csv"
    assert beside.read_text() == (tmp_path / "figures.csv").read_text()
    run = json.loads((page.parent / "evaluation.json").read_text())["run"]
    assert run["command"].startswith("vesselseg ")


@pytest.mark.slow
def test_several_models_stand_in_one_table(tmp_path, weights, run, pairs):
    other = dataclasses.replace(models.TINY, name="other")
    second = models.tiny_weights(tmp_path / "other.pth", other, seed=1)

    code, out, _ = run(*pairs, "--model", weights, "--model", second)

    assert code == 0
    names = [line.split()[0] for line in out.splitlines() if line.startswith(("tiny ", "other "))]
    assert names == ["tiny", "other"] * 5 + ["other"]  # and its differences from the first


@pytest.mark.slow
def test_two_models_of_one_name_are_told_apart(tmp_path, weights, run, pairs):
    second = models.tiny_weights(tmp_path / "second.pth", seed=1)

    code, out, _ = run(*pairs, "--model", weights, "--model", second)

    assert code == 0
    assert f"tiny ({weights})" in out
    assert f"tiny ({second})" in out


def test_subjects_are_named_by_a_pattern(tmp_path, weights, run):
    folder = drawn.pairs(tmp_path / "data", names=("anna_L", "anna_R", "ben_L"))
    arguments = [folder, "--dataset", "pairs", "--model", weights, "--table", tmp_path / "rows.csv"]

    code, out, _ = run(*arguments, "--group", "(.+)_[LR]")

    assert code == 0
    assert "over 2 subjects (3 photographs)" in out
    with (tmp_path / "rows.csv").open(newline="") as stream:
        assert [row["subject"] for row in csv.DictReader(stream)] == ["anna", "anna", "ben"]
    code, out, err = run(*arguments, "--group", "carl")
    assert (code, out) == (2, "")
    assert "'carl' finds no subject in the file name 'anna_L.png'" in err


def test_without_matplotlib_nothing_is_computed_in_vain(tmp_path, weights, run, pairs, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(Segmenter, "segment_many", None)

    code, _, err = run(*pairs, "--model", weights, "--report", tmp_path / "page")

    assert code == 2
    assert how_to_install("eval") in err


def test_pairs_may_lie_in_any_two_folders(tmp_path, weights, run):
    folder = drawn.pairs(tmp_path / "data")
    (folder / "images").rename(tmp_path / "photographs")
    folders = ["--images", tmp_path / "photographs", "--labels", folder / "labels"]

    code, out, _ = run("--dataset", "pairs", "--model", weights, *folders)

    assert code == 0
    assert out.startswith("3 pairs\n")


def test_masks_beside_pairs_are_their_field_of_view(weights, run, pairs):
    for name in "abc":
        drawn.write(pairs[0] / "masks" / f"{name}.png", drawn.disc())

    code, out, _ = run(*pairs, "--model", weights)

    assert code == 0
    assert "Field of view: the data set's own." in out


def test_options_reach_the_model(weights, run, pairs):
    code, out, _ = run(
        *pairs, "--model", weights, "--scale", "0.75", "--threshold", "0.25",
        "--precision", "bfloat16", "--device", "cpu", "--limit", "2",
    )  # fmt: skip

    assert code == 0
    assert out.startswith("2 pairs\n")
    assert "scale 0.75, bfloat16 on cpu, threshold 0.25" in out


def test_without_a_data_set_or_a_model_nothing_is_done(weights, run, pairs):
    for arguments, message in [
        ([pairs[0] / "images", *pairs[1:], "--model", weights], "are in FOLDER/images and FOLDER/"),
        ([*pairs, "--weights", weights, "--model", "unet_s5-d16_drive"], "tiny.pth"),
    ]:
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert message in err


@pytest.mark.slow
def test_a_pair_that_cannot_be_used_is_named_and_the_others_are_evaluated(
    tmp_path, weights, run, pairs
):
    (pairs[0] / "labels" / "b.png").write_bytes(b"no picture")
    code, out, err = run(*pairs, "--model", weights, "--json", tmp_path / "figures.json")
    assert code == 1
    assert "vesselseg: b: Label" in err
    assert "Could not be used: b." in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures["failed"]) == ["b"]
    assert [image["name"] for image in figures["results"][0]["images"]] == ["a", "c"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model", "unet_s5-d16_driv", "Did you mean 'unet_s5-d16_drive'"),
        ("--scale", "fit", "has no size for the scale 'fit'"),
        ("--device", "cpuu", "cpuu"),
    ],
)
def test_what_a_model_cannot_do_is_found_before_the_first_photograph(
    weights, run, pairs, monkeypatch, option, value, message
):
    monkeypatch.setattr(Segmenter, "segment_many", None)

    code, out, err = run(*pairs, "--model", weights, option, value)

    assert code != 0
    assert out == ""
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "--dataset"),
        (
            "x --dataset hfr",
            "'hfr' is not one of drive, stare, chase_db1, hrf, pairs. Did you mean",
        ),
        ("--dataset drive", "FOLDER is missing"),
        ("x --dataset drive --images y", "--images is for --dataset pairs"),
        ("x --dataset pairs --split test", "--split is for the published data sets"),
        ("--dataset pairs --images y", "both --images and --labels"),
        ("x --dataset pairs --weights y", "--weights needs exactly one --model"),
        ("x --dataset pairs --scale big", "'big' is neither fit, native, fov"),
        ("x --dataset pairs --scale -1", "'-1' is neither fit, native, fov"),
        ("x --dataset pairs --threshold 50", "'50' is not a number from 0 to 1"),
        ("x --dataset pairs --table x.parquet", "--table needs a file ending in .csv"),
        ("x --dataset pairs --json no/where.json", "folder of no/where.json does not"),
        ("x --dataset pairs --report file", "is a file"),
        ("x --dataset drive --group y", "--group is for --dataset pairs"),
        ("x --dataset pairs --figures pdf", "--figures needs --report"),
    ],
)
def test_wrong_usage_exits_with_2_before_any_work(tmp_path, monkeypatch, run, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()

    code, out, err = run(*arguments.split())

    assert (code, out) == (2, "")
    assert message in err
