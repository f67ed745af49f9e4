"""A whole training, from photographs to a model file: results, resumption, errors, side effects."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from support import drawn, host, models
from support.fine_tuning import START

import vesselseg
from vesselseg import (
    CheckpointError,
    OptionError,
    OutputError,
    ResourceError,
    metrics,
)
from vesselseg.finetune import trainer, training
from vesselseg.finetune.augmentation import Augmentation
from vesselseg.finetune.losses import cross_entropy, soft_dice
from vesselseg.finetune.scores import THRESHOLDS, HeldOutScores
from vesselseg.finetune.trainer import Trainer
from vesselseg.finetune.windows import Batch, LabelledPhotograph, Sizes, Windows
from vesselseg.metrics import Confusion
from vesselseg.unet import UNet
from vesselseg.weights import read


def with_dice(values, seen=None):
    """A stand-in for ``score_held_out`` that returns these Dice in turn and records the weights."""
    remaining = iter(values)

    def score(state, _spec, _device, _samples, iteration):
        if seen is not None:
            seen.append({key: value.clone() for key, value in state.items()})
        hits = round(1000 * next(remaining))
        counts = Confusion(hits, 1000 - hits, 1000 - hits, 0)
        return HeldOutScores(iteration, (counts,) * len(THRESHOLDS))

    return score


def rising(state, spec, device, samples, iteration):
    """A stand-in for ``score_held_out`` whose Dice rises, so that the last weights are kept."""
    return with_dice([0.1 + 0.01 * iteration])(state, spec, device, samples, iteration)


def interrupt_at(monkeypatch, call):
    """Raise KeyboardInterrupt instead of this step; return a list that grows with each step."""
    step, steps = Trainer.step, []

    def count(self, batch):
        steps.append(batch)
        if len(steps) == call:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Trainer, "step", count)
    return steps


@pytest.mark.slow
def test_the_model_learns_and_its_file_reproduces_the_scores(train, data, tmp_path):
    lines = []

    result = train(
        tmp_path / "model.pth", iterations=40, evaluate_every=20, batch_size=2, rate=0.01,
        on_evaluation=lines.append,
    )  # fmt: skip

    assert [scores.iteration for scores in lines] == [0, 20, 40]
    assert lines[0] == result.before
    assert result.after == max(lines, key=lambda scores: scores.dice)
    assert result.after.dice > result.before.dice + 0.2
    model = vesselseg.load_model(tmp_path / "model.pth", device="cpu")
    totals = [Confusion()] * len(THRESHOLDS)
    for name in result.held_out:
        found = model(data / "images" / f"{name}.png")
        label = drawn.pixels(data / "labels" / f"{name}.png") > 0
        for place, threshold in enumerate(THRESHOLDS):
            totals[place] += metrics.confusion(found.at_threshold(threshold).mask, label)
    assert result.after.counts == tuple(totals)
    assert totals[0] != totals[-1]
    counts = totals[THRESHOLDS.index(0.5)]
    assert metrics.dice(counts) == result.after.dice
    assert metrics.sensitivity(counts) == result.after.sensitivity
    assert counts.tp / (counts.tp + counts.fp) == result.after.precision
    best = max(range(len(THRESHOLDS)), key=lambda place: metrics.dice(totals[place]))
    assert result.after.best_threshold == THRESHOLDS[best]
    assert result.after.best_dice == metrics.dice(totals[best])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "model.md", "model.pth"]


@pytest.mark.slow
def test_the_file_keeps_windows_scale_and_colours_of_the_starting_model(train, tmp_path):
    result = train(tmp_path / "mine.pth")

    model = vesselseg.load_model(tmp_path / "mine.pth")
    expected = dataclasses.replace(START, name="mine", dataset="own photographs", loss="ce+dice")
    assert model.spec == result.spec == expected
    assert model.sha256 == result.sha256
    assert train(tmp_path / "other.pth", name="ours").spec.name == "ours"


@pytest.mark.slow
def test_no_subject_is_both_trained_on_and_held_out(train, tmp_path, monkeypatch):
    made = []

    class Recorded(Windows):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(training, "Windows", Recorded)

    result = train(tmp_path / "model.pth")

    subjects = [{name[:-2] for name in side} for side in (result.training, result.held_out)]
    assert not subjects[0] & subjects[1]
    assert len(result.training) + len(result.held_out) == 5
    assert len(made[0].ranges) == len(result.training)


@pytest.mark.slow
def test_the_result_depends_on_the_seed_alone(train, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "score_held_out", rising)
    first, again = train(tmp_path / "a.pth", name="x"), train(tmp_path / "b.pth", name="x")
    assert first.sha256 == again.sha256
    assert first.sha256 != train(tmp_path / "c.pth", name="x", seed=1).sha256


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 4])
def test_an_interrupted_training_resumes_with_the_same_result(train, tmp_path, monkeypatch, call):
    monkeypatch.setattr(training, "score_held_out", rising)
    options = {"name": "x", "iterations": 5, "rate": 0.02}
    whole = train(tmp_path / "whole.pth", **options)
    output = tmp_path / "model.pth"
    with monkeypatch.context() as patch:
        interrupt_at(patch, call)
        with pytest.raises(KeyboardInterrupt):
            train(output, **options)
    assert not output.exists()
    assert (tmp_path / "model.pth.state").exists()

    steps, lines = interrupt_at(monkeypatch, None), []
    resumed = train(output, **options, on_evaluation=lines.append)

    saved = call - 1 - (call - 1) % 2  # a measurement every two iterations
    assert len(steps) == 5 - saved
    assert [scores.iteration for scores in lines] == [n for n in (2, 4, 5) if n > saved]
    assert resumed.after.iteration == 5
    assert resumed.sha256 == whole.sha256
    assert resumed.before == whole.before
    assert not (tmp_path / "model.pth.state").exists()


@pytest.fixture
def interrupted(train, tmp_path, monkeypatch):
    """The output of a training that was interrupted in its third iteration."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "model.pth")
    return tmp_path / "model.pth"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("photographs", "was started with other photographs"),
        ("labels", "was started with other labels"),
        ("model", "was started with model '[0-9a-f]{64}' instead of"),
        ({"rate": 0.01}, r"was started with rate 0\.0005 instead of 0\.01"),
        ({"name": "other"}, "name 'model' instead of 'other'"),
    ],
)
def test_a_state_of_other_photographs_or_options_is_rejected(
    train, data, tmp_path, interrupted, change, message
):
    options = change if isinstance(change, dict) else {}
    if change == "photographs":
        drawn.write(data / "images" / "ben_L.png", drawn.photograph(17))
    if change == "labels":
        drawn.write(data / "labels" / "ben_L.png", drawn.vessels(17))
    if change == "model":
        options = {"model": models.tiny_weights(tmp_path / "other.pth", START)}

    with pytest.raises(OptionError, match=message) as error:
        train(interrupted, **options)

    assert "(restart)" in str(error.value)
    assert not interrupted.exists()
    assert train(interrupted, **options, restart=True).iterations == 4


class Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"no state", {"format": "x"}, Evil(), "incomplete"])
def test_a_damaged_state_raises_an_error_and_executes_nothing(train, interrupted, content, capsys):
    state = interrupted.with_name("model.pth.state")
    if isinstance(content, bytes):
        state.write_bytes(content)
    elif content == "incomplete":
        whole = torch.load(state, weights_only=True)
        del whole["state"]["trainer"]["optimizer"]
        torch.save(whole, state)
    else:
        torch.save(content, state)

    with pytest.raises(CheckpointError, match=r"state.*restart"):
        train(interrupted)

    assert capsys.readouterr().out == ""
    assert train(interrupted, restart=True).iterations == 4


@pytest.mark.slow
def test_a_training_stops_early_and_keeps_the_best_weights(train, tmp_path, monkeypatch):
    seen = []
    dice = [0.1, 0.5, 0.2, 0.5]
    monkeypatch.setattr(training, "score_held_out", with_dice(dice, seen))

    result = train(tmp_path / "model.pth", iterations=100, patience=2)

    assert (result.iterations, result.after.iteration, result.after.dice) == (6, 2, 0.5)
    for key, value in read(result.output).state.items():
        assert torch.equal(value, seen[1][key]), key
    assert not torch.equal(seen[1]["head.classifier.bias"], seen[3]["head.classifier.bias"])
    assert "after iteration 2 of 6" in result.card.read_text()


@pytest.mark.slow
def test_a_training_does_not_stop_while_dice_rises(train, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "score_held_out", with_dice([0.1, 0.05, 0.2, 0.15, 0.3, 0.4]))
    assert train(tmp_path / "model.pth", iterations=9, patience=2).iterations == 9


@pytest.mark.slow
def test_without_improvement_the_starting_weights_are_kept_and_the_card_says_so(
    train, start, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "score_held_out", with_dice([0.5, 0.5, 0.4]))

    result = train(tmp_path / "model.pth")

    assert result.after == result.before
    assert "weights of the starting model unchanged" in result.card.read_text()
    before = read(start).state
    assert all(torch.equal(value, before[key]) for key, value in read(result.output).state.items())


