"""What many tests share: a narrow model, its file in the published layout, a photograph."""

import atexit
import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import EXAMPLE
from support.models import NARROW, published_narrow_file
from support.servers import content, home, other, server, spec  # noqa: F401 (fixtures)

import vesselseg
from vesselseg import Segmenter, registry
from vesselseg.backends.pytorch import TorchBackend

# Some tests import ONNX Runtime themselves, which would report it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if "NUMBA_CACHE_DIR" not in os.environ and not os.access(Path.home(), os.W_OK):
    # Numba, of the extra measure, needs a place for what it compiles.
    os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="numba-")
    atexit.register(shutil.rmtree, os.environ["NUMBA_CACHE_DIR"], ignore_errors=True)


def pytest_configure() -> None:
    """Let processes of pytest-xdist, which share the processors, use one thread each."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
        torch.set_num_threads(1)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Narrow networks gain nothing from threads, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``vesselseg doctor`` compare precisions, which a CPU may emulate, on a small window."""
    small = dataclasses.replace(registry.EMBEDDED, crop=64, stride=64)
    monkeypatch.setattr(registry, "EMBEDDED", small)


@pytest.fixture(scope="session")
def known_logits() -> dict[tuple[object, ...], torch.Tensor]:
    """What `windows_once` has computed."""
    return {}


@pytest.fixture(scope="module")
def windows_once(known_logits: dict[tuple[object, ...], torch.Tensor]) -> Iterator[None]:
    """Let PyTorch compute each window once, for tests that segment one photograph again and again.

    In batches of one size, a window has the same logits, bit for bit, whatever is beside it.
    """
    compute = TorchBackend.__call__

    def look_up(backend: TorchBackend, windows: torch.Tensor) -> torch.Tensor:
        network = (backend.spec.digest, backend.precision, windows.shape)
        weights = backend.network.head.classifier.weight.numpy().tobytes()
        keys = [
            (*network, weights, hashlib.sha256(window.contiguous().numpy()).digest())
            for window in windows
        ]
        if not known_logits.keys() >= set(keys):
            known_logits.update(zip(keys, compute(backend, windows), strict=True))
        return torch.stack([known_logits[key] for key in keys])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchBackend, "__call__", look_up)
        yield


@pytest.fixture(scope="session")
def published_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of `NARROW` in mmsegmentation's layout."""
    return published_narrow_file(tmp_path_factory.mktemp("weights") / "narrow.pth")


@pytest.fixture(scope="session")
def model(published_file: Path) -> Segmenter:
    """A `NARROW` model on the CPU."""
    return vesselseg.load_model(NARROW, weights=published_file, device="cpu")


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """The example photograph, reduced to 177 x 177 pixels: (H, W, 3) uint8 RGB."""
    with Image.open(EXAMPLE) as image:
        return np.asarray(image.reduce(8))
