"""A model in use."""

import dataclasses
import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from support import EXAMPLE
from support.models import NARROW

import vesselseg
from vesselseg import (
    DeviceError,
    ImageError,
    OptionError,
    Segmentation,
    Segmenter,
    fov,
    preprocess,
    weights,
)
from vesselseg.backends.pytorch import TorchBackend
from vesselseg.result import read_provenance
from vesselseg.sliding import windows


def identical(first, second):
    return np.array_equal(first.mask, second.mask) and np.array_equal(
        first.probability, second.probability
    )


class TestResult:
    def test_has_the_size_of_the_photograph(self, model, photograph):
        result = model(photograph)
        size = photograph.shape[:2]
        assert result.mask.shape == result.probability.shape == result.field_of_view.shape == size
        assert result.mask.dtype == bool
        assert result.probability.dtype == np.float32

    def test_probability_is_the_softmax_of_the_logits(self, model, photograph):
        logits = model.logits(photograph)
        assert logits.shape == (2, *photograph.shape[:2])
        assert logits.dtype == torch.float32
        assert not logits.is_inference()
        expected = logits.softmax(dim=0)[1].numpy()
        assert expected.std() > 0.01
        np.testing.assert_allclose(model(photograph).probability, expected, atol=1e-6)

    def test_logits_are_warned_of_like_a_result(self, model, photograph, caplog):
        swapped = photograph[..., ::-1]
        model(swapped)
        of_result = caplog.messages
        assert "are the channels swapped?" in " ".join(of_result)
        caplog.clear()
        model.logits(swapped)
        assert caplog.messages == of_result

    def test_the_network_sees_the_colours_of_the_spec(self, model, photograph, published_file):
        means = (120.0, 90.0, 60.0)
        spec = dataclasses.replace(NARROW, fov_rgb_mean=means)
        balanced = vesselseg.load_model(spec, weights=published_file, device="cpu")
        seen = preprocess.apply_channel_gains(
            photograph,
            preprocess.channel_gains(photograph, fov.find_field_of_view(photograph), means),
        )
        assert not np.array_equal(seen, photograph)
        assert torch.equal(balanced.logits(photograph), model.logits(seen))

    @pytest.mark.parametrize("threshold", [0, 0.3, 0.5, 1])
    def test_mask_is_probability_above_the_threshold(self, threshold, model, photograph):
        result = model(photograph, threshold=threshold)
        assert np.array_equal(result.mask, result.probability > np.float32(threshold))

    def test_provenance_says_how_it_came_about(self, model, photograph):
        assert model(photograph, scale=0.5, threshold=0.25).provenance == {
            "vesselseg": vesselseg.__version__,
            "torch": torch.__version__,
            "model": "narrow",
            "sha256": model.sha256,
            "unverified": False,
            "spec": NARROW.digest,
            "stride": NARROW.stride,
            "scale": 0.5,
            "bits": None,
            "size": [177, 177],
            "network_size": [89, 89],
            "fov_diameter": pytest.approx(175, abs=2),
            "vessel_bias": 0.0,
            "backend": "torch",
            "device": "cpu",
            "precision": "float32",
            "threshold": 0.25,
            "familiarity": None,
            "undecided_fraction": pytest.approx(0.5, abs=0.5),
            "warning": (
                "The field of view is 88 pixels wide at the network's scale, but model 'narrow' "
                "expects 500: it may miss vessels. The scale 'fov' would match it."
            ),
        }


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 70), (64, 64), (65, 64), (10, 300), (63, 130), (257, 16)]
)
def test_any_size_works(size, model):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for scale in ("native", "fov", 0.3):
        result = model(image, scale=scale)
        assert result.mask.shape == size
        assert np.isfinite(result.probability).all()


@pytest.mark.slow
def test_same_pixels_give_the_same_result_however_they_arrive(model, photograph, tmp_path):
    expected = model(photograph)
    picture = Image.fromarray(photograph)
    picture.save(tmp_path / "eye.png")
    file = io.BytesIO()
    picture.save(file, "TIFF")
    tensor = torch.from_numpy(photograph.copy()).permute(2, 0, 1)
    for given in (tmp_path / "eye.png", str(tmp_path / "eye.png"), file.getvalue(), picture,
                  tensor, tensor / 255):  # fmt: skip
        assert identical(model(given), expected)


