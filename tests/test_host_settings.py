"""Whatever the host has set in PyTorch, results are the same and its settings stay."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.host import AT_ONCE, SETTINGS
from support.models import NARROW

import vesselseg
from vesselseg.backends import BACKENDS

pytestmark = pytest.mark.usefixtures("one_thread")


def state():
    """Everything that they change, as it is now."""
    return {
        "device": torch.get_default_device(),
        "dtype": torch.get_default_dtype(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "anomalies": torch.is_anomaly_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "products": torch.get_float32_matmul_precision(),
        "convolutions": torch.backends.mkldnn.conv.fp32_precision,
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32),
        "onednn": torch.backends.mkldnn.enabled,
        "threads": torch.get_num_threads(),
        "random": torch.get_rng_state().tolist(),
    }


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (70, 60, 3), dtype=np.uint8)


def results(model, image):
    """What a model makes of an image, by all ways."""
    (of_many,) = model.segment_many([image], scale=0.7)
    return [
        model(image).probability,
        model(torch.from_numpy(image).permute(2, 0, 1), scale=0.7).probability,
        of_many.probability,
        model.logits(image, scale=1.3).cpu().numpy(),
    ]


def written(model, image, folder):
    """The bytes of the files that are written of a model and of a mask."""
    model.save(folder / "model.pth")
    model(image, scale=0.5).save(folder / "mask.png")
    return [(folder / name).read_bytes() for name in ("model.pth", "mask.png")]


@pytest.fixture(scope="module")
def load(published_file):
    """A function: precision -> the narrow model."""

    def load(precision="float32"):
        return vesselseg.load_model(
            NARROW, weights=published_file, device="cpu", precision=precision, batch_size=4
        )

    return load


@pytest.fixture(scope="module")
def before(load, image, tmp_path_factory):
    """A model that was loaded before the settings, its results and files."""
    model, folder = load(), tmp_path_factory.mktemp("before")
    return model, results(model, image), written(model, image, folder)


def assert_equal(found, expected):
    for value, wanted in zip(found, expected, strict=True):
        assert value.dtype == wanted.dtype == np.float32
        assert np.array_equal(value, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_results_files_and_settings_are_the_same(name, load, before, image, tmp_path):
    early, expected, files = before
    with SETTINGS[name]():
        settings = state()
        within = load()
        assert_equal(results(early, image), expected)
        assert_equal(results(within, image), expected)
        copy = pickle.loads(pickle.dumps(within))
        assert np.array_equal(copy(image).probability, expected[0])
        assert written(within, image, tmp_path) == files
        assert state() == settings
    assert np.array_equal(within(image).probability, expected[0])


@pytest.fixture(scope="module")
def rounded_before(load, image, tmp_path_factory):
    return written(load("bfloat16"), image, tmp_path_factory.mktemp("rounded"))


@pytest.mark.parametrize("name", AT_ONCE)
def test_so_they_are_in_bfloat16(name, load, rounded_before, image, tmp_path):
    with AT_ONCE[name]():
        assert written(load("bfloat16"), image, tmp_path) == rounded_before


@pytest.fixture(scope="module", params=[name for name in BACKENDS if name != "torch"])
def load_exported(request, model, tmp_path_factory):
    """A function that loads the model from a file with one of the other backends."""
    backend = request.param
    pytest.importorskip(backend)
    file = tmp_path_factory.mktemp("model") / "model.onnx"
    model.export(file)
    return lambda: vesselseg.load_model(file, backend=backend, device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def exported_before(load_exported, image):
    model = load_exported()
    return model, model.logits(image)


@pytest.mark.slow
@pytest.mark.parametrize("name", AT_ONCE)
def test_so_they_are_with_other_backends(name, load_exported, exported_before, image):
    early, expected = exported_before
    with AT_ONCE[name]():
        settings = state()
        within = load_exported()
        copy = pickle.loads(pickle.dumps(within))
        found = [model.logits(image) for model in (early, within, copy)]
        assert state() == settings
    found.append(within.logits(image))
    assert all(torch.equal(logits, expected) for logits in found)


@pytest.mark.parametrize("name", ["inference mode", "no gradients"])
def test_a_network_that_was_loaded_anywhere_can_be_trained(name, published_file):
    with SETTINGS[name]():
        network = vesselseg.weights.load_network(published_file, NARROW)
    network.requires_grad_(True)
    network(torch.rand(1, 3, 32, 32)).sum().backward()
    assert network.head.unit.conv.weight.grad.abs().sum() > 0


BEFORE_IMPORT = """
import numpy as np
import torch
torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
import vesselseg
image = np.load("image.npy")
np.save("probability.npy", vesselseg.segment(image, scale="native", device="cpu").probability)
"""


@pytest.mark.slow
def test_results_are_the_same_if_the_settings_come_before_the_import(image, tmp_path):
    np.save(tmp_path / "image.npy", image)
    finished = subprocess.run(
        [sys.executable, "-c", BEFORE_IMPORT], cwd=tmp_path, capture_output=True, text=True,
        check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    expected = vesselseg.segment(image, scale="native", device="cpu").probability
    assert np.array_equal(np.load(tmp_path / "probability.npy"), expected)
