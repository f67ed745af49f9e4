"""Weights files: both layouts, complete or rejected, and never executed."""

import argparse
import dataclasses
import datetime
import os
import pathlib
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models import NARROW, narrow_shapes, seeded_state

from vesselseg import CheckpointError, OutputError, weights
from vesselseg.unet import HEADS


def state_of(head="fcn"):
    return seeded_state(narrow_shapes(head, 8), seed=1)


def spec_of(head="fcn"):
    return dataclasses.replace(NARROW, head=head)


def network_of(content, folder, spec=NARROW, **options):
    path = folder / "file.pth"
    torch.save(content, path, **options)
    return weights.build_network(weights.read(path), spec)


def same(network, other):
    mine, theirs = network.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


class TestPublishedLayout:
    def test_every_tensor_lands_where_it_belongs(self, tmp_path):
        """A value changed in the file changes the unit that the published name speaks of."""
        units = {
            "backbone.encoder.0.0.convs.1.conv.weight": "encoder.0.1.conv.weight",
            "backbone.encoder.3.1.convs.0.conv.weight": "encoder.3.0.conv.weight",
            "backbone.decoder.2.upsample.interp_upsample.1.conv.weight": "decoder.2.reduce.conv.weight",  # noqa: E501
            "backbone.decoder.1.conv_block.convs.0.conv.weight": "decoder.1.block.0.conv.weight",
            "decode_head.convs.0.bn.bias": "head.unit.conv.bias",
            "decode_head.conv_seg.bias": "head.classifier.bias",
        }
        state = state_of()
        before = network_of({"state_dict": state}, tmp_path).state_dict()
        for theirs, ours in units.items():
            changed = {**state, theirs: state[theirs] + 1}
            after = network_of({"state_dict": changed}, tmp_path).state_dict()
            assert [key for key in after if not torch.equal(after[key], before[key])] == [ours]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda state: state,
            lambda state: {"meta": {"CLASSES": ("background", "vessel")}, "state_dict": state},
            lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
            lambda state: {k: v for k, v in state.items() if not k.startswith("auxiliary_head.")},
            lambda state: {k: v for k, v in state.items() if "num_batches_tracked" not in k},
        ],
        ids=["bare", "meta", "module.", "no auxiliary head", "no num_batches_tracked"],
    )
    def test_variants_give_the_same_network(self, wrap, tmp_path):
        expected = network_of({"state_dict": state_of()}, tmp_path)
        assert same(network_of(wrap(state_of()), tmp_path), expected)

    def test_float16_is_widened(self, tmp_path):
        halved = {k: v.half() if v.is_floating_point() else v for k, v in state_of().items()}
        widened = {k: v.float() if v.is_floating_point() else v for k, v in halved.items()}
        assert same(network_of(halved, tmp_path), network_of(widened, tmp_path))

    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    def test_whole_checkpoints_of_a_training_are_read(self, zipped, tmp_path, monkeypatch):
        """As mmengine 1.x writes them; neither it nor NumPy is imported or called for it."""
        with monkeypatch.context() as patch:
            content = training_checkpoint(patch)
            torch.save(content, tmp_path / "iter_40000.pth", _use_new_zipfile_serialization=zipped)
        allowed = set(torch.serialization.get_safe_globals())
        with monkeypatch.context() as patch:
            for name in [name for name in sys.modules if name.partition(".")[0] == "numpy"]:
                patch.setitem(sys.modules, name, None)  # importing it fails
            file = weights.read(tmp_path / "iter_40000.pth")
        network = weights.build_network(file, NARROW)
        assert same(network, network_of(state_of(), tmp_path))
        assert set(torch.serialization.get_safe_globals()) == allowed
        assert "mmengine" not in sys.modules


def training_checkpoint(monkeypatch):
    """Weights beside the log, the optimizer and objects that only the framework can make."""
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    module = sys.modules["mmengine.logging.history_buffer"]
    module.HistoryBuffer = HistoryBuffer
    monkeypatch.setattr(HistoryBuffer, "__module__", module.__name__)
    HistoryBuffer.mean.__module__ = module.__name__
    log = {"train/loss": HistoryBuffer()}
    return {
        "meta": {
            "iter": np.int64(40000), "time": np.float64(1.5), "who": np.str_("someone"),
            "when": datetime.datetime(2024, 1, 1), "cfg": "model = dict()",
            "work_dir": pathlib.PurePosixPath("work"), "args": argparse.Namespace(seed=np.int32(3)),
        },
        "state_dict": state_of(),
        "message_hub": {"log_scalars": log, "runtime_info": {"names": np.array(["a", b"b"])}},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{}]},
        "param_schedulers": [{"last_step": 3, "base_values": [0.01], "type": np.dtype("float32")}],
    }  # fmt: skip


class HistoryBuffer:
    """Arrays, and functions by their names, as in the class of mmengine."""

    def __init__(self):
        self._log_history, self._count_history = np.arange(3.0), np.ones(3, np.float32)
        self._statistics_methods = {"mean": HistoryBuffer.mean}

    def mean(self):
        raise AssertionError("it was called")


