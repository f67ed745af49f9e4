"""Models written as ONNX files: the graph, its numbers, its metadata."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from support.models import NARROW, TINY

import vesselseg
from vesselseg import MissingExtraError, ModelSpec, OutputError
from vesselseg.backends import onnx_export
from vesselseg.backends.pytorch import TorchBackend
from vesselseg.unet import HEADS, UNet

pytestmark = pytest.mark.usefixtures("one_thread")
Export = Callable[[ModelSpec], tuple[Path, UNet, ModelSpec]]


@pytest.fixture
def export(tmp_path, random_network):
    """Export a random network with a normalisation unlike ImageNet's."""

    def export(spec):
        spec = replace(spec, mean=(90.0, 60.5, 30.25), std=(50.0, 40.0, 30.0))
        network = random_network(spec)
        built = onnx_export.build(network, spec)
        onnx_export.write(tmp_path / "random.onnx", built, spec, "0" * 64, "float32")
        return tmp_path / "random.onnx", network, spec

    return export


def relative_error(path, network, spec, windows):
    """The largest difference between ONNX Runtime's and PyTorch's logits, of the largest logit."""
    expected = TorchBackend(network, spec, "cpu", "float32")(windows)
    assert expected.std() > 0.03  # it depends on the windows
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": windows.numpy()})
    return float((torch.from_numpy(logits) - expected).abs().max() / expected.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_logits_equal_those_of_pytorch_for_any_batch_height_and_width(head, export, random_windows):
    exported = export(replace(NARROW, head=head))
    # 16 divides into bins of different lengths; at 208 x 32 every dilation sees the image.
    for shape in [(1, 64, 64), (3, 48, 80), (2, 16, 16), (1, 208, 32)]:
        assert relative_error(*exported, random_windows(*shape)) < 1e-5


@pytest.mark.parametrize("head", HEADS)
def test_logits_of_windows_smaller_than_the_bins_of_the_pyramid_are_the_same(
    head, export, random_windows
):
    exported = export(replace(TINY, head=head))
    assert relative_error(*exported, random_windows(1, 2, 4)) < 1e-5


def test_the_file_is_valid_and_readable_by_older_runtimes(export):
    path, _, _ = export(replace(NARROW, head="pspnet"))
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert "normalisation is part of the graph" in model.doc_string


def test_convolutions_and_weights_have_the_names_of_the_network(export):
    path, network, _ = export(replace(NARROW, head="pspnet"))
    graph = onnx.load(path).graph
    constants = {constant.name: constant for constant in graph.initializer}
    for key, value in network.state_dict().items():
        stored = torch.from_numpy(onnx.numpy_helper.to_array(constants[key]).copy())
        assert torch.equal(stored, value)
    names = {node.name for node in graph.node if node.op_type == "Conv"}
    modules = network.named_modules()
    assert names == {name for name, x in modules if isinstance(x, torch.nn.Conv2d)}


def test_the_metadata_says_how_to_use_the_network(model, tmp_path):
    model.export(tmp_path / "narrow.onnx")
    metadata = {p.key: p.value for p in onnx.load(tmp_path / "narrow.onnx").metadata_props}
    assert ModelSpec.from_dict(json.loads(metadata.pop("spec"))) == NARROW
    assert metadata == {
        "vesselseg": vesselseg.__version__, "model": "narrow", "weights_sha256": model.sha256,
        "precision": "float32",
        "crop": "64", "stride": "42", "size_divisor": "16", "scale": "native",
        "license": "", "data_terms": "",
    }  # fmt: skip


def test_one_model_gives_the_same_bytes_in_any_precision_and_stays_as_it_is(
    model, photograph, tmp_path
):
    before = model.logits(photograph)
    model.export(tmp_path / "a.onnx")
    model.export(tmp_path / "b.onnx")
    model.to(precision="bfloat16").export(tmp_path / "c.onnx")
    assert torch.equal(model.logits(photograph), before)
    assert len({(tmp_path / f"{name}.onnx").read_bytes() for name in "abc"}) == 1


class TestFailures:
    def test_what_cannot_be_written_is_an_error_that_says_why(self, model, tmp_path, monkeypatch):
        with pytest.raises(OutputError, match="folder does not exist"):
            model.export(tmp_path / "absent" / "narrow.onnx")
        with torch.device("meta"):  # without memory
            large = UNet(640)
        with pytest.raises(OutputError, match=r"11\.6 GB of weights; an ONNX file holds at most"):
            onnx_export.build(large, NARROW)
        monkeypatch.setitem(sys.modules, "onnx", None)
        with pytest.raises(MissingExtraError, match=r"pip install .*\[onnx\]"):
            model.export(tmp_path / "narrow.onnx")

    def test_a_model_that_the_checker_rejects_is_not_written(self, model, tmp_path, monkeypatch):
        def reject(*_, **__):
            raise onnx.checker.ValidationError("wrong")

        (tmp_path / "narrow.onnx").write_bytes(b"an earlier file")
        monkeypatch.setattr(onnx.checker, "check_model", reject)
        with pytest.raises(onnx.checker.ValidationError):
            model.export(tmp_path / "narrow.onnx")
        assert [path.name for path in tmp_path.iterdir()] == ["narrow.onnx"]
        assert (tmp_path / "narrow.onnx").read_bytes() == b"an earlier file"
