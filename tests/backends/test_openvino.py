"""The OpenVINO backend: PyTorch's logits in float32, and masks near them in fewer bits."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import EXAMPLE
from support.drawn import twelve_bits
from support.models import NARROW, TINY

import vesselseg
from vesselseg import (
    DeviceError,
    MissingExtraError,
    OptionError,
    ResourceError,
    cache,
    cli,
)
from vesselseg.backends import openvino, quantize
from vesselseg.backends.openvino import OpenVinoBackend, load_openvino
from vesselseg.backends.pytorch import TorchBackend
from vesselseg.unet import HEADS, UNet

pytest.importorskip("openvino_telemetry")  # a part of OpenVINO, not imported by vesselseg
pytestmark = pytest.mark.usefixtures("one_thread")

NATIVE = "BF16" in load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
native = pytest.mark.skipif(not NATIVE, reason="this CPU has no bfloat16 instructions")


def load(published_file, **options):
    return vesselseg.load_model(NARROW, weights=published_file, backend="openvino", **options)


@pytest.fixture(scope="module")
def exact(published_file):
    return load(published_file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cache folder for this module, since quantising takes seconds."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VESSELSEG_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def quantized(network, folder):
    """The narrow network in int8."""
    pytest.importorskip("pydot")  # needed by NNCF, which itself is not imported here
    assert list(folder.iterdir()) == []
    return quantize.quantize(network, NARROW, None, 10**8)


@pytest.fixture(scope="module")
def int8(published_file, quantized):  # noqa: ARG001
    return load(published_file, precision="int8")


class TestFloat32:
    @pytest.mark.parametrize("head", HEADS)
    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_logits_equal_those_of_pytorch(self, head, layout, random_network, random_windows):
        spec = dataclasses.replace(NARROW, head=head)
        network = random_network(spec)
        network.to(memory_format=layout)
        backend = OpenVinoBackend(network, spec, "float32")
        for size in ((2, 64, 64), (1, 48, 80)):
            windows = random_windows(*size)
            logits = backend(windows)
            expected = TorchBackend(network, spec, "cpu", "float32")(windows)
            assert (logits.dtype, logits.shape) == (torch.float32, expected.shape)
            assert expected.std(dim=(2, 3)).min() > 0.01  # it depends on the windows
            assert 0 < (logits - expected).abs().max() < 1e-5 * expected.abs().max()

    def test_weights_are_not_copied(self, network):
        nodes = openvino.read_network(network, NARROW).get_ops()
        constants = [node for node in nodes if node.get_type_name() == "Constant"]
        addresses = {constant.data.ctypes.data for constant in constants}
        state = network.state_dict()
        weights = [key for key in state if key.endswith("weight")]
        copied = {key for key in weights if state[key].data_ptr() not in addresses}
        assert copied == {"head.classifier.weight"}  # it gives the difference of the logits

    def test_only_the_last_shapes_stay_compiled(self, network, monkeypatch):
        sides = []
        compile_model = openvino.compile_model

        def compile_and_note(model, hint, shape, threads):
            sides.append(shape[1])
            return compile_model(model, hint, shape, threads)

        monkeypatch.setattr(openvino, "compile_model", compile_and_note)
        backend = OpenVinoBackend(network, NARROW, "float32")
        oldest, *others = [16 * (i + 1) for i in range(openvino.COMPILED + 1)]
        for side in (oldest, *others, *others, oldest):
            backend(torch.zeros(1, 3, side, side, dtype=torch.uint8))
        assert sides == [oldest, *others, oldest]

    def test_it_uses_the_precision_and_the_threads_of_the_host(self, network):
        backend = OpenVinoBackend(network, NARROW, "float32")
        compiled = backend.compiled((1, 16, 16, 3), 1).get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
        assert compiled.get_property("NUM_STREAMS") == 1
        assert compiled.get_property("INFERENCE_PRECISION_HINT") == load_openvino().Type.f32


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
    def test_a_difference_smaller_than_the_rounding_of_logits_keeps_its_sign(self):
        network = UNet(TINY.width, TINY.depth).requires_grad_(False).eval()
        for value in network.state_dict().values():
            value.zero_()
        network.head.classifier.bias.data = torch.tensor([5.0, 5.001])  # bfloat16: 5 and 5
        backend = OpenVinoBackend(network, TINY, "bfloat16")
        logits = backend(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
        assert (logits[:, 1] > logits[:, 0]).all()

    def test_auto_is_what_the_cpu_computes_natively(self, exact):
        expected = "bfloat16" if NATIVE else "float32"
        assert exact.to(precision="auto").precision == expected

    def test_it_is_an_error_if_openvino_would_compute_in_float32(self, monkeypatch):
        core = SimpleNamespace(get_property=lambda *_: ["FP32", "INT8"])
        monkeypatch.setattr(openvino, "load_openvino", lambda: SimpleNamespace(Core=lambda: core))
        assert OpenVinoBackend.choose("auto", "auto") == (torch.device("cpu"), "float32")
        with pytest.raises(DeviceError, match="bfloat16 on this CPU, only in float32, int8"):
            OpenVinoBackend.choose("cpu", "bfloat16")


class TestInt8:
    def test_it_is_near_float32_and_not_the_same(self, int8, quantized, model, photograph):
        # Random weights are harder than trained ones: this shows only that it is this network.
        expected = model.logits(photograph)
        error = (int8.logits(photograph) - expected).abs().mean() / expected.std()
        assert 0.001 < error < 0.2
        nodes = openvino.unpack(quantized).get_ops()
        assert sum(node.get_type_name() == "FakeQuantize" for node in nodes) > 20

    def test_the_first_and_last_layers_stay_float(self, quantized):
        nodes = openvino.unpack(quantized).get_ops()
        convolutions = [node for node in nodes if node.get_type_name() == "Convolution"]
        floats = {
            node.get_friendly_name().partition("/")[0]
            for node in convolutions
            if node.input_value(1).get_node().get_type_name() == "Constant"  # the weights
        }
        first, last = (
            {"encoder.0.0.conv", "encoder.0.1.conv"},
            {"head.unit.conv", "head.classifier"},
        )
        assert floats == first | last
        assert len(convolutions) == 24

    def test_it_is_quantised_once(self, quantized, network, folder, monkeypatch):
        (file,) = cache.contents()
        assert file.parent == folder
        assert file.name.startswith("narrow.pth.")
        monkeypatch.setattr(quantize, "quantize_now", None)  # would fail
        assert quantize.quantize(network, NARROW, None, 10**8) == quantized

    def test_it_is_quantised_for_each_set_of_images(
        self, network, photograph, monkeypatch, tmp_path
    ):
        monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path))
        counts = []

        def quantize_now(_network, _spec, windows):
            counts.append(len(windows))
            return b"int8"

        monkeypatch.setattr(quantize, "quantize_now", quantize_now)
        for _ in range(2):
            for images in ([photograph], [photograph, photograph[:, ::-1]], None):
                assert quantize.quantize(network, NARROW, images, 10**8) == b"int8"
        assert len(counts) == len(cache.contents()) == 3

    def test_calibration_with_photographs_of_12_bits(self, photograph):
        grey = photograph[..., 1]
        deep = quantize.calibration_windows([twelve_bits(grey)], NARROW, 10**6, bits=12)
        expected = quantize.calibration_windows([grey], NARROW, 10**6)
        assert all(map(np.array_equal, deep, expected))

    def test_calibration_windows_come_evenly_from_all_images(self, photograph, monkeypatch):
        monkeypatch.setattr(quantize, "MIN_PIXELS", 20 * 64**2)
        images = [photograph, photograph[:40, :50]]
        windows = quantize.calibration_windows(images, NARROW, 10**6)
        assert [window.shape for window in windows] == [(64, 64, 3)] * 10 + [(48, 64, 3)]
        assert np.array_equal(windows[0], photograph[:64, :64])
        assert np.array_equal(windows[9], photograph[-64:, -64:])
        assert np.array_equal(windows[10][:40, :50], photograph[:40, :50])

    def test_a_model_that_was_not_quantised_when_loaded(self, exact):
        with pytest.raises(OptionError, match="was not quantised when it was loaded"):
            exact.to(precision="int8")


class TestErrors:
    @pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
    def test_other_devices(self, device, exact):
        with pytest.raises(DeviceError, match=f"runs on the CPU, not on '{device}'"):
            vesselseg.load_model(backend="openvino", device=device)
        with pytest.raises(DeviceError, match="runs on the CPU"):
            exact.to(device)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"device": "gpu"}, DeviceError, "no kind of device 'gpu'"),
            ({"precision": "float16"}, DeviceError, "does not compute in float16"),
            ({"precision": "int4"}, OptionError, "Did you mean 'int8'"),
            ({"calibration": [EXAMPLE]}, OptionError, "calibration is for precision='int8'"),
            ({"precision": "int8", "bits": 12}, OptionError, "is for the images of a calibration"),
            ({"precision": "int8", "calibration": []}, OptionError, "has no images"),
            ({"precision": "int8", "calibration": "a.jpg"}, OptionError, "takes several images"),
        ],
    )
    def test_options_that_do_not_fit(self, options, error, message, published_file):
        with pytest.raises(error, match=message):
            load(published_file, **options)

    def test_calibration_is_not_for_pytorch(self):
        with pytest.raises(OptionError, match="calibration is for precision='int8'"):
            vesselseg.load_model(calibration=[EXAMPLE])

    @pytest.mark.parametrize("package", ["openvino", "onnx"])
    def test_without_the_extra(self, package, published_file, monkeypatch):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=r'pip install "vesselseg\[openvino\]"'):
            load(published_file)

    def test_int8_where_it_cannot_be_prepared(self, published_file, monkeypatch, tmp_path):
        monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path))
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(MissingExtraError, match="needs nncf"):
            load(published_file, precision="int8")
        monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
        failed = SimpleNamespace(returncode=1, stderr="Traceback\nMemoryError: 7 GB\n")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
        with pytest.raises(ResourceError, match="quantised: MemoryError: 7 GB"):
            load(published_file, precision="int8")
        monkeypatch.setattr(sys, "executable", "")  # as in a program that is not Python
        with pytest.raises(OptionError, match="Load the model once with Python"):
            load(published_file, precision="int8")
        assert cache.contents() == []

    def test_too_little_memory(self, network):
        def fail(*_):
            raise MemoryError

        backend: Any = OpenVinoBackend(network, NARROW, "float32")
        backend.compiled = fail
        with pytest.raises(ResourceError, match="smaller batch_size"):
            backend(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


class TestCopies:
    def test_pickles_contain_the_quantised_network(self, int8, photograph, monkeypatch, tmp_path):
        content = pickle.dumps(int8)
        monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path))  # as on another machine
        again = pickle.loads(content)
        assert np.array_equal(again(photograph).probability, int8(photograph).probability)
        assert list(tmp_path.iterdir()) == []

    def test_in_other_precisions_and_back(self, int8, exact, photograph):
        expected = exact(photograph).probability
        assert np.array_equal(exact.to("cpu")(photograph).probability, expected)
        moved = int8.to(precision="float32")
        assert np.array_equal(moved(photograph).probability, expected)
        back = moved.to(precision="int8")
        assert np.array_equal(back(photograph).probability, int8(photograph).probability)

    def test_the_float32_weights_are_saved(self, int8, model, photograph, tmp_path):
        int8.save(tmp_path / "model.pth")
        again = vesselseg.load_model(tmp_path / "model.pth", device="cpu")
        assert np.array_equal(again(photograph).probability, model(photograph).probability)


class TestCommandLine:
    def test_masks(self, tmp_path, model, photograph):
        model.save(tmp_path / "model.pth")
        Image.fromarray(photograph).save(tmp_path / "eye.png")
        out = tmp_path / "vessels.png"
        arguments = [str(tmp_path / "eye.png"), "--model", str(tmp_path / "model.pth")]
        assert cli.main([*arguments, "-o", str(out), "--backend", "openvino"]) == 0
        with Image.open(out) as image:
            assert '"backend": "openvino"' in image.info["vesselseg"]
            different = (np.asarray(image) > 0) != model(photograph).mask
        assert different.sum() <= 3

    @pytest.mark.usefixtures("quantized")
    def test_the_cache_lists_and_clears_quantised_networks(self, capsys, monkeypatch, tmp_path):
        (file,) = cache.contents()
        (tmp_path / file.name).write_bytes(file.read_bytes())
        monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path))
        assert cli.main(["cache"]) == 0
        assert f"{file.name}: 0.6 MB" in capsys.readouterr().out
        assert cli.main(["cache", "--clear"]) == 0
        assert list(tmp_path.iterdir()) == []
