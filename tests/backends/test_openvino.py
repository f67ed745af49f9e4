"""The OpenVINO backend: PyTorch's logits in float32, and masks near them in fewer bits."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import EXAMPLE
from support.models import NARROW, TINY, seeded_state

import vesselseg
from vesselseg import (
    DeviceError,
    MissingExtraError,
    ModelSpec,
    OptionError,
    ResourceError,
    Segmenter,
    cache,
    cli,
    weights,
)
from vesselseg.backends import openvino, quantize
from vesselseg.backends.openvino import OpenVinoBackend, load_openvino
from vesselseg.backends.pytorch import TorchBackend
from vesselseg.unet import HEADS, UNet

pytest.importorskip("openvino_telemetry")  # a part of OpenVINO, not imported by vesselseg
pytestmark = pytest.mark.usefixtures("one_thread")

NATIVE = "BF16" in load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
native = pytest.mark.skipif(not NATIVE, reason="this CPU has no bfloat16 instructions")


def load(published_file: Path, **options: Any) -> Segmenter:
    return vesselseg.load_model(NARROW, weights=published_file, backend="openvino", **options)


@pytest.fixture(scope="module")
def network(published_file: Path) -> UNet:
    return weights.load_network(published_file, NARROW)


@pytest.fixture(scope="module")
def exact(published_file: Path) -> Segmenter:
    return load(published_file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for this module, since quantising takes seconds."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VESSELSEG_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def quantized(network: UNet, folder: Path) -> bytes:
    """The narrow network in int8."""
    pytest.importorskip("pydot")  # needed by NNCF, which itself is not imported here
    assert list(folder.iterdir()) == []
    return quantize.quantize(network, NARROW, None, 10**8)


@pytest.fixture(scope="module")
def int8(published_file: Path, quantized: bytes) -> Segmenter:  # noqa: ARG001
    return load(published_file, precision="int8")


def random_network(spec: ModelSpec) -> UNet:
    network = UNet(spec.width, spec.depth, spec.head).requires_grad_(False).eval()
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(seeded_state(shapes, seed=2))
    return network


class TestFloat32:
    @pytest.mark.parametrize("head", HEADS)
    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_logits_equal_those_of_pytorch(self, head: str, layout: torch.memory_format) -> None:
        spec = dataclasses.replace(NARROW, head=head)
        network = random_network(spec)
        network.to(memory_format=layout)  # type: ignore[call-overload]
        backend = OpenVinoBackend(network, spec, "float32")
        for shape in ((2, 3, 64, 64), (1, 3, 48, 80)):
            generator = torch.Generator().manual_seed(0)
            windows = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
            logits = backend(windows)
            expected = TorchBackend(network, spec, "cpu", "float32")(windows)
            assert (logits.dtype, logits.shape) == (torch.float32, expected.shape)
            assert expected.std(dim=(2, 3)).min() > 0.01  # it depends on the windows
            assert 0 < (logits - expected).abs().max() < 1e-5 * expected.abs().max()

    def test_weights_are_not_copied(self, network: UNet) -> None:
        nodes = openvino.read_network(network, NARROW).get_ops()
        constants = [node for node in nodes if node.get_type_name() == "Constant"]
        addresses = {constant.data.ctypes.data for constant in constants}
        state = network.state_dict()
        weights = [key for key in state if key.endswith("weight")]
        copied = {key for key in weights if state[key].data_ptr() not in addresses}
        assert copied == {"head.classifier.weight"}  # it gives the difference of the logits

    def test_only_the_last_shapes_stay_compiled(
        self, network: UNet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sides = []
        compile_model = openvino.compile_model

        def compile_and_note(model: Any, hint: str, shape: tuple[int, ...], threads: int) -> Any:
            sides.append(shape[1])
            return compile_model(model, hint, shape, threads)

        monkeypatch.setattr(openvino, "compile_model", compile_and_note)
        backend = OpenVinoBackend(network, NARROW, "float32")
        oldest, *others = [16 * (i + 1) for i in range(openvino.COMPILED + 1)]
        for side in (oldest, *others, *others, oldest):
            backend(torch.zeros(1, 3, side, side, dtype=torch.uint8))
        assert sides == [oldest, *others, oldest]

    def test_it_uses_the_precision_and_the_threads_of_the_host(self, network: UNet) -> None:
        backend = OpenVinoBackend(network, NARROW, "float32")
        compiled = backend.compiled((1, 16, 16, 3), 1).get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
        assert compiled.get_property("NUM_STREAMS") == 1
        assert compiled.get_property("INFERENCE_PRECISION_HINT") == load_openvino().Type.f32


class TestBfloat16:
    @native
    def test_it_is_as_near_as_that_of_pytorch(
        self, exact: Segmenter, model: Segmenter, photograph: Any
    ) -> None:
        expected = model.logits(photograph)
        here, in_torch = (
            (m.to(precision="bfloat16").logits(photograph) - expected).abs().mean()
            for m in (exact, model)
        )
        assert in_torch / 5 < here < 2 * in_torch  # float32 is a thousand times nearer

    @native
    def test_a_difference_smaller_than_the_rounding_of_logits_keeps_its_sign(self) -> None:
        network = UNet(TINY.width, TINY.depth).requires_grad_(False).eval()
        for value in network.state_dict().values():
            value.zero_()
        network.head.classifier.bias.data = torch.tensor([5.0, 5.001])  # bfloat16: 5 and 5
        backend = OpenVinoBackend(network, TINY, "bfloat16")
        logits = backend(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
        assert (logits[:, 1] > logits[:, 0]).all()

    def test_auto_is_what_the_cpu_computes_natively(self, exact: Segmenter) -> None:
        expected = "bfloat16" if NATIVE else "float32"
        assert exact.to(precision="auto").precision == expected

    def test_it_is_an_error_if_openvino_would_compute_in_float32(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        core = SimpleNamespace(get_property=lambda *_: ["FP32", "INT8"])
        monkeypatch.setattr(openvino, "load_openvino", lambda: SimpleNamespace(Core=lambda: core))
        assert OpenVinoBackend.choose("auto", "auto") == (torch.device("cpu"), "float32")
        with pytest.raises(DeviceError, match=r"Choose precision='float32' or 'int8'"):
            OpenVinoBackend.choose("cpu", "bfloat16")


class TestInt8:
    def test_it_is_near_float32_and_not_the_same(
        self, int8: Segmenter, quantized: bytes, model: Segmenter, photograph: Any
    ) -> None:
        # Random weights are harder than trained ones: this shows only that it is this network.
        expected = model.logits(photograph)
        error = (int8.logits(photograph) - expected).abs().mean() / expected.std()
        assert 0.001 < error < 0.2
        nodes = openvino.unpack(quantized).get_ops()
        assert sum(node.get_type_name() == "FakeQuantize" for node in nodes) > 20

    def test_the_first_and_last_layers_stay_float(self, quantized: bytes) -> None:
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

    def test_it_is_quantised_once(
        self, quantized: bytes, network: UNet, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (file,) = cache.contents()
        assert file.parent == folder
        assert file.name.startswith("narrow.pth.")
        monkeypatch.setattr(quantize, "quantize_now", None)  # would fail
        assert quantize.quantize(network, NARROW, None, 10**8) == quantized

    def test_it_is_quantised_for_each_set_of_images(
        self, network: UNet, photograph: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path))
        counts = []

        def quantize_now(_: Any, windows: Any) -> bytes:
            counts.append(len(windows))
            return b"int8"

        monkeypatch.setattr(quantize, "quantize_now", quantize_now)
        for _ in range(2):
            for images in ([photograph], [photograph, photograph[:, ::-1]], None):
                assert quantize.quantize(network, NARROW, images, 10**8) == b"int8"
        assert len(counts) == len(cache.contents()) == 3

    def test_calibration_windows_come_evenly_from_all_images(
        self, photograph: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quantize, "MIN_PIXELS", 20 * 64**2)
        images = [photograph, photograph[:40, :50]]
        windows = quantize.calibration_windows(images, NARROW, 10**6)
        assert [window.shape for window in windows] == [(64, 64, 3)] * 10 + [(48, 64, 3)]
        assert np.array_equal(windows[0], photograph[:64, :64])
        assert np.array_equal(windows[9], photograph[-64:, -64:])
        assert np.array_equal(windows[10][:40, :50], photograph[:40, :50])

    def test_a_model_that_was_not_quantised_when_loaded(self, exact: Segmenter) -> None:
        with pytest.raises(OptionError, match="was not quantised when it was loaded"):
            exact.to(precision="int8")


class TestErrors:
    @pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
    def test_other_devices(self, device: str, exact: Segmenter) -> None:
        with pytest.raises(DeviceError, match=f"runs on the CPU, not on '{device}'"):
            vesselseg.load_model(backend="openvino", device=device)
        with pytest.raises(DeviceError, match="runs on the CPU"):
            exact.to(device)

    def test_unknown_devices_and_other_precisions(self) -> None:
        with pytest.raises(DeviceError, match="no kind of device 'gpu'"):
            vesselseg.load_model(backend="openvino", device="gpu")
        with pytest.raises(DeviceError, match="does not compute in float16"):
            vesselseg.load_model(backend="openvino", precision="float16")
        with pytest.raises(OptionError, match="Did you mean 'int8'"):
            vesselseg.load_model(backend="openvino", precision="int4")

    @pytest.mark.parametrize("backend", ["torch", "openvino"])
    def test_calibration_without_int8(self, backend: Any) -> None:
        with pytest.raises(OptionError, match="calibration is for precision='int8'"):
            vesselseg.load_model(backend=backend, calibration=[EXAMPLE])

    @pytest.mark.parametrize(
        ("images", "message"), [([], "has no images"), ("a.jpg", "takes several images")]
    )
    def test_calibration_that_is_not_a_list_of_images(
        self, images: Any, message: str, published_file: Path
    ) -> None:
        with pytest.raises(OptionError, match=message):
            load(published_file, precision="int8", calibration=images)

    @pytest.mark.parametrize("package", ["openvino", "onnx"])
    def test_without_the_extra(
        self, package: str, published_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=r'pip install "vesselseg\[openvino\]"'):
            load(published_file)

    def test_int8_where_it_cannot_be_prepared(
        self, published_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
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

    def test_too_little_memory(self, network: UNet) -> None:
        def fail(*_: object) -> None:
            raise MemoryError

        backend: Any = OpenVinoBackend(network, NARROW, "float32")
        backend.compiled = fail
        with pytest.raises(ResourceError, match="smaller batch_size"):
            backend(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


class TestCopies:
    def test_pickles_contain_the_quantised_network(
        self, int8: Segmenter, photograph: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        content = pickle.dumps(int8)
        monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path))  # as on another machine
        again = pickle.loads(content)
        assert np.array_equal(again(photograph).probability, int8(photograph).probability)
        assert list(tmp_path.iterdir()) == []

    def test_in_other_precisions_and_back(
        self, int8: Segmenter, exact: Segmenter, photograph: Any
    ) -> None:
        expected = exact(photograph).probability
        assert np.array_equal(exact.to("cpu")(photograph).probability, expected)
        moved = int8.to(precision="float32")
        assert np.array_equal(moved(photograph).probability, expected)
        back = moved.to(precision="int8")
        assert np.array_equal(back(photograph).probability, int8(photograph).probability)

    def test_the_float32_weights_are_saved(
        self, int8: Segmenter, model: Segmenter, photograph: Any, tmp_path: Path
    ) -> None:
        int8.save(tmp_path / "model.pth")
        again = vesselseg.load_model(tmp_path / "model.pth", device="cpu")
        assert np.array_equal(again(photograph).probability, model(photograph).probability)


class TestCommandLine:
    def test_masks(self, tmp_path: Path, model: Segmenter, photograph: Any) -> None:
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
    def test_the_cache_lists_and_clears_quantised_networks(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (file,) = cache.contents()
        (tmp_path / file.name).write_bytes(file.read_bytes())
        monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path))
        assert cli.main(["cache"]) == 0
        assert f"{file.name}: 0.6 MB" in capsys.readouterr().out
        assert cli.main(["cache", "--clear"]) == 0
        assert list(tmp_path.iterdir()) == []


GUEST = """
import logging, os, random, sys, threading, warnings
import numpy, torch
logging.disable(logging.WARNING)
torch.set_num_threads(2)
def state():
    return (
        list(warnings.filters), dict(os.environ), logging.getLoggerClass(), logging.root.handlers,
        random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(),
        torch.get_num_threads(), os.getcwd(), list(sys.path),
    )
before = state()
cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
import vesselseg
for precision in sys.argv[2:]:
    model = vesselseg.load_model("narrow.pth", backend="openvino", precision=precision)
    model(sys.argv[1], scale="native")
assert state() == before
assert not {"nncf", "openvino_telemetry"} & set(sys.modules)
import openvino_telemetry  # can be imported as before
if cores:  # of every thread of the process, those of OpenVINO too
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    assert all(os.sched_getaffinity(thread) == cores for thread in threads)
"""


@pytest.mark.usefixtures("quantized")
def test_it_prints_and_reports_nothing_and_changes_nothing_around_it(
    tmp_path: Path, model: Segmenter, photograph: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))  # where OpenVINO's telemetry keeps its files
    monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path / "cache"))
    for name in ("CI", "TF_BUILD", "JENKINS_URL"):  # with these it is off by itself
        monkeypatch.delenv(name, raising=False)
    model.save(tmp_path / "narrow.pth")
    Image.fromarray(photograph).save(tmp_path / "eye.png")
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", GUEST, "eye.png", "float32", "int8"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    assert list(home.iterdir()) == []
