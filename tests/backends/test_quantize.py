"""Models exported in int8: the file, the photographs it is calibrated with, and errors."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from support import EXAMPLE
from support.drawn import twelve_bits
from support.models import NARROW

import vesselseg
from vesselseg import ImageError, MissingExtraError, ModelSpec, OptionError, ResourceError, cli
from vesselseg.backends import onnx_export, quantize
from vesselseg.backends.onnx_file import OnnxFile
from vesselseg.backends.pytorch import TorchBackend

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


class TestFile:
    def test_it_is_a_small_valid_file_that_runtimes_of_2022_read(self, int8_file, model, tmp_path):
        onnx.checker.check_model(str(int8_file), full_check=True)
        loaded = onnx.load(int8_file)
        assert [(o.domain, o.version) for o in loaded.opset_import] == [("", 17)]
        assert loaded.ir_version == 8
        model.export(tmp_path / "float32.onnx")
        assert int8_file.stat().st_size < 0.35 * (tmp_path / "float32.onnx").stat().st_size

    def test_its_metadata_are_those_of_a_float32_file_and_the_precision(self, int8_file, model):
        metadata = {each.key: each.value for each in onnx.load(int8_file).metadata_props}
        assert metadata["precision"] == "int8"
        assert metadata["weights_sha256"] == model.sha256
        assert ModelSpec.from_dict(json.loads(metadata["spec"])) == NARROW

    def test_the_first_and_last_layers_stay_float(self, int8_file):
        graph = onnx.load(int8_file).graph
        constants = {constant.name for constant in graph.initializer}
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        assert len(convolutions) == 24
        floats = {node.name for node in convolutions if node.input[1] in constants}
        assert floats == {
            "encoder.0.0.conv", "encoder.0.1.conv", "head.unit.conv", "head.classifier",
        }  # fmt: skip

    @pytest.mark.parametrize("head", ["pspnet", "deeplabv3"])
    def test_logits_of_other_heads_stay_close(self, head, random_network, photograph):
        openvino = pytest.importorskip("vesselseg.backends.openvino")
        spec = replace(NARROW, head=head)
        network = random_network(spec)
        windows = quantize.calibration_windows([photograph], spec, 10**8)
        int8 = quantize.quantize(onnx_export.build(network, spec), windows)
        metadata = {"spec": json.dumps(spec.to_dict()), "precision": "int8"}
        onnx.helper.set_model_props(int8, metadata)
        file = OnnxFile(int8.SerializeToString(), "int8.onnx")
        middle = torch.from_numpy(windows[len(windows) // 2]).permute(2, 0, 1)[None]
        exact = TorchBackend(network, spec, "cpu", "float32")(middle)
        logits = openvino.OpenVinoBackend(file, None, "cpu", None)(middle)
        # Where the processor has bfloat16, OpenVINO computes in it what is not int8.
        assert 0 < (logits - exact).abs().mean() < 0.25 * exact.std()


class TestCalibration:
    def test_without_images_it_is_the_photograph_in_the_package(self):
        windows = quantize.calibration_windows(None, NARROW, 10**8)
        photograph = Path(vesselseg.__file__).parent / "embedded" / "fundus.jpg"
        given = quantize.calibration_windows([photograph], NARROW, 10**8)
        assert all(map(np.array_equal, windows, given))

    def test_photographs_of_12_bits_are_read_by_their_bits(self, photograph):
        grey = photograph[..., 1]
        deep = quantize.calibration_windows([twelve_bits(grey)], NARROW, 10**6, bits=12)
        expected = quantize.calibration_windows([grey], NARROW, 10**6)
        assert all(map(np.array_equal, deep, expected))

    def test_windows_come_evenly_from_all_images(self, photograph):
        with Image.open(EXAMPLE) as image:
            large = np.asarray(image)
        *windows, small = quantize.calibration_windows(
            [large, large[:, ::-1], photograph[:40, :50]], NARROW, 10**8
        )
        assert {window.shape for window in windows} == {(64, 64, 3)}
        half = len(windows) // 2
        for image, part in ((large, windows[:half]), (large[:, ::-1], windows[half:])):
            assert np.array_equal(part[0], image[:64, :64])
            assert np.array_equal(part[-1], image[-64:, -64:])
        assert small.shape == (48, 64, 3)
        assert np.array_equal(small[:40, :50], photograph[:40, :50])

    def test_export_uses_the_images_the_bits_and_the_limit(
        self, model, photograph, tmp_path, monkeypatch
    ):
        calls = []

        def note(exported, windows):
            calls.append(windows)
            return exported

        monkeypatch.setattr(quantize, "quantize", note)
        grey = photograph[..., 1]
        for image, options in ((grey, {}), (twelve_bits(grey), {"bits": 12})):
            model.export(tmp_path / "int8.onnx", precision="int8", calibration=[image], **options)
        assert all(map(np.array_equal, *calls))
        limited = vesselseg.load_model(device="cpu", max_pixels=1000)
        with pytest.raises(ImageError, match="limit of pixels"):
            limited.export(tmp_path / "int8.onnx", precision="int8", calibration=[photograph])


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"precision": "bfloat16"}, "exported in 'float32' or 'int8'"),
            ({"precision": None}, "exported in 'float32' or 'int8'"),
            ({"calibration": [EXAMPLE]}, "calibration is for the precision 'int8'"),
            ({"precision": "int8", "bits": 12}, "12 bits are for the images of a calibration"),
            ({"bits": 12}, "12 bits are for the images of a calibration"),
            ({"precision": "int8", "calibration": []}, "has no images"),
            ({"precision": "int8", "calibration": "a.jpg"}, "takes several images"),
            ({"precision": "int8", "calibration": bytearray(b"a")}, "takes several images"),
        ],
    )
    def test_options_that_do_not_fit_are_rejected(self, options, message, model, tmp_path):
        with pytest.raises(OptionError, match=message):
            model.export(tmp_path / "model.onnx", **options)
        assert list(tmp_path.iterdir()) == []

    def test_images_that_cannot_be_used_are_errors(self, model, tmp_path):
        with pytest.raises(FileNotFoundError):
            model.export(tmp_path / "a.onnx", precision="int8", calibration=[tmp_path / "no.jpg"])
        (tmp_path / "text.jpg").write_text("no picture")
        with pytest.raises(ImageError):
            model.export(tmp_path / "a.onnx", precision="int8", calibration=[tmp_path / "text.jpg"])

    def test_its_process_has_a_home_folder_if_the_user_has_none(self, model, monkeypatch, tmp_path):
        given = {}

        def run(*_, env, **__):
            given.update(env)
            return SimpleNamespace(returncode=1, stderr="stopped here")

        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr(subprocess, "run", run)
        with pytest.raises(ResourceError, match="stopped here"):
            model.export(tmp_path / "int8.onnx", precision="int8")
        assert given["HOME"]

    def test_where_it_cannot_be_quantised_the_error_says_why(self, model, monkeypatch, tmp_path):
        def export():
            model.export(tmp_path / "int8.onnx", precision="int8")

        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(MissingExtraError, match=r"needs nncf.*pip install .*\[openv"):
            export()
        monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
        failed = SimpleNamespace(returncode=1, stderr="Traceback\nMemoryError: 7 GB\n")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
        with pytest.raises(ResourceError, match="quantised: MemoryError: 7 GB"):
            export()
        monkeypatch.setattr(sys, "executable", "")  # as in a program that is not Python
        with pytest.raises(OptionError, match="Export it with Python"):
            export()
        assert list(tmp_path.iterdir()) == []


def test_the_command_exports_int8_which_openvino_runs(
    tmp_path, model, int8_file, photograph, monkeypatch, capsys
):
    monkeypatch.setattr(quantize, "quantize", lambda *_: onnx.load(int8_file))  # takes seconds
    model.save(tmp_path / "narrow.pth")
    Image.fromarray(photograph).save(tmp_path / "eye.png")
    out = tmp_path / "int8.onnx"
    words = [str(tmp_path / "narrow.pth"), "-o", str(out), "--precision", "int8"]
    assert cli.main(["export", *words, "--calibration", str(tmp_path / "eye.png")]) == 0
    assert capsys.readouterr().out == f"{out}: narrow, {out.stat().st_size / 1e6:.1f} MB\n"
    masks = tmp_path / "vessels.png"
    words = [str(tmp_path / "eye.png"), "--model", str(out), "-o", str(masks)]
    assert cli.main([*words, "--backend", "openvino"]) == 0
    with Image.open(masks) as image:
        assert '"precision": "int8"' in image.info["vesselseg"]
    assert cli.main(words) == 2  # ONNX Runtime
    assert "Choose the backend 'openvino'" in capsys.readouterr().err
    assert cli.main(["export", "-o", str(out), "--calibration", "eye.png"]) == 2
    assert "calibration is for the precision 'int8'" in capsys.readouterr().err
