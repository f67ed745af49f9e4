"""Copies between the CPU and a GPU."""

import numpy as np
import pytest
import torch

from vesselseg.backends.transfers import to_device, to_host

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]


@pytest.mark.parametrize("device", DEVICES)
def test_there_and_back(device):
    pixels = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    there = to_device(pixels, torch.device(device))
    assert there.device.type == device
    downloads = [to_host(there * factor) for factor in (1, 2)]
    for factor, download in zip((1, 2), downloads, strict=True):
        assert np.array_equal(download.wait(), pixels.numpy() * factor)
