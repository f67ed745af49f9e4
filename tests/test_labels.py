"""Labels of every kind that data sets come with, from file to True and False."""

from __future__ import annotations

import gzip
import io
import os

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFilter, ImageOps
from support import drawn

from vesselseg import DatasetError, Segmentation
from vesselseg.corrections import save_correction
from vesselseg.evaluation.datasets import (
    Sample,
    read_photograph,
    read_sample_fov,
    read_sample_label,
)
from vesselseg.labels import read_fov, read_label, read_partial_label

LABEL = drawn.vessels(0)
WHITE = Image.fromarray(LABEL.astype(np.uint8) * 255)


def palette(first, second):
    """Indices 0 and 1 with a colour for each."""
    image = Image.fromarray(LABEL.astype(np.uint8)).copy()
    image.putpalette([*first, *second])
    return image


@pytest.mark.parametrize(
    ("picture", "ending"),
    [
        (WHITE, "png"),
        (WHITE, "gif"),
        (WHITE, "tif"),
        (WHITE.convert("1"), "png"),
        (WHITE.convert("1"), "tif"),
        (WHITE.convert("RGB"), "ppm"),
        (WHITE.convert("RGBA"), "png"),
        (WHITE.convert("I"), "tif"),
        (WHITE.convert("F"), "tif"),
        (Image.fromarray(LABEL.astype(np.uint8)), "png"),
        (Image.fromarray(LABEL.astype(np.uint16) * 65535), "png"),
        (Image.fromarray(LABEL.astype(np.uint16)), "png"),
        (palette((0, 0, 0), (255, 255, 255)), "png"),
        (palette((0, 0, 0), (255, 255, 255)), "gif"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.mode,
)
def test_black_and_white_in_any_form(tmp_path, picture, ending):
    picture.save(tmp_path / f"label.{ending}")

    label = read_label(tmp_path / f"label.{ending}")

    assert label.dtype == np.bool_
    assert np.array_equal(label, LABEL)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_shades_count_as_vessel_from_half_of_white_and_many_are_warned_of(tmp_path, dtype, caplog):
    shades = np.arange(256).repeat([400, *[1] * 254, 400]).reshape(1, -1)
    Image.fromarray((shades * (257 if dtype == np.uint16 else 1)).astype(dtype)).save(
        tmp_path / "label.png"
    )

    assert np.array_equal(read_label(tmp_path / "label.png"), shades >= 128)
    assert "between black and white, as a probability map" in caplog.text


def layers(rgb, alpha):
    """RGB or a colour, and how opaque it is."""
    picture = np.zeros((*LABEL.shape, 4), np.uint8)
    picture[..., :3], picture[..., 3] = rgb, alpha
    return Image.fromarray(picture)


SOFT = WHITE.filter(ImageFilter.GaussianBlur(0.4))
TRANSPARENT = {
    "white on transparent": layers(255, LABEL * 255),
    "black on transparent": layers(0, LABEL * 255),
    "red on transparent": layers((200, 0, 0), LABEL * 255),
    "white on transparent white": layers(255, np.where(LABEL, 255, 0)),
    "soft white on transparent": layers(255, np.asarray(SOFT)),
    "grey and alpha": layers(255, LABEL * 255).convert("LA"),
    "opaque": layers(np.asarray(WHITE)[..., None], 255),
    "one colour of the palette": palette((0, 0, 0), (255, 255, 255)),
}
ONE_COLOUR = {
    "a class colour": palette((0, 0, 0), (128, 0, 0)),
    "a dark one": palette((0, 0, 0), (1, 0, 0)),
    "blue": Image.fromarray(LABEL[..., None] * np.array([0, 0, 255], np.uint8)),
}


@pytest.mark.parametrize("picture", [*TRANSPARENT.values(), *ONE_COLOUR.values()],
                         ids=[*TRANSPARENT, *ONE_COLOUR])  # fmt: skip
def test_one_colour_on_black_or_on_a_transparent_background_is_vessel(tmp_path, picture):
    options = {"transparency": 0} if picture.mode == "P" else {}
    picture.save(tmp_path / "label.png", **options)

    assert np.array_equal(read_label(tmp_path / "label.png"), LABEL)


@pytest.mark.parametrize("quality", [30, 60, 100])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("ending", ["jpg", "webp", "png"])  # the last: JPEG that was saved again
def test_compressed_labels_are_read_without_a_word(tmp_path, quality, mode, ending, caplog):
    large = WHITE.resize((352, 320), Image.Resampling.NEAREST).convert(mode)
    stream = io.BytesIO()
    large.save(stream, "WEBP" if ending == "webp" else "JPEG", quality=quality)
    with Image.open(stream) as opened:
        if ending == "png":
            opened.save(tmp_path / "label.png")
        else:
            (tmp_path / f"label.{ending}").write_bytes(stream.getvalue())

    label = read_label(tmp_path / f"label.{ending}")

    assert (label != (np.asarray(large.convert("L")) > 0)).mean() < 0.001
    assert not caplog.text


@pytest.mark.parametrize("channels", [[3, 3, 3], [3, 7, 3]], ids=["grey", "tinted"])
def test_a_few_values_near_black_and_white_are_what_compression_leaves(tmp_path, channels):
    values = np.repeat(np.asarray(WHITE)[..., None], 3, axis=2)
    values[::2] ^= np.array(channels, np.uint8)
    drawn.write(tmp_path / "label.png", values)

    assert np.array_equal(read_label(tmp_path / "label.png"), LABEL)


ARTERIES = np.zeros((*LABEL.shape, 3), np.uint8)
ARTERIES[LABEL] = (255, 0, 0)
ARTERIES[20:][LABEL[20:]] = (0, 0, 255)
INSTANCES = LABEL * (1 + np.indices(LABEL.shape)[1] // 8)
PROBABILITY = np.random.default_rng(0).random(LABEL.shape)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (Image.fromarray(drawn.photograph(0)), r"has \d+ colours.* If it is a photograph"),
        (Image.fromarray(drawn.photograph(0)).convert("L"), "has the values 0, "),
        (Image.fromarray(ARTERIES), r"has 3 colours, most of it \(0, 0, 0\).*arteries from veins"),
        (Image.fromarray(INSTANCES.astype(np.uint8)), "values 0, 1, 2, 3, .*numbers of objects"),
        (Image.fromarray(INSTANCES.astype(np.uint8) * 40), "has the values 0, 40, 80, 120"),
        (Image.fromarray(LABEL.astype(np.uint8) * 100), "has the values 0, 100"),
        (Image.fromarray(np.where(LABEL, 1, 255 * drawn.disc()).astype(np.uint8)), "0, 1, 255"),
        (Image.fromarray(LABEL.astype(np.uint8) + 1), "has the values 1, 2"),
        (Image.fromarray(LABEL.astype(np.uint16) * 4095), "has the values 0, 4095"),
        (Image.fromarray(INSTANCES.astype(np.uint16) * 60), "has the values 0, 60"),
        (Image.fromarray(LABEL.astype(np.int32) * -1), "from -1 to 0"),
        (Image.fromarray(PROBABILITY.astype(np.float32)), "from .*, as a probability map has"),
        (Image.fromarray((PROBABILITY**2 * 255).astype(np.uint8)), "between black and white"),
        (Image.fromarray(LABEL * np.float32(np.nan)), "from nan to nan"),
        (Image.fromarray(~LABEL), "91 % of the pixels are vessel.*Invert"),
        (layers((0, 0, 0), ~LABEL * 255), "91 % of the pixels are vessel.*Invert"),
        (palette((255, 255, 255), (0, 0, 0)), "91 % of the pixels are vessel.*Invert"),
        (palette((255, 255, 255), (255, 0, 0)), r"has 2 colours, .*\(255, 255, 255\)"),
    ],
)  # fmt: skip
def test_other_values_and_colours_are_rejected_with_what_was_found(tmp_path, picture, said):
    picture.save(tmp_path / "label.tif")

    with pytest.raises(DatasetError, match=rf"(?i)label .*label\.tif' .*{said}"):
        read_label(tmp_path / "label.tif")


def test_empty_labels_are_read(tmp_path):
    drawn.write(tmp_path / "label.png", np.zeros_like(LABEL))

    assert not read_label(tmp_path / "label.png").any()


def test_pictures_of_vesselseg_are_labels_only_if_they_are_masks(tmp_path):
    shape = LABEL.shape
    result = Segmentation(
        ~LABEL, PROBABILITY.astype(np.float32), np.ones(shape, bool), {"vesselseg": "1"},
        drawn.photograph(0),
    )  # fmt: skip
    for kind in ("mask", "probability", "overlay", "fov"):
        result.save(tmp_path / f"{kind}.png", kind)

    assert np.array_equal(read_label(tmp_path / "mask.png"), ~LABEL)  # however much it is
    assert read_fov(tmp_path / "fov.png").all()
    for kind in ("probability", "overlay", "fov"):
        with pytest.raises(DatasetError, match=f"as a mask: vesselseg wrote it as {kind}"):
            read_label(tmp_path / f"{kind}.png")


def test_several_pages_are_rejected(tmp_path):
    WHITE.save(tmp_path / "label.tif", save_all=True, append_images=[WHITE])

    with pytest.raises(DatasetError, match="has 2 pages"):
        read_label(tmp_path / "label.tif")


class TestFieldsOfView:
    def test_may_be_most_of_the_frame_but_not_empty(self, tmp_path):
        for values in (drawn.disc(), np.ones_like(LABEL)):
            drawn.write(tmp_path / "fov.png", values)
            assert np.array_equal(read_fov(tmp_path / "fov.png"), values)
        drawn.write(tmp_path / "fov.png", np.zeros_like(LABEL))
        with pytest.raises(DatasetError, match="all black"):
            read_fov(tmp_path / "fov.png")

    @pytest.mark.parametrize("inverted", [False, True])
    def test_are_warned_of_if_they_are_darker_inside(self, tmp_path, inverted, caplog):
        sample = Sample("eye", "", tmp_path / "eye.png", tmp_path / "label.png")
        drawn.write(sample.image, drawn.photograph(0))
        drawn.write(tmp_path / "fov.png", drawn.disc() ^ inverted)
        read_sample_fov(sample, tmp_path / "fov.png", drawn.photograph(0))
        assert ("darker inside than outside" in caplog.text) == inverted


class TestKnownInPart:
    """128 beside 0 and 255 says that it is not known whether there is a vessel."""

    VALUES = np.where(LABEL, 255, 0).astype(np.uint8)
    VALUES[:15] = 128

    @pytest.mark.parametrize(
        ("mode", "levels"),
        [
            *((mode, {0, 128, 255}) for mode in ("L", "RGB", "RGBA", "P")),
            ("L", {0, 128}),
            ("L", {128, 255}),
        ],
    )
    def test_in_any_form(self, tmp_path, mode, levels, caplog):
        values = np.where(np.isin(self.VALUES, list(levels)), self.VALUES, 128).astype(np.uint8)
        Image.fromarray(values).convert(mode).save(tmp_path / "label.png")

        label = read_partial_label(tmp_path / "label.png")

        assert np.array_equal(label.known, values != 128)
        assert np.array_equal(label.vessels, values == 255)
        assert "which is read as not known" in caplog.text

    def test_is_no_surprise_in_the_folder_of_corrections(self, tmp_path, caplog):
        drawn.write(tmp_path / "corrections" / "eye.png", self.VALUES)
        assert not read_partial_label(tmp_path / "corrections" / "eye.png").known.all()
        assert not caplog.text

    def test_nor_is_a_correction_in_any_other_folder(self, tmp_path, caplog):
        drawn.write(tmp_path / "eye.png", drawn.photograph(0))
        path = save_correction(tmp_path / "eye.png", self.VALUES)
        copied = tmp_path / "labels" / "eye.png"
        copied.parent.mkdir()
        copied.write_bytes(path.read_bytes())
        assert not read_partial_label(copied).known.all()
        assert not caplog.text

    def test_other_labels_are_known_everywhere(self, tmp_path):
        WHITE.save(tmp_path / "label.jpg")  # with greys
        label = read_partial_label(tmp_path / "label.jpg")
        assert label.known.all()
        assert (label.vessels != LABEL).mean() < 0.02

    @pytest.mark.parametrize("read", [read_label, read_fov])
    def test_is_rejected_where_all_must_be_known(self, tmp_path, read):
        drawn.write(tmp_path / "label.png", self.VALUES)
        with pytest.raises(DatasetError, match="known in part only"):
            read(tmp_path / "label.png")

    def test_a_soft_brush_is_rejected(self, tmp_path):
        soft = self.VALUES.copy()
        soft[20] = np.arange(100, 100 + drawn.WIDTH)
        drawn.write(tmp_path / "label.png", soft)
        with pytest.raises(DatasetError, match="Paint with a hard brush"):
            read_partial_label(tmp_path / "label.png")


class TestOrientation:
    """Label and photograph are turned alike, or it is said that they are not."""

    @pytest.mark.parametrize(
        ("orientation", "ending"),
        [*((number, ".png") for number in range(1, 9)), (6, ".jpg"), (6, ".tif"), (6, ".webp")],
    )
    def test_is_applied_to_both(self, tmp_path, orientation, ending, caplog):
        options = {"quality": 100} if ending == ".jpg" else {}
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        Image.fromarray(drawn.photograph(0)).save(tmp_path / f"eye{ending}", exif=exif, **options)
        WHITE.save(tmp_path / f"label{ending}", exif=exif, **options)
        sample = Sample("eye", "", tmp_path / f"eye{ending}", tmp_path / f"label{ending}")

        label = read_sample_label(sample, sample.label, read_photograph(sample))

        WHITE.save(tmp_path / "stored.png", exif=exif)
        with Image.open(tmp_path / "stored.png") as stored:
            expected = np.asarray(ImageOps.exif_transpose(stored)) > 0
        assert (label.vessels != expected).mean() < 0.01
        assert not caplog.text

    @pytest.mark.parametrize("orientation", [1, 3, 6])
    def test_of_the_photograph_alone_is_said(self, tmp_path, orientation, caplog):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        sample = Sample("eye", "", tmp_path / "eye.png", tmp_path / "label.png")
        Image.fromarray(drawn.photograph(0)).save(sample.image, exif=exif)
        WHITE.save(sample.label)

        if orientation < 5:
            read_sample_label(sample, sample.label, read_photograph(sample))
            assert ("EXIF orientation turns" in caplog.text) == (orientation > 1)
        else:
            with pytest.raises(DatasetError, match=r"same size\. Turn it as the EXIF orientation"):
                read_sample_label(sample, sample.label, read_photograph(sample))


def test_files_that_are_damaged_or_missing(tmp_path):
    (tmp_path / "label.png").write_bytes(b"no picture")
    (tmp_path / "label.ppm.gz").write_bytes(gzip.compress(b"P6 5 5 255 ")[:-4])
    (tmp_path / "label.nii").write_bytes((348).to_bytes(4, "little") + bytes(340) + b"n+1\0")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")

    for name, error, message in [
        ("label.png", DatasetError, r"label\.png' could not be decoded"),
        ("label.ppm.gz", DatasetError, "cannot be read or unpacked"),
        ("label.gif", FileNotFoundError, r"label\.gif"),
        ("label.nii", DatasetError, "none of the formats that vesselseg reads"),
        ("folder.png", DatasetError, "not a file"),
        ("pipe.png", DatasetError, "not a file, but a folder, a pipe or a device"),
    ]:
        with pytest.raises(error, match=message):
            read_label(tmp_path / name)


def test_a_gzipped_label_unpacks_to_no_more_than_a_large_image(tmp_path, monkeypatch):
    monkeypatch.setattr("vesselseg.labels.MAX_PIXELS", 100)
    path = tmp_path / "label.ppm.gz"
    path.write_bytes(gzip.compress(bytes(401)))
    with pytest.raises(DatasetError, match="unpacks to more than 400 bytes"):
        read_label(path)


@pytest.mark.parametrize("name", ["im0001.ppm", "im0001.ppm.gz"])
def test_photographs_gzipped_or_not(tmp_path, name):
    drawn.write(tmp_path / name, drawn.photograph(3))

    sample = Sample("im0001", "", tmp_path / name, tmp_path / "label.png")
    assert np.array_equal(read_photograph(sample), drawn.photograph(3))
