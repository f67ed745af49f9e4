"""Photographs unlike those that a model was trained on, and faulty ones, of which it warns."""

import dataclasses
import functools
import io

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support import EXAMPLE
from support.models import NARROW

import vesselseg
from vesselseg.familiarity import (
    FAMILIARITY_LIMIT,
    expected_dice,
    find_faults,
    measure_sharpness,
)
from vesselseg.fov import find_field_of_view
from vesselseg.images import decode


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
    fov = find_field_of_view(photograph)
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
    blurred = vesselseg.segment(example.filter(ImageFilter.GaussianBlur(4)), device="cpu")
    assert blurred.familiarity < FAMILIARITY_LIMIT


def test_undecided_are_probabilities_around_a_half(load, photograph):
    result = load()(photograph)
    inside = result.probability[result.field_of_view]
    expected = (np.abs(inside - 0.5) <= 0.25).mean()
    assert result.provenance["undecided_fraction"] == pytest.approx(expected, abs=1e-6)


SIZES = (300, 584, 1411)
MISSING = ("is damaged", "is flat, or the same pattern", "is no disc", "fields of view")


@functools.cache
def fundus(side):
    with Image.open(EXAMPLE) as opened:
        return np.array(opened.convert("RGB").resize((side, side), Image.Resampling.LANCZOS))


def doubts(image):
    rgb, said, _ = decode(image)
    fov = find_field_of_view(rgb)
    return " ".join([*said, fov.warning, *find_faults(rgb, fov)]).strip()


def jpeg(image, **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("side", SIZES)
class TestOrdinaryPhotographs:
    def test_are_not_warned_of(self, side):
        image = fundus(side)
        assert doubts(image) == ""
        assert doubts(np.rot90(image)) == ""
        assert doubts(image // 3) == ""  # dark
        assert doubts(np.dstack([image[..., 1]] * 3)) == ""  # grey, as red-free photographs
        assert doubts(image[side // 9 : -side // 9]) == ""  # cut at top and bottom

    @pytest.mark.parametrize("quality", [95, 50, 20])
    def test_are_not_warned_of_if_they_are_compressed(self, side, quality):
        assert doubts(jpeg(fundus(side), quality=quality)) == ""

    def test_are_not_warned_of_with_a_banner_and_a_label(self, side):
        image = np.pad(fundus(side), ((side // 10, 0), (0, 0), (0, 0)), constant_values=255)
        image[-side // 20 :, : side // 5] = 255
        assert "fields of view" not in doubts(image)


def zeros(image):
    image[200:] = 0


def grey(image):
    image[200:] = 128


def repeated(image):
    image[200:] = np.tile(image[100:108, 100:108], (48, 73, 1))[: 584 - 200, :584]


def block(image):
    image[250:330, 250:330] = 77


def strip(image):
    image[320:328] = 0


def tile(image):
    image[:292, :292] = 0


def row(image):
    image[292:296] = (90, 60, 30)


DAMAGE = (zeros, grey, repeated, block, strip, tile, row)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("turns", [0, 1])
def test_content_that_is_gone_is_warned_of(damage, turns):
    image = np.rot90(fundus(584), turns).copy()
    damage(image)
    found = doubts(image)
    assert any(word in found for word in MISSING), found


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}], ids=str)
@pytest.mark.parametrize("filler", [0, 0x55, 0xAA])
def test_a_jpeg_file_with_an_overwritten_half_is_warned_of(options, filler):
    content = bytearray(jpeg(fundus(584), quality=90, **options))
    half = len(content) // 2
    content[half:-2] = bytes([filler]) * (len(content) - 2 - half)
    assert any(word in doubts(bytes(content)) for word in MISSING)


@pytest.mark.parametrize("side", SIZES)
def test_red_and_blue_exchanged_are_warned_of(side):
    assert "are the channels swapped" in doubts(fundus(side)[..., ::-1])
