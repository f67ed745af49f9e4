"""What every backend promises, with every kind of model that it runs."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from support.models import NARROW

import vesselseg
from vesselseg.backends import find_backend
from vesselseg.choices import BACKENDS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


BACKEND_CLASSES = [find_backend(name) for name in BACKENDS]
KINDS = [
    *((backend.name, "weights") for backend in BACKEND_CLASSES if backend.runs_weights),
    *((backend.name, ".onnx") for backend in BACKEND_CLASSES if ".onnx" in backend.suffixes),
]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def segmenter(request, model, published_file, tmp_path_factory):
    backend, kind = request.param
    if kind == "weights":
        return vesselseg.load_model(NARROW, weights=published_file, device="cpu", backend=backend)
    path = tmp_path_factory.mktemp("exported") / "narrow.onnx"
    model.export(path)
    return vesselseg.load_model(path, device="cpu", backend=backend)


@pytest.mark.parametrize("scale", [None, 0.15])
def test_logits_and_masks_equal_those_of_pytorch(scale, segmenter, model, photograph):
    expected = model.logits(photograph, scale=scale)
    logits = segmenter.logits(photograph, scale=scale)
    assert (logits.dtype, logits.device.type) == (torch.float32, "cpu")
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    mask = model(photograph, scale=scale).mask
    assert 0.1 < mask.mean() < 0.9
    assert (segmenter(photograph, scale=scale).mask != mask).sum() <= 3


def test_images_in_one_run_give_the_same_bits_as_one_by_one(segmenter, photograph):
    images = [photograph, photograph[:30, :50], photograph[50:150, 60:170]]
    for image, result in zip(images, segmenter.segment_many(images), strict=True):
        assert np.array_equal(result.probability, segmenter(image).probability)


def test_threads_share_a_model(segmenter, photograph):
    images = [np.roll(photograph, 9 * i, axis=0)[: 100 - 20 * (i % 3), :100] for i in range(6)]
    expected = [segmenter(image).probability for image in images]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(segmenter, images))
    for result, probability in zip(results, expected, strict=True):
        assert np.array_equal(result.probability, probability)


def test_provenance_names_the_backend_and_its_version(segmenter, photograph):
    provenance = segmenter(photograph).provenance
    assert provenance["backend"] == segmenter.backend
    assert provenance[segmenter.backend] == sys.modules[segmenter.backend].__version__
    assert provenance["sha256"] == segmenter.sha256
    assert (provenance["device"], provenance["precision"]) == ("cpu", "float32")


def probability(segmenter, image):
    torch.set_num_threads(1)  # in another process, too
    return segmenter(image).probability.tobytes()


@pytest.fixture(scope="module")
def elsewhere():
    """Another process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def test_copies_give_the_same_bits_here_and_in_other_processes(segmenter, photograph, elsewhere):
    image = photograph[:100, :100]
    expected = probability(segmenter, image)
    for copy in (segmenter.to("cpu"), pickle.loads(pickle.dumps(segmenter))):
        assert (copy.backend, copy.spec) == (segmenter.backend, NARROW)
        assert copy.sha256 == segmenter.sha256
        assert probability(copy, image) == expected
    assert elsewhere.submit(probability, segmenter, image).result() == expected


GUEST = """
import logging, os, random, sys, threading, warnings
import numpy, torch
logging.disable(logging.WARNING)
torch.set_num_threads(2)
def state():
    return (
        list(warnings.filters), dict(os.environ), logging.getLoggerClass(), logging.root.handlers,
        random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(),
        torch.get_num_threads(), os.getcwd(), list(sys.path), threading.active_count(),
    )
before = state()
cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
import vesselseg
USE
assert state() == before
if cores:  # of every thread of the process, those of the backend too
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    assert all(os.sched_getaffinity(thread) == cores for thread in threads)
"""
USE = {
    "onnxruntime": """
from vesselseg.backends.onnxruntime import OnnxBackend
vesselseg.load_model("narrow.pth").export("narrow.onnx")
vesselseg.load_model("narrow.onnx")("eye.png", scale="native")
for failing in (
    lambda: vesselseg.load_model("damaged.onnx"),
    lambda: OnnxBackend.from_file("narrow.onnx", "cpu", None)(torch.zeros(1, 3, 40, 40).byte()),
):
    try:
        failing()
    except Exception:
        continue
    raise AssertionError
""",
    "openvino": """
vesselseg.load_model("narrow.pth").export("int8.onnx", precision="int8", calibration=["eye.png"])
for file in ("narrow.pth", "int8.onnx"):
    vesselseg.load_model(file, backend="openvino")("eye.png", scale="native")
assert not {"nncf", "openvino_telemetry"} & set(sys.modules)
import openvino_telemetry  # can be imported as before
""",
}


@pytest.mark.parametrize("backend", USE)
def test_a_backend_prints_nothing_and_changes_nothing_of_its_host(
    backend, tmp_path, model, photograph
):
    pytest.importorskip("pydot")  # needed by NNCF
    model.save(tmp_path / "narrow.pth")
    (tmp_path / "damaged.onnx").write_bytes(b"damaged")
    Image.fromarray(photograph).save(tmp_path / "eye.png")
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", GUEST.replace("USE", USE[backend])],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