def test_progress_is_reported_and_ends_the_computation(model, photograph):
    seen = []

    def stop(done, total):
        seen.append((done, total))
        if done == 3:
            raise KeyError("enough")

    total = len(windows(*photograph.shape[:2], model.spec.crop, model.spec.stride))
    assert total > 3
    with pytest.raises(KeyError, match="enough"):
        model(photograph, progress=stop)
    assert seen == [(1, total), (2, total), (3, total)]
    seen.clear()
    model(photograph, progress=lambda *numbers: seen.append(numbers))
    assert seen == [(done, total) for done in range(1, total + 1)]


def test_a_photograph_of_too_many_windows_is_rejected(published_file):
    spec = dataclasses.replace(NARROW, stride=1)
    model = vesselseg.load_model(spec, weights=published_file, device="cpu")
    with pytest.raises(OptionError, match="144,400 windows of 64 pixels with a stride of 1"):
        model(np.zeros((443, 443, 3), np.uint8), scale="native")


class TestBlackBorders:
    """With the scale "fov" they are left out."""

    @pytest.fixture
    def bordered(self, photograph):
        return np.pad(photograph, [(100, 100), (100, 100), (0, 0)])

    @pytest.mark.slow
    def test_black_borders_change_next_to_nothing(self):
        embedded = vesselseg.load_model(device="cpu")
        with Image.open(EXAMPLE) as image:
            photograph = np.asarray(image.reduce(5))
        bordered = np.pad(photograph, [(100, 100), (100, 100), (0, 0)])
        plain, mask = embedded(photograph).mask, embedded(bordered).mask
        assert not mask[:90].any()
        assert (mask[100:-100, 100:-100] != plain).mean() < 0.05 * plain.mean()

    @pytest.mark.slow
    def test_black_borders_have_no_vessels(self, model, bordered):
        probability = model(bordered, scale="fov").probability
        assert not probability[:90].any()
        assert not probability[:, -90:].any()
        assert probability[100:-100, 100:-100].mean() > 0.1
        assert model(bordered, scale="native").probability[:90].any()

    @pytest.mark.slow
    def test_black_borders_cost_nothing(self, published_file, photograph, bordered):
        backend = CountingBackend(
            weights.load_network(published_file, NARROW), NARROW, "cpu", "float32"
        )
        model = Segmenter(backend, NARROW, sha256="")
        assert backend.count(model, bordered, "fov") <= backend.count(model, photograph, "fov")
        assert backend.count(model, bordered, "native") > backend.count(model, photograph, "native")


@pytest.mark.slow
def test_the_scale_fov_shrinks_windows(published_file, photograph):
    spec = dataclasses.replace(NARROW, crop=160, stride=150)
    backend = CountingBackend(weights.load_network(published_file, spec), spec, "cpu", "float32")
    model = Segmenter(backend, spec, sha256="", batch_size=1)
    factor = spec.fov_diameter / fov.find_field_of_view(photograph).diameter
    assert backend.count(model, photograph, factor) == 4 * 4 * 160 * 160
    assert backend.count(model, photograph, "fov") == 4 * 4 * 144 * 144


class CountingBackend(TorchBackend):
    """A backend that counts the pixels of the windows that it computes."""

    pixels = 0

    def __call__(self, windows):
        self.pixels += windows[:, 0].numel()
        return super().__call__(windows)

    def count(self, model, image, scale):
        before = self.pixels
        model(image, scale=scale)
        return self.pixels - before


@pytest.mark.slow
def test_a_small_field_of_view_raises_the_vessel_logit(published_file, photograph):
    """By half of the bias at the diameter's geometric mean of D and D / 2."""
    diameter = fov.find_field_of_view(photograph).diameter
    plain = vesselseg.load_model(NARROW, weights=published_file, device="cpu")
    spec = dataclasses.replace(NARROW, small_fov_bias=(diameter * 2**0.5, 3.0))
    biased = vesselseg.load_model(spec, weights=published_file, device="cpu")
    difference = biased.logits(photograph) - plain.logits(photograph)
    assert torch.allclose(difference[0], torch.zeros(1))
    assert torch.allclose(difference[1], torch.full((1,), 1.5), atol=1e-3)
    expected = biased.logits(photograph).softmax(dim=0)[1].numpy()
    result = biased(photograph)
    np.testing.assert_allclose(result.probability, expected, atol=1e-6)
    assert result.provenance["vessel_bias"] == 1.5


