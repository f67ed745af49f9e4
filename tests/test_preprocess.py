"""Bringing photographs to the network's scale and colours, and logits back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from vesselseg import OptionError
from vesselseg.registry import EMBEDDED, find_spec
from vesselseg.fov import FieldOfView
from vesselseg.preprocess import (
    apply_gains,
    check_scale,
    fit_factor,
    gains,
    resize_like_opencv,
    restore,
    to_network,
    to_scale,
)

DRIVE = find_spec("unet_s5-d16_drive")
RNG = np.random.default_rng(0)


def blank(height, width):
    return np.zeros((height, width, 3), dtype=np.uint8)


class TestFit:
    """The published rule."""

    @pytest.mark.parametrize("name", ["drive", "stare", "chase_db1", "hrf"])
    def test_images_of_the_data_set_are_not_resampled(self, name):
        record = find_spec(f"unet_s5-d16_{name}")
        image = blank(*record.fit_size)
        assert fit_factor(*record.fit_size, record.fit_size) == 1
        assert to_scale(image, "fit", record, None) is image

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
    def test_sizes(self, size, expected):
        assert to_scale(blank(*size), "fit", DRIVE, None).shape == (*expected, 3)


class TestResizeLikeOpenCV:
    """Values noted from OpenCV 5.0.0: ``cv2.resize(image, (w, h))`` of uint8."""

    ROW = np.array([[0, 255, 10, 200, 30]], dtype=np.uint8)

    @pytest.mark.parametrize("size", [(2, 3), (1, 8), (3, 2), (4, 13)])
    def test_close_to_exact_arithmetic(self, size):
        image = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
        ours = resize_like_opencv(image, size)
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].double()
        exact = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear")
        difference = ours.astype(float) - exact[0].permute(1, 2, 0).numpy()
        assert np.abs(difference).max() < 1

    def test_rounding_of_opencv(self):
        row = np.repeat(self.ROW[..., None], 3, axis=2)
        assert resize_like_opencv(row, (1, 8))[0, :, 0].tolist() == [
            0,
            112,
            240,
            87,
            69,
            188,
            104,
            30,
        ]
        # Along columns the two products are rounded on their own.
        column = resize_like_opencv(row.transpose(1, 0, 2), (8, 1))[:, 0, 0]
        assert column.tolist() == [0, 112, 240, 86, 69, 188, 104, 30]

    def test_agrees_with_opencv(self):
        cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
        for _ in range(100):
            height, width, tall, wide = (int(n) for n in RNG.integers(1, 120, 4))
            image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
            expected = cv2.resize(image, (wide, tall), interpolation=cv2.INTER_LINEAR)
            assert np.array_equal(resize_like_opencv(image, (tall, wide)), expected)


class TestOtherScales:
    def test_native_is_the_image_itself(self):
        image = blank(30, 40)
        assert to_scale(image, "native", DRIVE, None) is image

    def test_factor(self):
        assert to_scale(blank(30, 41), 0.5, DRIVE, None).shape == (15, 21, 3)

    def test_fov_brings_the_disc_to_the_diameter_of_the_record(self):
        assert DRIVE.fov_range == (538, 538)
        assert to_scale(blank(300, 400), "fov", DRIVE, 269.0).shape == (600, 800, 3)
        assert to_scale(blank(600, 800), "fov", DRIVE, 1076.0).shape == (300, 400, 3)

    @pytest.mark.parametrize(
        ("diameter", "height"), [(250, 1200), (1000, 300), (1234, 300), (2000, 300), (4000, 150)]
    )
    def test_fov_brings_the_disc_into_the_range_of_the_record(self, diameter, height):
        assert EMBEDDED.fov_range == (1000, 2000)
        assert to_scale(blank(300, 300), "fov", EMBEDDED, diameter).shape[0] == height

    def test_fov_without_a_disc_takes_the_longer_side_up_to_four_times(self):
        assert to_scale(blank(500, 4000), "fov", EMBEDDED, None).shape == (250, 2000, 3)
        assert to_scale(blank(250, 500), "fov", EMBEDDED, None).shape == (500, 1000, 3)
        assert to_scale(blank(10, 20), "fov", EMBEDDED, None).shape == (40, 80, 3)

    def test_reducing_antialiases(self):
        stripes = np.zeros((64, 64, 3), dtype=np.uint8)
        stripes[:, ::2] = 200
        assert np.ptp(to_scale(stripes, 0.25, DRIVE, None)[8]) < 20
        expected = Image.fromarray(stripes).resize((16, 16), Image.Resampling.BILINEAR)
        assert np.array_equal(to_scale(stripes, 0.25, DRIVE, None), np.asarray(expected))


class TestColours:
    MEANS = (160.0, 80.0, 40.0)

    def test_means_inside_the_field_of_view_are_brought_to_those_of_the_record(self):
        image = blank(600, 600)
        image[:, 100:500] = (80, 160, 20)
        view = FieldOfView(image.any(axis=2), 400.0)
        assert gains(image, view, self.MEANS) == (2.0, 0.5, 2.0)
        record = replace(DRIVE, fov_rgb_mean=self.MEANS)
        seen = to_network(image, view, "native", record)
        assert seen[300, 300].tolist() == [160, 80, 40]
        assert not seen[:, :100].any()

    def test_gains_have_limits(self):
        image = np.full((40, 40, 3), (255, 0, 1), dtype=np.uint8)
        view = FieldOfView(np.ones((40, 40), dtype=np.bool_), None)
        assert gains(image, view, (20.0, 80.0, 40.0)) == (0.25, 8.0, 8.0)
        nowhere = FieldOfView(np.zeros((40, 40), dtype=np.bool_), None)
        assert gains(image, nowhere, self.MEANS) == (8.0, 8.0, 8.0)

    def test_what_is_too_bright_stays_white(self):
        image = np.full((2, 2, 3), (100, 200, 7), dtype=np.uint8)
        assert apply_gains(image, (2.0, 2.0, 0.5))[0, 0].tolist() == [200, 255, 4]

    def test_a_record_without_means_leaves_colours_alone(self):
        image = blank(30, 40)
        view = FieldOfView(np.ones((30, 40), dtype=np.bool_), None)
        assert to_network(image, view, "native", DRIVE) is image


class TestCheckScale:
    def test_none_is_the_rule_of_the_record(self):
        assert check_scale(None, DRIVE) == "fit"
        assert check_scale(None, EMBEDDED) == "fov"

    @pytest.mark.parametrize("scale", ["fit", "native", "fov", 1, 0.25])
    def test_allowed(self, scale):
        assert check_scale(scale, DRIVE) == scale

    @pytest.mark.parametrize("scale", ["Fit", "", 0, -1, float("nan"), float("inf"), True, (1, 2)])
    def test_refused(self, scale):
        with pytest.raises(OptionError, match="it has to be 'fit', 'native', 'fov'"):
            check_scale(scale, DRIVE)

    def test_a_rule_that_the_record_has_no_size_for(self):
        with pytest.raises(OptionError, match="has no size for scale='fit'"):
            check_scale("fit", EMBEDDED)


class TestWarnings:
    @pytest.mark.parametrize(("diameter", "warned"), [(538, 0), (270, 0), (260, 1), (1080, 1)])
    def test_field_of_view_far_from_the_one_trained_on(self, diameter, warned, caplog):
        to_scale(blank(584, 565), "native", DRIVE, diameter)
        assert len(caplog.records) == warned
        assert all("scale='fov' would match it" in r.message for r in caplog.records)

    @pytest.mark.parametrize(("diameter", "warned"), [(499, 1), (500, 0), (4000, 0), (4001, 1)])
    def test_field_of_view_far_from_a_range(self, diameter, warned, caplog):
        to_scale(blank(40, 40), "native", EMBEDDED, diameter)
        assert len(caplog.records) == warned
        assert all("expects 1000 to 2000, and" in r.message for r in caplog.records)

    def test_no_field_of_view(self, caplog):
        to_scale(blank(584, 565), "fit", DRIVE, None)
        assert "No field of view was found" in caplog.text


def test_restore_is_bilinear():
    logits = torch.tensor([[[0.0, 4.0]]])
    assert restore(logits, 1, 4).tolist() == [[[0, 1, 3, 4]]]
    assert restore(logits, 1, 2) is logits
