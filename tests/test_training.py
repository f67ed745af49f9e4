"""The scripts of training/ on drawn photographs, from photographs to a measured model."""

import argparse
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from support.drawn import photograph, vessels, write

from vesselseg import load_model
from vesselseg.finetune import losses
from vesselseg.finetune import windows as finetune_windows
from vesselseg.finetune.augmentation import Augmentation
from vesselseg.finetune.windows import Sizes, Windows
from vesselseg.registry import EMBEDDED
from vesselseg.unet import fold_batch_norm

TRAINING = Path(__file__).parents[1] / "training"
FOLDS = [f"fold{number}" for number in range(1, 6)]


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(TRAINING)


@pytest.fixture
def script(monkeypatch, capsys, one_thread):  # noqa: ARG001
    """A script run with arguments; what it printed."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with torch.random.fork_rng():
            importlib.import_module(name).main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def data() -> ModuleType:
    return importlib.import_module("data")


def split(name: str) -> dict[str, list[str]]:
    return json.loads((TRAINING / "splits" / f"{name}.json").read_text())


def chase_db1(folder: Path) -> Path:
    """Three children, in the layout of training/README.md."""
    for number in (1, 2, 3):
        for seed, eye in enumerate("LR", start=2 * number):
            write(folder / "images" / f"Image_{number:02}{eye}.jpg", photograph(seed))
            write(folder / "labels" / f"Image_{number:02}{eye}_1stHO.png", vessels(seed))
    return folder


def hrf(folder: Path) -> Path:
    for seed, kind in enumerate(("dr", "g", "h")):
        write(folder / "images" / f"01_{kind}.jpg", photograph(seed))
        write(folder / "labels" / f"01_{kind}.tif", vessels(seed))
    return folder


def fives(folder: Path) -> Path:
    for seed in (3, 4):
        write(folder / "images" / f"{seed}_A.png", photograph(seed))
        write(folder / "labels" / f"{seed}_A.png", vessels(seed))
    return folder


def idrid(folder: Path) -> Path:
    """A photograph without a label."""
    write(folder / "images" / "IDRiD_01.jpg", photograph(5))
    return folder


def folders(**given: Path) -> argparse.Namespace:
    """The options of the scripts that name the data sets' folders."""
    return argparse.Namespace(**{"chase_db1": None, "hrf": None, "fives": None, **given})


@pytest.mark.parametrize("name", [*FOLDS, "hrf-to-chase", "chase-to-hrf"])
def test_no_subject_is_on_both_sides_of_a_split(name):
    sides = split(name)
    assert sides["train"]
    assert sides["test"]
    assert not set(sides["train"]) & set(sides["test"])


def test_the_folds_test_every_subject_once():
    tested = [group for fold in FOLDS for group in split(fold)["test"]]
    children = [f"chase_db1/{number:02}" for number in range(1, 11)]
    adults = [f"hrf/{number:02}_{kind}" for number in range(1, 6) for kind in ("dr", "g", "h")]
    assert sorted(tested) == sorted(children + adults)
    assert all(sorted(split(f)["train"] + split(f)["test"]) == sorted(tested) for f in FOLDS)


def test_both_eyes_of_a_child_are_in_one_group(tmp_path, data):
    sources = data.photographs(folders(chase_db1=chase_db1(tmp_path)))
    chosen = data.of_groups(sources, ["chase_db1/02"])
    assert [source.name for source in chosen] == ["chase_db1/Image_02L", "chase_db1/Image_02R"]
    assert data.of_groups(sources, ["chase_db1"]) == sources
    with pytest.raises(ValueError, match="no such group: hrf"):
        data.of_groups(sources, ["chase_db1/01", "hrf"])


def test_windows_keep_label_and_image_together(tmp_path, data):
    # Colours are left alone, so that a vessel's pixels can be told by their darkness.
    sources = data.photographs(folders(chase_db1=chase_db1(tmp_path)))
    sizes = Sizes((918, 918), (1.0, 1.01))  # one drawn pixel is one of the window's
    drawn = data.windows(
        sources, sizes, 0, balance=False, augmentation=Augmentation(0, local=False), biases={}
    )
    images, labels, *_ = drawn.batch(16)
    assert images.shape == (16, 3, 256, 256)
    assert labels.shape == (16, 256, 256)
    assert 0 <= labels.min() <= labels.max() <= 1
    red = images[:, 0]
    vessel, fundus = red[labels > 0.9], red[(labels < 0.1) & (red > 0.2)]
    assert len(vessel) > 100
    assert fundus.mean() == pytest.approx(0.7, abs=0.05)
    assert vessel.mean() == pytest.approx(0.35, abs=0.05)  # they are drawn half as bright