class TestSegmentMany:
    @pytest.fixture
    def images(self, photograph):
        cuts = [(0, 150), (20, 84), (50, 114), (100, 130), (0, 177)]
        return [photograph[a:b, a:b] for a, b in cuts]

    @pytest.mark.slow
    @pytest.mark.parametrize("batch_size", [1, 3, 16])
    def test_equals_one_by_one_bit_for_bit(self, batch_size, images, published_file):
        model = vesselseg.load_model(
            NARROW, weights=published_file, device="cpu", batch_size=batch_size
        )
        together = list(model.segment_many(iter(images)))
        assert [r.mask.shape for r in together] == [image.shape[:2] for image in images]
        for image, result in zip(images, together, strict=True):
            assert identical(model(image), result)

    def test_as_on_a_gpu_one_image_ahead(self, model, photograph):
        images = [photograph, photograph[:100], photograph[:, :90]]
        expected = [result.probability for result in model.segment_many(images)]
        prefetching = model.to("cpu")
        prefetching.prefetch = 1
        ahead = [result.probability for result in prefetching.segment_many(images)]
        assert all(map(np.array_equal, ahead, expected))

    def test_a_bar_counts_the_results(self, model, images, capsys):
        results = list(model.segment_many(images, progress=True))
        assert [r.shape for r in results] == [image.shape[:2] for image in images]
        assert f"{len(images)}/{len(images)}" in capsys.readouterr().err
        next(model.segment_many(iter(images), progress=True))
        assert "image" in capsys.readouterr().err

    def test_images_are_read_when_results_are_asked_for(self, model, photograph):
        def endless():
            while True:
                yield photograph

        results = model.segment_many(endless())
        assert identical(next(results), next(results))

    def test_a_bad_image_raises_at_its_turn(self, model, photograph):
        results = model.segment_many([photograph, b"no image"])
        assert next(results).mask.shape == photograph.shape[:2]
        with pytest.raises(ImageError):
            next(results)

    @pytest.mark.parametrize("on_error", ["raise", "yield"])
    def test_an_error_of_the_iterator_comes_after_the_results_before(self, on_error, model, images):
        def failing():
            yield images[1]
            raise LookupError("no more")

        results = model.segment_many(failing(), on_error=on_error)
        assert identical(next(results), model(images[1]))
        with pytest.raises(LookupError, match="no more"):
            next(results)

    def test_after_its_error_an_iterator_is_asked_for_nothing(self, model, images):
        class Source:
            def __init__(self):
                self.left = [images[1], LookupError("a gap"), images[1]]

            def __iter__(self):
                return self

            def __next__(self):
                if not self.left:
                    raise StopIteration
                given = self.left.pop(0)
                if isinstance(given, Exception):
                    raise given
                return given

        source, found = Source(), []
        with pytest.raises(LookupError, match="a gap"):
            found.extend(model.segment_many(source))
        assert len(found) == len(source.left) == 1

    def test_errors_can_come_in_place_of_results(self, model, images, tmp_path):
        mixed = ["none.png", images[0], b"", images[1], images[1], tmp_path]
        results = list(model.segment_many(mixed, on_error="yield"))
        kinds = [type(result) for result in results]
        assert kinds == [
            FileNotFoundError, Segmentation, ImageError, Segmentation, Segmentation, ImageError,
        ]  # fmt: skip
        assert identical(results[1], model(images[0]))
        assert [type(x) for x in model.segment_many([b""], on_error="yield")] == [ImageError]
        gone = OSError("gone")  # of an image that the caller could not read
        assert list(model.segment_many([gone], on_error="yield")) == [gone]
        model.prefetch = 1
        assert [type(x) for x in model.segment_many(mixed, on_error="yield")] == kinds
        with pytest.raises(OptionError, match="on_error is 'skip'; allowed are 'raise' and"):
            model.segment_many(mixed, on_error="skip")

    @pytest.mark.parametrize(
        "image",
        ["eye.jpg", EXAMPLE, b"bytes", bytearray(b"bytes"), io.BytesIO(), Image.new("RGB", (9, 9)),
         np.zeros((40, 50, 3), np.uint8), np.zeros((40, 50)), torch.zeros(3, 40, 50)],
    )  # fmt: skip
    def test_a_single_image_is_rejected(self, image, model):
        with pytest.raises(OptionError, match=r"takes several images.*call the model"):
            model.segment_many(image)

    def test_a_batch_is_several_images(self, model, photograph):
        results = list(
            model.segment_many(np.stack([photograph[:64, :64], photograph[64:128, :64]]))
        )
        assert [result.shape for result in results] == [(64, 64)] * 2

    @pytest.mark.slow
    @pytest.mark.parametrize("batch_size", [1, 5])
    def test_whatever_fails_is_an_error_of_its_own_photograph(
        self, batch_size, published_file, photograph
    ):
        class Failing(TorchBackend):
            def __call__(self, windows):
                if (windows == 255).all(dim=(1, 2, 3)).any():
                    raise KeyError("in the network")
                return super().__call__(windows)

        network = weights.load_network(published_file, NARROW)
        model = Segmenter(
            Failing(network, NARROW, "cpu", "float32"), NARROW, sha256="",
            batch_size=batch_size, max_pixels=photograph[..., 0].size,
        )  # fmt: skip
        small, white = photograph[:100, :90], np.full((80, 70, 3), 255, np.uint8)
        large = np.zeros((178, 178, 3), np.uint8)
        images = [small, large, photograph, white, small, b"no image", white]
        results = list(model.segment_many(images, on_error="yield", scale="native"))
        kinds = [type(result) for result in results]
        assert kinds == [
            Segmentation, ImageError, Segmentation, KeyError, Segmentation, ImageError, KeyError
        ]  # fmt: skip
        for place in (0, 2, 4):
            assert identical(results[place], model(images[place], scale="native"))
        results = model.segment_many([small, white, small], scale="native")
        assert identical(next(results), model(small, scale="native"))
        with pytest.raises(KeyError, match="in the network"):
            next(results)
        assert list(results) == []

    def test_wrong_options_raise_at_once(self, model):
        with pytest.raises(OptionError, match="threshold"):
            model.segment_many([], threshold=2)
        with pytest.raises(OptionError, match="bits"):
            model.segment_many([], bits=4, on_error="yield")