@pytest.mark.slow
def test_the_card_lists_data_scores_and_options(train, start, tmp_path):
    result = train(tmp_path / "model.pth", group="(.+)_", held_out=0.3, seed=2)

    text = result.card.read_text(encoding="utf-8")
    assert result.card == tmp_path / "model.md"
    for part in (
        "# model\n",
        f"`{result.sha256}`",
        "| fine-tuned from | `start` |",
        f"`{vesselseg.load_model(start).sha256}`",
        "| its licence | CC0 |",
        "5 photographs of 3 subjects",
        "`(.+)_`",
        "Held out: 1 photograph of 1 subject: `carl_L.png`.",
        "| seed | `2` |",
        "| held_out | `0.3` |",
        f"| before | {100 * result.before.dice:.2f} | {100 * result.before.sensitivity:.2f} |",
        f"| {result.before.best_threshold} | {100 * result.before.best_dice:.2f} |",
        "| after | ",
        f"PyTorch {torch.__version__}",
        "research software and not a medical device",
    ):
        assert part in text
    held_out = text.split("Held out: ")[1].split("\n")[0]
    assert all((f"`{name}.png`" in held_out) for name in result.held_out)
    assert not any((f"`{name}.png`" in held_out) for name in result.training)
    assert "counts as a subject of its own" not in text


@pytest.mark.slow
def test_the_card_warns_if_the_scores_may_be_too_high(train, data, tmp_path):
    for folder in ("images", "labels"):
        (data / folder / "carl_L.png").rename(data / folder / "01_dr.png")

    text = train(tmp_path / "model.pth", group=None).card.read_text()

    assert "every file counts as a subject of its own" in text
    assert "training images of a public data set: 1, for example `01_dr`" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.pth", "model.md"])
def test_existing_files_are_overwritten_only_with_force(train, tmp_path, monkeypatch, name):
    (tmp_path / name).write_text("precious")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", None)
        with pytest.raises(OutputError, match=r"exists.*\(force\)"):
            train(tmp_path / "model.pth")
    assert (tmp_path / name).read_text() == "precious"

    train(tmp_path / "model.pth", force=True)
    assert vesselseg.load_model(tmp_path / "model.pth").spec.name == "model"
    assert "# model" in (tmp_path / "model.md").read_text()


@pytest.mark.slow
def test_12_bit_photographs_give_the_same_scores_as_8_bit_ones(train, data, tmp_path):
    greys = {path: drawn.pixels(path)[..., 1] for path in (data / "images").iterdir()}
    for path, grey in greys.items():
        Image.fromarray(grey).save(path)
    expected = train(tmp_path / "grey.pth")
    for path, grey in greys.items():
        Image.fromarray(drawn.twelve_bits(grey)).save(path)
    result = train(tmp_path / "deep.pth", bits=12)
    assert (result.before, result.after) == (expected.before, expected.after)
    assert "| bits | `12` |" in result.card.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["save", "write_card"])
def test_a_finished_training_whose_file_could_not_be_written_is_written_by_the_next_call(
    train, tmp_path, monkeypatch, where
):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    module = training.weights if where == "save" else training
    with monkeypatch.context() as patch:
        patch.setattr(module, where, fail)
        with pytest.raises(OutputError, match="No space left"):
            train(tmp_path / "model.pth")
    assert not (tmp_path / "model.pth").exists()
    (tmp_path / "model.md").write_text("of a process that was killed before the model was in place")
    monkeypatch.setattr(Trainer, "step", None)

    assert train(tmp_path / "model.pth").iterations == 4
    assert (tmp_path / "model.md").read_text().startswith("# model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 0}, "held_out is 0; it must be a number between 0 and 1"),
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"held_out": float("nan")}, "held_out is nan"),
        ({"iterations": 0}, "iterations is 0; it must be a positive integer"),
        ({"evaluate_every": 1.5}, "evaluate_every is 1.5"),
        ({"patience": True}, "patience is True"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"rate": -1e-3}, "rate is -0.001"),
        ({"seed": -1}, "seed is -1; it must be an integer, 0 or more"),
        ({"name": "unet_s5-d16_drive"}, "the name of a model in the registry"),
        ({"name": ""}, "name is ''"),
        ({"model": "unet_s5-d16_drive"}, "rule 'fit'; only.*unet_s5-c16_chase-hrf-fives"),
        ({"model": "some.onnx"}, "ONNX file, which cannot be fine-tuned"),
    ],
)
def test_invalid_options_are_rejected_before_anything_is_read(
    train, tmp_path, monkeypatch, options, message
):
    monkeypatch.setattr(training, "read_pairs", None)
    monkeypatch.setattr(training, "obtain_network", lambda *_: (None, START, ""))
    with pytest.raises(OptionError, match=message):
        train(tmp_path / "model.pth", **options)


