"""What counts as an image, and which pixels it has."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

import vesselseg
from vesselseg import DatasetError, ImageError, OptionError
from vesselseg.evaluation.datasets import read_label
from vesselseg.images import decode, to_rgb

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]


def encoded(image, format_, **options):
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


class TestSameEightBitPixels:
    """However they arrive, they are the same array."""

    @pytest.mark.parametrize("format_", ["PNG", "TIFF", "BMP", "PPM", "WebP"])
    def test_lossless_files(self, format_, tmp_path):
        options = {"lossless": True} if format_ == "WebP" else {}
        content = encoded(Image.fromarray(PIXELS), format_, **options)
        path = tmp_path / "image"
        path.write_bytes(content)
        with path.open("rb") as stream:
            for given in (path, str(path), content, bytearray(content), memoryview(content),
                          stream, io.BytesIO(content)):  # fmt: skip
                assert np.array_equal(to_rgb(given), PIXELS)

    @pytest.mark.parametrize(
        "given",
        [
            PIXELS,
            np.asfortranarray(PIXELS),
            PIXELS[::-1, ::-1].copy()[::-1, ::-1],  # negative strides
            PIXELS.astype(np.uint16) * 257,
            (PIXELS / 255).astype(np.float32),
            (PIXELS / 255).astype(np.float64),
            torch.from_numpy(PIXELS).permute(2, 0, 1),
            (torch.from_numpy(PIXELS).permute(2, 0, 1) / 255).requires_grad_(),
            Image.fromarray(PIXELS),
            np.dstack([PIXELS, np.full((5, 7), 255, np.uint8)]),
        ],
        ids=["uint8", "Fortran order", "negative strides", "uint16", "float32", "float64",
             "tensor", "tensor with gradient", "PIL", "RGBA"],
    )  # fmt: skip
    def test_arrays_tensors_and_pil_images(self, given):
        rgb = to_rgb(given)
        assert rgb.dtype == np.uint8
        assert rgb.flags.c_contiguous
        assert np.array_equal(rgb, PIXELS)

    @pytest.mark.parametrize(
        "given",
        [GREY, torch.from_numpy(GREY.copy()), Image.fromarray(GREY), GREY.astype(np.uint16) * 257,
         (GREY / 255).astype(np.float32), Image.fromarray((GREY / 255).astype(np.float32)),
         Image.fromarray(GREY.astype(np.uint16) * 257)],
        ids=["uint8", "tensor", "PIL L", "uint16", "float", "PIL F", "PIL I;16"],
    )  # fmt: skip
    def test_grey_is_repeated(self, given):
        assert np.array_equal(to_rgb(given), np.dstack([GREY] * 3))


def test_sixteen_bits_are_divided_by_257_and_rounded():
    values = np.array([[0, 128, 129, 257, 385, 386, 65534, 65535]], dtype=np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    assert np.array_equal(to_rgb(values)[..., 0], expected)
    for format_ in ("PNG", "TIFF"):
        assert np.array_equal(to_rgb(encoded(Image.fromarray(values), format_))[..., 0], expected)


def test_pixels_of_alpha_zero_become_black_and_others_keep_their_colour():
    alpha = RNG.choice([0, 1, 128, 255], (5, 7)).astype(np.uint8)
    rgba = np.dstack([PIXELS, alpha])
    expected = np.where(alpha[..., None] == 0, 0, PIXELS)
    for given in (rgba, Image.fromarray(rgba), encoded(Image.fromarray(rgba), "PNG")):
        assert np.array_equal(to_rgb(given), expected)


class TestFileFormats:
    def test_palette_with_and_without_transparency(self):
        image = Image.fromarray(PIXELS).quantize(16)
        assert np.array_equal(to_rgb(encoded(image, "PNG")), np.asarray(image.convert("RGB")))
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.putpixel((1, 0), 1)
        rgb = to_rgb(encoded(image, "PNG", transparency=0))
        assert rgb.tolist() == [[[0, 0, 0], [40, 50, 60]]]

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "RGBX"])
    def test_pil_modes(self, mode):
        image = Image.fromarray(PIXELS).convert(mode)
        assert np.array_equal(to_rgb(image), np.asarray(image.convert("RGB")))

    def test_cmyk_jpeg(self):
        content = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
        red, green, blue = to_rgb(content)[4, 4]
        assert red > 240
        assert max(green, blue) < 15

    def test_cmyk_with_a_profile_has_its_colours(self):
        ink = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
        assert to_rgb(ink)[4, 4].tolist() == [0, 255, 255]
        decoded = decode(encoded(ink, "TIFF", icc_profile=profile_of_grey_inks()))
        assert decoded.warnings == ()
        assert abs(decoded.rgb.astype(int) - 119).max() <= 1  # L* = 50 in sRGB

    def test_exif_orientation_turns_files_upright(self):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        content = encoded(Image.fromarray(PIXELS), "PNG", exif=exif)
        assert np.array_equal(to_rgb(content), np.rot90(PIXELS, -1))
        opened = Image.open(io.BytesIO(content))  # whose pixels are what the caller sees
        assert np.array_equal(to_rgb(opened), PIXELS)

    @pytest.mark.parametrize("format_", ["GIF", "TIFF", "PNG", "WebP", "MPO"])
    def test_first_of_several_pages_with_a_warning(self, format_, caplog):
        first, *others = (Image.new("L", (4, 4), shade) for shade in (10, 20, 30))
        content = encoded(first, format_, save_all=True, append_images=others)
        assert abs(to_rgb(content).astype(int) - 10).max() <= 1
        assert "has 3 pages; the first is used" in caplog.text

    @pytest.mark.parametrize("format_", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WebP"])
    def test_files_of_one_page_are_read_without_a_warning(self, format_, caplog):
        to_rgb(encoded(Image.fromarray(PIXELS), format_))
        assert not caplog.records


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (3, r"cannot be a int\. Accepted are a path"),
        (None, r"cannot be a NoneType"),
        ([[1, 2]], r"cannot be a list"),
        (np.zeros((4, 4), bool), r"type bool; allowed are uint8, uint16"),
        (np.zeros((4, 4), np.int64), "type int64.* convert it to uint8"),
        (np.full((4, 4), 255, np.int64), "type int64.* convert it to uint8"),
        (np.full((4, 4), -3, np.int32), r"type int32"),
        (np.zeros((4, 4), complex), r"type complex128"),
        (np.zeros((3, 4, 5), np.uint8), r"shape \(3, 4, 5\).*transpose\(1, 2, 0\)"),
        (np.zeros((1, 4, 5), np.uint8), r"Remove the axis of length 1"),
        (np.zeros((4, 5, 2), np.uint8), r"shape \(4, 5, 2\)"),
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"looks like a batch.*segment_many"),
        (np.zeros((0, 5, 3), np.uint8), r"is empty"),
        (np.zeros((0, 0), np.uint8), r"is empty"),
        (np.full((4, 4), np.nan), r"not finite"),
        (np.full((4, 4), np.inf), r"not finite"),
        (np.full((4, 4), 1.5), r"from 1\.5 to 1\.5; .*divide by 255"),
        (np.full((4, 4), -0.5), r"from -0\.5"),
        (torch.zeros(4, 5, 3), r"permute\(2, 0, 1\)"),
        (torch.zeros(2, 3, 4, 5), r"looks like a batch"),
        (torch.zeros(4, 5, dtype=torch.int64), r"type int64"),
        (torch.zeros(4, 5, dtype=torch.complex64), r"complex64"),
        (torch.zeros(3, 4, 5, device="meta"), r"cannot be used: torch\.float32, .*on meta"),
        (torch.zeros(3, 4, 5).to_sparse(), r"cannot be used: .*sparse"),
        (Image.new("I", (4, 4)), r"PIL mode 'I'"),
        (Image.new("LAB", (4, 4)), r"PIL mode 'LAB'"),
        (Image.new("RGB", (0, 4)), r"is empty"),
        (b"", r"^what was given is empty"),
        (b"no image", r"in none of the formats that vesselseg reads: JPEG, PNG"),
        (b"\0" * 128 + b"DICM" + b"\0" * 9, r"is a DICOM file whose header cannot be read"),
        (io.StringIO("text"), r"returns str; open it in binary mode"),
    ],
)
def test_other_things_are_rejected_with_what_is_accepted(given, match):
    with pytest.raises(ImageError, match=match):
        to_rgb(given)


@pytest.mark.parametrize("beyond", [-1, 256])
def test_uint8_is_advised_only_for_values_that_it_holds(beyond):
    with pytest.raises(ImageError, match=r"type int32; allowed are .*\[0, 1\]\.$"):
        to_rgb(np.array([[0, 255, beyond]], np.int32))


GARBAGE = {
    "EXIF of zeros": {"exif": b"Exif\0\0" + bytes(64)},
    "EXIF of garbage": {"exif": b"Exif\0\0" + b"GARBAGE-" * 8},
    "EXIF cut off": {"exif": b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0\0\0\x01\0"},
    "ICC profile of garbage": {"icc_profile": b"garbage" * 30},
    "XMP of garbage": {"xmp": b"\0<x:xmpmeta" + bytes(range(256))},
}


class TestDamagedMetadata:
    """Of a file whose pixels every viewer shows, the pixels are used."""

    @pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
    @pytest.mark.parametrize("format_", ["JPEG", "PNG", "WebP"])
    def test_does_not_hide_the_pixels(self, format_, garbage):
        options = {"lossless": True} if format_ == "WebP" else {}
        image = Image.fromarray(PIXELS)
        expected = to_rgb(encoded(image, format_, **options))
        assert np.array_equal(to_rgb(encoded(image, format_, **options, **garbage)), expected)

    @pytest.mark.parametrize(
        "kind", [b"zTXt", b"iTXt", b"tEXt", b"iCCP", b"eXIf", b"pHYs", b"gAMA"]
    )
    @pytest.mark.parametrize("has_checksum", [True, False])
    def test_nor_does_a_chunk_of_a_png_file(self, kind, has_checksum):
        text = b"XML:com.adobe.xmp\0\0" + zlib.compress(b"<x/>" * 2**19)
        checksum = zlib.crc32(kind + text) if has_checksum else 0
        chunk = struct.pack(">I", len(text)) + kind + text + struct.pack(">I", checksum)
        content = encoded(Image.fromarray(PIXELS), "PNG")
        assert np.array_equal(to_rgb(content[:33] + chunk + content[33:]), PIXELS)

    def test_is_warned_of(self):
        garbage = GARBAGE["EXIF of garbage"]
        decoded = decode(encoded(Image.fromarray(PIXELS), "PNG", **garbage))
        assert "has damaged EXIF data: it is not turned upright" in decoded.warnings[0]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_a_rounding_error_of_floats_is_clipped(kind):
    values = (PIXELS / 255).astype(kind)
    beyond = values.copy()
    beyond[0, :2] = [1.0005, 1.0001, 1], [-1e-8, -0.0005, 0]
    expected = to_rgb(values)
    expected[0, :2] = [255] * 3, [0] * 3
    assert np.array_equal(to_rgb(beyond), expected)
    with pytest.raises(ImageError, match=r"from 0 to 1\.01"):
        to_rgb(np.array([[0, 1.01]]))


def test_alpha_of_zero_everywhere_is_ignored_with_a_warning():
    decoded = decode(np.dstack([PIXELS, np.zeros((5, 7), np.uint8)]))
    assert np.array_equal(decoded.rgb, PIXELS)
    assert "is transparent everywhere" in decoded.warnings[0]


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WebP"])
def test_truncated_files_are_rejected_even_if_a_program_lets_pillow_load_them(
    format_, tmp_path, monkeypatch
):
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), format_)
    path = tmp_path / "label"
    for is_allowed in (False, True):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", is_allowed)
        assert to_rgb(content).shape == (64, 64, 3)
        for share in (0.1, 0.5):
            path.write_bytes(content[: int(share * len(content))])
            with pytest.raises(ImageError, match="could not be decoded"):
                to_rgb(path)
            with pytest.raises(DatasetError, match="could not be decoded"):
                read_label(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no image .*absent\.jpg"):
        to_rgb(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match=r"is a folder.*segment_many"):
        to_rgb(tmp_path)


def test_file_objects_are_named_in_messages_if_they_have_a_name(tmp_path):
    (tmp_path / "eye.jpg").write_bytes(b"no image")
    with (
        (tmp_path / "eye.jpg").open("rb") as stream,
        pytest.raises(ImageError, match=r"^the file object '.*eye\.jpg' could not be decoded"),
    ):
        to_rgb(stream)
    with pytest.raises(ImageError, match=r"^the file object given could not be decoded"):
        to_rgb(io.BytesIO(b"no image"))


def test_bfloat16_tensors_are_accepted():
    assert (to_rgb(torch.full((3, 2, 2), 0.5, dtype=torch.bfloat16)) == 128).all()


def test_the_result_shares_no_memory_with_the_input():
    array = PIXELS.copy()
    tensor = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1)
    image = Image.fromarray(PIXELS)
    for given in (array, tensor, image):
        to_rgb(given)[:] = 0
    assert np.array_equal(array, PIXELS)
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), PIXELS)
    assert np.array_equal(np.asarray(image), PIXELS)


def test_field_of_view_is_public():
    disc = np.hypot(*np.mgrid[-200:200, -200:200]) < 180
    image = np.where(disc, 200, 0).astype(np.uint8)
    found = vesselseg.field_of_view(image)
    assert found.dtype == bool
    assert (found == disc).mean() > 0.98


def test_field_of_view_takes_the_bits_of_16_bit_values():
    disc = np.hypot(*np.mgrid[-200:200, -200:200]) < 180
    deep = np.where(disc, 3000, 0).astype(np.uint16)
    assert vesselseg.field_of_view(deep // 8).all()  # too dark to have a border
    assert (vesselseg.field_of_view(deep // 8, bits=9) == disc).mean() > 0.98


class TestBits:
    """16-bit values that use fewer bits."""

    @pytest.mark.parametrize(("bits", "most"), [(10, 1023), (12, 4095), (14, 16383), (16, 65535)])
    def test_the_largest_value_becomes_white(self, bits, most, caplog):
        deep = np.array([[0, most // 2, most]], np.uint16)
        assert to_rgb(deep, bits=bits)[0, :, 0].tolist() == [0, 127, 255]
        assert to_rgb(torch.from_numpy(deep), bits=bits)[0, :, 0].tolist() == [0, 127, 255]
        assert not caplog.records

    @pytest.mark.parametrize(
        ("most", "likely"),
        [(255, 8), (1000, 10), (4095, 12), (16000, 14), (0, None), (65000, None)],
    )
    def test_values_that_use_fewer_bits_are_told(self, most, likely, caplog):
        array = np.full((3, 4), most, np.uint16)
        assert to_rgb(array)[0, 0, 0] == round(most / 257)  # as before
        assert [f"set bits to {likely};" in record.message for record in caplog.records] == (
            [True] if likely else []
        )
        caplog.clear()
        to_rgb(array, bits=16)
        assert not caplog.records

    def test_values_above_the_bits_are_rejected(self):
        with pytest.raises(ImageError, match="values up to 5000, which 12 bits do not hold"):
            to_rgb(np.full((3, 4), 5000, np.uint16), bits=12)

    def test_bits_are_for_16_bit_values(self):
        with pytest.raises(ImageError, match=r"type uint8; 12 bits are for uint16"):
            to_rgb(np.zeros((3, 4), np.uint8), bits=12)
        for wrong in (0, 17, 12.0, True):
            with pytest.raises(OptionError, match=r"bits is .*from 8 to 16"):
                to_rgb(np.zeros((3, 4), np.uint16), bits=wrong)

    def test_a_12_bit_tiff_carries_its_depth(self, tmp_path, caplog):
        path = tmp_path / "deep.tif"
        path.write_bytes(tiff_of_12_bits([0, 2048, 4095, 4095]))
        assert to_rgb(path)[0, :, 0].tolist() == [0, 128, 255, 255]
        assert not caplog.records

    @pytest.mark.parametrize("alpha", [(), (65535,)], ids=["RGB", "RGBA"])
    def test_of_16_bit_rgb_files_pillow_keeps_8_bits(self, alpha, tmp_path, caplog):
        path = tmp_path / "deep.png"
        path.write_bytes(png_of_16_bits(4095, 4095, 4095, *alpha))
        assert to_rgb(path).max() == 15
        assert "values end below 2 ** 14" in caplog.text
        with pytest.raises(ImageError, match=r"12 bits cannot be taken .* tifffile or OpenCV"):
            to_rgb(path, bits=12)

    def test_of_bright_16_bit_rgb_files_nothing_is_told(self, caplog):
        assert to_rgb(png_of_16_bits(65535, 40000, 257)).max() == 255
        assert not caplog.records


def profile_of_grey_inks():
    """An ICC profile (ICC.1:2001-04) in which paper is white and each ink a middle grey."""
    identity = bytes(range(256))
    neutral = bytes([128, 128])  # a* and b* of 0
    lightness = [255] + [128] * 14 + [0]  # for no ink, some of the inks, and all
    table = struct.pack(">4s4x4B", b"mft1", 4, 3, 2, 0)
    table += struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table += identity * 4 + b"".join(bytes([value]) + neutral for value in lightness)
    table += identity * 3
    start = 128 + 4 + 12
    head = struct.pack(">I4xI4s4s4s", start + len(table), 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head = head.ljust(36, b"\0") + b"acsp"
    light = struct.pack(">3i", 63190, 65536, 54061)  # D50
    tags = struct.pack(">I4sII", 1, b"A2B0", start, len(table))
    return head.ljust(68, b"\0") + light + bytes(48) + tags + table


def tiff_of_12_bits(values):
    """One row of grey values, two of them in three bytes."""
    packed = bytearray()
    for first, second in zip(values[::2], values[1::2], strict=True):
        packed += bytes([first >> 4, (first & 15) << 4 | second >> 8, second & 255])
    tags = [(256, len(values)), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1),
            (278, 1), (279, len(packed))]  # fmt: skip
    start = 8 + len(packed) + len(packed) % 2
    directory = struct.pack("<H", len(tags))
    for tag, value in tags:
        directory += struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value)
    head = struct.pack("<2sHI", b"II", 42, start)
    return (head + packed).ljust(start, b"\0") + directory + bytes(4)


def png_of_16_bits(*channels):
    """2 x 2 pixels of these values, RGB or RGBA."""

    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    row = b"\0" + struct.pack(f">{2 * len(channels)}H", *channels * 2)
    colour_type = 2 if len(channels) == 3 else 6
    header = struct.pack(">IIBBBBB", 2, 2, 16, colour_type, 0, 0, 0)
    pixels = zlib.compress(row * 2)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks
