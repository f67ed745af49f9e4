"""Random changes of the windows that a network learns from."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support import EXAMPLE

from vesselseg.finetune.augmentation import (
    Augmentation,
    Draws,
    change_colours,
    simulate_camera,
)
from vesselseg.finetune.jpeg import compress
from vesselseg.finetune.resampling import apply, enlargement, gaussian, reduction

SIDE = 64


@pytest.fixture(scope="module")
def window() -> torch.Tensor:
    """A part of the example photograph (1, 3, S, S)."""
    with Image.open(EXAMPLE) as image:
        part = np.array(image.convert("RGB").resize((SIDE, SIDE), box=(600, 600, 750, 750)))
    return torch.from_numpy(part).permute(2, 0, 1)[None].float() / 255


def draws(size: int, seed: int = 0) -> Draws:
    return Draws(size, torch.Generator().manual_seed(seed))


def factor(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1), value)


def test_reducing_takes_means_and_enlarging_interpolates(window):
    small = apply(reduction(SIDE, factor(0.5)), window)
    half = SIDE // 2
    assert torch.allclose(small[..., :half, :half], F.avg_pool2d(window, 2), atol=1e-6)
    assert not small[..., half:, :].any()  # nothing is there
    large = apply(enlargement(SIDE, factor(0.5)), small)
    expected = F.interpolate(small[..., :half, :half], scale_factor=2, mode="bilinear")
    assert torch.allclose(large, expected, atol=1e-6)


@pytest.mark.parametrize("value", [0.45, 0.613, 0.9])
def test_reducing_and_enlarging_keeps_the_brightness(value):
    plain = torch.full((1, 1, SIDE, SIDE), 0.3)
    again = apply(enlargement(SIDE, factor(value)) @ reduction(SIDE, factor(value)), plain)
    assert torch.allclose(again, plain, atol=1e-5)


def test_a_factor_of_one_and_a_narrow_blur_change_nothing(window):
    same = apply(enlargement(SIDE, factor(1)) @ reduction(SIDE, factor(1)), window)
    assert torch.allclose(same, window, atol=1e-6)
    assert torch.equal(gaussian(SIDE, factor(0.01))[0], torch.eye(SIDE))


def test_blur_is_a_gaussian():
    point = torch.zeros(1, 1, SIDE, SIDE)
    point[..., SIDE // 2, SIDE // 2] = 1
    blurred = apply(gaussian(SIDE, factor(2.0)), point)[0, 0]
    places = torch.arange(SIDE) - SIDE // 2
    assert blurred.sum() == pytest.approx(1, abs=1e-4)
    assert (blurred.sum(dim=0) * places**2).sum() == pytest.approx(4, rel=0.01)  # its variance


@pytest.mark.parametrize("quality", [40, 75, 95])
def test_compression_loses_as_much_as_a_jpeg_file(window, quality):
    pixels = (window[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    expected = np.asarray(Image.open(file)).astype(float)
    ours = compress(window, torch.full((1, 1, 1, 1), float(quality)))
    values = ours[0].permute(1, 2, 0).numpy() * 255
    lost = np.abs(expected - pixels).mean()
    assert np.abs(values - pixels).mean() == pytest.approx(lost, rel=0.15)
    assert np.abs(values - expected).mean() < lost


def test_a_small_camera_shows_no_vessel_thinner_than_its_pixels():
    vessel = torch.zeros(8, SIDE, SIDE)
    vessel[:, 30] = 1  # one pixel wide, so half a pixel of a camera half as large
    augmentation = Augmentation(
        1.0, local=False, small=1.0, small_diameter=(500, 500.001), small_bias=(900, 2.5)
    )
    images = torch.full((8, 3, SIDE, SIDE), 0.5)
    known = torch.ones_like(vessel)
    seen, labels, known, biases = simulate_camera(images, vessel, known, draws(8), augmentation)
    assert seen.shape == images.shape
    assert labels.sum(dim=1).mean() == pytest.approx(2, abs=0.01)  # a pixel of the small camera
    assert torch.allclose(biases, torch.tensor(2.5 * np.log2(900 / 500)).float(), atol=1e-4)


def test_only_a_share_of_the_windows_comes_from_a_small_camera():
    vessel = torch.zeros(400, 16, 16)
    vessel[:, 7] = 1
    augmentation = Augmentation(1.0, local=False, small=0.4, small_bias=(900, 2.5))
    images, known = torch.full((400, 3, 16, 16), 0.5), torch.ones_like(vessel)
    _, labels, _, biases = simulate_camera(images, vessel, known, draws(400), augmentation)
    is_small = biases > 0
    assert is_small.float().mean() == pytest.approx(0.4, abs=0.1)
    assert torch.allclose(labels[~is_small], vessel[~is_small], atol=1e-6)


def test_each_window_of_a_batch_gets_other_colours(window):
    images = window.expand(6, -1, -1, -1)
    augmentation = Augmentation(1.5, local=True)
    changed = change_colours(images, draws(6), augmentation)
    assert 0 <= changed.min() <= changed.max() <= 1
    assert len({float(image.mean()) for image in changed}) == 6
    assert torch.equal(changed, change_colours(images, draws(6), augmentation))
    assert not torch.equal(changed, change_colours(images, draws(6, seed=1), augmentation))
