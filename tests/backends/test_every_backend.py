"""What every backend promises. A new backend is added to the fixture `segmenter`."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import NARROW

import vesselseg
from vesselseg import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=["torch", "onnxruntime", "openvino"])
def segmenter(
    request: Any, model: Segmenter, published_file: Path, tmp_path_factory: Any
) -> Segmenter:
    if request.param == "onnxruntime":
        path = tmp_path_factory.mktemp("exported") / "narrow.onnx"
        model.export(path)
        return vesselseg.load_model(path, device="cpu")
    return vesselseg.load_model(NARROW, weights=published_file, device="cpu", backend=request.param)


@pytest.mark.parametrize("scale", [None, "fov", 0.15])
def test_logits_and_masks_equal_those_of_pytorch(
    scale: Any, segmenter: Segmenter, model: Segmenter, photograph: Any
) -> None:
    expected = model.logits(photograph, scale=scale)
    logits = segmenter.logits(photograph, scale=scale)
    assert (logits.dtype, logits.device.type) == (torch.float32, "cpu")
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    mask = model(photograph, scale=scale).mask
    assert 0.1 < mask.mean() < 0.9
    assert (segmenter(photograph, scale=scale).mask != mask).sum() <= 3


def test_images_in_one_run_give_the_same_bits_as_one_by_one(
    segmenter: Segmenter, photograph: Any
) -> None:
    images = [photograph, photograph[:30, :50], photograph[50:150, 90:200]]
    for image, result in zip(images, segmenter.segment_many(images), strict=True):
        assert np.array_equal(result.probability, segmenter(image).probability)


def test_threads_share_a_model(segmenter: Segmenter, photograph: Any) -> None:
    images = [np.roll(photograph, 9 * i, axis=0)[: 100 - 20 * (i % 3), :100] for i in range(6)]
    expected = [segmenter(image).probability for image in images]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(segmenter, images))
    for result, probability in zip(results, expected, strict=True):
        assert np.array_equal(result.probability, probability)


def test_provenance_names_the_backend_and_its_version(
    segmenter: Segmenter, photograph: Any
) -> None:
    provenance = segmenter(photograph).provenance
    assert provenance["backend"] == segmenter.backend
    assert provenance[segmenter.backend] == sys.modules[segmenter.backend].__version__
    assert provenance["sha256"] == segmenter.sha256
    assert (provenance["device"], provenance["precision"]) == ("cpu", "float32")


def probability(segmenter: Segmenter, image: Any) -> bytes:
    torch.set_num_threads(1)  # in another process, too
    return segmenter(image).probability.tobytes()


def test_copies_give_the_same_bits_here_and_in_other_processes(
    segmenter: Segmenter, photograph: Any
) -> None:
    image = photograph[:100, :100]
    expected = probability(segmenter, image)
    for copy in (segmenter.to("cpu"), pickle.loads(pickle.dumps(segmenter))):
        assert (copy.backend, copy.spec) == (segmenter.backend, NARROW)
        assert copy.sha256 == segmenter.sha256
        assert probability(copy, image) == expected
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(probability, segmenter, image).result() == expected


def test_the_core_imports_no_other_backend() -> None:
    code = (
        "import sys, numpy, vesselseg\n"
        "vesselseg.segment(numpy.zeros((64, 64), numpy.uint8), scale='native')\n"
        "assert not {'onnx', 'onnxruntime', 'openvino'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
