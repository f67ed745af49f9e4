"""Devices and precisions."""

import contextlib
import dataclasses
import pickle
import sys

import numpy as np
import pytest
import torch
from support.apple import AppleGpu
from support.models import NARROW

from vesselseg import DeviceError, OptionError, ResourceError, Segmenter
from vesselseg.backends.pytorch import (
    TorchBackend,
    choose_device,
    choose_precision,
    copy_network,
    native_precisions,
)
from vesselseg.unet import HEADS

CPU = torch.device("cpu")
CUDA = torch.cuda.is_available()
needs_cuda = pytest.mark.skipif(not CUDA, reason="no CUDA device")


class TestDevice:
    def test_auto_takes_the_best(self, monkeypatch):
        available = {"cuda", "mps"}
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in available)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in available)
        for expected in ("cuda", "mps", "cpu"):
            assert choose_device("auto").type == expected
            available.discard(expected)

    @pytest.mark.parametrize(
        ("devices", "message"),
        [
            (["cuda:7", "mps:3", "xpu", "cpu:1"], "not available here; found: cpu"),
            (["cud", "", None, 1.5], "Allowed are 'auto', 'cpu', 'cuda'"),
        ],
    )
    def test_one_that_is_not_available_or_does_not_exist_is_rejected(self, devices, message):
        for device in devices:
            with pytest.raises(DeviceError, match=message):
                choose_device(device)

    def test_a_torch_device_is_taken_as_it_is(self):
        assert choose_device(CPU) == CPU


class TestPrecision:
    @pytest.mark.parametrize(
        ("avx512_bf16", "amx", "onednn_says", "expected"),
        [
            (True, True, True, "bfloat16"),
            (True, False, True, "bfloat16"),
            (False, True, True, "bfloat16"),
            (False, False, True, "float32"),  # oneDNN would emulate it
            (True, True, False, "float32"),
        ],
    )
    def test_auto_is_bfloat16_where_a_cpu_has_instructions_for_it(
        self, avx512_bf16, amx, onednn_says, expected, monkeypatch
    ):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn_says)
        assert choose_precision("auto", CPU) == expected

    def test_what_the_device_cannot_do_is_rejected_by_name(self, monkeypatch):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: False)
        with pytest.raises(DeviceError, match="'cpu' cannot compute in float16; it can in float32"):
            choose_precision("float16", CPU)

    def test_a_cpu_without_bfloat16_still_computes_in_it(self, monkeypatch):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
        assert choose_precision("bfloat16", CPU) == "bfloat16"

    @pytest.mark.parametrize("precision", ["fp32", "int4", torch.float32])
    def test_unknown_precisions_are_rejected(self, precision):
        with pytest.raises(OptionError, match="allowed are 'float32', 'bfloat16'"):
            choose_precision(precision, CPU)

    def test_none_is_float32(self):
        assert choose_precision(None, CPU) == "float32"

    def test_int8_is_that_of_a_file(self):
        with pytest.raises(OptionError, match=r"in the precision 'int8'"):
            choose_precision("int8", CPU)

    @pytest.mark.parametrize("precision", ["bfloat16", "float16"])
    def test_logits_stay_close_and_float32(self, precision, network, random_windows):
        if precision not in native_precisions(CPU):
            pytest.skip(f"this CPU has no {precision}")
        windows = random_windows(2, 64, 64)
        exact = TorchBackend(network, NARROW, CPU, "float32")(windows)
        rounded = TorchBackend(network, NARROW, CPU, precision)(windows)
        assert rounded.dtype == torch.float32
        assert 0 < (rounded - exact).abs().max() < 0.05 * exact.abs().max()
        assert all(p.dtype == torch.float32 for p in network.parameters())


class Own(TorchBackend):
    """As a user derives it."""


def test_a_copy_in_another_process_keeps_its_class(network):
    copy = pickle.loads(pickle.dumps(Own(network, NARROW, CPU, "float32")))
    assert type(copy) is Own


