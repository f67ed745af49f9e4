"""Networks, and random windows for them."""

import os

import pytest
import torch
from filelock import FileLock
from support.models import NARROW, seeded_state

from vesselseg import weights
from vesselseg.unet import UNet


@pytest.fixture(scope="module")
def network(published_file):
    """The folded `NARROW` network."""
    return weights.load_network(published_file, NARROW)


@pytest.fixture(scope="session")
def int8_file(model, photograph, tmp_path_factory):
    """The narrow model in an int8 file; quantising takes seconds, so that processes share it."""
    pytest.importorskip("pydot")  # needed by NNCF, which itself is not imported here
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    path = folder / "int8.onnx"
    with FileLock(folder / "int8.lock"):
        if not path.exists():
            model.export(path, precision="int8", calibration=[photograph])
    return path


@pytest.fixture(scope="session")
def random_network():
    """A function: model spec -> a folded network of that shape."""

    def random_network(spec):
        network = UNet(spec.width, spec.depth, spec.head).requires_grad_(False).eval()
        shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
        network.load_state_dict(seeded_state(shapes, seed=2))
        return network

    return random_network


@pytest.fixture(scope="session")
def random_windows():
    """A function: N, h, w -> windows (N, 3, h, w), uint8, the same for the same size."""

    def random_windows(*size):
        generator = torch.Generator().manual_seed(0)
        count, *sides = size
        return torch.randint(256, (count, 3, *sides), dtype=torch.uint8, generator=generator)

    return random_windows
