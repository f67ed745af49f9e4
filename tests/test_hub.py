"""hubconf.py: the models for ``torch.hub``, from a folder and without a network."""

import dataclasses
import runpy

import numpy as np
import pytest
import torch
from support import EXAMPLE
from support.models import tiny_weights

import vesselseg
from vesselseg.registry import EMBEDDED, find_spec

REPOSITORY = str(EXAMPLE.parents[1])


@pytest.fixture(autouse=True)
def offline(home, monkeypatch, tmp_path):  # noqa: ARG001 # home is an empty cache
    monkeypatch.setenv("VESSELSEG_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)  # not the repository


def load(name, **options):
    return torch.hub.load(REPOSITORY, name, source="local", **options)


def test_every_model_is_listed_and_described():
    names = [spec.name.replace("-", "_") for spec in vesselseg.list_models()]
    module = runpy.run_path(f"{REPOSITORY}/hubconf.py")
    listed = {name: each for name, each in module.items() if callable(each) and name[0] != "_"}
    assert sorted(listed) == sorted(["vesselseg", *names])
    assert all("logits (N, 2, H, W)" in listed[name].__doc__ for name in names)


def test_vesselseg_is_a_segmenter():
    model = load("vesselseg", device="cpu")
    assert isinstance(model, vesselseg.Segmenter)
    assert model.spec == EMBEDDED


@pytest.mark.slow
def test_a_network_gives_the_logits_of_the_model():
    network = load("unet_s5_c16_chase_hrf_fives")
    assert isinstance(network, torch.nn.Module)
    assert not network.training
    windows = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 64, 48)))
    mean, std = torch.tensor([EMBEDDED.mean, EMBEDDED.std]).reshape(2, 3, 1, 1)
    spec = dataclasses.replace(EMBEDDED, sources=(), fov_rgb_mean=None, small_fov_bias=None)
    file = vesselseg.find_cached(EMBEDDED.name)
    model = vesselseg.load_model(spec, weights=file, device="cpu")
    expected = model.logits(windows[0].byte(), scale="native")[None]
    torch.testing.assert_close(network((windows - mean) / std), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_published_weights_come_from_the_cache(home):
    with pytest.raises(vesselseg.DownloadError):
        load("unet_s5_d16_drive")
    home.mkdir(exist_ok=True)
    spec = find_spec("unet_s5-d16_drive")
    tiny_weights(home / spec.filename, spec)
    network = load("unet_s5_d16_drive")
    assert sum(value.numel() for value in network.parameters()) > 28_000_000


def test_without_its_weights_a_network_is_ready_to_be_trained():
    network = load("unet_s5_c16_chase_hrf_fives", pretrained=False)
    assert network.training
    network(torch.zeros(2, 3, 32, 32)).sum().backward()