BIAS = "decode_head.conv_seg.bias"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({BIAS: None}, r"missing: decode_head\.conv_seg\.bias"),
        ({"backbone.extra.weight": torch.zeros(1)}, r"unexpected: backbone\.extra\.weight"),
        ({BIAS: torch.zeros(3)}, r"of another shape: .*bias \(3,\) instead of \(2,\)"),
        ({BIAS: torch.tensor([1, 2])}, r"not real numbers: .*int64"),
        ({BIAS: torch.tensor([0, np.nan])}, r"not finite: decode_head\.conv_seg\.bias"),
        ({BIAS: torch.tensor([0, np.inf])}, r"not finite: decode_head\.conv_seg\.bias"),
        (dict.fromkeys(state_of()) | {"a": torch.zeros(1)}, r"missing: .*, and \d+ more\n.*: a"),
        (dict.fromkeys(state_of()) | state_of("pspnet"), "seems to have the head 'pspnet'"),
        ({f"module.{BIAS}": torch.zeros(2)}, "holds some tensors twice"),
    ],
)
def test_state_dicts_that_do_not_map_completely_are_rejected(changes, match, tmp_path):
    state = {key: value for key, value in (state_of() | changes).items() if value is not None}
    with pytest.raises(CheckpointError, match=match):
        network_of(state, tmp_path)


class TestOurLayout:
    @pytest.mark.parametrize("head", HEADS)
    def test_comes_back_as_it_was(self, head, tmp_path):
        network = network_of(state_of(head), tmp_path, spec_of(head))
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())
        assert all(p.dtype == torch.float32 for p in network.parameters())
        weights.save(tmp_path / "saved.pth", network, spec_of(head))
        file = weights.read(tmp_path / "saved.pth")
        assert file.spec == spec_of(head)
        assert same(weights.build_network(file, file.spec), network)

    def test_same_weights_give_the_same_bytes(self, tmp_path):
        network = network_of(state_of(), tmp_path)
        for name in ("a.pth", "b.pth"):
            weights.save(tmp_path / name, network, NARROW)
        assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()

    def test_may_be_kept_in_float16(self, tmp_path):
        network = network_of(state_of(), tmp_path)
        weights.save(tmp_path / "half.pth", network, NARROW, dtype=torch.float16)
        file = weights.read(tmp_path / "half.pth")
        assert all(value.dtype == torch.float16 for value in file.state.values())
        back = weights.build_network(file, NARROW).state_dict()
        for key, value in network.state_dict().items():
            assert torch.equal(back[key], value.half().float())

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"version": 2}, r"version 2.*Update vesselseg"),
            ({"version": torch.zeros(2)}, r"version tensor.*Update vesselseg"),
            ({"spec": None}, "no model spec"),
        ],
    )
    def test_of_a_newer_version_or_without_its_spec_is_rejected(self, changes, match, tmp_path):
        content = {"format": "vesselseg", "version": 1, "spec": {}, "state_dict": state_of()}
        with pytest.raises(CheckpointError, match=match):
            network_of(content | changes, tmp_path)

    def test_is_written_whole_or_not_at_all(self, tmp_path, monkeypatch):
        network = network_of(state_of(), tmp_path)
        target = tmp_path / "saved.pth"
        target.write_bytes(b"older")

        def full(path, _):
            path.touch()
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match="No space left"):
            weights.save(target, network, NARROW)
        assert target.read_bytes() == b"older"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["file.pth", "saved.pth"]


class Gadget:
    """Unpickled without care, it runs a command."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call

    __call__ = __reduce__  # what is called when it is unpickled must be callable


class TestHostile:
    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    @pytest.mark.parametrize(
        "gadget",
        [
            lambda mark: Gadget(os.system, f"touch {mark}"),
            lambda mark: Gadget(pickle.loads, pickle.dumps(Gadget(os.mkdir, str(mark)))),
            lambda mark: [np.float64(1), Gadget(os.mkdir, str(mark))],
            lambda mark: Gadget(Gadget(getattr, pathlib.Path, "touch"), pathlib.Path(mark)),
        ],
        ids=["os.system", "nested pickle", "beside a NumPy scalar", "getattr"],
    )
    def test_nothing_is_executed(self, gadget, zipped, tmp_path):
        mark = tmp_path / "executed"
        content = {"state_dict": state_of(), "meta": gadget(mark)}
        with pytest.raises(CheckpointError, match=r"could execute code|is damaged"):
            network_of(content, tmp_path, _use_new_zipfile_serialization=zipped)
        assert not mark.exists()

    def test_a_bit_flipped_in_a_tensor_is_seen(self, published_file, tmp_path):
        content = bytearray(published_file.read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "flipped.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            weights.read(tmp_path / "flipped.pth")

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            (b"", "is empty"),
            (b"<!DOCTYPE html><html>404</html>", "is a web page"),
            (b"no weights at all", "damaged or not a PyTorch weights file"),
            (b"PK\x03\x04 no archive", "damaged or not a PyTorch weights file"),
        ],
    )
    def test_files_of_another_kind_are_rejected(self, content, match, tmp_path):
        (tmp_path / "file.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match=match):
            weights.read(tmp_path / "file.pth")

    @pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {}, {"state_dict": {"a": 1}}])
    def test_a_file_without_state_dict_is_rejected(self, content, tmp_path):
        with pytest.raises(CheckpointError, match="holds no state dict"):
            network_of(content, tmp_path)

    def test_a_folder_and_a_missing_file_are_errors(self, tmp_path):
        with pytest.raises(CheckpointError, match="is not a file"):
            weights.read(tmp_path)
        with pytest.raises(FileNotFoundError, match=r"no weights file .*absent\.pth"):
            weights.read(tmp_path / "absent.pth")
