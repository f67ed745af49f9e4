"""Damaged, huge and unusual images give a correct result or an ImageError, nothing else."""

import contextlib
import io
import os
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.damaged import damaged_files
from support.models import NARROW

import vesselseg
from vesselseg import DatasetError, ImageError, OptionError, Segmenter
from vesselseg.backends import Backend
from vesselseg.evaluation.datasets import read_label
from vesselseg.images import to_rgb

RNG = np.random.default_rng(0)
FORMATS = ["JPEG", "PNG", "TIFF", "GIF", "BMP", "PPM", "WebP"]


def encoded(format_, pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format_)
    return file.getvalue()


NOISE = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
CONTENT = {format_: encoded(format_, NOISE) for format_ in FORMATS}


def decoded_or_rejected(content):
    with warnings.catch_warnings():  # Pillow warns of some damage that it can read past
        warnings.simplefilter("ignore")
        try:
            rgb = to_rgb(content, max_pixels=10**6)
        except ImageError:
            return
    assert rgb.dtype == np.uint8
    assert rgb.ndim == 3


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from(FORMATS), st.data())
def test_files_with_flipped_bits_are_decoded_or_rejected(format_, data):
    content = bytearray(CONTENT[format_])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    decoded_or_rejected(bytes(content))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_decoded_or_rejected(content):
    decoded_or_rejected(content)


# For more: VESSELSEG_TEST_DAMAGED=100000 python -m pytest tests/test_hostile_images.py -k damaged
COUNT = int(os.environ.get("VESSELSEG_TEST_DAMAGED", "400"))


@pytest.mark.slow
def test_damaged_files_of_every_format_are_decoded_or_rejected_without_a_word_of_others(tmp_path):
    label = tmp_path / "label.png"
    for name, content in damaged_files(COUNT):
        label.write_bytes(content)
        start = time.monotonic()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with contextlib.suppress(ImageError):
                assert to_rgb(content, max_pixels=10**6).size <= 3 * 10**6, name
            assert not caught, (name, caught[0].message)
            warnings.simplefilter("ignore")
            with contextlib.suppress(DatasetError):
                read_label(label)
        assert time.monotonic() - start < 20, name


def bomb(width, height):
    """A PNG of a few dozen bytes that declares width x height pixels."""
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    for kind, data in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        content += struct.pack(">I", len(data)) + kind + data + checksum
    return content


class TestTooLarge:
    def test_files_are_rejected_before_they_are_decoded(self):
        with pytest.raises(ImageError, match=r"9000 x 9000 pixels; at most 1,000,000 are accepted"):
            to_rgb(bomb(9000, 9000), max_pixels=10**6)
        with pytest.raises(ImageError, match="60000 x 60000 pixels; at most 200,000,000"):
            to_rgb(bomb(60000, 60000))

    def test_the_limit_of_pillow_neither_applies_nor_warns_nor_changes(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # all files have more than twice that
        for format_ in FORMATS:
            if format_ != "WebP":
                assert to_rgb(CONTENT[format_]).shape == NOISE.shape
        assert Image.MAX_IMAGE_PIXELS == 100

    @pytest.mark.parametrize(
        "image",
        [np.zeros((101, 100, 3), np.uint8), torch.zeros(3, 101, 100), Image.new("L", (101, 100))],
        ids=["array", "tensor", "PIL"],
    )
    def test_large_arrays_tensors_and_pil_images_are_rejected(self, image):
        with pytest.raises(ImageError, match="at most 10,000 are accepted"):
            to_rgb(image, max_pixels=10_000)

    def test_the_limit_of_a_model_applies_to_its_photographs_and_scales(
        self, published_file, photograph
    ):
        limited = vesselseg.load_model(
            NARROW, weights=published_file, device="cpu", max_pixels=90_000
        )
        assert limited(photograph).mask.any()
        with pytest.raises(OptionError, match=r"The scale 2\.0 would enlarge 177 x 177"):
            limited(photograph, scale=2)
        with pytest.raises(ImageError, match="at most 90,000"):
            limited(np.zeros((301, 300), np.uint8))

    def test_a_single_pixel_is_the_least_limit(self, published_file, photograph):
        limited = vesselseg.load_model(NARROW, weights=published_file, device="cpu", max_pixels=1)
        with pytest.raises(ImageError, match="at most 1 are accepted"):
            limited(photograph)

    @pytest.mark.parametrize("limit", [0, 1.5, None])
    def test_invalid_limits_are_rejected(self, limit, published_file):
        with pytest.raises(OptionError, match="max_pixels is"):
            vesselseg.load_model(NARROW, weights=published_file, max_pixels=limit)


class Reader:
    """A file object of somebody else."""

    def __init__(self, read):
        self.read = read


class TestWhatADecoderOrCallerRaises:
    """It becomes an ImageError."""

    @pytest.mark.parametrize("junk", [b"\xff", (1, 2, 3, 4, 5), "red", 300, -1, object()])
    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
    def test_invalid_transparency_is_ignored_or_rejected(self, mode, junk):
        image = Image.new(mode, (4, 4))
        image.info["transparency"] = junk
        with contextlib.suppress(ImageError):
            assert to_rgb(image).shape == (4, 4, 3)

    @pytest.mark.parametrize("format_", ["PNG", "JPEG", "TIFF"])
    def test_a_truncated_file_opened_by_pillow_is_rejected(self, format_):
        file = io.BytesIO(CONTENT[format_][:-200])
        with Image.open(file) as image, pytest.raises(ImageError):
            to_rgb(image)

    @pytest.mark.slow
    def test_nested_tensors_are_rejected(self):
        nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)
        with pytest.raises(ImageError, match="of this kind cannot be used"):
            to_rgb(nested)

    @pytest.mark.parametrize("name", ["x" * 300 + ".png", "/dev/null", "\0.png"])
    def test_paths_that_cannot_be_read_raise_an_error(self, name):
        with pytest.raises((ImageError, FileNotFoundError)):
            to_rgb(name)

    @pytest.mark.parametrize(
        "read",
        [lambda: 1 / 0, lambda _: b"", lambda: "text", lambda: None],
        ids=["raises", "wants an argument", "text", "nothing"],
    )
    def test_faulty_file_objects_are_rejected(self, read):
        with pytest.raises(ImageError):
            to_rgb(Reader(read))


