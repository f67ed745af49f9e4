"""Whatever the host has set in PyTorch, results are the same and its settings stay."""

import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from support.host import SETTINGS
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
    return np.random.default_rng(0).integers(0, 256, (90, 80, 3), dtype=np.uint8)


def results(model, image):
    """What a model makes of an image, by all ways."""
    (of_many,) = model.segment_many([image], scale=0.7)
    return [
        model(image).probability,
        model(torch.from_numpy(image).permute(2, 0, 1), scale=0.7).probability,
        of_many.probability,
        model.logits(image, scale=1.3).cpu().numpy(),
    ]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow if name == "openvino" else ())
        for name in BACKENDS
    ],
)
def load(request, model, published_file, tmp_path_factory):
    """A function that loads the same model with one of the backends."""
    backend = request.param
    if backend == "torch":
        return lambda: vesselseg.load_model(NARROW, weights=published_file, device="cpu")
    pytest.importorskip(backend)
    file = tmp_path_factory.mktemp("model") / "model.onnx"
    model.export(file)
    return lambda: vesselseg.load_model(file, backend=backend, device="cpu")


@pytest.fixture(scope="module")
def before(load, image):
    """A model that was loaded before the settings, and its results."""
    model = load()
    return model, results(model, image)


@pytest.mark.parametrize("name", SETTINGS)
def test_results_and_settings_are_the_same(name, load, before, image):
    early, expected = before
    with SETTINGS[name]():
        settings = state()
        within = load()
        found = [
            results(early, image),
            results(within, image),
            results(pickle.loads(pickle.dumps(within)), image),
        ]
        assert state() == settings
    found.append(results(within, image))
    for each in found:
        for value, wanted in zip(each, expected, strict=True):
            assert np.array_equal(value, wanted)


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def write(request, image, published_file, tmp_path_factory):
    """A function that writes a model and a mask, and returns their bytes."""
    folder = tmp_path_factory.mktemp("files")

    def write():
        model = vesselseg.load_model(
            NARROW, weights=published_file, device="cpu", precision=request.param
        )
        model.save(folder / "model.pth")
        model(image, scale=0.5).save(folder / "mask.png")
        return (folder / "model.pth").read_bytes(), (folder / "mask.png").read_bytes()

    return write


@pytest.fixture(scope="module")
def written_before(write):
    return write()


@pytest.mark.parametrize("name", SETTINGS)
def test_files_are_the_same(name, write, written_before):
    with SETTINGS[name]():
        assert write() == written_before


@pytest.mark.parametrize("name", ["inference mode", "no gradients"])
def test_a_network_that_was_loaded_anywhere_can_be_trained(name, published_file):
    with SETTINGS[name]():
        network = vesselseg.weights.load_network(published_file, NARROW)
    network.requires_grad_(True)
    network(torch.rand(1, 3, 32, 32)).sum().backward()
    assert network.head.unit.conv.weight.grad.abs().sum() > 0


BEFORE_IMPORT = """
import hashlib, sys
import numpy as np
import torch
{setting}
import vesselseg
image = np.random.default_rng(0).integers(0, 256, (90, 80, 3), dtype=np.uint8)
probability = vesselseg.segment(image, scale="native", device="cpu").probability
print(hashlib.sha256(probability.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_results_are_the_same_if_the_settings_come_before_the_import():
    digests = set()
    for line in ("", "torch.set_default_dtype(torch.float64); torch.set_default_device('meta')"):
        code = textwrap.dedent(BEFORE_IMPORT).format(setting=line)
        finished = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert finished.returncode == 0, finished.stderr
        digests.add(finished.stdout)
    assert len(digests) == 1
