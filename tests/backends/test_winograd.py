"""Winograd's convolution against the direct one in float64."""

import pytest
import torch
import torch.nn.functional as F

from vesselseg.backends import onednn, winograd

pytestmark = pytest.mark.skipif(not onednn.available(), reason="needs oneDNN on an x86 CPU")


def maps(*channels, size=(6, 10), count=2):
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(count, c, *size, generator=generator).to(memory_format=torch.channels_last)
        for c in channels
    )


def weights(out, channels):
    generator = torch.Generator().manual_seed(1)
    scale = (9 * channels) ** -0.5
    return (
        torch.randn(out, channels, 3, 3, generator=generator) * scale,
        torch.randn(out, generator=generator),
    )


def direct(parts, weight, bias):
    joined = torch.cat(parts, dim=1).double()
    return F.conv2d(joined, weight.double(), bias.double(), padding=1).relu()


@pytest.mark.parametrize("size", [(2, 2), (6, 10), (16, 4)])
@pytest.mark.parametrize("channels", [(24,), (16, 8), (8, 8, 8)])
@torch.inference_mode()
def test_it_is_the_convolution_of_the_joined_maps(size, channels):
    parts = maps(*channels, size=size)
    weight, bias = weights(32, 24)
    filters = winograd.transform_filters(weight, size[0] * size[1] // 2, torch.float32)
    out = winograd.convolve(parts, filters, bias)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out.double(), direct(parts, weight, bias), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_every_tap_of_a_filter_looks_at_its_own_neighbour():
    (x,) = maps(1, size=(4, 4), count=1)
    for tap in range(9):
        weight = torch.zeros(1, 1, 9)
        weight[..., tap] = 1
        weight = weight.reshape(1, 1, 3, 3)
        out = winograd.convolve(
            (x,), winograd.transform_filters(weight, 4, torch.float32), torch.zeros(1)
        )
        torch.testing.assert_close(out.double(), direct((x,), weight, torch.zeros(1)))


@torch.inference_mode()
def test_rounds_less_than_the_direct_convolution_does():
    (x,) = maps(512, size=(8, 8))
    weight, bias = weights(512, 512)
    exact = direct((x,), weight, bias)
    ours = winograd.convolve((x,), winograd.transform_filters(weight, 32, torch.float32), bias)
    theirs = F.conv2d(x, weight, bias, padding=1).relu()
    assert (ours - exact).square().mean() < (theirs - exact).square().mean()
