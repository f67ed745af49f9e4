"""The OpenVINO backend: PyTorch's logits in float32, and masks near them in fewer bits."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from typing import ClassVar

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from support import EXAMPLE
from support.models import NARROW, TINY

import vesselseg
from vesselseg import (
    CheckpointError,
    DeviceError,
    MissingExtraError,
    OptionError,
    ResourceError,
    cli,
)
from vesselseg.backends import onednn, onnx_export
from vesselseg.backends.onnx_file import OnnxFile
from vesselseg.backends.openvino import OpenVinoBackend, load_openvino
from vesselseg.backends.pytorch import TorchBackend
from vesselseg.unet import HEADS, UNet

pytest.importorskip("openvino_telemetry")  # a part of OpenVINO, not imported by vesselseg
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

NATIVE = "BF16" in load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
native = pytest.mark.skipif(not NATIVE, reason="this CPU has no bfloat16 instructions")


def load(published_file, **options):
    return vesselseg.load_model(NARROW, weights=published_file, backend="openvino", **options)


@pytest.fixture(scope="module")
def exact(published_file):
    return load(published_file)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """The narrow model in a float32 file."""
    path = tmp_path_factory.mktemp("exported") / "narrow.onnx"
    model.export(path)
    return path


@pytest.fixture(scope="module")
def int8(int8_file):
    return vesselseg.load_model(int8_file, backend="openvino")


@pytest.fixture
def core(monkeypatch):
    """OpenVINO's ``Core``, which notes what it compiles; `capabilities` are those of the CPU."""
    real = load_openvino().Core

    class Core(real):
        models: ClassVar = []
        settings: ClassVar = []
        capabilities: ClassVar = None

        def compile_model(self, model, device, settings):
            self.models.append(model)
            self.settings.append(settings)
            return super().compile_model(model, device, settings)

        def get_property(self, *names):
            return self.capabilities or super().get_property(*names)

    monkeypatch.setattr(load_openvino(), "Core", Core)
    return Core


def file_of(network, spec):
    """The exported file of a network, in memory."""
    model = onnx_export.build(network, spec)
    onnx.helper.set_model_props(model, {"spec": json.dumps(spec.to_dict())})
    return OnnxFile(model.SerializeToString(), "exported.onnx")


