"""Exported models, loaded again and run by ONNX Runtime."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from support import EXAMPLE
from support.models import NARROW

import vesselseg
from vesselseg import (
    CheckpointError,
    DeviceError,
    MissingExtraError,
    OptionError,
    ResourceError,
    Segmenter,
)
from vesselseg.backends.onnxruntime import OnnxBackend
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


def test_the_embedded_model(tmp_path: Path) -> None:
    embedded = vesselseg.load_model(device="cpu")
    embedded.export(tmp_path / "vessels.onnx")
    expected = embedded(EXAMPLE, scale=0.3).mask
    mask = vesselseg.segment(EXAMPLE, model=tmp_path / "vessels.onnx", scale=0.3).mask
    assert expected.sum() > 50_000
    assert (mask != expected).sum() <= 5


class TestLoading:
    def test_ways_to_name_the_file(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(file.parent)
        shutil.copy(file, tmp_path / "UPPER.ONNX")
        for model in (file, str(file), "narrow.onnx", tmp_path / "UPPER.ONNX"):
            assert vesselseg.load_model(model).spec == NARROW
        assert vesselseg.load_model(weights=file).spec == NARROW
        assert vesselseg.load_model(file, backend="onnxruntime").spec == NARROW

    def test_a_model_spec_besides_that_of_the_file_is_rejected(self, file: Path) -> None:
        with pytest.raises(OptionError, match="Pass it alone"):
            vesselseg.load_model("unet_s5-d16_drive", weights=file)
        with pytest.raises(OptionError, match="Both model and weights are files"):
            vesselseg.load_model(file, weights="narrow.pth")

    @pytest.mark.parametrize("backend", ["torch", "openvino"])
    def test_other_backends_are_rejected(self, backend: Any, file: Path) -> None:
        with pytest.raises(OptionError, match=f"only backend='onnxruntime' runs, not '{backend}'"):
            vesselseg.load_model(file, backend=backend)

    def test_other_files_are_rejected(self, published_file: Path) -> None:
        with pytest.raises(OptionError, match="Export the model first"):
            vesselseg.load_model(NARROW, weights=published_file, backend="onnxruntime")

    def test_settings_are_used(self, file: Path) -> None:
        model = vesselseg.load_model(file, batch_size=3, max_pixels=100)
        assert (model.batch_size, model.max_pixels) == (3, 100)

    def test_without_the_extra(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(MissingExtraError, match=r'pip install "vesselseg\[onnx\]"'):
            vesselseg.load_model(file)

    def test_running_does_not_need_the_onnx_package(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnx", None)
        assert vesselseg.load_model(file).spec == NARROW

    def test_files_that_are_not_models(self, file: Path, tmp_path: Path) -> None:
        path = tmp_path / "bad.onnx"
        for content in (b"", b"no model", b"<html>" * 50, file.read_bytes()[:50_000]):
            path.write_bytes(content)
            with pytest.raises(CheckpointError, match="is damaged or not an ONNX file"):
                vesselseg.load_model(path)

    def test_missing_files_and_folders(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no model file"):
            vesselseg.load_model(tmp_path / "absent.onnx")
        (tmp_path / "folder.onnx").mkdir()
        with pytest.raises(CheckpointError, match="is a folder"):
            vesselseg.load_model(tmp_path / "folder.onnx")

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            (None, "contains no model spec"),
            ("no JSON", "contains no model spec"),
            ("[1]", "contains no model spec"),
            ('{"crop": 64}', "model spec is not valid"),
            (json.dumps(NARROW.to_dict() | {"sharpness": 1}), "does not know: sharpness"),
        ],
    )
    def test_unusable_model_specs(
        self, spec: str | None, message: str, file: Path, tmp_path: Path
    ) -> None:
        model = onnx.load(file)
        onnx.helper.set_model_props(model, {} if spec is None else {"spec": spec})
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(CheckpointError, match=message):
            vesselseg.load_model(tmp_path / "other.onnx")

    def test_a_network_with_other_inputs(self, file: Path, tmp_path: Path) -> None:
        model = onnx.load(file)
        model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(CheckpointError, match="Export the model again"):
            vesselseg.load_model(tmp_path / "other.onnx")


class TestDeviceAndPrecision:
    def test_auto_is_float32_and_other_precisions_are_errors(self, file: Path) -> None:
        assert vesselseg.load_model(file, precision="auto").precision == "float32"
        for precision in ("bfloat16", "float16", "int8"):
            with pytest.raises(DeviceError, match=f"in float32, not in {precision}"):
                vesselseg.load_model(file, precision=precision)
        with pytest.raises(OptionError, match="'float32' and 'auto' are allowed"):
            vesselseg.load_model(file, precision="fp32")

    def test_devices_that_are_not_available(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(DeviceError, match="not available here"):
            vesselseg.load_model(file, device="cuda:99")
        monkeypatch.setattr("vesselseg.backends.pytorch.choose_device", torch.device)
        providers = ["CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
        for device in ("mps", "cuda"):
            with pytest.raises(DeviceError, match=f"cannot use device '{device}', but cpu"):
                vesselseg.load_model(file, device=device)

    def test_auto_is_cuda_only_if_pytorch_and_the_runtime_have_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for in_torch in (True, False):
            for in_runtime in (True, False):
                monkeypatch.setattr(torch.cuda, "is_available", lambda has=in_torch: has)
                providers = ["CUDAExecutionProvider"] * in_runtime + ["CPUExecutionProvider"]
                monkeypatch.setattr(onnxruntime, "get_available_providers", lambda p=providers: p)
                device, _ = OnnxBackend.choose("auto", "auto")
                assert device.type == ("cuda" if in_torch and in_runtime else "cpu")

    def test_a_runtime_that_falls_back_to_the_cpu_is_an_error(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        requested = []

        class Fallback:
            def __init__(self, *_: object, providers: list[Any]) -> None:
                requested.extend(providers)

            def get_providers(self) -> list[str]:
                return ["CPUExecutionProvider"]

        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr("vesselseg.backends.pytorch.choose_device", torch.device)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
        monkeypatch.setattr(onnxruntime, "InferenceSession", Fallback)
        with pytest.raises(DeviceError, match="could not start on 'cuda:1'"):
            vesselseg.load_model(file, device="cuda:1")
        cuda = ("CUDAExecutionProvider", {"device_id": 1, "use_tf32": 0})
        assert requested == [cuda, "CPUExecutionProvider"]

    def test_too_little_memory(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Full(onnxruntime.InferenceSession):  # type: ignore[misc]
            def run(self, *_: object) -> None:
                raise RuntimeError("Failed to allocate memory for requested buffer")

        monkeypatch.setattr(onnxruntime, "InferenceSession", Full)
        model = vesselseg.load_model(file, device="cpu")
        with pytest.raises(ResourceError, match="smaller batch_size"):
            model(np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parametrize("method", ["save", "export"])
def test_it_cannot_be_saved_or_exported_again(
    method: str, exported: Segmenter, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="Copy the file itself"):
        getattr(exported, method)(tmp_path / "again.onnx")
    assert list(tmp_path.iterdir()) == []


def test_moving_it_where_it_cannot_run(exported: Segmenter) -> None:
    with pytest.raises(DeviceError, match="not available here"):
        exported.to("cuda:99")
    with pytest.raises(DeviceError, match="not in bfloat16"):
        exported.to(precision="bfloat16")


def test_pickles_are_small_and_need_the_same_file(
    file: Path, published_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.onnx"
    shutil.copy(file, path)
    loaded = vesselseg.load_model(path)
    assert loaded.sha256 == sha256(path)
    content = pickle.dumps(loaded)
    assert len(content) < 2000
    other = dataclasses.replace(NARROW, stride=64)
    vesselseg.load_model(other, weights=published_file, device="cpu").export(path)
    with pytest.raises(CheckpointError, match="has been replaced"):
        pickle.loads(content)
    with pytest.raises(CheckpointError, match="has been replaced"):
        loaded.to("cpu")
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
from pathlib import Path
import vesselseg
from vesselseg.backends.onnxruntime import OnnxBackend
from vesselseg.files import sha256
model = vesselseg.load_model(device="cpu")
model.export("vessels.onnx")
exported = vesselseg.load_model("vessels.onnx")
exported(sys.argv[1], scale=1.0)
try:
    vesselseg.load_model(sys.argv[1] + ".onnx")
except vesselseg.CheckpointError:
    damaged = True
assert damaged
try:  # windows of a wrong size
    OnnxBackend(Path("vessels.onnx"), "cpu")(torch.zeros(1, 3, 40, 40, dtype=torch.uint8))
except Exception:
    failed = True
assert failed
assert before == (list(warnings.filters), dict(os.environ), threading.active_count())
assert torch.get_num_threads() == 2
if cores:  # of every thread of the process, those of ONNX Runtime too
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    assert all(os.sched_getaffinity(thread) == cores for thread in threads)
"""


def test_it_prints_nothing_and_changes_nothing_around_it(tmp_path: Path) -> None:
    with Image.open(EXAMPLE) as image:
        image.reduce(8).save(tmp_path / "eye.png")
    (tmp_path / "eye.png.onnx").write_bytes(b"damaged")
    finished = subprocess.run(
        [sys.executable, "-c", GUEST, "eye.png"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
