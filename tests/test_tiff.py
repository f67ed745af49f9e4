"""TIFF files are read as they declare themselves, or rejected with what to do."""

import io
import itertools
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from vesselseg import ImageError, MissingExtraError
from vesselseg.images import decode, to_rgb

tifffile = pytest.importorskip("tifffile", reason="the extra tiff is not installed")

HEIGHT, WIDTH = 48, 64
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
RGB = np.stack([40 + 3 * COLUMNS, 20 + 3 * ROWS, 10 + ROWS + COLUMNS], axis=-1).astype(np.uint8)
GREY = RGB[..., 0]


def tiff(values, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


def variants():
    """Files of the same pixels in every layout that tifffile writes: name, content, truth."""
    layouts = ("minisblack", "miniswhite", "rgb", "separate")
    kinds = (np.uint8, np.uint16, np.float32)
    stored = ((None, None), (None, (16, 16)), ("zlib", None), ("zlib", (16, 16)))
    extras = (None, "unspecified", "unassalpha", "assocalpha")
    for order, kind, layout, (compression, tile), extra in itertools.product(
        "<>", kinds, layouts, stored, extras
    ):
        white = 1 if kind is np.float32 else np.iinfo(kind).max
        values = (
            (RGB / 255 * white).astype(kind) if white == 1 else RGB.astype(kind) * (white // 255)
        )
        has_colors = layout in ("rgb", "separate")
        if not has_colors:
            values = values[..., :1]
        if layout == "miniswhite":
            values = (white - values).astype(kind)
        if extra is not None:
            values = np.dstack([values, np.full((HEIGHT, WIDTH, 1), white, kind)])
        options = {
            "photometric": "rgb" if has_colors else layout,
            "planarconfig": "separate" if layout == "separate" else "contig",
            "extrasamples": [extra] if extra else None,
        }
        if values.shape[2] == 1:
            values, options["planarconfig"] = values[..., 0], None
        elif layout == "separate":
            values = values.transpose(2, 0, 1)
        rows = None if tile else 16
        content = tiff(
            values,
            byteorder=order,
            compression=compression,
            tile=tile,
            rowsperstrip=rows,
            **options,
        )
        truth = RGB if has_colors else np.dstack([GREY] * 3)
        yield f"{order} {kind.__name__} {layout} {compression} {tile} {extra}", content, truth


@pytest.mark.slow
def test_every_layout_is_read_rightly_or_rejected_with_advice():
    read = 0
    for name, content, truth in variants():
        problem = ""
        try:
            rgb = to_rgb(content).astype(int)
        except ImageError as error:
            problem = str(error)
        if problem:
            assert "tifffile" in problem, (name, problem)
        else:
            assert np.abs(rgb - truth).max() <= 1, name
            read += 1
    assert read > 200


@pytest.mark.parametrize("layout", ["separate", "rgb"])
def test_deep_colours_use_the_bits_that_they_have(layout):
    deep = RGB.astype(np.uint16) * 16
    values = deep.transpose(2, 0, 1) if layout == "separate" else deep
    planar = "separate" if layout == "separate" else "contig"
    rgb = to_rgb(tiff(values, photometric="rgb", planarconfig=planar), bits=12)
    assert np.array_equal(rgb, to_rgb(deep, bits=12))


def test_files_of_one_bit_are_black_and_white():
    stream = io.BytesIO()
    Image.fromarray(GREY > 100).save(stream, "TIFF")
    decoded = decode(stream.getvalue())
    assert np.array_equal(decoded.rgb, np.dstack([(GREY > 100) * np.uint8(255)] * 3))
    assert decoded.warnings == ()


def test_a_file_of_16_bits_whose_values_need_fewer_is_warned_of():
    decoded = decode(tiff(GREY.astype(np.uint16) * 16))
    assert "set bits to 12" in decoded.warnings[0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_both_readers_turn_files_upright(orientation, planar):
    deep = RGB.astype(np.uint16) * 257
    values = deep.transpose(2, 0, 1) if planar == "separate" else deep
    content = tiff(
        values, photometric="rgb", planarconfig=planar, extratags=[(274, "H", 1, orientation, True)]
    )
    exif = Image.Exif()
    exif[274] = orientation
    png = io.BytesIO()
    Image.fromarray(RGB).save(png, "PNG", exif=exif)
    assert np.array_equal(to_rgb(content), to_rgb(png.getvalue()))


class TestChannelsInPages:
    def test_an_imagej_composite_is_read_as_red_green_and_blue(self):
        content = tiff(RGB.transpose(2, 0, 1), imagej=True, metadata={"axes": "CYX"})
        decoded = decode(content)
        assert np.array_equal(decoded.rgb, RGB)
        assert "3 channels, which were read as red, green and blue" in decoded.warnings[0]

    @pytest.mark.parametrize("axes", ["CYX", "ZCYX"])
    def test_other_composites_are_rejected(self, axes):
        channels = RGB.transpose(2, 0, 1)
        values = channels[:2] if axes == "CYX" else np.stack([channels, channels])
        content = tiff(values, imagej=True, metadata={"axes": axes})
        with pytest.raises(ImageError, match=r"is an ImageJ file of \d images in \d channels"):
            to_rgb(content)

    def test_three_grey_pages_may_be_channels(self):
        decoded = decode(tiff(RGB.transpose(2, 0, 1), photometric="minisblack"))
        assert np.array_equal(decoded.rgb, np.dstack([GREY] * 3))
        assert "has 3 pages; the first is used" in decoded.warnings[0]
        assert "the red, green and blue of a photograph in its 3 pages" in decoded.warnings[1]


@pytest.mark.parametrize(
    ("values", "options", "match"),
    [
        (GREY.astype(np.int16), {}, "has signed values"),
        (GREY.astype(np.int8), {}, "has signed values"),
        (GREY.astype(np.uint32), {}, "integers of 32 bits"),
        (GREY.astype(np.complex64), {}, "complex or undefined"),
        (GREY, {"subfiletype": 1}, "begins with a preview"),
        (GREY, {"extratags": [(50706, "B", 4, (1, 4, 0, 0), True)]}, "raw file of a camera"),
        (GREY, {"photometric": "palette", "colormap": np.tile(np.arange(256, dtype="u2"), (3, 1))},
         "a palette of 8 bits"),
        (np.dstack([RGB, GREY]),
         {"photometric": "separated", "extratags": [(332, "H", 1, 2, True)]}, "other inks"),
        (RGB, {"photometric": "cielab"}, "photometric interpretation 8"),
        (RGB, {"photometric": "minisblack", "planarconfig": "contig"}, "read it with tifffile"),
    ],
    ids=["int16", "int8", "uint32", "complex", "preview", "DNG", "palette", "inks", "LAB",
         "three samples of grey"],
)  # fmt: skip
def test_pixels_without_a_defined_meaning_are_rejected(values, options, match):
    with pytest.raises(ImageError, match=match):
        to_rgb(tiff(values, **options))


def test_channels_of_different_depths_are_rejected():
    content = tiff(RGB, photometric="rgb")
    assert content.count(struct.pack("<3H", 8, 8, 8)) == 1
    with pytest.raises(ImageError, match="has channels of different types"):
        to_rgb(content.replace(struct.pack("<3H", 8, 8, 8), struct.pack("<3H", 8, 8, 16)))


def test_compressed_files_are_left_to_pillow_since_tifffile_unpacks_without_limit():
    floats = (RGB / 255).astype(np.float32)  # a layout that Pillow does not read
    assert np.array_equal(to_rgb(tiff(floats, photometric="rgb")), RGB)
    with pytest.raises(ImageError, match="is a compressed TIFF file whose layout Pillow does not"):
        to_rgb(tiff(floats, photometric="rgb", compression="zlib"))


def test_a_file_that_pillow_misreads_is_rejected_as_a_pil_image():
    content = tiff(GREY.astype(np.uint16) * 257, photometric="miniswhite")
    with (
        Image.open(io.BytesIO(content)) as opened,
        pytest.raises(ImageError, match="Pillow misreads"),
    ):
        to_rgb(opened)


def test_what_tifffile_logs_of_a_damaged_file_is_a_warning_of_the_photograph(caplog):
    planes = RGB.transpose(2, 0, 1).astype(np.uint16) * 257
    artist = (315, "s", 0, "a long name", True)
    content = tiff(planes, photometric="rgb", planarconfig="separate", extratags=[artist])
    entry = content.index(struct.pack("<HH", 315, 2))
    beyond = struct.pack("<I", 2 * len(content))
    decoded = decode(content[: entry + 8] + beyond + content[entry + 12 :])
    assert np.array_equal(decoded.rgb, RGB)
    assert "Its decoder says: <TiffTag.fromfile>" in decoded.warnings[-1]
    assert not caplog.records  # what it logs goes nowhere else


def test_without_tifffile_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    content = tiff(RGB.astype(np.uint16), photometric="rgb", planarconfig="contig")
    assert to_rgb(content).shape == RGB.shape  # Pillow reads this one
    planes = RGB.astype(np.uint16).transpose(2, 0, 1)
    content = tiff(planes, photometric="rgb", planarconfig="separate")
    with pytest.raises(MissingExtraError, match=r"pip install .*\[tiff\]"):
        to_rgb(content)
