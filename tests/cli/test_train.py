"""``vesselseg train``: output, files, errors and exit codes."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from PIL import Image
from support import Terminal, drawn
from support.fine_tuning import NAMES, start_weights

import vesselseg
from vesselseg.cli import main
from vesselseg.corrections import save_correction
from vesselseg.finetune import windows
from vesselseg.finetune.trainer import Trainer


@pytest.fixture
def run(tmp_path, capsys, monkeypatch, one_thread):  # noqa: ARG001
    """The command on drawn photographs: its exit code, standard output and standard error."""
    monkeypatch.setattr(windows, "SIDE", 64)
    data = drawn.pairs(tmp_path / "data", names=NAMES)
    both = [str(data / "images"), str(data / "labels")]
    start = start_weights(tmp_path / "start.pth")

    def command(*arguments, folders=both):
        code = main(
            ["train", *folders, "--output",
             str(tmp_path / "model.pth"), "--model", str(start), "--device", "cpu",
             "--iterations", "4", "--evaluate-every", "2", "--batch-size", "1", *arguments]
        )  # fmt: skip
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.mark.slow
def test_train_prints_each_measurement_and_the_files_it_wrote(run, tmp_path):
    code, out, err = run("--group", "(.+)_", "--held-out", "0.5", "--name", "mine")

    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split(":")[0].split()[-1] for line in lines[:3]] == ["0", "2", "4"]
    assert all("Dice" in line and "sensitivity" in line for line in lines[:3])
    assert "before" in lines[3]
    assert str(tmp_path / "model.pth") in out
    assert str(tmp_path / "model.md") in out
    assert vesselseg.load_model(tmp_path / "model.pth").spec.name == "mine"
    assert "| held_out | `0.5` |" in (tmp_path / "model.md").read_text()


@pytest.mark.slow
def test_between_measurements_a_bar_or_the_log_says_how_far_it_is(run, monkeypatch):
    for option, is_shown in ("--restart", True), ("--no-progress", False), ("--quiet", False):
        with monkeypatch.context() as patch:
            patch.setattr("sys.stderr", Terminal())
            code, out, _ = run("--force", option)
            said = sys.stderr.getvalue()
        assert code == 0
        assert ("iteration     2: Dice" in out) == (option != "--quiet")
        for words in ("reading:   0%", "measuring:  50%", "training:  50%", "2/4", "Dice "):
            assert (words in said) == is_shown
    code, _, err = run("--force", "--iterations", "10", "--patience", "9", "-v")
    assert code == 0
    assert re.fullmatch(r"INFO: Iteration 10 of 10: loss \d\.\d{4}\n", err)


@pytest.mark.slow
def test_corrections_are_trained_on(run, tmp_path):
    images = tmp_path / "data" / "images"
    folders = [str(images), "--corrected"]
    code, out, err = run(folders=folders)
    assert (code, out) == (2, "")
    assert "images': 0. At least two are needed" in err

    for name in NAMES[:3]:
        label = np.where(drawn.vessels(1), 255, 0).astype(np.uint8)
        label[:9] = 128
        save_correction(images / f"{name}.png", label)
    code, out, err = run(folders=folders)
    assert (code, err) == (0, "")
    assert "Trained on 2 photographs, measured on 1" in out


@pytest.mark.slow
def test_train_on_corrections_in_subfolders(run, tmp_path):
    folder = tmp_path / "patients"
    for place in ("one", "two"):  # other photographs of the same name
        drawn.write(folder / place / "eye.png", drawn.photograph(len(place)))
        save_correction(folder / place / "eye.png", np.where(drawn.vessels(1), 255, 0))
    code, _, err = run(folders=[str(folder), "--corrected"])
    assert code == 2
    assert "--recursive also searches subfolders" in err
    code, out, err = run("--recursive", folders=[str(folder), "--corrected"])
    assert (code, err) == (0, "")
    assert "Trained on 1 photograph, measured on 1" in out
    card = (tmp_path / "model.md").read_text()
    assert "one/eye.png" in card
    assert "two/eye.png" in card
    code, _, err = run("--recursive", "--force")
    assert code == 2
    assert "(recursive) for corrections only" in err


@pytest.mark.slow
def test_warnings_about_labels_are_printed_once_and_not_if_quiet(run, tmp_path):
    labels = tmp_path / "data" / "labels"
    for path in labels.iterdir():
        with Image.open(path) as label:
            values = np.array(label.convert("L"))
        values[:9] = 128
        Image.fromarray(values).save(path)
    code, _, err = run()
    assert code == 0
    warned = [line for line in err.splitlines() if "which is read as not known" in line]
    assert len(warned) == len(set(warned)) == len(list(labels.iterdir()))
    code, _, err = run("--force", "--quiet")
    assert (code, err) == (0, "")


def test_failures_print_one_line_and_exit_with_2(run, tmp_path):
    (tmp_path / "data" / "labels" / "anna_L.png").unlink()
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "have no label" in err

    (tmp_path / "model.pth").write_text("precious")
    code, _, err = run()
    assert code == 2
    assert "(force)" in err


def test_invalid_option_values_exit_with_2(run):
    for arguments, message in [
        (["--group", "("], "not a regular expression"),
        (["--model", "unet_s5-d16_drive"], "only models with the rule 'fov'"),
        (["--device", "cpuu"], "cpuu"),
    ]:
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b"], "-o/--output"),
        (["a", "-o", "c.pth"], "LABELS"),
        (["a", "b", "--corrected", "-o", "c.pth"], "not allowed with"),
        (["a", "b", "-o", "c.pth", "--iterations", "0"], "'0' is not a positive integer"),
        (["a", "b", "-o", "c.pth", "--held-out", "2"], "--held-out: '2' is not a number between 0"),
        (["a", "b", "-o", "c.pth", "--rate", "0"], "--rate: '0' is not a number between 0 and 1"),
    ],
)
def test_wrong_usage_exits_with_2_before_any_work(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["train", *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_an_interruption_exits_with_130_and_the_same_command_resumes(run, tmp_path, monkeypatch):
    step, calls = Trainer.step, []

    def interrupted(self, batch):
        calls.append(batch)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Trainer, "step", interrupted)
    code, out, err = run()
    assert (code, "interrupted" in err, len(out.splitlines())) == (130, True, 2)
    assert not (tmp_path / "model.pth").exists()

    code, out, _ = run()
    assert code == 0
    assert len(calls) == 6  # the third and the fourth iteration again
    assert out.startswith("iteration     4:")


@pytest.mark.slow
def test_restart_starts_from_the_beginning(run, monkeypatch):
    step = Trainer.step
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run()[0] == 130
    code, _, err = run("--seed", "1")
    assert code == 2
    assert "(restart)" in err
    assert Trainer.step is step
    assert run("--seed", "1", "--restart")[0] == 0
