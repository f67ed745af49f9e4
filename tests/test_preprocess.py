"""Bringing photographs to the network's scale and colours, and logits back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from vesselseg import OptionError
from vesselseg.fov import FieldOfView
from vesselseg.preprocess import (
    apply_channel_gains,
    channel_gains,
    check_scale,
    preprocess,
    region_to_compute,
    resize,
    resize_like_opencv,
    scale_factor,
    unfamiliar_size,
    vessel_bias,
)
from vesselseg.registry import EMBEDDED, find_spec

DRIVE = find_spec("unet_s5-d16_drive")
RANGE = replace(EMBEDDED, fov_diameter=1000.0, fov_diameter_max=2000.0)
RNG = np.random.default_rng(0)


def to_scale(image, scale, spec, diameter, max_pixels=200_000_000):
    """Preprocess with a field of view of that diameter, colours left alone."""
    fov = FieldOfView(np.ones(image.shape[:2], bool), diameter)
    return preprocess(image, fov, scale, replace(spec, fov_rgb_mean=None), max_pixels).scaled


def blank(height, width):
    return np.zeros((height, width, 3), dtype=np.uint8)


class TestFit:
    """The published rule."""

    @pytest.mark.parametrize("name", ["drive", "stare", "chase_db1", "hrf"])
    def test_images_of_the_data_set_are_not_resampled(self, name):
        spec = find_spec(f"unet_s5-d16_{name}")
        image = blank(*spec.fit_size)
        assert scale_factor(*spec.fit_size, None, "fit", spec) == 1
        assert to_scale(image, "fit", spec, None) is image

    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            ((850, 900), (552, 584)),  # the long side to 584
            ((900, 850), (584, 552)),
            ((300, 400), (438, 584)),
            ((1411, 1411), (565, 565)),  # the short side to 565
            ((1, 1), (565, 565)),
            ((1, 5000), (1, 584)),  # a side is at least one pixel
        ],
    )
    def test_sizes_are_those_of_mmsegmentation(self, size, expected):
        assert to_scale(blank(*size), "fit", DRIVE, None).shape == (*expected, 3)


class TestOtherScales:
    def test_native_is_the_image_itself(self):
        image = blank(30, 40)
        assert to_scale(image, "native", DRIVE, None) is image

    def test_factor(self):
        assert to_scale(blank(30, 41), 0.5, DRIVE, None).shape == (15, 21, 3)

    def test_fov_brings_the_disc_to_the_diameter_of_the_spec(self):
        assert DRIVE.fov_range == (538, 538)
        assert to_scale(blank(300, 400), "fov", DRIVE, 269.0).shape == (600, 800, 3)
        assert to_scale(blank(600, 800), "fov", DRIVE, 1076.0).shape == (300, 400, 3)

    @pytest.mark.parametrize(
        ("diameter", "height"), [(250, 1200), (1000, 300), (1234, 300), (2000, 300), (4000, 150)]
    )
    def test_fov_brings_the_disc_into_the_range_of_the_spec(self, diameter, height):
        assert to_scale(blank(300, 300), "fov", RANGE, diameter).shape[0] == height

    def test_fov_without_a_disc_takes_the_longer_side_up_to_four_times(self):
        assert to_scale(blank(500, 4000), "fov", RANGE, None).shape == (250, 2000, 3)
        assert to_scale(blank(250, 500), "fov", RANGE, None).shape == (500, 1000, 3)
        assert to_scale(blank(10, 20), "fov", RANGE, None).shape == (40, 80, 3)

    def test_more_pixels_than_allowed_are_rejected_with_their_size(self):
        assert to_scale(blank(30, 40), 2.0, DRIVE, None, max_pixels=4800).shape == (60, 80, 3)
        with pytest.raises(OptionError, match="enlarge 40 x 30 pixels to 80 x 60; at most 4,799"):
            to_scale(blank(30, 40), 2.0, DRIVE, None, max_pixels=4799)

    def test_reducing_antialiases(self):
        stripes = np.zeros((64, 64, 3), dtype=np.uint8)
        stripes[:, ::2] = 200
        assert np.ptp(to_scale(stripes, 0.25, DRIVE, None)[8]) < 20
        expected = Image.fromarray(stripes).resize((16, 16), Image.Resampling.BILINEAR)
        assert np.array_equal(to_scale(stripes, 0.25, DRIVE, None), np.asarray(expected))

    @pytest.mark.parametrize("size", [(300, 210), (61, 47), (1, 1)])
    def test_a_few_values_are_off_by_one_from_pillows(self, size):
        image = np.random.default_rng(0).integers(0, 256, (150, 170, 3), dtype=np.uint8)
        image.flags.writeable = False  # as decoded files are
        expected = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
        difference = np.abs(resize(image, size).astype(int) - np.asarray(expected))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01


class TestResizeLikeOpenCV:
    """Expected values come from OpenCV 5.0.0: ``cv2.resize(image, (w, h))`` of uint8."""

    ROW = np.array([[0, 255, 10, 200, 30]], dtype=np.uint8)

    @pytest.mark.parametrize("size", [(2, 3), (1, 8), (3, 2), (4, 13)])
    def test_resizing_is_close_to_exact_arithmetic(self, size):
        image = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
        ours = resize_like_opencv(image, size)
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].double()
        exact = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear")
        difference = ours.astype(float) - exact[0].permute(1, 2, 0).numpy()
        assert np.abs(difference).max() < 1

    def test_values_are_rounded_like_opencv(self):
        row = np.repeat(self.ROW[..., None], 3, axis=2)
        along = resize_like_opencv(row, (1, 8))[0, :, 0]
        assert along.tolist() == [0, 112, 240, 87, 69, 188, 104, 30]
        # Along columns the two products are rounded on their own.
        column = resize_like_opencv(row.transpose(1, 0, 2), (8, 1))[:, 0, 0]
        assert column.tolist() == [0, 112, 240, 86, 69, 188, 104, 30]

    def test_resizing_agrees_with_opencv(self):
        cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
        for _ in range(100):
            height, width, tall, wide = (int(n) for n in RNG.integers(1, 120, 4))
            image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
            expected = cv2.resize(image, (wide, tall), interpolation=cv2.INTER_LINEAR)
            assert np.array_equal(resize_like_opencv(image, (tall, wide)), expected)


class TestColours:
    MEANS = (160.0, 80.0, 40.0)

    def test_means_inside_the_field_of_view_are_brought_to_those_of_the_spec(self):
        image = blank(600, 600)
        image[:, 100:500] = (80, 160, 20)
        view = FieldOfView(image.any(axis=2), 400.0)
        assert channel_gains(image, view, self.MEANS) == (2.0, 0.5, 2.0)
        spec = replace(DRIVE, fov_rgb_mean=self.MEANS)
        seen = preprocess(image, view, "native", spec).scaled
        assert seen[300, 300].tolist() == [160, 80, 40]
        assert not seen[:, :100].any()

    def test_gains_have_limits(self):
        image = np.full((40, 40, 3), (255, 0, 1), dtype=np.uint8)
        view = FieldOfView(np.ones((40, 40), dtype=np.bool_), None)
        assert channel_gains(image, view, (20.0, 80.0, 40.0)) == (0.25, 8.0, 8.0)
        nowhere = FieldOfView(np.zeros((40, 40), dtype=np.bool_), None)
        assert channel_gains(image, nowhere, self.MEANS) == (8.0, 8.0, 8.0)

    def test_what_is_too_bright_stays_white(self):
        image = np.full((2, 2, 3), (100, 200, 7), dtype=np.uint8)
        assert apply_channel_gains(image, (2.0, 2.0, 0.5))[0, 0].tolist() == [200, 255, 4]

    def test_a_spec_without_means_leaves_colours_alone(self):
        image = blank(30, 40)
        view = FieldOfView(np.ones((30, 40), dtype=np.bool_), None)
        assert preprocess(image, view, "native", DRIVE).scaled is image


class TestRegion:
    """What the network computes, and what it leaves out."""

    VIEW = FieldOfView(np.zeros((100, 200), dtype=np.bool_), 50.0)
    VIEW.mask[30:80, 60:110] = True

    def test_the_rectangle_around_the_field_of_view_with_a_margin(self):
        assert region_to_compute(200, 400, self.VIEW, "fov") == (50, 170, 110, 230)

    def test_ends_at_the_border(self):
        cut = FieldOfView(np.ones((100, 200), dtype=np.bool_), 250.0)
        assert region_to_compute(200, 400, cut, "fov") == (0, 200, 0, 400)

    @pytest.mark.parametrize("scale", ["native", "fit", 2.0])
    def test_other_scales_compute_everything(self, scale):
        assert region_to_compute(200, 400, self.VIEW, scale) == (0, 200, 0, 400)

    def test_the_network_sees_its_pixels_and_knows_the_way_back(self):
        image = RNG.integers(0, 256, (100, 200, 3), dtype=np.uint8)
        spec = replace(EMBEDDED, fov_diameter=50.0, fov_diameter_max=None, fov_rgb_mean=None)
        seen = preprocess(image, self.VIEW, "fov", spec)
        assert seen.placement.region == (20, 90, 50, 120)
        assert np.array_equal(seen.pixels, image[20:90, 50:120])
        assert seen.placement.whole == seen.placement.size == (100, 200)
        assert seen.placement.vessel_bias == vessel_bias(50.0, spec) > 0


class TestCheckScale:
    def test_none_is_the_rule_of_the_spec(self):
        assert check_scale(None, DRIVE) == "fit"
        assert check_scale(None, EMBEDDED) == "fov"

    @pytest.mark.parametrize("scale", ["fit", "native", "fov", 1, 0.25])
    def test_allowed_scales_are_taken(self, scale):
        assert check_scale(scale, DRIVE) == scale

    @pytest.mark.parametrize("scale", ["Fit", "", 0, -1, float("nan"), float("inf"), True, (1, 2)])
    def test_other_scales_are_rejected(self, scale):
        with pytest.raises(OptionError, match="it must be 'fit', 'native', 'fov'"):
            check_scale(scale, DRIVE)

    def test_a_rule_that_the_spec_has_no_size_for(self):
        with pytest.raises(OptionError, match=r"no size for the scale 'fit'\. Its own .* is 'fov'"):
            check_scale("fit", EMBEDDED)

    def test_without_any_size_there_are_native_and_factors(self):
        spec = replace(DRIVE, scale="native", fit_size=None, fov_diameter=None)
        for scale in (None, "native", 2.0):
            assert check_scale(scale, spec) == (scale or "native")
        for scale in ("fit", "fov"):
            with pytest.raises(OptionError, match=f"has no size for the scale '{scale}'"):
                check_scale(scale, spec)


class TestUnfamiliarSize:
    @pytest.mark.parametrize(("diameter", "warned"), [(538, 0), (270, 0), (260, 1), (1080, 1)])
    def test_field_of_view_far_from_the_one_trained_on(self, diameter, warned):
        text = unfamiliar_size(diameter, 1.0, "native", DRIVE)
        assert ("The scale 'fov' would match it" in text) == bool(text) == bool(warned)

    @pytest.mark.parametrize(("diameter", "warned"), [(499, 1), (500, 0), (4000, 0), (4001, 1)])
    def test_field_of_view_far_from_a_range(self, diameter, warned):
        text = unfamiliar_size(diameter / 2, 2.0, 2.0, RANGE)
        assert ("expects 1000 to 2000: it may miss" in text) == bool(text) == bool(warned)

    def test_no_field_of_view(self):
        assert "No field of view was found" in unfamiliar_size(None, 1.0, "fit", DRIVE)


@pytest.mark.parametrize(
    ("diameter", "bias"),
    [(None, 0), (3000, 0), (900, 0), (636.4, 1.25), (450, 2.5), (50, 2.5)],
)
def test_the_vessel_bias_grows_as_the_field_of_view_shrinks(diameter, bias):
    spec = replace(EMBEDDED, small_fov_bias=(900.0, 2.5))
    assert vessel_bias(diameter, spec) == pytest.approx(bias, abs=1e-3)