class TestOutOfMemory:
    """A device that holds so many windows at once and no more."""

    @pytest.fixture
    def backend(self, network):
        return TorchBackend(network, NARROW, CPU, "float32")

    def limit(self, backend, most, error):
        network, sizes = backend.placed, []

        def limited(windows):
            sizes.append(len(windows))
            if len(windows) > most:
                raise error
            return network(windows)

        backend.placed = limited
        return sizes

    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory."),
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        ],
        ids=["cuda", "cpu"],
    )
    def test_batches_are_halved_and_it_is_said_once(self, error, backend, caplog):
        windows = torch.arange(7, dtype=torch.uint8).reshape(7, 1, 1, 1).expand(7, 3, 32, 32)
        expected = backend(windows)
        sizes = self.limit(backend, 2, error)
        for _ in range(2):
            torch.testing.assert_close(backend(windows), expected)
        assert sizes == 2 * [7, 4, 2, 2, 3, 2, 1]
        assert [r.message.partition(";")[0] for r in caplog.records] == [
            "7 windows at once do not fit into the memory of cpu"
        ]

    def test_when_one_window_does_not_fit_the_error_says_what_to_do(self, backend):
        self.limit(backend, 0, torch.OutOfMemoryError("CUDA out of memory."))
        with pytest.raises(ResourceError, match=r"One window of 32 x 32 .*the device 'cpu'"):
            backend(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))

    def test_other_errors_are_not_hidden(self, backend):
        self.limit(backend, 0, RuntimeError("something else"))
        with pytest.raises(RuntimeError, match="something else"):
            backend(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux")
def test_gaps_left_by_maps_of_new_shapes_are_returned_now_and_then(network, monkeypatch):
    returned = []
    backend = TorchBackend(network, NARROW, CPU, "float32")

    class Library:
        def __init__(self, _):
            self.malloc_trim = returned.append

    monkeypatch.setattr("ctypes.CDLL", Library)
    for side in range(16, 272, 16):
        backend(torch.zeros(1, 3, side, 16, dtype=torch.uint8))
    assert returned
    returned.clear()
    for _ in range(16):  # the same shape again leaves none
        backend(torch.zeros(1, 3, 256, 16, dtype=torch.uint8))
    assert not returned


@needs_cuda
def test_cuda_float32_equals_the_cpu_and_leaves_tf32_as_the_host_has_it(network, random_windows):
    windows = random_windows(1, 64, 64)
    before = torch.backends.cudnn.conv.fp32_precision
    there = TorchBackend(network, NARROW, torch.device("cuda"), "float32")(windows).cpu()
    assert torch.backends.cudnn.conv.fp32_precision == before
    here = TorchBackend(network, NARROW, CPU, "float32")(windows)
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-4)


def test_cuda_convolutions_have_settings_of_their_own_and_leave_the_hosts_alone(
    network, random_windows, monkeypatch
):
    """On a machine without CUDA, where a function takes the place of cuDNN."""
    settings = []

    def convolve(x, weight, padding, stride, dilation, groups, **given):
        settings.append((given, torch.backends.cudnn.conv.fp32_precision))
        assert x.dtype == weight.dtype
        return torch.nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups)

    cudnn = torch.backends.cudnn
    before = cudnn.conv.fp32_precision
    monkeypatch.setattr(torch, "cudnn_convolution", convolve)
    monkeypatch.setattr(cudnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_, **__: module)
    placed = copy_network(network, torch.device("cuda"), torch.float32)
    monkeypatch.undo()
    x = random_windows(1, 32, 48).float() / 255
    monkeypatch.setattr(torch, "cudnn_convolution", convolve)
    with torch.inference_mode():
        torch.testing.assert_close(placed(x), network(x), rtol=1e-5, atol=1e-5)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    exact = {"benchmark": False, "deterministic": True, "allow_tf32": False}
    assert settings == len(convolutions) * [(exact, before)]


def test_without_onednn_a_cpu_computes_in_float32(network, random_windows, monkeypatch):
    """As PyTorch is built for macOS."""
    windows = random_windows(2, 64, 64)
    expected = TorchBackend(network, NARROW, CPU, "auto").to(CPU, "float32")(windows)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    for question in ("_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported"):
        monkeypatch.setattr(torch.ops.mkldnn, question, None)
    assert native_precisions(CPU) == ["float32"]
    backend = TorchBackend(network, NARROW, CPU, "auto")
    assert backend.precision == "float32"
    assert type(backend.placed.head.unit).__name__ == "ConvUnit"
    logits = backend(windows)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # of the host, which oneDNN's own ignore
        assert torch.equal(backend(windows), logits)
    with pytest.raises(DeviceError, match="'cpu' cannot compute in float16"):
        TorchBackend(network, NARROW, CPU, "float16")


@contextlib.contextmanager
def float64():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_apples_gpus_get_nothing_that_they_lack(head, random_network, monkeypatch):
    """They have no float64, which may be the host's default, and no means over unequal parts."""
    monkeypatch.setattr("vesselseg.backends.pytorch.choose_device", torch.device)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    spec = dataclasses.replace(NARROW, head=head)
    network = random_network(spec)
    with AppleGpu(), float64():
        for precision in ("float32", "float16"):
            backend = TorchBackend(network, spec, "meta", precision)
            model = Segmenter(backend, spec, sha256="0" * 64, batch_size=2)
            image = np.zeros((48, 80, 3), np.uint8)
            assert model(image, scale=1.5).shape == (48, 80)
            assert len(list(model.segment_many([image, image]))) == 2