def test_options_can_be_numbers_of_numpy(model, photograph, tmp_path):
    image = np.uint16(photograph) * 257
    options = {"scale": np.float64(0.5), "threshold": np.float32(0.25), "bits": np.int64(16)}
    result = model(image, **options)
    assert np.array_equal(result.mask, model(photograph, scale=0.5, threshold=0.25).mask)
    result.save(tmp_path / "mask.png")
    provenance = read_provenance(tmp_path / "mask.png")
    assert [provenance[name] for name in options] == [0.5, 0.25, 16]


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), "0.5", True, None])
def test_wrong_threshold_is_rejected(threshold, model, photograph):
    with pytest.raises(OptionError, match=r"threshold is .*from 0 to 1"):
        model(photograph, threshold=threshold)


class TestSaveAndMove:
    def test_saved_model_gives_the_same_bits(self, model, photograph, tmp_path):
        model.save(tmp_path / "mine.pth")
        again = vesselseg.load_model(tmp_path / "mine.pth", device="cpu")
        assert again.spec == model.spec
        assert identical(again(photograph), model(photograph))

    def test_a_model_in_bfloat16_keeps_its_float32_weights(self, model, published_file, tmp_path):
        rounded = vesselseg.load_model(
            NARROW, weights=published_file, device="cpu", precision="bfloat16"
        )
        rounded.save(tmp_path / "from_rounded.pth")
        model.save(tmp_path / "from_exact.pth")
        first, second = (
            vesselseg.weights.read(tmp_path / f"from_{kind}.pth").state
            for kind in ("rounded", "exact")
        )
        assert all(torch.equal(first[key], second[key]) for key in second)

    def test_to_gives_another_model(self, model, photograph):
        moved = model.to("cpu")
        assert isinstance(moved, Segmenter)
        assert moved is not model
        assert identical(moved(photograph), model(photograph))

    def test_to_another_precision(self, model, photograph):
        rounded = model.to(precision="bfloat16")
        assert (rounded.precision, model.precision) == ("bfloat16", "float32")
        assert not identical(rounded(photograph), model(photograph))
        assert identical(rounded.to(precision="float32")(photograph), model(photograph))

    def test_to_a_device_that_is_not_there(self, model):
        with pytest.raises(DeviceError):
            model.to("cuda:99")


def test_repr_names_model_device_and_precision(model, photograph):
    assert repr(model) == "<Segmenter narrow on cpu in float32>"
    assert "177 x 177 pixels by narrow" in repr(model(photograph))


def test_a_fundus_photograph_is_segmented_without_a_word(model, photograph, caplog, capfd):
    with caplog.at_level(logging.DEBUG, logger="vesselseg"):
        model(photograph, scale="fov")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
