"""The network through oneDNN's own entrances against the same network without."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from vesselseg.backends import onednn
from vesselseg.backends import pytorch as backend
from vesselseg.unet import HEADS, UNet

pytestmark = pytest.mark.skipif(not onednn.available(), reason="needs oneDNN on an x86 CPU")


def seeded(head="fcn", *, width=16, depth=5):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(width, depth, head).eval().requires_grad_(False)


def images(*size):
    x = torch.randn(*size, generator=torch.Generator().manual_seed(1))
    return x.to(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "size"),
    [*((head, (1, 3, 80, 48)) for head in HEADS), ("fcn", (2, 3, 64, 64)), ("fcn", (1, 3, 16, 16))],
)
@torch.inference_mode()
def test_packed_networks_compute_the_same(head, size):
    network, x = seeded(head), images(*size)
    logits, expected = onednn.pack(network, torch.float32)(x), network(x)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "size"),
    [*((head, (2, 3, 400, 240)) for head in HEADS), ("fcn", (1, 3, 1200, 112))],
)
@torch.inference_mode()
def test_large_maps_are_computed_in_bands_with_the_same_result(head, size):
    network, x = seeded(head), images(*size)
    packed, rows = onednn.pack(network, torch.float32), []
    banded = [packed.encoder[0], packed.head] if head == "fcn" else [packed.encoder[0]]
    for module in banded:  # other heads look at the whole map
        module.register_forward_pre_hook(lambda _, maps: rows.append(maps[0].shape[2]))
    logits = packed(x)
    assert len(rows) > len(banded)
    assert max(rows) < size[2]
    torch.testing.assert_close(logits, network(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(2, 8, 6, 10), (1, 3, 2, 2)])
def test_halving_takes_the_largest_values(size):
    x = images(*size)
    packed = onednn.pack(seeded(), torch.float32)
    assert torch.equal(packed.halve(x), torch.nn.functional.max_pool2d(x, 2))


@pytest.mark.parametrize("size", [(2, 8, 6, 5), (1, 3, 1, 4), (1, 3, 1, 1)])
def test_doubling_is_bilinear_interpolation(size):
    x = images(*size)
    count, channels, height, width = size
    wide = onednn.double(x, 3, torch.empty(count, channels, height, 2 * width))
    both = onednn.double(wide, 2, torch.empty(count, channels, 2 * height, 2 * width))
    expected = torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
    torch.testing.assert_close(both, expected)


def test_the_widest_layers_are_winograds():
    units = dict(onednn.pack(seeded(), torch.float32).named_modules())
    assert isinstance(units["encoder.4.1"], onednn.WinogradUnit)  # 256 -> 256 channels
    assert not isinstance(units["encoder.4.0"], onednn.WinogradUnit)  # 128 -> 256


@pytest.mark.parametrize("amx", [True, False])
def test_matrix_units_make_direct_convolutions_the_better_choice_in_bfloat16(amx, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    for dtype, expected in ((torch.bfloat16, not amx), (torch.float32, True)):
        units = onednn.pack(seeded(), dtype).modules()
        assert any(isinstance(unit, onednn.WinogradUnit) for unit in units) == expected


@torch.inference_mode()
def test_bfloat16_rounds_no_more_than_the_plain_network_does():
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16")
    network, x = seeded(), images(1, 3, 64, 64)
    plain = backend.copy_network(network, torch.device("cpu"), torch.bfloat16)
    exact = network(x)
    packed, rounded = onednn.pack(network, torch.bfloat16)(x.bfloat16()), plain(x.bfloat16())
    assert packed.dtype == torch.float32
    assert 0 < (packed - exact).abs().mean() < 1.1 * (rounded - exact).abs().mean()


@torch.inference_mode()
def test_maps_of_another_size_than_the_first_are_computed_as_well():
    network = seeded()
    packed = onednn.pack(network, torch.float32)
    for size in [(1, 3, 32, 32), (3, 3, 96, 64), (1, 3, 32, 32)]:
        x = images(*size)
        torch.testing.assert_close(packed(x), network(x), rtol=1e-5, atol=1e-5)


def test_the_network_given_stays_as_it_is_and_shares_its_weights():
    network = seeded()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode():
        packed = onednn.pack(network, torch.float32)
        packed(images(1, 3, 32, 32))
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    ours = network.encoder[0][0].conv.weight
    assert packed.encoder[0][0].weight.data_ptr() == ours.data_ptr()


def test_threads_that_come_first_together_get_the_same():
    network, x = seeded(), images(1, 3, 64, 64)
    packed = onednn.pack(network, torch.float32)
    barrier = threading.Barrier(4)

    def run(_):
        with torch.inference_mode():
            barrier.wait()
            return packed(x)

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(run, range(4))
    assert all(torch.equal(other, first) for other in others)


def test_packing_is_not_available_where_an_operator_is_missing(monkeypatch):
    monkeypatch.setattr(onednn, "OPERATORS", ("_convolution_pointwise", "_no_such_thing"))
    assert not onednn.available()