def test_photographs_are_seen_at_the_size_that_they_have_in_use():
    sizes = Sizes((1000, 1500), (0.5, 2))
    assert [sizes.drawn_from(d) for d in (918, 1200, 3263)] == [
        (500, 2000),
        (600, 2400),
        (750, 3000),
    ]


@pytest.mark.slow
def test_windows_are_drawn_from_the_seed_alone(tmp_path, data):
    sources = data.photographs(
        folders(chase_db1=chase_db1(tmp_path / "c"), hrf=hrf(tmp_path / "h"))
    )

    def batch(seed: int) -> torch.Tensor:
        sizes = Sizes((1000, 1500), (0.8, 1.2))
        augmentation = Augmentation(1.5, local=True)
        windows = data.windows(
            sources, sizes, seed, balance=True, augmentation=augmentation, biases={}
        )
        images = windows.batch(3).images
        assert 0 <= images.min() <= images.max() <= 1
        return images

    assert torch.equal(batch(5), batch(5))
    assert not torch.equal(batch(5), batch(6))


def test_changes_are_of_the_image_alone_and_each_has_its_switch(tmp_path, data):
    sources = data.photographs(folders(chase_db1=chase_db1(tmp_path)))

    def window(colour: float, local: bool) -> tuple[torch.Tensor, torch.Tensor]:
        # The first of a seed: what is drawn for its colours moves only those after it.
        sizes = Sizes((918, 918), (1.0, 1.01))
        augmentation = Augmentation(colour, local=local)
        images, labels, *_ = data.windows(
            sources, sizes, 1, balance=True, augmentation=augmentation, biases={}
        ).batch(1)
        return images[0], labels[0]

    plain, label = window(0, False)
    fundus = (label < 0.1) & (plain[0] > 0.2)
    seen = [plain]
    for colour, local in [(1, False), (1.5, False), (1.5, True)]:
        image, same = window(colour, local)
        assert torch.equal(label, same)
        assert image[0, label > 0.9].mean() < image[0, fundus].mean()  # vessels remain darker
        assert not any(torch.equal(image, other) for other in seen)
        seen.append(image)


@pytest.mark.parametrize("turn", [True, False])
def test_windows_are_turned_and_mirrored_unless_they_must_not_be(tmp_path, data, turn):
    brighter_to_the_right = np.tile(np.linspace(40, 240, 960)[None, :, None], (960, 1, 3))
    write(tmp_path / "images" / "Image_01L.jpg", brighter_to_the_right.astype(np.uint8))
    write(tmp_path / "labels" / "Image_01L_1stHO.png", np.eye(960, dtype=bool))
    sizes = Sizes((918, 918), (1.0, 1.01))
    augmentation = Augmentation(0, local=False, turn=turn)
    sources = data.photographs(folders(chase_db1=tmp_path))
    drawn = data.windows(sources, sizes, 3, balance=False, augmentation=augmentation, biases={})
    images = drawn.batch(8).images
    middle = images[:, 0, 96:160, 96:160]  # inside the photograph, wherever the window lies
    rightwards = middle[..., 48:].mean(dim=(1, 2)) - middle[..., :16].mean(dim=(1, 2))
    assert (rightwards > 0.01).all() == (not turn)


def test_losses_are_least_where_the_label_is_met():
    coverage = torch.zeros(1, 32, 32)
    coverage[:, 14:18] = 1
    known = torch.ones_like(coverage)
    sure = 20 * torch.stack([0.5 - coverage, coverage - 0.5], dim=1)
    for loss in (losses.cross_entropy, losses.soft_dice, losses.centreline_dice):
        assert loss(sure, coverage, known) == pytest.approx(0, abs=1e-2)
        assert loss(-sure, coverage, known) > 0.9
    shifted = losses.centreline_dice(sure.roll(1, dims=2), coverage, known)
    assert shifted < 0.5 < losses.centreline_dice(sure.roll(8, dims=2), coverage, known)


