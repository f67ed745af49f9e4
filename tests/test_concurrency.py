"""Threads and processes share models or load their own, and get the same masks."""

import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from support.models import NARROW

import vesselseg
from vesselseg import api, weights
from vesselseg.backends.pytorch import TorchBackend


@pytest.fixture(scope="module")
def photographs(photograph):
    return [np.ascontiguousarray(np.roll(photograph, 7 * i, axis=1)[:150, :170]) for i in range(16)]


def masks(results):
    return [result.mask.tobytes() for result in results]


@pytest.mark.slow
def test_sixteen_threads_sharing_a_model_get_the_masks_of_one(model, photographs):
    expected = masks(map(model, photographs))
    assert len(set(expected)) > 1
    with ThreadPoolExecutor(16) as pool:
        assert masks(pool.map(model, photographs)) == expected


@pytest.mark.slow
def test_sixteen_threads_calling_segment_load_the_model_once(photographs, monkeypatch):
    vesselseg.clear_models()
    loads = []

    def load(*arguments, **options):
        loads.append(arguments)
        return vesselseg.load_model(*arguments, **options)

    monkeypatch.setattr(api, "load_model", load)
    small = [image[::2, ::2] for image in photographs]
    with ThreadPoolExecutor(16) as pool:
        together = masks(pool.map(lambda image: vesselseg.segment(image, scale=1.0), small))
    assert len(loads) == 1
    assert together == masks(vesselseg.segment(image, scale=1.0) for image in small)
    vesselseg.clear_models()
    vesselseg.segment(small[0], scale=1.0)
    assert len(loads) == 2


FORK = """
import multiprocessing, sys
import numpy as np
import vesselseg

def count(seed):
    image = np.random.default_rng(seed).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    return int(vesselseg.segment(image, scale="native", device="cpu").mask.sum())

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(1) as pool:  # before the first use
        forked = pool.map(count, range(4))
    assert forked == [count(seed) for seed in range(4)]
"""


@pytest.mark.slow
@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system"
)
def test_processes_forked_before_the_first_use_get_the_same_masks(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-c", FORK], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr


def test_a_pickled_model_gives_the_same_result(model, photograph):
    again = pickle.loads(pickle.dumps(model))
    assert (again.spec, again.sha256) == (model.spec, model.sha256)
    assert np.array_equal(again(photograph).probability, model(photograph).probability)


class Elsewhere(TorchBackend):
    """A network that was pickled on a machine with a hundred GPUs."""

    def __reduce__(self):
        function, (*first, _, precision) = super().__reduce__()
        return function, (*first, torch.device("cuda:99"), precision)


def test_a_pickled_backend_of_a_missing_device_raises_an_error(published_file):
    network = weights.load_network(published_file, NARROW)
    pickled = pickle.dumps(Elsewhere(network, NARROW, "cpu", "float32"))
    with pytest.raises(vesselseg.DeviceError, match="not available here"):
        pickle.loads(pickled)


def test_pickled_specs_and_results_are_equal(model, photograph):
    assert pickle.loads(pickle.dumps(model.spec)) == model.spec
    result = model(photograph)
    again = pickle.loads(pickle.dumps(result))
    assert np.array_equal(again.mask, result.mask)
    assert again.provenance == result.provenance
