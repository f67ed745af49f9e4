"""Models written as ONNX files: the graph, its numbers, its metadata."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from conftest import NARROW
from published_layout import seeded_state

import vesselseg
from vesselseg import ModelSpec, MissingExtraError, OutputError, Segmenter
from vesselseg.backends.pytorch import TorchBackend
from vesselseg.backends import onnx_export
from vesselseg.unet import HEADS, UNet

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def network_and_record(head: str, depth: int = 5) -> tuple[UNet, ModelSpec]:
    """A narrow network from a seed, folded, normalised unlike ImageNet."""
    record = ModelSpec(
        name=f"narrow_{head}", dataset="test", crop=64, stride=42, width=8, depth=depth, head=head,
        mean=(90.0, 60.5, 30.25), std=(50.0, 40.0, 30.0),
    )  # fmt: skip
    with torch.device("meta"):
        network = UNet(record.width, record.depth, record.head)
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(seeded_state(shapes, seed=2), assign=True)
    return network.requires_grad_(False).eval(), record


@pytest.fixture
def exported(tmp_path: Path) -> Callable[[UNet, ModelSpec], Path]:
    def export(network: UNet, record: ModelSpec) -> Path:
        onnx_export.export(tmp_path / "narrow.onnx", network, record, "0" * 64)
        return tmp_path / "narrow.onnx"

    return export


def run(path: Path, windows: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": windows.numpy()})
    return torch.from_numpy(logits)


def random_windows(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("head", HEADS)
def test_logits_equal_pytorchs_at_any_batch_height_and_width(
    head: str, exported: Callable[..., Path]
) -> None:
    network, record = network_and_record(head)
    path = exported(network, record)
    backend = TorchBackend(network, record, CPU, "float32")
    # 16 divides into bins of unequal length; at 208 x 32 every dilation sees the image.
    for shape in [(1, 64, 64), (3, 48, 80), (2, 16, 16), (1, 208, 32)]:
        windows = random_windows(shape[0], 3, *shape[1:])
        expected = backend(windows)
        error = (run(path, windows) - expected).abs().max()
        assert error < 1e-4 * expected.abs().max()
        assert expected.std() > 0.1


@pytest.mark.parametrize("head", HEADS)
def test_a_side_smaller_than_the_pyramids_bins(head: str, exported: Callable[..., Path]) -> None:
    network, record = network_and_record(head, depth=2)
    windows = random_windows(1, 3, 2, 4)
    expected = TorchBackend(network, record, CPU, "float32")(windows)
    torch.testing.assert_close(run(exported(network, record), windows), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_the_file_is_valid_and_old_enough_for_older_runtimes(
    head: str, exported: Callable[..., Path]
) -> None:
    path = exported(*network_and_record(head))
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert "normalisation is part of the graph" in model.doc_string


def test_weights_are_under_the_names_of_the_state_dict(exported: Callable[..., Path]) -> None:
    network, record = network_and_record("pspnet")
    constants = {c.name: c for c in onnx.load(exported(network, record)).graph.initializer}
    for key, value in network.state_dict().items():
        stored = torch.from_numpy(onnx.numpy_helper.to_array(constants[key]).copy())
        assert torch.equal(stored, value)


def test_the_metadata_says_how_the_network_is_used(model: Segmenter, tmp_path: Path) -> None:
    model.export(tmp_path / "narrow.onnx")
    found = {p.key: p.value for p in onnx.load(tmp_path / "narrow.onnx").metadata_props}
    record = json.loads(found.pop("record"))
    assert ModelSpec.from_dict(record) == NARROW
    assert found == {
        "vesselseg": vesselseg.__version__,
        "model": "narrow",
        "crop": "64",
        "stride": "42",
        "multiple": "16",
        "scale": "native",
        "license": "",
        "data_terms": "",
        "weights_sha256": model.sha256,
    }


def test_the_same_model_gives_the_same_bytes(model: Segmenter, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        model.export(tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_model_in_bfloat16_exports_its_float32_weights(
    model: Segmenter, published_file: Path, tmp_path: Path
) -> None:
    rounded = vesselseg.load_model(
        NARROW, weights=published_file, device="cpu", precision="bfloat16"
    )
    rounded.export(tmp_path / "rounded.onnx")
    model.export(tmp_path / "exact.onnx")
    assert (tmp_path / "rounded.onnx").read_bytes() == (tmp_path / "exact.onnx").read_bytes()


def test_exporting_leaves_the_model_as_it_was(
    model: Segmenter, photograph: Any, tmp_path: Path
) -> None:
    before = model.logits(photograph)
    model.export(tmp_path / "narrow.onnx")
    assert torch.equal(model.logits(photograph), before)


class TestFailures:
    def test_without_the_extra(
        self, model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnx", None)
        with pytest.raises(MissingExtraError, match=r'pip install "vesselseg\[onnx\]"'):
            model.export(tmp_path / "narrow.onnx")

    def test_a_folder_that_is_not_there(self, model: Segmenter, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="folder does not exist"):
            model.export(tmp_path / "absent" / "narrow.onnx")

    def test_what_does_not_pass_the_checker_is_not_written(
        self, model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise onnx.checker.ValidationError("wrong")

        (tmp_path / "narrow.onnx").write_bytes(b"what was there before")
        monkeypatch.setattr(onnx.checker, "check_model", refuse)
        with pytest.raises(onnx.checker.ValidationError):
            model.export(tmp_path / "narrow.onnx")
        assert [path.name for path in tmp_path.iterdir()] == ["narrow.onnx"]
        assert (tmp_path / "narrow.onnx").read_bytes() == b"what was there before"

    def test_a_network_beyond_the_formats_limit(
        self, model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(onnx_export, "_MOST_BYTES", 1000)
        with pytest.raises(OutputError, match="do not fit into one ONNX file"):
            model.export(tmp_path / "narrow.onnx")
