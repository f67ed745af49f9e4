"""``vesselseg evaluate``: what it prints, writes, rejects and returns."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys

import pytest
from support import drawn, models

from vesselseg import Segmenter
from vesselseg.cli import main


@pytest.fixture
def weights(tmp_path):
    return str(models.tiny_weights(tmp_path / "tiny.pth"))


def run(capsys, *arguments):
    """Exit code, standard output and standard error."""
    code = main(["evaluate", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def reject(capsys, *arguments):
    """Standard error of arguments that are wrong usage."""
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", *map(str, arguments)])
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_the_test_split_is_evaluated_and_named(tmp_path, weights, capsys):
    folder = drawn.chase_db1(tmp_path / "data")

    code, out, _ = run(capsys, folder, "--dataset", "chase_db1", "--model", weights)

    assert code == 0
    first, *lines = out.splitlines()
    assert first == "CHASE_DB1, test split: 8 of 8 images"
    assert sum(line.startswith("tiny ") for line in lines) == 3
    assert sum(line.startswith("second observer ") for line in lines) == 3
    assert "training" not in out


def test_training_images_are_evaluated_only_when_asked_for_and_called_so(tmp_path, weights, capsys):
    folder = drawn.chase_db1(tmp_path / "data", numbers=range(1, 3))
    arguments = [folder, "--dataset", "chase_db1", "--model", weights]

    code, out, err = run(capsys, *arguments)
    assert code == 1
    assert out == ""
    assert "4 training images of CHASE_DB1 and no test image" in err
    assert "--split train" in err

    code, out, err = run(
        capsys, *arguments, "--split", "train", "--report", tmp_path / "report",
        "--json", tmp_path / "figures.json",
    )  # fmt: skip
    assert code == 0
    assert out.startswith("CHASE_DB1, training images, not a test: 4 of 20 images")
    assert out.count("training images, not a test") == 4  # and in the heading of each table
    assert json.loads((tmp_path / "figures.json").read_text())["training_images"] is True
    assert "Training images, not a test." in (tmp_path / "report" / "index.html").read_text(
        encoding="utf-8"
    )


def test_all_outputs_tell_of_the_same_figures(tmp_path, weights, capsys):
    folder = drawn.pairs(tmp_path / "data")

    code, out, _ = run(
        capsys, folder, "--dataset", "pairs", "--model", weights, "--device", "cpu",
        "--json", tmp_path / "figures.json", "--csv", tmp_path / "figures.csv",
        "--report", tmp_path / "new" / "report",
    )  # fmt: skip

    assert code == 0
    (result,) = json.loads((tmp_path / "figures.json").read_text())["results"]
    with (tmp_path / "figures.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    images = [image["inside_field_of_view"]["dice"] for image in result["images"]]
    assert [float(row["dice"]) for row in rows] == images
    pooled = f"{100 * result['inside_field_of_view']['pooled']['dice']:.2f}"
    html = (tmp_path / "new" / "report" / "index.html").read_text(encoding="utf-8")
    assert pooled in out
    assert f"<td>{pooled}</td>" in html
    assert out.endswith(f"Report: {tmp_path / 'new' / 'report' / 'index.html'}\n")


def test_several_models_stand_in_one_table(tmp_path, weights, capsys):
    other = dataclasses.replace(models.TINY, name="other")
    second = models.tiny_weights(tmp_path / "other.pth", other, seed=1)
    folder = drawn.pairs(tmp_path / "data")

    code, out, _ = run(
        capsys, folder, "--dataset", "pairs", "--model", weights, "--model", second,
        "--report", tmp_path / "report",
    )  # fmt: skip

    assert code == 0
    names = [line.split()[0] for line in out.splitlines() if line.startswith(("tiny ", "other "))]
    assert names == ["tiny", "other"] * 3
    html = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert html.count("<figcaption>tiny</figcaption>") == 3
    assert html.count("<figcaption>other</figcaption>") == 3
    assert html.count("<figcaption>Photograph</figcaption>") == 3


def test_pairs_may_lie_in_any_two_folders(tmp_path, weights, capsys):
    folder = drawn.pairs(tmp_path / "data")
    (folder / "images").rename(tmp_path / "photographs")

    code, out, _ = run(
        capsys, "--dataset", "pairs", "--model", weights,
        "--images", tmp_path / "photographs", "--labels", folder / "labels",
    )  # fmt: skip

    assert code == 0
    assert out.startswith("3 pairs\n")


def test_masks_beside_pairs_are_their_field_of_view(tmp_path, weights, capsys):
    folder = drawn.pairs(tmp_path / "data")
    for name in "abc":
        drawn.write(folder / "masks" / f"{name}.png", drawn.disc())

    code, out, _ = run(capsys, folder, "--dataset", "pairs", "--model", weights)

    assert code == 0
    assert "Field of view: the data set's own." in out


def test_options_reach_the_model(tmp_path, weights, capsys):
    folder = drawn.pairs(tmp_path / "data")

    code, out, _ = run(
        capsys, folder, "--dataset", "pairs", "--model", weights, "--scale", "0.75",
        "--threshold", "0.25", "--precision", "bfloat16", "--device", "cpu",
    )  # fmt: skip

    assert code == 0
    assert "scale 0.75, bfloat16 on cpu, threshold 0.25" in out


def test_weights_are_read_for_a_named_model_and_rejected_if_they_are_not_its(
    tmp_path, weights, capsys
):
    folder = drawn.pairs(tmp_path / "data")
    arguments = [folder, "--dataset", "pairs", "--weights", weights]

    code, _, err = run(capsys, *arguments, "--model", "unet_s5-d16_drive")

    assert code == 1
    assert "tiny.pth" in err


def test_failures_are_said_in_a_line_and_exit_with_1(tmp_path, weights, capsys):
    folder = drawn.pairs(tmp_path / "data")
    (folder / "labels" / "b.png").write_bytes(b"no picture")

    for arguments, message in [
        ([folder, "--model", weights], "could not be decoded"),
        ([tmp_path / "nowhere", "--model", weights], "There is no folder"),
    ]:
        code, out, err = run(capsys, *arguments, "--dataset", "pairs")
        assert (code, out) == (1, "")
        assert message in err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model", "unet_s5-d16_driv", "Did you mean 'unet_s5-d16_drive'"),
        ("--scale", "fit", "has no size for scale='fit'"),
        ("--device", "cpuu", "cpuu"),
    ],
)
def test_what_a_model_cannot_do_is_found_before_the_first_photograph(
    tmp_path, weights, capsys, monkeypatch, option, value, message
):
    folder = drawn.pairs(tmp_path / "data")
    monkeypatch.setattr(Segmenter, "segment_many", None)

    code, out, err = run(capsys, folder, "--dataset", "pairs", "--model", weights, option, value)

    assert code != 0
    assert out == ""
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--dataset"),
        (["x", "--dataset", "retina"], "invalid choice: 'retina'"),
        (["--dataset", "drive"], "FOLDER is missing"),
        (["x", "--dataset", "drive", "--images", "y"], "--images is for --dataset pairs"),
        (["x", "--dataset", "pairs", "--split", "test"], "--split is for the published data sets"),
        (["--dataset", "pairs", "--images", "y"], "both --images and --labels"),
        (["x", "--dataset", "pairs", "--weights", "y"], "--weights needs exactly one --model"),
        (["x", "--dataset", "pairs", "--scale", "big"], "'big' is neither fit, native, fov"),
        (["x", "--dataset", "pairs", "--scale", "-1"], "'-1' is neither fit, native, fov"),
        (["x", "--dataset", "pairs", "--threshold", "50"], "'50' is not a number from 0 to 1"),
        (
            ["x", "--dataset", "pairs", "--json", "no/where.json"],
            "folder of no/where.json does not",
        ),
        (["x", "--dataset", "pairs", "--report", __file__], "is a file"),
    ],
)
def test_wrong_usage_exits_with_2_before_any_work(arguments, message, capsys):
    assert message in reject(capsys, *arguments)


def test_help_names_every_option_and_loads_no_torch():
    code = (
        "import sys; from vesselseg.cli import main\n"
        "try: main(['evaluate', '--help'])\n"
        "except SystemExit: print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    )

    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout

    options = (
        "dataset split images labels masks model weights device precision scale threshold json "
        "csv report"
    )
    assert all(f"--{option} " in out for option in options.split())
    assert out.endswith("set()\n")
