"""Exported models, loaded again and run by ONNX Runtime."""

from __future__ import annotations

import json
import pickle
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support import EXAMPLE
from support.models import NARROW

import vesselseg
from vesselseg import (
    CheckpointError,
    DeviceError,
    MissingExtraError,
    OptionError,
    ResourceError,
)
from vesselseg.files import sha256

pytestmark = pytest.mark.usefixtures("one_thread")

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "narrow.onnx"
    model.export(path)
    return path


@pytest.fixture(scope="module")
def exported(file):
    return vesselseg.load_model(file, device="cpu")


@pytest.mark.slow
def test_the_embedded_model_gives_the_same_mask_when_exported(tmp_path):
    embedded = vesselseg.load_model(device="cpu")
    embedded.export(tmp_path / "vessels.onnx")
    expected = embedded(EXAMPLE, scale=0.3).mask
    mask = vesselseg.segment(EXAMPLE, model=tmp_path / "vessels.onnx", scale=0.3).mask
    assert expected.sum() > 50_000
    assert (mask != expected).sum() <= 5


class TestLoading:
    def test_ways_to_name_the_file(self, file, monkeypatch, tmp_path):
        monkeypatch.chdir(file.parent)
        shutil.copy(file, tmp_path / "UPPER.ONNX")
        for model in (file, str(file), "narrow.onnx", tmp_path / "UPPER.ONNX"):
            assert vesselseg.load_model(model).spec == NARROW
        assert vesselseg.load_model(weights=file).spec == NARROW
        assert vesselseg.load_model(file, backend="onnxruntime").spec == NARROW

    def test_a_model_spec_besides_that_of_the_file_is_rejected(self, file):
        with pytest.raises(OptionError, match="Pass it alone"):
            vesselseg.load_model("unet_s5-d16_drive", weights=file)
        with pytest.raises(OptionError, match="Both model and weights are files"):
            vesselseg.load_model(file, weights="narrow.pth")

    def test_settings_are_used(self, file):
        model = vesselseg.load_model(file, batch_size=3, max_pixels=100)
        assert (model.batch_size, model.max_pixels) == (3, 100)

    def test_it_needs_onnxruntime_but_not_onnx(self, file, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnx", None)
        assert vesselseg.load_model(file).spec == NARROW
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(MissingExtraError, match=r"pip install .*\[onnx\]"):
            vesselseg.load_model(file)

    def test_paths_that_are_not_models_are_rejected(self, file, tmp_path):
        path = tmp_path / "bad.onnx"
        with pytest.raises(FileNotFoundError, match="no model file"):
            vesselseg.load_model(path)
        for content in (b"", b"no model", b"<html>" * 50, file.read_bytes()[:50_000]):
            path.write_bytes(content)
            with pytest.raises(CheckpointError, match="is damaged or not an ONNX file"):
                vesselseg.load_model(path)
        path.unlink()
        path.mkdir()
        with pytest.raises(CheckpointError, match="is a folder"):
            vesselseg.load_model(path)

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
    def test_files_with_unusable_model_specs_are_rejected(self, spec, message, file, tmp_path):
        model = onnx.load(file)
        onnx.helper.set_model_props(model, {} if spec is None else {"spec": spec})
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(CheckpointError, match=message):
            vesselseg.load_model(tmp_path / "other.onnx")

    def test_a_network_with_other_inputs_is_rejected(self, file, tmp_path):
        model = onnx.load(file)
        model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(CheckpointError, match="Export the model again"):
            vesselseg.load_model(tmp_path / "other.onnx")


class TestDeviceAndPrecision:
    def test_auto_is_float32_and_other_precisions_are_errors(self, file):
        assert vesselseg.load_model(file, precision="auto").precision == "float32"
        for precision in ("bfloat16", "float16"):
            with pytest.raises(DeviceError, match=f"in {precision}; it can in float32"):
                vesselseg.load_model(file, precision=precision)
        with pytest.raises(OptionError, match=r"is not an int8 file\. A model becomes int8 when"):
            vesselseg.load_model(file, precision="int8")
        with pytest.raises(OptionError, match="allowed are 'float32'"):
            vesselseg.load_model(file, precision="tf32")

    @pytest.mark.slow
    @pytest.mark.parametrize("precision", [None, "auto", "int8"])
    def test_int8_files_are_for_another_backend(self, precision, int8_file):
        with pytest.raises(DeviceError, match="Choose the backend 'openvino'"):
            vesselseg.load_model(int8_file, precision=precision)
        with pytest.raises(OptionError, match="cannot run in float32"):
            vesselseg.load_model(int8_file, precision="float32")

    def test_devices_that_are_not_available_are_errors(self, file, monkeypatch):
        with pytest.raises(DeviceError, match="not available here"):
            vesselseg.load_model(file, device="cuda:99")
        monkeypatch.setattr("vesselseg.backends.pytorch.choose_device", torch.device)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
        for device in ("mps", "cuda"):
            with pytest.raises(DeviceError, match=f"cannot use device '{device}', but cpu"):
                vesselseg.load_model(file, device=device)

    @pytest.mark.parametrize("in_torch", [True, False])
    @pytest.mark.parametrize("in_runtime", [True, False])
    def test_auto_is_cuda_only_if_pytorch_and_the_runtime_have_it(
        self, in_torch, in_runtime, file, monkeypatch
    ):
        class Pretending(onnxruntime.InferenceSession):
            """It runs on the CPU and says that it uses what was asked for."""

            def __init__(self, content, options, providers):
                super().__init__(content, options, providers=[CPU])
                self.names = [each if isinstance(each, str) else each[0] for each in providers]

            def get_providers(self):
                return self.names

        providers = [CUDA, CPU] if in_runtime else [CPU]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: in_torch)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
        monkeypatch.setattr(onnxruntime, "InferenceSession", Pretending)
        device = vesselseg.load_model(file).device
        assert device.type == ("cuda" if in_torch and in_runtime else "cpu")

    def test_a_runtime_that_falls_back_to_the_cpu_is_an_error(self, file, monkeypatch):
        requested = []

        class Fallback:
            def __init__(self, *_, providers):
                requested.extend(providers)

            def get_providers(self):
                return [CPU]

        monkeypatch.setattr("vesselseg.backends.pytorch.choose_device", torch.device)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
        monkeypatch.setattr(onnxruntime, "InferenceSession", Fallback)
        with pytest.raises(DeviceError, match="could not start on 'cuda:1'"):
            vesselseg.load_model(file, device="cuda:1")
        assert requested == [(CUDA, {"device_id": 1, "use_tf32": 0}), CPU]

    def test_too_little_memory_is_a_resource_error(self, file, monkeypatch):
        class Full(onnxruntime.InferenceSession):
            def run(self, *_):
                raise RuntimeError("Failed to allocate memory for requested buffer")

        monkeypatch.setattr(onnxruntime, "InferenceSession", Full)
        model = vesselseg.load_model(file, device="cpu")
        with pytest.raises(ResourceError, match="smaller batch size"):
            model(np.zeros((64, 64, 3), np.uint8))


def test_an_exported_model_is_neither_saved_nor_exported_nor_moved_elsewhere(exported, tmp_path):
    for method in (exported.save, exported.export):
        with pytest.raises(OptionError, match="Copy the file itself"):
            method(tmp_path / "again.onnx")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DeviceError, match="not available here"):
        exported.to("cuda:99")
    with pytest.raises(DeviceError, match="cannot compute in bfloat16"):
        exported.to(precision="bfloat16")


def test_pickles_contain_the_file(file, photograph, tmp_path):
    path = tmp_path / "mine.onnx"
    shutil.copy(file, path)
    loaded = vesselseg.load_model(path, device="cpu")
    assert loaded.sha256 == sha256(path)
    content = pickle.dumps(loaded)
    path.unlink()  # as on another machine
    again = pickle.loads(content)
    assert (again.spec, again.sha256) == (loaded.spec, loaded.sha256)
    for copy in (again, loaded.to("cpu")):
        assert np.array_equal(copy(photograph).probability, loaded(photograph).probability)