class TestFloat32:
    @pytest.mark.parametrize(
        ("head", "layout"),
        [
            ("fcn", torch.contiguous_format),
            ("fcn", torch.channels_last),
            ("pspnet", torch.contiguous_format),
            *((head, "file") for head in HEADS),
        ],
    )
    def test_logits_equal_those_of_pytorch(self, head, layout, random_network, random_windows):
        spec = dataclasses.replace(NARROW, head=head, mean=(90, 60.5, 30.25), std=(50, 40, 30))
        network = random_network(spec)
        if layout == "file":
            backend = OpenVinoBackend(file_of(network, spec), None, "cpu", None)
        else:
            backend = OpenVinoBackend(network.to(memory_format=layout), spec, "cpu", None)
        assert backend.precision == "float32"
        for size in ((2, 64, 64), (1, 48, 80)):
            windows = random_windows(*size)
            logits = backend(windows)
            expected = TorchBackend(network, spec, "cpu", "float32")(windows)
            assert (logits.dtype, logits.shape) == (torch.float32, expected.shape)
            assert expected.std(dim=(2, 3)).min() > 0.01  # it depends on the windows
            assert 0 < (logits - expected).abs().max() < 1e-5 * expected.abs().max()

    def test_weights_are_not_copied(self, network, core):
        OpenVinoBackend(network, NARROW, "cpu", None)(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
        (model,) = core.models
        constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
        addresses = {constant.data.ctypes.data for constant in constants}
        state = network.state_dict()
        weights = [key for key in state if key.endswith("weight")]
        copied = {key for key in weights if state[key].data_ptr() not in addresses}
        assert copied == {"head.classifier.weight"}  # it gives the difference of the logits

    def test_only_the_last_shapes_stay_compiled(self, network, core):
        backend = OpenVinoBackend(network, NARROW, "cpu", None)
        sides = [16, 32, 48, 64]
        for side in (*sides, sides[-1], sides[0]):
            backend(torch.zeros(1, 3, side, side, dtype=torch.uint8))
        compiled = [model.input().shape[1] for model in core.models]
        assert compiled == [*sides, sides[0]]

    def test_it_uses_the_precision_and_the_threads_of_the_host(self, network, core):
        OpenVinoBackend(network, NARROW, "cpu", None)(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
        (settings,) = core.settings
        assert settings["INFERENCE_PRECISION_HINT"] == "f32"
        assert settings["INFERENCE_NUM_THREADS"] == torch.get_num_threads()
        assert settings["NUM_STREAMS"] == "1"


class TestBfloat16:
    @native
    def test_it_is_as_near_as_that_of_pytorch(self, exact, model, photograph):
        expected = model.logits(photograph)
        here, in_torch = (
            (m.to(precision="bfloat16").logits(photograph) - expected).abs().mean()
            for m in (exact, model)
        )
        assert in_torch / 5 < here < 2 * in_torch  # float32 is a thousand times nearer

    @native
    @pytest.mark.parametrize("kind", ["network", "file"])
    def test_a_difference_smaller_than_the_rounding_of_logits_keeps_its_sign(self, kind):
        network = UNet(TINY.width, TINY.depth).requires_grad_(False).eval()
        for value in network.state_dict().values():
            value.zero_()
        network.head.classifier.bias.data = torch.tensor([5.0, 5.001])  # bfloat16: 5 and 5
        source = network if kind == "network" else file_of(network, TINY)
        backend = OpenVinoBackend(source, TINY, "cpu", "bfloat16")
        logits = backend(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
        assert (logits[:, 1] > logits[:, 0]).all()

    def test_auto_is_what_the_cpu_computes_natively(self, exact, exported):
        expected = "bfloat16" if NATIVE else "float32"
        assert exact.to(precision="auto").precision == expected
        model = vesselseg.load_model(exported, backend="openvino", precision="auto")
        assert model.precision == expected

    def test_it_is_an_error_if_openvino_would_compute_in_float32(self, core):
        core.capabilities = ["FP32", "INT8"]
        assert OpenVinoBackend.choose("auto", "auto") == (torch.device("cpu"), "float32")
        with pytest.raises(DeviceError, match="bfloat16; it can in float32"):
            OpenVinoBackend.choose("cpu", "bfloat16")


class TestInt8:
    def test_it_is_near_float32_and_not_the_same(self, int8, model, photograph):
        # Random weights are harder than trained ones: this shows only that it is this network.
        expected = model.logits(photograph)
        error = (int8.logits(photograph) - expected).abs().mean() / expected.std()
        assert 0.001 < error < 0.2

    def test_masks_of_the_embedded_model_agree_with_float32(self, tmp_path):
        pytest.importorskip("pydot")  # needed by NNCF
        embedded = vesselseg.load_model(device="cpu")
        embedded.export(tmp_path / "int8.onnx", precision="int8")
        int8 = vesselseg.load_model(tmp_path / "int8.onnx", backend="openvino")
        masks = [model(EXAMPLE, scale=0.5).mask for model in (int8, embedded)]
        assert (masks[0] == masks[1]).mean() >= 0.996

    def test_the_file_says_that_it_is_int8(self, int8, int8_file, model, photograph):
        assert (int8.precision, int8.spec) == ("int8", NARROW)
        assert int8(photograph).provenance["precision"] == "int8"
        assert int8.batch_size >= model.batch_size
        for precision in ("int8", "auto"):
            again = vesselseg.load_model(int8_file, backend="openvino", precision=precision)
            assert again.precision == "int8"
        copy = pickle.loads(pickle.dumps(int8))
        assert (copy.precision, copy.sha256) == ("int8", int8.sha256)

    @pytest.mark.parametrize(("capability", "hint"), [("BF16", "bf16"), ("FP32", "f32")])
    def test_float_layers_are_rounded_only_where_the_cpu_has_bfloat16(
        self, capability, hint, int8_file, core, monkeypatch
    ):
        monkeypatch.setattr(onednn, "has_bfloat16", lambda: True)
        core.capabilities = [capability, "INT8"]
        model = vesselseg.load_model(int8_file, backend="openvino")
        model(np.zeros((64, 64, 3), np.uint8))
        assert {settings["INFERENCE_PRECISION_HINT"] for settings in core.settings} == {hint}

    def test_it_runs_in_no_other_precision(self, int8, int8_file):
        for precision, full in (("float32",) * 2, ("bfloat16",) * 2, ("fp32", "float32")):
            with pytest.raises(OptionError, match=f"int8 file, which cannot run in {full}"):
                vesselseg.load_model(int8_file, backend="openvino", precision=precision)
            with pytest.raises(OptionError, match="load the model that the file was exported"):
                int8.to(precision=precision)

    def test_others_become_int8_when_they_are_exported(self, exact, exported, monkeypatch):
        monkeypatch.setattr("vesselseg.cache.obtain", None)  # would fail: no download
        with pytest.raises(OptionError, match="in the precision 'int8'"):
            vesselseg.load_model("unet_s5-d16_drive", backend="openvino", precision="int8")
        with pytest.raises(OptionError, match="in the precision 'int8'"):
            exact.to(precision="int8")
        with pytest.raises(OptionError, match=r"narrow\.onnx' is not an int8 file"):
            vesselseg.load_model(exported, backend="openvino", precision="int8")


class TestFiles:
    def test_paths_that_are_not_models_are_rejected(self, exported, tmp_path):
        path = tmp_path / "bad.onnx"
        with pytest.raises(FileNotFoundError, match="no model file"):
            vesselseg.load_model(path, backend="openvino")
        for content in (b"", b"no model", b"<html>" * 50, exported.read_bytes()[:50_000]):
            path.write_bytes(content)
            with pytest.raises(CheckpointError, match="is damaged or not an ONNX file"):
                vesselseg.load_model(path, backend="openvino")

    def test_other_networks_are_rejected(self, exported, tmp_path):
        path = tmp_path / "other.onnx"
        model = onnx.load(exported)
        del model.metadata_props[:]
        onnx.save(model, path)
        with pytest.raises(CheckpointError, match="contains no model spec"):
            vesselseg.load_model(path, backend="openvino")
        model = onnx.load(exported)
        for node in model.graph.node:  # another name for the input
            node.input[:] = ["pixels" if name == "image" else name for name in node.input]
        model.graph.input[0].name = "pixels"
        onnx.save(model, path)
        with pytest.raises(CheckpointError, match="another network than an exported model"):
            vesselseg.load_model(path, backend="openvino")


class TestErrors:
    @pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
    def test_devices_other_than_the_cpu_are_rejected(self, device, exact, exported):
        for model in (None, exported):
            with pytest.raises(DeviceError, match=f"runs on the CPU, not on '{device}'"):
                vesselseg.load_model(model, backend="openvino", device=device)
        with pytest.raises(DeviceError, match="runs on the CPU"):
            exact.to(device)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"device": "npu"}, DeviceError, "no kind of device 'npu'"),
            ({"precision": "float16"}, DeviceError, "cannot compute in float16"),
            ({"precision": "int4"}, OptionError, "Did you mean 'int8'"),
        ],
    )
    def test_options_that_do_not_fit_are_rejected(
        self, options, error, message, published_file, exported
    ):
        with pytest.raises(error, match=message):
            load(published_file, **options)
        with pytest.raises(error, match=message):
            vesselseg.load_model(exported, backend="openvino", **options)

    @pytest.mark.parametrize("package", ["openvino", "onnx"])
    def test_without_the_extra_it_is_named(self, package, published_file, monkeypatch):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=r"pip install .*\[openvino\]"):
            load(published_file)

    @pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")])
    def test_too_little_memory_is_a_resource_error(self, error, network, core, monkeypatch):
        def fail(*_):
            raise error

        monkeypatch.setattr(core, "compile_model", fail)
        backend = OpenVinoBackend(network, NARROW, "cpu", "float32")
        with pytest.raises(ResourceError, match="smaller batch size"):
            backend(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_the_float32_weights_are_saved_and_exported(exact, exported, model, tmp_path):
    exact.save(tmp_path / "model.pth")
    exact.export(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == exported.read_bytes()
    again = vesselseg.load_model(tmp_path / "model.pth", device="cpu")
    assert again.spec == model.spec


INTERRUPTED = """
import gc, signal, sys
import numpy as np
import vesselseg

image = np.zeros((64, 64), np.uint8)
models = [vesselseg.load_model(sys.argv[1], backend="openvino") for _ in range(2)]
for model in models:
    model(image, scale="native")
while models:  # the first goes first, as those that vesselseg.segment keeps
    model = models.pop(0)
    del model
    gc.collect()
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_process_whose_models_were_released_can_be_interrupted(exported):
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(exported)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n")


def test_masks_of_the_command_are_those_of_pytorch(tmp_path, model, photograph):
    model.save(tmp_path / "model.pth")
    Image.fromarray(photograph).save(tmp_path / "eye.png")
    out = tmp_path / "vessels.png"
    arguments = [str(tmp_path / "eye.png"), "--model", str(tmp_path / "model.pth")]
    assert cli.main([*arguments, "--backend", "openvino", "-o", str(out)]) == 0
    with Image.open(out) as image:
        assert '"backend": "openvino"' in image.info["vesselseg"]
        different = (np.asarray(image) > 0) != model(photograph).mask
    assert different.sum() <= 3