class TestOddButRight:
    def test_memory_that_is_not_contiguous_is_decoded(self):
        spread = np.repeat(np.frombuffer(CONTENT["PNG"], np.uint8), 2)
        assert np.array_equal(to_rgb(memoryview(spread)[::2]), NOISE)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_a_pipe_is_read(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.png")
        arguments = [tmp_path / "pipe.png", CONTENT["PNG"]]
        writer = threading.Thread(target=Path.write_bytes, args=arguments)
        writer.start()
        assert np.array_equal(to_rgb(tmp_path / "pipe.png"), NOISE)
        writer.join()

    @pytest.mark.parametrize("size", [(1, 65535), (65535, 1), (3, 20000)])
    def test_strips_of_one_or_few_pixels_are_segmented(self, size, model):
        image = np.zeros((*size, 3), np.uint8)
        assert model(image, scale=0.05).mask.shape == size

    @pytest.mark.parametrize("mode", [
        "1", "L", "I", "F", "P", "RGB", "RGBX", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "RGBa", "LA",
        "La", "PA", "I;16", "I;16L", "I;16B"])  # fmt: skip
    def test_every_pil_mode_is_converted_or_rejected(self, mode):
        image = Image.new(mode, (5, 4))
        if mode in ("I", "LAB"):
            with pytest.raises(ImageError, match=repr(mode)):
                to_rgb(image)
        else:
            assert to_rgb(image).shape == (4, 5, 3)

    @pytest.mark.parametrize("dtype", np.typecodes["All"])
    def test_every_numpy_dtype_is_converted_or_rejected(self, dtype):
        array = np.zeros((4, 5), dtype=dtype)
        if array.dtype.kind == "f" or array.dtype in (np.uint8, np.uint16):
            assert not to_rgb(array).any()
        else:
            with pytest.raises(ImageError, match=r"has the type"):
                to_rgb(array)

    def test_arrays_of_other_byte_order_and_memory_maps_are_converted(self, tmp_path):
        values = RNG.integers(0, 65536, (6, 7), dtype=np.uint16)
        expected = to_rgb(values)
        assert np.array_equal(to_rgb(values.astype(">u2")), expected)
        np.save(tmp_path / "image.npy", values)
        assert np.array_equal(to_rgb(np.load(tmp_path / "image.npy", mmap_mode="r")), expected)


class Pointwise(Backend):
    """A backend without context: the logits of a pixel depend on that pixel alone."""

    name, device, precision = "pointwise", torch.device("cpu"), "float32"
    versions: ClassVar[dict[str, str]] = {}

    def __init__(self):
        """Hold no network."""

    def __call__(self, windows):
        red = windows[:, :1].float() / 255
        return torch.cat([1 - red, 3 * red - 1], dim=1)


@pytest.fixture(scope="module")
def pointwise() -> Segmenter:
    return Segmenter(Pointwise(), NARROW, sha256="")


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(1, 150), st.integers(1, 150), st.integers(0, 3), st.booleans(),
    st.sampled_from(["native", 0.5, 1.7, "fov"]),
)  # fmt: skip
def test_flipped_and_turned_images_give_flipped_and_turned_results(
    pointwise, height, width, turns, flip, scale
):
    def move(x):
        return np.ascontiguousarray(np.rot90(np.flip(x, 1) if flip else x, turns))

    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    straight = pointwise(image, scale=scale)
    moved = pointwise(move(image), scale=scale)
    # Pillow resamples rows first and rounds in between: one step of 255 at most.
    np.testing.assert_allclose(moved.probability, move(straight.probability), atol=0.02)
