"""Labels that are known in part: the rest changes neither windows nor losses nor scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import drawn
from support.fine_tuning import NAMES

import vesselseg
from vesselseg import DatasetError, metrics
from vesselseg.corrections import read_correction, save_correction
from vesselseg.finetune import windows as windows_module
from vesselseg.finetune.augmentation import Augmentation
from vesselseg.finetune.losses import centreline_dice, cross_entropy, soft_dice
from vesselseg.finetune.scores import THRESHOLDS
from vesselseg.finetune.trainer import Trainer
from vesselseg.finetune.windows import LabelledPhotograph, Sizes, Windows
from vesselseg.metrics import Confusion
from vesselseg.unet import UNet

KNOWN = np.zeros((drawn.HEIGHT, drawn.WIDTH), dtype=bool)
KNOWN[6:20, 8:22] = True
SMALL = Augmentation(
    1.0, local=False, small=0.5, small_diameter=(30.0, 39.0), small_bias=(39.0, 2.0), least=40.0
)
PLAIN = Augmentation(0.0, local=False)


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch):
    monkeypatch.setattr(windows_module, "SIDE", 64)  # quick, and not much larger than photographs


def windows(label, known=KNOWN, augmentation=SMALL, diameter=40.0):
    photographs = [
        LabelledPhotograph(drawn.photograph(1), label, diameter, known=known),
        LabelledPhotograph(drawn.photograph(2), drawn.vessels(2), diameter, weight=1e-9),
    ]
    sizes = Sizes((diameter / 2, diameter * 2), (0.7, 1.4))
    return Windows(photographs, sizes, 5, rgb_mean=None, augmentation=augmentation)


def painted(below):
    """The same label where it is known, and something else below the rest."""
    return np.where(KNOWN, drawn.vessels(1), below)


@pytest.mark.parametrize("loss", [cross_entropy, soft_dice, centreline_dice])
def test_unknown_pixels_change_neither_loss_nor_gradients(loss):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 24, 24, generator=generator)
    coverage = (torch.rand(2, 24, 24, generator=generator) > 0.7).float()
    known = torch.zeros(2, 24, 24)
    known[:, 4:15, 3:20] = 1
    found = []
    for other in (0.0, 1.0):
        given = torch.where(known[:, None] > 0, logits, 30 * (other - 0.5)).requires_grad_()
        value = loss(given, torch.where(known > 0, coverage, other), known)
        value.backward()
        found.append((value.detach(), given.grad))
    (first, gradient), (second, other_gradient) = found
    assert torch.equal(first, second)
    assert torch.equal(gradient, other_gradient)
    assert gradient.abs().sum() > 0
    assert not gradient.movedim(1, 0)[:, known == 0].any()


@pytest.mark.parametrize("loss", [cross_entropy, soft_dice, centreline_dice])
def test_a_window_of_unknown_pixels_alone_teaches_nothing(loss):
    logits = torch.randn(1, 2, 16, 16).requires_grad_()
    loss(logits, torch.ones(1, 16, 16), torch.zeros(1, 16, 16)).backward()
    assert not logits.grad.any()


def test_windows_do_not_depend_on_what_is_painted_below():
    nothing, everything = (windows(painted(below)).batch(16) for below in (False, True))
    for first, second in zip(nothing, everything, strict=True):
        assert torch.equal(first, second)
    known = nothing.known
    assert known.min() == 0
    assert known.max() == pytest.approx(1, abs=1e-4)
    assert nothing.labels[known == 0].max() == 0


def test_a_step_does_not_depend_on_what_is_painted_below(one_thread):  # noqa: ARG001
    after = []
    for below in (False, True):
        torch.manual_seed(0)
        network = UNet(8, 2, norm=True)
        trainer = Trainer(network, iterations=2, rate=1e-2, decay=0.9, centreline=0.5)
        losses = [trainer.step(windows(painted(below)).batch(2)) for _ in range(2)]
        after.append((torch.stack(losses), *network.state_dict().values()))
    for first, second in zip(*after, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("augmentation", [PLAIN, SMALL])
@pytest.mark.parametrize("place", [(2, 20), (20, 24), (38, 30)])
def test_no_window_is_drawn_without_a_known_pixel(augmentation, place):
    known = np.zeros_like(KNOWN)
    known[place] = True
    batch = windows(drawn.vessels(1), known, augmentation).batch(64)
    assert (batch.known.amax(dim=(1, 2)) > 0).all()


def test_the_coverage_is_that_of_what_is_known():
    label = np.zeros_like(KNOWN)
    label[:, :22] = True
    known = np.zeros_like(KNOWN)
    known[:, 10:21] = True  # vessel alone
    batch = windows(label, known, PLAIN).batch(16)
    assert (batch.known > 0.05).any()
    assert batch.labels[batch.known > 0.05].min() > 0.9


class TestTraining:
    """A whole training on corrections."""

    def correct(self, data, values):
        for number, name in enumerate(NAMES):
            label = np.where(drawn.vessels(number), values[1], values[0]).astype(np.uint8)
            label[:9] = 128
            save_correction(data / "images" / f"{name}.png", label)

    def test_scores_leave_out_what_is_not_known(self, train, data, tmp_path):
        self.correct(data, (0, 255))

        result = train(tmp_path / "model.pth", labels=None)

        expected = Confusion()
        model = vesselseg.load_model(tmp_path / "model.pth", device="cpu")
        for name in result.held_out:
            label = read_correction(data / "images" / "corrections" / f"{name}.png")
            found = model(data / "images" / f"{name}.png").mask
            expected += metrics.confusion(found, label == 255, label != 128)
        assert result.after.counts[THRESHOLDS.index(0.5)] == expected
        assert sum(expected) == len(result.held_out) * (drawn.HEIGHT - 9) * drawn.WIDTH
        assert len(result.training) + len(result.held_out) == len(NAMES)

    def test_photographs_without_a_correction_are_left_out(self, train, data, tmp_path):
        self.correct(data, (0, 255))
        (data / "images" / "corrections" / f"{NAMES[0]}.png").unlink()
        result = train(tmp_path / "model.pth", labels=None)
        assert sorted(result.training + result.held_out) == sorted(NAMES[1:])

    def test_needs_two_corrected_photographs(self, train, data, tmp_path):
        with pytest.raises(DatasetError, match=r"Corrected photographs in .*: 0\. At least two"):
            train(tmp_path / "model.pth", labels=None)
        save_correction(data / "images" / "ben_L.png", np.zeros_like(KNOWN, np.uint8))
        with pytest.raises(DatasetError, match=r"Corrected photographs in .*: 1\. At least two"):
            train(tmp_path / "model.pth", labels=None)

    def test_needs_vessels_to_measure(self, train, data, tmp_path):
        self.correct(data, (0, 0))
        with pytest.raises(DatasetError, match=r"No label of a held-out .* has a vessel"):
            train(tmp_path / "model.pth", labels=None)


@pytest.mark.parametrize("augmentation", [PLAIN, SMALL])
def test_labels_that_are_known_everywhere_stay_as_they_are(augmentation):
    label = drawn.vessels(1)
    usual = windows(label, None, augmentation).batch(8)
    assert torch.allclose(usual.known, torch.ones_like(usual.known), atol=1e-5)
    assert usual.labels.max() == 1
