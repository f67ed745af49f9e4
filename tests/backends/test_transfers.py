"""Copies between the CPU and a GPU."""

import numpy as np
import pytest
import torch

from vesselseg.backends.transfers import Download, one_ahead, upload

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]


@pytest.mark.parametrize("device", DEVICES)
def test_there_and_back(device):
    pixels = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    there = upload(pixels, torch.device(device))
    assert there.device.type == device
    downloads = [Download(there * factor) for factor in (1, 2)]
    for factor, download in zip((1, 2), downloads, strict=True):
        assert np.array_equal(download.array(), pixels.numpy() * factor)


class TestOneAhead:
    @pytest.mark.parametrize("count", [0, 1, 2, 5])
    def test_order_is_kept(self, count):
        assert list(one_ahead(range(count))) == list(range(count))

    def test_the_next_item_is_made_before_one_is_given(self):
        made = []

        def items():
            for number in range(3):
                made.append(number)
                yield number

        ahead = one_ahead(items())
        assert made == []
        assert next(ahead) == 0
        assert made == [0, 1]

    def test_an_error_comes_behind_what_was_before_it(self):
        def items():
            yield 0
            yield 1
            raise ValueError("third")

        ahead = one_ahead(items())
        assert [next(ahead), next(ahead)] == [0, 1]
        with pytest.raises(ValueError, match="third"):
            next(ahead)
