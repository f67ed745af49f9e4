"""The table of backends, one that somebody adds to it, and batch sizes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from support.models import NARROW

import vesselseg
from vesselseg import DeviceError, OptionError, cli
from vesselseg.backends import (
    choose_backend,
    choose_batch_size,
    find_backend,
)
from vesselseg.choices import BACKENDS, BackendName
from vesselseg.registry import find_spec
from vesselseg.sliding import windows

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class TestTable:
    def test_every_backend_has_the_name_under_which_it_is_found(self):
        assert [find_backend(name).name for name in BACKENDS] == list(BACKENDS)
        assert get_args(BackendName) == tuple(BACKENDS)

    def test_the_default_is_the_first_that_runs_the_file(self):
        for file in (None, Path("model.pth"), Path("model"), Path("model.abc")):
            assert choose_backend(None, file).name == "torch"
        for file in (Path("model.onnx"), Path("model.ONNX")):
            assert choose_backend(None, file).name == "onnxruntime"

    def test_one_that_fits_can_be_chosen(self):
        for name in ("torch", "openvino"):
            assert choose_backend(name, Path("model.pth")).name == name
        for name in ("onnxruntime", "openvino"):
            assert choose_backend(name, Path("model.onnx")).name == name

    def test_one_that_does_not_fit_is_an_error_that_names_those_that_do(self):
        with pytest.raises(OptionError, match=r"'torch' cannot run 'a\.onnx', but 'onnxr"):
            choose_backend("torch", Path("a.onnx"))
        with pytest.raises(OptionError, match=r"runs \.onnx files only.* Export the model"):
            choose_backend("onnxruntime", Path("a.pth"))


@pytest.fixture
def dark(monkeypatch):
    """One line of the table, as somebody would add it."""
    monkeypatch.setitem(BACKENDS, "dark", "support.dark.DarkBackend")


@pytest.mark.usefixtures("dark")
class TestAddedBackend:
    def test_runs_networks(self, published_file, photograph):
        model = vesselseg.load_model(NARROW, weights=published_file, backend="dark")
        assert (model.backend, model.batch_size, str(model.device)) == ("dark", 3, "cpu")
        result = model(photograph)
        assert np.array_equal(result.mask, photograph.mean(axis=2) < 100)
        assert result.provenance["backend"] == "dark"
        assert result.provenance["dark"] == "1.0"
        for copy in (model.to("cpu"), pickle.loads(pickle.dumps(model))):
            assert np.array_equal(copy(photograph).mask, result.mask)

    def test_runs_files_of_its_own(self, photograph, tmp_path):
        file = tmp_path / "model.dark"
        file.write_text("dark")
        for model in (vesselseg.load_model(file), vesselseg.load_model(file, backend="dark")):
            assert (model.backend, model.spec) == ("dark", NARROW)
            assert np.array_equal(model(photograph).mask, photograph.mean(axis=2) < 100)
        with pytest.raises(OptionError, match=r"'torch' cannot run .* 'dark' can"):
            vesselseg.load_model(file, backend="torch")
        with pytest.raises(OptionError, match="Pass it alone"):
            vesselseg.load_model(NARROW, weights=file)
        with pytest.raises(OptionError, match="cannot be exported"):
            vesselseg.load_model(file).export(tmp_path / "model.onnx")

    def test_says_before_any_download_what_is_not_available(self, monkeypatch):
        monkeypatch.setattr("vesselseg.cache.obtain", None)  # would fail
        with pytest.raises(DeviceError, match="dark does not compute in bfloat16"):
            vesselseg.load_model("unet_s5-d16_drive", backend="dark", precision="bfloat16")

    def test_is_allowed_by_name(self):
        with pytest.raises(OptionError, match="'openvino', 'dark', or None"):
            vesselseg.load_model(backend="light")

    def test_runs_in_the_command(self, photograph, tmp_path):
        Image.fromarray(photograph).save(tmp_path / "eye.png")
        words = [str(tmp_path / "eye.png"), "--scale", "native", "--backend", "dark"]
        assert cli.main([*words, "-o", str(tmp_path / "vessels.png")]) == 0
        with Image.open(tmp_path / "vessels.png") as mask:
            assert '"backend": "dark"' in mask.info["vesselseg"]


class TestBatchSize:
    def test_smaller_windows_and_values_allow_more(self):
        drive, hrf = find_spec("unet_s5-d16_drive"), find_spec("unet_s5-d16_hrf")
        for device in (CPU, CUDA):
            sizes = [
                [choose_batch_size(spec, device, precision) for spec in (drive, hrf)]
                for precision in ("int8", "bfloat16", "float32")
            ]
            assert all(of_drive > of_hrf >= 1 for of_drive, of_hrf in sizes)
            assert sizes == sorted(sizes, reverse=True)
        assert choose_batch_size(drive, CUDA, "float32") > choose_batch_size(drive, CPU, "float32")

    def test_fills_the_last_batch(self):
        spec = find_spec("unet_s5-d16_drive")
        count = len(windows(*spec.fit_size, spec.crop, spec.stride))
        assert count % choose_batch_size(spec, CPU, "float32") == 0