@pytest.mark.slow
def test_an_interrupted_run_resumes_with_the_same_weights(tmp_path, script, monkeypatch):
    train = importlib.import_module("train")
    folder = chase_db1(tmp_path / "c")
    (tmp_path / "split.json").write_text('{"train": ["chase_db1/01"]}')

    def trained(run: str) -> dict:
        options = ["--chase-db1", folder, "--split", tmp_path / "split.json", "--width", 8]
        script("train", "--run", tmp_path / run, *options, "--depth", 2, "--batch-size", 1,
               "--iterations", 3)  # fmt: skip
        return torch.load(tmp_path / run / "state.pth", weights_only=True)

    whole = trained("whole")
    draw, drawn = Windows.batch, []

    def stop_at_the_third(self, size):
        drawn.append(size)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(self, size)

    with monkeypatch.context() as patch:
        patch.setattr(train, "SAVE_EVERY", 2)
        patch.setattr(Windows, "batch", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            trained("stopped")
    resumed = trained("stopped")
    assert resumed["iteration"] == whole["iteration"] == 3
    for key, value in whole["average"].items():
        assert torch.equal(value, resumed["average"][key]), key


@pytest.mark.slow
def test_a_model_is_trained_exported_and_evaluated(tmp_path, script):
    folders = ["--chase-db1", chase_db1(tmp_path / "c"), "--hrf", hrf(tmp_path / "h")]
    sides = {"train": ["chase_db1/01", "hrf/01_g"], "test": ["chase_db1/03", "hrf/01_h"]}
    (tmp_path / "split.json").write_text(json.dumps(sides))
    which = [*folders, "--split", tmp_path / "split.json"]
    run, model = tmp_path / "run", tmp_path / "model.pth"

    small = ["--width", 8, "--depth", 3, "--batch-size", 1, "--iterations", 2]
    script("train", *which, "--run", run, *small, "--centreline", 0.5)
    assert "2 iterations" in script("export", "--run", run, "--output", model)
    loaded = load_model(model)
    assert (loaded.spec.width, loaded.spec.depth) == (8, 3)
    assert loaded.spec.fov_rgb_mean == (160, 75, 30)
    assert loaded.spec.fov_range == (1000, 1500)

    evaluate = [*which, "--model", model, "--diameter", 100, 150]
    out = script("evaluate", *evaluate, "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures) == {"chase_db1", "hrf"}
    assert 0 <= figures["hrf"]["pooled"]["dice"] <= figures["hrf"]["pooled"]["best_dice"] <= 1
    assert figures["hrf"]["dice_at"]["0.50"] == figures["hrf"]["pooled"]["dice"]
    assert sum(bin["pixels"] for bin in figures["hrf"]["reliability"]) == 40 * 44
    assert "hrf/01_h" in out
    assert "Image_03L" in out
    assert "Image_01L" not in out
    masked = script("evaluate", *evaluate, "--mask", "--windows", 64, 48)
    assert 'chase_db1 {"dice"' in masked

    # The bias that is moved lets 0.3 pass where 0.5 did.
    script("export", "--run", run, "--output", model, "--threshold", 0.3)
    moved = load_model(model)
    picture = photograph(9)
    was, now = (x(picture).probability for x in (loaded, moved))
    undecided = (was > 0.001) & (was < 0.999)
    was, now = was[undecided], now[undecided]
    odds = was / (1 - was) * 0.7 / 0.3
    assert np.allclose(now, odds / (1 + odds), atol=1e-2)

    # In use it may see other sizes than it was trained at.
    script("export", "--run", run, "--output", model, "--diameter", 900, 2000)
    assert load_model(model).spec.fov_range == (900, 2000)


@pytest.mark.slow
def test_a_small_camera_sees_reduced_photographs_and_labels(tmp_path, script, data):
    evaluate = importlib.import_module("evaluate")
    folder = fives(tmp_path)
    source = data.photographs(folders(fives=folder))[0]
    assert source.group == "fives/3_A"
    _, whole = evaluate.read(source, None)
    image, label = evaluate.read(source, source.diameter / 4)
    height, width = whole.shape
    assert label.shape == image.size[::-1] == (round(height / 4), round(width / 4))
    assert whole.mean() < label.mean() < 3 * whole.mean()  # no vessel is thinner than a pixel

    def figures(*options: object) -> dict:
        json_file = tmp_path / "figures.json"
        small = ["--diameter", 300, 450, "--json", json_file]
        script("evaluate", "--fives", folder, *small, *options)
        return json.loads(json_file.read_text())["fives"]["pooled"]

    without, with_bias = figures("--small-fov-bias", 900, 0), figures("--small-fov-bias", 900, 2.5)
    assert with_bias["sensitivity"] > without["sensitivity"]


@pytest.mark.slow
def test_pseudo_labels_of_photographs_without_labels_can_be_trained_on(tmp_path, script, data):
    folder, model = idrid(tmp_path), tmp_path / "model.pth"
    spec = replace(EMBEDDED, fov_diameter=100, small_fov_bias=None)  # small windows save time
    load_model(spec).save(model)
    options = ["--model", model, "--threshold", 0.3, "--precision", "float32"]
    script("pseudo_label", "--idrid", folder, *options)
    (source,) = data.idrid(folder)
    pseudo_label = data.read(source).label
    assert pseudo_label.dtype == np.uint8
    assert np.ptp(pseudo_label) > 100
    # With --threshold 0.3, the embedded model's probability of 0.5 becomes 0.3.
    mask = load_model(model)(folder / "images" / "IDRiD_01.jpg").mask
    assert np.mean((pseudo_label > 0.3 * 255) == mask) > 0.95

    (tmp_path / "split.json").write_text('{"train": ["chase_db1/01", "idrid"], "test": []}')
    given = ["--chase-db1", chase_db1(tmp_path / "c"), "--idrid", folder]
    out = script("train", *given, "--split", tmp_path / "split.json", "--run", tmp_path / "run",
                 "--width", 8, "--depth", 2, "--batch-size", 1, "--iterations", 1,
                 "--weight", "idrid", 0.5)  # fmt: skip
    assert "3 photographs" in out


@pytest.fixture
def compare(script, monkeypatch, tmp_path):
    """compare.py with scripts that only write what it reads; what it printed, and the commands."""
    module = importlib.import_module("compare")
    commands: list[list[str]] = []
    pooled = {
        "dice": 0.8, "best_threshold": 0.45, "best_dice": 0.81, "sensitivity": 0.7,
        "precision": 0.9, "centreline_precision": 0.85, "centreline_recall": 0.75,
        "width": 3.14, "observer_width": 4, "calibration_error": 0.02,
    }  # fmt: skip

    def run(command: list[str], **_: object) -> None:
        commands.append(command)
        if "--json" in command:
            figures = {"hrf": {"pooled": pooled}}
            Path(command[command.index("--json") + 1]).write_text(json.dumps(figures))
        if "--output" in command:
            Path(command[command.index("--output") + 1]).touch()

    monkeypatch.setattr(module.subprocess, "run", run)

    def compared(*options: object) -> tuple[str, list[list[str]]]:
        commands.clear()
        folders = ["--chase-db1", "C", "--hrf", "H", "--fives", "F"]
        return script("compare", "--runs", tmp_path, *folders, *options), [*commands]

    return compared


def of_script(name: str, commands: list[list[str]]) -> list[list[str]]:
    return [command for command in commands if command[1].endswith(name)]


def test_a_row_may_start_from_another_and_is_computed_once(tmp_path, compare):
    out, commands = compare("--rows", "recipe", "--splits", "fold1", "fold2")
    cells = "80.00 | 81.00 at 0.45 | 0.700 | 0.900 | 0.850 | 0.750 | 3.1 | 4.0 | 0.020"
    assert f"| recipe | fold2 | hrf | own | {cells} |" in out
    trained = of_script("train.py", commands)
    chain = ("size", "cameras", "recipe")
    assert [x[x.index("--run") + 1] for x in trained] == [
        str(tmp_path / fold / row) for fold in ("fold1", "fold2") for row in chain
    ]
    assert "--start" not in trained[0]
    for number, before in enumerate(chain[:2], start=1):
        assert trained[number][-2:] == ["--start", str(tmp_path / "fold1" / before)]
    assert of_script("export.py", commands)[2][-2:] == ["1000", "2000"]

    _, commands = compare("--rows", "recipe", "--splits", "fold1")
    assert not commands


def test_a_camera_that_is_left_out_is_also_measured_as_a_small_one(compare):
    out, commands = compare("--rows", "small-and-wide", "--splits", "without-hrf")
    assert [line.split(" | ")[3] for line in out.splitlines()[2:]] == ["own", "540"]
    evaluated = of_script("evaluate.py", commands)
    assert ["--reduce" in command for command in evaluated] == [False, True]
    trained = of_script("train.py", commands)
    assert ["--small-bias" in command for command in trained] == [False, True]
    assert len(of_script("export.py", commands)) == 2  # and that of the row it starts from


@pytest.mark.parametrize("left_out", ["chase_db1", "hrf", "fives"])
def test_a_camera_is_left_out_as_a_whole(left_out):
    sides = split(f"without-{left_out}")
    assert sides["test"] == [left_out]
    assert sorted(sides["train"] + sides["test"]) == sorted(split("three-cameras")["train"])


@pytest.mark.slow
def test_a_training_starts_from_a_model_file_or_a_run(tmp_path, script):
    (tmp_path / "split.json").write_text('{"train": ["chase_db1/01"], "test": []}')
    which = ["--chase-db1", chase_db1(tmp_path / "c"), "--split", tmp_path / "split.json"]
    small = ["--batch-size", 1, "--iterations", 1]

    def trained(run: str, *options: object) -> dict[str, torch.Tensor]:
        script("train", *which, "--run", tmp_path / run, *small, *options)
        return torch.load(tmp_path / run / "state.pth", weights_only=True)["average"]

    first = trained("first", "--width", 8, "--depth", 2)
    script("export", "--run", tmp_path / "first", "--output", tmp_path / "model.pth")
    for number, start in enumerate((tmp_path / "first", tmp_path / "model.pth")):
        tiny = trained(f"next{number}", "--width", 8, "--depth", 2, "--rate", 1e-9,
                       "--start", start)  # fmt: skip
        key = "head.unit.conv.weight"
        folded = fold_batch_norm({name: value.clone() for name, value in first.items()})
        expected = first if number == 0 else folded
        assert torch.allclose(tiny[key], expected[key], atol=1e-3)
        # A run without batch norms can be started from as well.
        trained(f"last{number}", "--width", 8, "--depth", 2, "--start", tmp_path / f"next{number}")


@pytest.mark.slow
def test_several_runs_are_exported_as_their_mean(tmp_path, script):
    (tmp_path / "split.json").write_text('{"train": ["chase_db1/01"], "test": []}')
    which = ["--chase-db1", chase_db1(tmp_path / "c"), "--split", tmp_path / "split.json"]
    small = ["--width", 8, "--depth", 2, "--batch-size", 1, "--iterations", 1]
    runs = [tmp_path / "first", tmp_path / "second"]

    def exported(*runs: Path) -> torch.Tensor:
        script("export", "--run", *runs, "--output", tmp_path / "model.pth")
        content = torch.load(tmp_path / "model.pth", weights_only=True)
        return content["state_dict"]["head.unit.conv.weight"].float()

    for seed, run in enumerate(runs):
        script("train", *which, "--run", run, *small, "--seed", seed)
    first, second = (exported(run) for run in runs)
    assert not torch.allclose(first, second, atol=0.01)
    assert torch.allclose(exported(*runs), (first + second) / 2, atol=1e-3)


def test_windows_have_weight_and_bias_of_their_data_set(tmp_path, data, monkeypatch):
    monkeypatch.setattr(finetune_windows, "SIDE", 16)
    sources = data.photographs(
        folders(chase_db1=chase_db1(tmp_path / "c"), fives=fives(tmp_path / "f"))
    )
    drawn = data.windows(
        sources, Sizes((100, 100), (1, 1.1)), 0, balance=False,
        augmentation=Augmentation(0, local=False), biases={"fives": 2.0}, weights={"fives": 0.5},
    )  # fmt: skip
    assert drawn.weights.tolist() == [1.0] * 6 + [0.5] * 2
    biases = torch.cat([drawn.batch(64).biases for _ in range(8)])
    assert set(biases.tolist()) == {0.0, 2.0}
    assert biases.mean() / 2 == pytest.approx(1 / 7, abs=0.06)
