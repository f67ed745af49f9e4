"""Fine-tuning in a process of its own, without a viewer."""

from pathlib import Path

import pytest

from vesselseg.napari.learning import (
    Start,
    TrainingOutput,
    is_interrupted,
    suggest_output,
    training_arguments,
)


def test_outputs_do_not_exist_yet(tmp_path):
    assert suggest_output(tmp_path).name == "fine-tuned-1.pth"
    (tmp_path / "fine-tuned-1.pth").touch()
    assert suggest_output(tmp_path).name == "fine-tuned-2.pth"


def test_a_state_without_a_model_can_be_resumed(tmp_path):
    output = tmp_path / "model.pth"
    assert not is_interrupted(output)
    (tmp_path / "model.pth.state").touch()
    assert is_interrupted(output)
    output.touch()
    assert not is_interrupted(output)
    assert not is_interrupted(Path())  # the field for it may be empty


@pytest.mark.parametrize("restart", [True, False])
def test_the_command_is_one_that_vesselseg_understands(restart, tmp_path, monkeypatch):
    from vesselseg import cli, finetune

    taken = {}

    def train(*folders, **options):
        taken.update(options, folders=folders)
        raise FileNotFoundError("enough")

    monkeypatch.setattr(finetune, "train", train)
    output = tmp_path / "model.pth"
    arguments = training_arguments(
        Start(tmp_path, "start.pth", "cpu", 12), output,
        group="(.+)_[LR]", iterations=7, restart=restart,
    )  # fmt: skip
    assert cli.main(arguments[arguments.index("vesselseg") + 1 :])
    assert taken["folders"][-1] == output
    expected = {
        "model": "start.pth", "group": "(.+)_[LR]", "device": "cpu", "bits": 12, "iterations": 7,
        "restart": restart,
    }  # fmt: skip
    assert {key: taken[key] for key in expected} == expected


def test_a_resumed_process_trains_before_it_measures():
    said = TrainingOutput()
    said.add(b"INFO: Resuming after iteration 50.\n")
    assert (said.iteration, said.summary) == (50, "Training")
    said.add(b"INFO: Iteration 60 of 300: loss 0.3\n")
    assert (said.iteration, said.summary) == (60, "Training")


def test_what_the_process_says_arrives_in_pieces():
    said = TrainingOutput()
    assert said.summary == "Reading and measuring"
    said.add(b"iteration     0: Dice 70.25, sensitivity 71.00\nINFO: Iter")
    assert said.summary == "Dice on held-out subjects after iteration 0: 70.25"
    said.add(b"ation 40 of 300: loss 0.3\niteration    50: Dice 75.50, sensitivity 74.00\n")
    assert said.iteration == 50
    assert said.summary == "Dice on held-out subjects after iteration 50: 75.50"
    said.add(b"Trained on 3 photographs, measured on 1: Dice 70.25 before, 75.50 after.\n")
    assert said.summary.endswith("Dice 70.25 before, 75.50 after.")
    message = "vesselseg: There is no room for Zoë."
    for byte in message.encode():
        said.add(bytes([byte]))
    assert said.last_lines.endswith("\nThere is no room for Zoë.")
