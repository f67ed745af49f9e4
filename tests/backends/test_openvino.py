"""OpenVINO as the backend: PyTorch's logits in float32, and masks near them in fewer bits."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EXAMPLE, NARROW
from PIL import Image

import vesselseg
from vesselseg import (
    DeviceError,
    MissingExtraError,
    OptionError,
    ResourceError,
    Segmenter,
    cache,
    cli,
)
from vesselseg.backends.pytorch import TorchBackend
from vesselseg.backends import openvino, openvino_graph, openvino_int8
from vesselseg.unet import UNet

pytest.importorskip("openvino_telemetry")  # a part of OpenVINO; itself not imported by vesselseg
pytestmark = pytest.mark.usefixtures("one_thread")

NATIVE = "BF16" in openvino.load().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
native = pytest.mark.skipif(not NATIVE, reason="this CPU has no instructions for bfloat16")


def load(published_file: Path, **options: Any) -> Segmenter:
    return vesselseg.load_model(NARROW, weights=published_file, backend="openvino", **options)


@pytest.fixture(scope="module")
def exact(published_file: Path) -> Segmenter:
    return load(published_file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for this module: quantising takes seconds."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VESSELSEG_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def int8(published_file: Path, folder: Path) -> Segmenter:
    pytest.importorskip("pydot")  # of NNCF, which itself is not imported here
    assert list(folder.iterdir()) == []
    return load(published_file, precision="int8")


class TestFloat32:
    @pytest.mark.parametrize("head", ["fcn", "pspnet", "deeplabv3"])
    @pytest.mark.parametrize("shape", [(2, 64, 64), (1, 48, 80)])
    def test_logits_equal_those_of_pytorch(self, head: str, shape: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(0)
        network = UNet(8, 5, head).eval()
        for value in network.state_dict().values():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(noise * (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else noise / 10)
        model = openvino_graph.build(openvino.load(), network, NARROW)
        size = (shape[0], 3, *shape[1:])
        windows = torch.randint(256, size, dtype=torch.uint8, generator=generator)
        logits = openvino.OpenVinoBackend(model, "float32")(windows)
        expected = TorchBackend(network, NARROW, torch.device("cpu"), "float32")(windows)
        assert (logits.dtype, logits.shape) == (torch.float32, expected.shape)
        assert expected.std(dim=(2, 3)).min() > 0.01  # it sees the windows
        assert 0 < (logits - expected).abs().max() < 1e-4 * expected.abs().max()

    @pytest.mark.parametrize("scale", [None, "fov", 0.15])
    def test_photographs_of_any_size(
        self, scale: Any, exact: Segmenter, model: Segmenter, photograph: Any
    ) -> None:
        expected = model.logits(photograph, scale=scale)
        error = (exact.logits(photograph, scale=scale) - expected).abs().max()
        assert 0 < error < 1e-4 * expected.abs().max()

    def test_images_in_one_run_give_the_bits_of_one_by_one(
        self, exact: Segmenter, photograph: Any
    ) -> None:
        images = [photograph, photograph[:30, :50], photograph[50:150, 90:200]]
        for image, result in zip(images, exact.segment_many(images), strict=True):
            assert np.array_equal(result.probability, exact(image).probability)

    def test_threads_share_a_model(self, exact: Segmenter, photograph: Any) -> None:
        images = [np.roll(photograph, 9 * i, axis=0)[: 100 - 20 * (i % 3), :100] for i in range(6)]
        expected = [exact(image).probability for image in images]
        with ThreadPoolExecutor(6) as pool:
            results = list(pool.map(exact, images))
        for result, probability in zip(results, expected, strict=True):
            assert np.array_equal(result.probability, probability)

    def test_only_the_last_shapes_stay_compiled(self, exact: Segmenter) -> None:
        backend: Any = exact._backend
        for side in (16, 32, 48, 64, 80):
            backend(torch.zeros(1, 3, side, side, dtype=torch.uint8))
        assert [key[1] for key in backend._requests] == [48, 64, 80]

    def test_the_host_s_threads_are_used(self, exact: Segmenter) -> None:
        backend: Any = exact._backend
        backend(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
        compiled = next(reversed(backend._requests.values())).get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads() == 1
        assert compiled.get_property("NUM_STREAMS") == 1
        hint = compiled.get_property("INFERENCE_PRECISION_HINT")
        assert hint == openvino.load().Type.f32

    def test_provenance_names_the_backend(self, exact: Segmenter, photograph: Any) -> None:
        provenance = exact(photograph).provenance
        assert provenance["backend"] == exact.backend == "openvino"
        assert provenance["openvino"] == openvino.load().__version__
        assert (provenance["device"], provenance["precision"]) == ("cpu", "float32")


class TestFewerBits:
    @native
    def test_bfloat16_is_as_near_as_that_of_pytorch(
        self, published_file: Path, model: Segmenter, photograph: Any
    ) -> None:
        expected = model.logits(photograph)
        torchs = vesselseg.load_model(
            NARROW, weights=published_file, device="cpu", precision="bfloat16"
        )
        own = load(published_file, precision="bfloat16")
        near, far = ((m.logits(photograph) - expected).abs().mean() for m in (own, torchs))
        assert 0 < near < 2 * far

    @native
    def test_a_difference_smaller_than_the_rounding_of_logits_keeps_its_sign(self) -> None:
        network = UNet(4, 2).eval()
        for value in network.state_dict().values():
            value.zero_()
        network.head.classifier.bias.data = torch.tensor([5.0, 5.001])  # bfloat16: 5 and 5
        built = openvino_graph.build(openvino.load(), network, NARROW)
        backend = openvino.OpenVinoBackend(built, "bfloat16")
        logits = backend(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
        assert (logits[:, 1] > logits[:, 0]).all()

    def test_auto_is_what_the_cpu_computes_natively(self, published_file: Path) -> None:
        expected = "bfloat16" if NATIVE else "float32"
        assert load(published_file, precision="auto").precision == expected

    def test_bfloat16_is_refused_where_it_would_be_float32(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        core = SimpleNamespace(get_property=lambda *_: ["FP32", "INT8"])
        monkeypatch.setattr(openvino, "load", lambda: SimpleNamespace(Core=lambda: core))
        assert openvino.choose_precision("auto") == "float32"
        with pytest.raises(DeviceError, match=r"Give precision='float32' or 'int8'"):
            openvino.choose_precision("bfloat16")

    def test_int8_is_near_and_is_another(
        self, int8: Segmenter, model: Segmenter, photograph: Any
    ) -> None:
        # Random weights are harder than trained ones: here only that it is this network at all.
        expected = model.logits(photograph)
        error = (int8.logits(photograph) - expected).abs().mean() / expected.std()
        assert 0.001 < error < 0.2
        runtime: Any = int8._runtime
        operators = openvino.unpack(openvino.load(), runtime.int8).get_ops()
        assert sum(x.get_type_name() == "FakeQuantize" for x in operators) > 20

    def test_int8_is_quantised_once(
        self, int8: Segmenter, folder: Path, published_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (file,) = cache.contents()
        assert file.parent == folder
        assert file.name.startswith("narrow.pth.")
        monkeypatch.setattr(openvino_int8, "_quantize", None)  # would fail
        again = load(published_file, precision="int8")
        assert again._runtime.int8 == int8._runtime.int8  # type: ignore[attr-defined]

    def test_other_images_are_another_model(
        self, int8: Segmenter, published_file: Path, photograph: Any,
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    ) -> None:  # fmt: skip
        monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path))
        seen: list[int] = []

        def quantize(_: Any, windows: Any) -> bytes:
            seen.append(len(windows))
            return int8._runtime.int8  # type: ignore[attr-defined, no-any-return]

        monkeypatch.setattr(openvino_int8, "_quantize", quantize)
        for _ in range(2):
            for images in ([photograph], [photograph, photograph[:, ::-1]], None):
                load(published_file, precision="int8", calibration=images)
        assert len(seen) == len(cache.contents()) == 3


def test_calibration_windows_come_evenly_from_all_images(
    photograph: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_int8, "_PIXELS", 20 * 64**2)
    windows = openvino_int8.calibration_windows([photograph, photograph[:40, :50]], NARROW, 10**6)
    assert [window.shape for window in windows] == [(64, 64, 3)] * 10 + [(48, 64, 3)]
    assert np.array_equal(windows[0], photograph[:64, :64])
    assert np.array_equal(windows[9], photograph[-64:, -64:])
    assert np.array_equal(windows[10][:40, :50], photograph[:40, :50])


class TestRefused:
    @pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
    def test_other_devices(self, device: str, exact: Segmenter) -> None:
        with pytest.raises(DeviceError, match=f"runs on the CPU, not on '{device}'"):
            vesselseg.load_model(backend="openvino", device=device)
        with pytest.raises(DeviceError, match="runs on the CPU"):
            exact.to(device)

    def test_unknown_devices(self) -> None:
        with pytest.raises(DeviceError, match="no kind of device 'gpu'"):
            vesselseg.load_model(backend="openvino", device="gpu")

    def test_other_precisions(self) -> None:
        with pytest.raises(DeviceError, match="does not compute in float16"):
            vesselseg.load_model(backend="openvino", precision="float16")
        with pytest.raises(OptionError, match="Did you mean 'int8'"):
            vesselseg.load_model(backend="openvino", precision="int4")

    def test_calibration_without_int8(self) -> None:
        for backend in ("torch", "openvino"):
            with pytest.raises(OptionError, match="calibration is for precision='int8'"):
                vesselseg.load_model(backend=backend, calibration=[EXAMPLE])

    @pytest.mark.usefixtures("folder")
    @pytest.mark.parametrize(("images", "said"), [([], "no images"), ("a.jpg", "several images")])
    def test_what_is_no_list_of_images(self, images: Any, said: str, published_file: Path) -> None:
        with pytest.raises(OptionError, match=said):
            load(published_file, precision="int8", calibration=images)

    def test_an_onnx_file(self) -> None:
        with pytest.raises(OptionError, match="run by ONNX Runtime, not by 'openvino'"):
            vesselseg.load_model("vessels.onnx", backend="openvino")

    def test_without_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "openvino", None)
        with pytest.raises(MissingExtraError, match=r'pip install "vesselseg\[openvino\]"'):
            vesselseg.load_model(backend="openvino")

    def test_without_nncf(
        self, published_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path))
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(MissingExtraError, match="needs nncf"):
            load(published_file, precision="int8")
        assert cache.contents() == []

    def test_a_program_that_is_not_python(
        self, published_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path))
        monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
        monkeypatch.setattr(sys, "executable", "")
        with pytest.raises(OptionError, match="Load the model once with Python"):
            load(published_file, precision="int8")

    def test_a_quantisation_that_fails(
        self, published_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path))
        monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
        failed = SimpleNamespace(returncode=1, stderr="Traceback\nMemoryError: 7 GB\n")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
        with pytest.raises(ResourceError, match="quantised: MemoryError: 7 GB"):
            load(published_file, precision="int8")
        assert cache.contents() == []

    def test_too_little_memory(self, exact: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(exact._backend, "_request", fail)
        with pytest.raises(ResourceError, match="smaller batch_size"):
            exact(np.zeros((64, 64, 3), np.uint8))


class TestCopies:
    def test_pickles_give_the_same_bits(self, exact: Segmenter, photograph: Any) -> None:
        again = pickle.loads(pickle.dumps(exact))
        assert again.backend == "openvino"
        assert np.array_equal(again(photograph).probability, exact(photograph).probability)

    def test_pickles_hold_what_was_quantised(
        self, int8: Segmenter, photograph: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        content = pickle.dumps(int8)
        monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path))  # as on another machine
        again = pickle.loads(content)
        assert np.array_equal(again(photograph).probability, int8(photograph).probability)
        assert list(tmp_path.iterdir()) == []

    def test_to_the_cpu(self, exact: Segmenter, photograph: Any) -> None:
        moved = exact.to("cpu")
        assert np.array_equal(moved(photograph).probability, exact(photograph).probability)

    def test_saved_are_the_weights_as_they_came(
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
        line = [str(tmp_path / "eye.png"), "--model", str(tmp_path / "model.pth")]
        assert cli.main([*line, "-o", str(out), "--backend", "openvino"]) == 0
        with Image.open(out) as image:
            assert '"backend": "openvino"' in image.info["vesselseg"]
            different = (np.asarray(image) > 0) != model(photograph).mask
        assert different.sum() <= 3

    @pytest.mark.usefixtures("int8")
    def test_the_cache_lists_and_clears_what_was_made(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (file,) = cache.contents()
        (tmp_path / file.name).write_bytes(file.read_bytes())
        monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path))
        assert cli.main(["cache"]) == 0
        assert f"{file.name}: 0.6 MB, made from the weights here" in capsys.readouterr().out
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


@pytest.mark.usefixtures("int8")
def test_nothing_around_it_changes_nothing_is_printed_or_reported(
    tmp_path: Path, model: Segmenter, photograph: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))  # where OpenVINO's telemetry keeps its files
    monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path / "cache"))
    for name in ("CI", "TF_BUILD", "JENKINS_URL"):  # with which it keeps still by itself
        monkeypatch.delenv(name, raising=False)
    model.save(tmp_path / "narrow.pth")
    Image.fromarray(photograph).save(tmp_path / "eye.png")
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", GUEST, "eye.png", "float32", "int8"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    assert list(home.iterdir()) == []


def test_the_core_does_not_import_openvino() -> None:
    code = (
        "import sys, numpy, vesselseg\n"
        "vesselseg.segment(numpy.zeros((64, 64), numpy.uint8), scale='native')\n"
        "assert 'openvino' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
