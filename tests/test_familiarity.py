"""Familiarity: how similar a photograph is to those that a model was trained on."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support import EXAMPLE
from support.models import NARROW

import vesselseg
from vesselseg.familiarity import FAMILIARITY_LIMIT, expected_dice, measure_sharpness


@pytest.fixture(scope="module")
def example():
    with Image.open(EXAMPLE) as image:
        return image.reduce(2)


@pytest.fixture
def load(published_file):
    """Load the narrow network with fields of its spec replaced."""
    return lambda **fields: vesselseg.load_model(
        dataclasses.replace(NARROW, **fields), weights=published_file, device="cpu"
    )


def test_familiarity_is_the_ratio_of_expected_dice_to_that_of_known_photographs(load, photograph):
    model = load(expected_dice=0.8)
    result = model(photograph)
    inside = result.probability[result.field_of_view].astype(np.float64)
    mask = inside > 0.5
    expected = 2 * inside[mask].sum() / (inside.sum() + mask.sum())
    assert 0 < expected < 0.8
    assert result.familiarity == round(expected / 0.8, 3)
    assert model(photograph, threshold=0.9).familiarity == result.familiarity


def test_familiarity_is_proportional_to_sharpness_below_the_least_sharpness(load, photograph):
    fov = vesselseg.fov.find_field_of_view(photograph)
    sharpness = measure_sharpness(photograph, fov.mask)
    assert 0.2 < sharpness < 1.2
    sharp = load(expected_dice=0.01, least_sharpness=sharpness / 2)
    assert sharp(photograph).familiarity == 1
    twice = load(expected_dice=0.01, least_sharpness=2 * sharpness)
    assert twice(photograph).familiarity == 0.5


def test_familiarity_is_at_most_1_and_none_without_statistics(load, photograph):
    assert load()(photograph).familiarity is None
    known = load(expected_dice=0.01)(photograph)
    assert known.familiarity == 1
    assert "unlike" not in known.provenance["warning"]


def test_an_unfamiliar_photograph_logs_a_warning(load, photograph, caplog):
    result = load(fov_diameter=None, expected_dice=1.0)(photograph)
    assert result.familiarity < FAMILIARITY_LIMIT
    warning = result.provenance["warning"]
    assert warning.startswith("The photograph is unlike those that model 'narrow' was trained")
    assert caplog.messages == [f"The array: {warning}"]


def test_expected_dice_is_0_without_vessels():
    nothing = np.zeros((9, 9), np.float32)
    assert expected_dice(nothing, np.ones((9, 9), bool)) == 0
    assert expected_dice(nothing + 1, np.zeros((9, 9), bool)) == 0


class TestSharpness:
    def test_falls_with_blur_and_not_with_contrast(self, example):
        def sharpness(image):
            return measure_sharpness(np.asarray(image), np.ones(image.size[::-1], bool))

        values = [sharpness(example.filter(ImageFilter.GaussianBlur(s))) for s in (0, 2, 4)]
        assert values == sorted(values, reverse=True)
        assert values[2] < 0.7 * values[0]
        assert sharpness(example.point(lambda v: v / 2)) == pytest.approx(values[0], rel=0.05)

    def test_is_about_1_for_noise_and_a_quarter_for_what_is_smooth(self):
        noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
        wave = 127.5 * (1 + np.sin(np.arange(512) / 20))
        smooth = np.broadcast_to(wave[:, None, None], noise.shape).astype(np.uint8)
        everywhere = np.ones((512, 512), bool)
        assert measure_sharpness(noise, everywhere) == pytest.approx(1, abs=0.05)
        assert measure_sharpness(smooth, everywhere) == pytest.approx(0.25, abs=0.05)

    @pytest.mark.parametrize("size", [(1, 1), (3, 50), (20, 4)])
    def test_is_0_where_nothing_can_be_measured(self, size):
        assert measure_sharpness(np.zeros((*size, 3), np.uint8), np.ones(size, bool)) == 0


@pytest.mark.slow
def test_the_embedded_model_is_familiar_with_the_example_unless_it_is_blurred(example):
    known = vesselseg.segment(example, device="cpu")
    assert known.familiarity > 0.95
    assert known.provenance["warning"] == ""
    for blur in (4, 10):
        blurred = vesselseg.segment(example.filter(ImageFilter.GaussianBlur(blur)), device="cpu")
        assert blurred.familiarity < FAMILIARITY_LIMIT


def test_undecided_are_probabilities_around_a_half(load, photograph):
    result = load()(photograph)
    inside = result.probability[result.field_of_view]
    expected = (np.abs(inside - 0.5) <= 0.25).mean()
    assert result.provenance["undecided_fraction"] == pytest.approx(expected, abs=1e-6)