def test_outputs_that_cannot_be_written_are_rejected_at_once(train, tmp_path):
    for output in (tmp_path / "model.md", "", "."):
        with pytest.raises(OptionError, match=r"must end in '\.pth'"):
            train(output)
    with pytest.raises(OutputError, match="folder does not exist"):
        train(tmp_path / "no" / "model.pth")


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), ResourceError),
        (RuntimeError("of another kind"), RuntimeError),
    ],
)
def test_a_lack_of_memory_is_a_resource_error(error, raised, train, tmp_path, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(training, "score_held_out", with_dice([0.5]))
    monkeypatch.setattr(Trainer, "step", fail)
    message = "smaller batch size" if raised is ResourceError else "of another kind"
    with pytest.raises(raised, match=message):
        train(tmp_path / "model.pth")


def test_files_with_another_scale_rule_are_rejected(train, tmp_path):
    native = models.tiny_weights(tmp_path / "native.pth")
    with pytest.raises(OptionError, match="'tiny' has the scale rule 'native'"):
        train(tmp_path / "model.pth", model=native)


@pytest.mark.slow
def test_photographs_without_a_visible_field_of_view_can_be_trained_on(train, data, tmp_path):
    for seed, path in enumerate(sorted((data / "images").iterdir())):
        pixels = drawn.photograph(seed)
        pixels[~drawn.disc()] = (170, 90, 40)
        drawn.write(path, pixels)
    assert train(tmp_path / "model.pth").iterations == 4


def test_the_loss_includes_the_bias_of_each_window():
    network = UNet(8, 2, norm=True)
    with torch.no_grad():
        network.head.classifier.weight.zero_()
        network.head.classifier.bias.zero_()
    labels = (torch.rand(2, 16, 16) > 0.5).float()
    expected = torch.zeros(2, 2, 16, 16)
    expected[1, 1] = 1.5  # the vessel logits of the second window

    known = torch.ones_like(labels)
    batch = Batch(torch.rand(2, 3, 16, 16), labels, torch.tensor([0.0, 1.5]), known)
    loss = Trainer(network, iterations=1, rate=1e-3, decay=0.9).step(batch)

    both = cross_entropy(expected, labels, known) + soft_dice(expected, labels, known)
    assert torch.allclose(loss, both)


@pytest.mark.parametrize("native", [["float32", "bfloat16"], ["float32"]])
def test_activations_are_in_bfloat16_only_if_the_device_computes_it_natively(monkeypatch, native):
    monkeypatch.setattr(trainer, "native_precisions", lambda _device: native)
    network, seen = UNet(8, 2, norm=True), []
    network.encoder[0][0].conv.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    batch = Batch(torch.rand(1, 3, 32, 32), torch.ones(1, 32, 32), torch.zeros(1),
                  torch.ones(1, 32, 32))  # fmt: skip
    Trainer(network, iterations=1, rate=1e-3, decay=0.9).step(batch)
    assert seen == [getattr(torch, native[-1])]


def test_windows_of_a_photograph_much_smaller_than_expected_are_enlarged_from_it():
    photograph = LabelledPhotograph(drawn.photograph(1), drawn.vessels(1), 38.0)
    sizes = Sizes((1000, 2000), (0.7, 1.4))
    augmentation = Augmentation(1.0, local=True)
    windows = Windows([photograph], sizes, 0, rgb_mean=None, augmentation=augmentation)
    assert windows.diameters.tolist() == [[38.0]]
    assert windows.batch(1).images.shape == (1, 3, 256, 256)


@pytest.mark.slow
def test_a_training_leaves_global_state_alone(train, tmp_path):
    def state():
        return (
            random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist(),
            torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"), torch.are_deterministic_algorithms_enabled(),
        )  # fmt: skip

    before = state()
    train(tmp_path / "model.pth")
    assert state() == before


@pytest.mark.slow
def test_no_progress_bar_is_printed_without_a_terminal(train, tmp_path, capfd):
    train(tmp_path / "model.pth", progress=True)
    assert capfd.readouterr() == ("", "")


def test_importing_vesselseg_does_not_load_the_package():
    code = "import sys, vesselseg, vesselseg.cli; print('vesselseg.finetune' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_hosts_settings(train, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "score_held_out", rising)
    expected = train(tmp_path / "before.pth", iterations=2, name="own")
    for name in sorted({*host.SETTINGS} - {"oneDNN off"}):  # which has other last digits
        with host.SETTINGS[name]():
            found = train(tmp_path / f"{name}.pth", iterations=2, name="own")
        assert found.sha256 == expected.sha256, name
