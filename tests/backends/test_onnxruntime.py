"""Exported models, loaded again and run through ONNX Runtime."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import EXAMPLE, NARROW
from PIL import Image

import vesselseg
from vesselseg import (
    CheckpointError,
    DeviceError,
    MissingExtraError,
    OptionError,
    ResourceError,
    Segmenter,
)
from vesselseg.backends import onnxruntime as backend
from vesselseg.files import sha256

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def file(model: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "narrow.onnx"
    model.export(path)
    return path


@pytest.fixture(scope="module")
def exported(file: Path) -> Segmenter:
    return vesselseg.load_model(file, device="cpu")


class TestResults:
    @pytest.mark.parametrize("scale", [None, "fov", 0.15])
    def test_logits_equal_those_of_pytorch(
        self, scale: Any, exported: Segmenter, model: Segmenter, photograph: Any
    ) -> None:
        expected = model.logits(photograph, scale=scale)
        error = (exported.logits(photograph, scale=scale) - expected).abs().max()
        assert 0 < error < 1e-4 * expected.abs().max()

    def test_the_mask_is_that_of_pytorch(
        self, exported: Segmenter, model: Segmenter, photograph: Any
    ) -> None:
        expected = model(photograph).mask
        assert 0.1 < expected.mean() < 0.9
        assert (exported(photograph).mask != expected).sum() <= 3

    def test_images_in_one_run_give_the_bits_of_one_by_one(
        self, exported: Segmenter, photograph: Any
    ) -> None:
        images = [photograph, photograph[:30, :50], photograph[50:150, 90:200]]
        for image, result in zip(images, exported.segment_many(images), strict=True):
            assert np.array_equal(result.probability, exported(image).probability)

    def test_threads_share_a_model(self, exported: Segmenter, photograph: Any) -> None:
        images = [np.roll(photograph, 9 * i, axis=0)[:100, :100] for i in range(6)]
        expected = [exported(image).probability for image in images]
        with ThreadPoolExecutor(6) as pool:
            results = list(pool.map(exported, images))
        for result, probability in zip(results, expected, strict=True):
            assert np.array_equal(result.probability, probability)

    def test_provenance_names_the_file_and_the_runtime(
        self, exported: Segmenter, file: Path, photograph: Any
    ) -> None:
        provenance = exported(photograph).provenance
        assert provenance["onnxruntime"] == onnxruntime.__version__
        assert provenance["sha256"] == exported.sha256 == sha256(file)
        assert (provenance["device"], provenance["precision"]) == ("cpu", "float32")

    def test_the_embedded_model(self, tmp_path: Path) -> None:
        embedded = vesselseg.load_model(device="cpu")
        embedded.export(tmp_path / "vessels.onnx")
        expected = embedded(EXAMPLE, scale=0.3).mask
        mask = vesselseg.segment(EXAMPLE, model=tmp_path / "vessels.onnx", scale=0.3).mask
        assert expected.sum() > 50_000
        assert (mask != expected).sum() <= 5


class TestLoading:
    def test_the_record_comes_from_the_file(self, exported: Segmenter) -> None:
        assert exported.spec == NARROW
        assert (exported.device.type, exported.precision) == ("cpu", "float32")

    def test_ways_to_name_the_file(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(file.parent)
        for model in (file, str(file), "narrow.onnx"):
            assert vesselseg.load_model(model).spec == NARROW
        assert vesselseg.load_model(weights=file).spec == NARROW
        shutil.copy(file, tmp_path / "UPPER.ONNX")
        assert vesselseg.load_model(tmp_path / "UPPER.ONNX").spec == NARROW

    def test_another_record_is_refused(self, file: Path) -> None:
        with pytest.raises(OptionError, match="give it alone"):
            vesselseg.load_model("unet_s5-d16_drive", weights=file)
        with pytest.raises(OptionError, match="give it alone"):
            vesselseg.load_model(file, weights="narrow.pth")

    def test_settings_are_the_callers(self, file: Path) -> None:
        model = vesselseg.load_model(file, batch_size=3, max_pixels=100)
        assert (model.batch_size, model.max_pixels) == (3, 100)

    def test_without_the_extra(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(MissingExtraError, match=r'pip install "vesselseg\[onnx\]"'):
            vesselseg.load_model(file)

    def test_running_needs_no_onnx_package(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnx", None)
        assert vesselseg.load_model(file).spec == NARROW

    @pytest.mark.parametrize("content", [b"", b"no model", b"<html>" * 50])
    def test_a_file_that_is_none(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(CheckpointError, match="is damaged or no ONNX file"):
            vesselseg.load_model(tmp_path / "bad.onnx")

    def test_a_truncated_file(self, file: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.onnx").write_bytes(file.read_bytes()[:50_000])
        with pytest.raises(CheckpointError, match="is damaged or no ONNX file"):
            vesselseg.load_model(tmp_path / "bad.onnx")

    def test_no_file_and_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no model file"):
            vesselseg.load_model(tmp_path / "absent.onnx")
        (tmp_path / "folder.onnx").mkdir()
        with pytest.raises(CheckpointError, match="is a folder"):
            vesselseg.load_model(tmp_path / "folder.onnx")

    @pytest.mark.parametrize(
        ("record", "message"),
        [
            (None, "has no record"),
            ("no JSON", "has no record"),
            ("[1]", "has no record"),
            ('{"crop": 64}', "record cannot be used"),
            (json.dumps(NARROW.to_dict() | {"sharpness": 1}), "does not know: sharpness"),
        ],
    )
    def test_a_record_that_cannot_be_used(
        self, record: str | None, message: str, file: Path, tmp_path: Path
    ) -> None:
        model = onnx.load(file)
        onnx.helper.set_model_props(model, {} if record is None else {"record": record})
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(CheckpointError, match=message):
            vesselseg.load_model(tmp_path / "other.onnx")

    def test_another_networks_inputs(self, file: Path, tmp_path: Path) -> None:
        model = onnx.load(file)
        model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(CheckpointError, match="exported models have"):
            vesselseg.load_model(tmp_path / "other.onnx")


class TestDeviceAndPrecision:
    @pytest.mark.parametrize("precision", ["bfloat16", "float16"])
    def test_other_precisions_are_refused_by_name(self, precision: str, file: Path) -> None:
        with pytest.raises(DeviceError, match=f"in float32, not in {precision}"):
            vesselseg.load_model(file, precision=precision)

    def test_auto_is_float32(self, file: Path) -> None:
        assert vesselseg.load_model(file, precision="auto").precision == "float32"
        with pytest.raises(OptionError, match="allowed are 'float32' and 'auto'"):
            vesselseg.load_model(file, precision="fp32")

    def test_a_device_that_is_not_there(self, file: Path) -> None:
        with pytest.raises(DeviceError, match="not available here"):
            vesselseg.load_model(file, device="cuda:99")

    def test_devices_that_the_runtime_does_not_run_on(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vesselseg.backends.pytorch.choose_device", torch.device)
        for device in ("mps", "cuda"):
            monkeypatch.setattr(
                onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"]
            )
            with pytest.raises(DeviceError, match="does on: cpu"):
                backend.choose_device(device)

    def test_auto_is_cuda_only_where_both_have_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert backend.choose_device("auto").type == "cuda"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert backend.choose_device("auto").type == "cpu"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        providers.pop(0)
        assert backend.choose_device("auto").type == "cpu"

    def test_a_runtime_that_falls_back_to_the_cpu_is_refused(
        self, exported: Segmenter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        class Fallback:
            def __init__(self, *_: object, providers: list[Any]) -> None:
                asked.append(providers)

            def get_providers(self) -> list[str]:
                return ["CPUExecutionProvider"]

        monkeypatch.setattr(onnxruntime, "InferenceSession", Fallback)
        source = exported._runtime
        assert isinstance(source, backend.OnnxFile)
        with pytest.raises(DeviceError, match="could not start on 'cuda:1'"):
            backend.OnnxBackend(source, torch.device("cuda:1"))
        expected = ("CUDAExecutionProvider", {"device_id": 1, "use_tf32": 0})
        assert asked == [[expected, "CPUExecutionProvider"]]

    def test_too_little_memory(self, exported: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("Failed to allocate memory for requested buffer")

        monkeypatch.setattr(exported._backend, "_session", SimpleNamespace(run=fail))
        with pytest.raises(ResourceError, match="smaller batch_size"):
            exported(np.zeros((64, 64, 3), np.uint8))


class TestWhatIsNotPossible:
    @pytest.mark.parametrize("method", ["save", "export"])
    def test_writing_it_again(self, method: str, exported: Segmenter, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match=r"copy the file itself, '.*narrow\.onnx'"):
            getattr(exported, method)(tmp_path / "again.onnx")
        assert list(tmp_path.iterdir()) == []

    def test_moving_it_elsewhere(self, exported: Segmenter, photograph: Any) -> None:
        with pytest.raises(DeviceError, match="not available here"):
            exported.to("cuda:99")
        moved = exported.to("cpu")
        assert np.array_equal(moved(photograph).mask, exported(photograph).mask)


def mask(arguments: tuple[Segmenter, Any]) -> bytes:
    model, image = arguments
    return model(image).mask.tobytes()


class TestPickles:
    def test_are_small_and_give_the_same_model(self, exported: Segmenter, photograph: Any) -> None:
        content = pickle.dumps(exported)
        assert len(content) < 2000
        again = pickle.loads(content)
        assert np.array_equal(again(photograph).probability, exported(photograph).probability)

    def test_go_to_other_processes(self, exported: Segmenter, photograph: Any) -> None:
        image = photograph[:100, :100]
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            assert list(pool.map(mask, [(exported, image)])) == [mask((exported, image))]

    def test_need_the_file_as_it_was(self, model: Segmenter, tmp_path: Path) -> None:
        path = tmp_path / "mine.onnx"
        model.export(path)
        content = pickle.dumps(vesselseg.load_model(path))
        record = dataclasses.replace(NARROW, stride=64)
        Segmenter(
            model._runtime, record, sha256="", device=model.device, precision="float32",
            batch_size=None,
        ).export(path)  # fmt: skip
        with pytest.raises(CheckpointError, match="not the file any more"):
            pickle.loads(content)
        path.unlink()
        with pytest.raises(FileNotFoundError, match="no model file"):
            pickle.loads(content)


GUEST = """
import logging, os, sys, threading, warnings
import torch, onnx, onnxruntime
logging.disable(logging.WARNING)
torch.set_num_threads(2)
before = (list(warnings.filters), dict(os.environ), threading.active_count())
cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
import vesselseg
model = vesselseg.load_model(device="cpu")
model.export("vessels.onnx")
exported = vesselseg.load_model("vessels.onnx")
exported(sys.argv[1], scale=1.0)
try:
    vesselseg.load_model(sys.argv[1] + ".onnx")
except vesselseg.CheckpointError:
    damaged = True
assert damaged
try:
    exported._backend(torch.zeros(1, 3, 40, 40, dtype=torch.uint8))
except Exception:
    failed = True
assert failed
assert before == (list(warnings.filters), dict(os.environ), threading.active_count())
assert torch.get_num_threads() == 2
if cores:  # of every thread of the process, those of ONNX Runtime too
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    assert all(os.sched_getaffinity(thread) == cores for thread in threads)
"""


def test_nothing_around_it_changes_and_nothing_is_printed(tmp_path: Path) -> None:
    with Image.open(EXAMPLE) as image:
        image.reduce(8).save(tmp_path / "eye.png")
    (tmp_path / "eye.png.onnx").write_bytes(b"damaged")
    finished = subprocess.run(
        [sys.executable, "-c", GUEST, "eye.png"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


def test_the_core_imports_neither_onnx_nor_its_runtime() -> None:
    code = (
        "import sys, numpy, vesselseg\n"
        "vesselseg.segment(numpy.zeros((64, 64), numpy.uint8), scale='native')\n"
        "assert not {'onnx', 'onnxruntime'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
