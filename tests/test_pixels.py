"""Embedded colour profiles are converted to sRGB; sRGB and none change nothing."""

import io

import numpy as np
import pytest
from PIL import Image
from support.profiles import SRGB, swapped_profile

from vesselseg.images import decode

STEPS = np.arange(0, 256, 17, dtype=np.uint8)
COLORS = np.stack(np.meshgrid(STEPS, STEPS, STEPS), axis=-1).reshape(64, 64, 3)
CMYK = SRGB[:16] + b"CMYK" + SRGB[20:]


def encoded(format_, profile, colors=COLORS):
    stream = io.BytesIO()
    options = {"lossless": True} if format_ == "WebP" else {}
    Image.fromarray(colors).save(stream, format_, icc_profile=profile, **options)
    return stream.getvalue()


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "WebP"])
class TestProfiles:
    def test_srgb_changes_no_pixel(self, format_):
        decoded = decode(encoded(format_, SRGB))
        assert np.array_equal(decoded.rgb, COLORS)
        assert not decoded.warnings

    def test_another_profile_is_converted(self, format_):
        decoded = decode(encoded(format_, swapped_profile()))
        expected = COLORS[..., [1, 0, 2]].astype(int)
        assert np.abs(decoded.rgb - expected).max() <= 3
        assert not decoded.warnings

    def test_so_are_pil_images_and_transparent_ones(self, format_):
        content = encoded(format_, swapped_profile())
        with Image.open(io.BytesIO(content)) as opened:
            assert np.array_equal(decode(opened).rgb, decode(content).rgb)
            assert np.array_equal(decode(opened.convert("RGBA")).rgb, decode(content).rgb)

    @pytest.mark.parametrize(
        "profile", [b"no profile", SRGB[:200], SRGB[:16] + b"CMYK" + SRGB[20:]]
    )
    def test_one_that_cannot_be_used_is_warned_of(self, format_, profile):
        decoded = decode(encoded(format_, profile))
        assert np.array_equal(decoded.rgb, COLORS)
        assert "has a colour profile that cannot be used" in decoded.warnings[0]


def test_the_profile_of_a_grey_image_is_not_used_for_its_colours():
    decoded = decode(encoded("PNG", SRGB, COLORS[..., 0]))
    assert np.array_equal(decoded.rgb[..., 0], COLORS[..., 0])


def test_adobe_rgb_without_a_profile_is_warned_of():
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    stream = io.BytesIO()
    Image.fromarray(COLORS).save(stream, "JPEG", exif=exif)
    assert "Adobe RGB, but no profile" in decode(stream.getvalue()).warnings[0]
