"""Weights files: read safely, mapped completely or refused, and saved in a layout of our own.

Two layouts are read. The published one is mmsegmentation's: ``{"meta", "state_dict"}``, or the
bare state dict, with batch norms apart from their convolutions. Our own, written by
:func:`save`, is ``{"format", "version", "record", "state_dict"}``: batch norms folded, and the
record that says how the weights are used. Both are read with ``weights_only=True``: nothing in
a file is ever executed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import CheckpointError
from .files import whole_file
from .plainfile import load_plain
from .record import Checkpoint
from .unet import UNet, fold_batch_norm

_FORMAT, _VERSION = "vesselseg", 1

# Our names of the units of each head -> those of the published layout.
_HEADS = {
    "fcn": {"unit": "convs.0"},
    "pspnet": {**{f"pyramid.{i}": f"psp_modules.{i}.1" for i in range(4)},
               "bottleneck": "bottleneck"},
    "deeplabv3": {"pool": "image_pool.1",
                  **{f"atrous.{i}": f"aspp_modules.{i}" for i in range(4)},
                  "bottleneck": "bottleneck"},
}  # fmt: skip


class WeightsFile(NamedTuple):
    """What a file holds: its state dict as it stands there, and its record if it is ours."""

    path: Path
    state: dict[str, Tensor]
    record: Checkpoint | None


def read(path: str | os.PathLike[str]) -> WeightsFile:
    """Read a weights file of either layout without executing anything in it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is not a weights file, is damaged, or needs code to be read.

    Notes
    -----
    Files written by PyTorch 1.6 or later are zip archives, whose members are checked against
    their CRC-32. Older ("legacy") files carry no check sum: a value changed in one cannot be
    seen without the file's digest.
    """
    path = Path(path)
    content = load_plain(path)
    record = None
    if isinstance(content, dict) and content.get("format") == _FORMAT:
        if content.get("version") != _VERSION:
            raise CheckpointError(
                f"{str(path)!r} is in version {content.get('version')!r} of vesselseg's layout; "
                f"this vesselseg reads version {_VERSION}. Update vesselseg."
            )
        values = content.get("record")
        if not isinstance(values, dict):
            raise CheckpointError(f"{str(path)!r} has no record of how its weights are used.")
        record = Checkpoint.from_dict(values)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors = isinstance(content, dict) and content and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )  # fmt: skip
    if not tensors:
        raise CheckpointError(
            f"{str(path)!r} holds no state dict: neither at its top nor under 'state_dict' is "
            f"there a table of named tensors. Whole pickled models are not read."
        )
    return WeightsFile(path, {k.removeprefix("module."): v for k, v in content.items()}, record)


def to_network(file: WeightsFile, checkpoint: Checkpoint) -> UNet:
    """The network of `checkpoint`, batch norms folded, filled from `file`: completely or not.

    `file` is emptied on the way, so that the weights are not in memory twice.

    Returns
    -------
    UNet
        On the CPU, float32, in evaluation mode, without gradients.

    Raises
    ------
    CheckpointError
        If tensors are missing, unexpected, of another shape, not real numbers or not finite.
    """
    shape = (checkpoint.width, checkpoint.depth, checkpoint.head)
    # On the meta device nothing is allocated, and no random number is drawn.
    with torch.device("meta"):
        network = UNet(*shape)
        published = file.record is None
        wanted = (UNet(*shape, norm=True) if published else network).state_dict()
    wanted = {k: v for k, v in wanted.items() if not k.endswith("num_batches_tracked")}
    names = _published_names(wanted, checkpoint) if published else {key: key for key in wanted}
    _check_complete(file, checkpoint, {names[key]: value for key, value in wanted.items()})
    state = {key: file.state.pop(name) for key, name in names.items()}
    file.state.clear()
    network.load_state_dict(fold_batch_norm(state), assign=True)
    return network.requires_grad_(False).eval()


def save(
    path: str | os.PathLike[str],
    network: UNet,
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a folded network and its record in our own layout; whole or not at all.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in network.state_dict().items()}
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "record": checkpoint.to_dict(),
        "state_dict": state,
    }
    with whole_file(path) as part, part.open("wb") as stream:
        torch.save(content, stream)  # given a name, it would write that into the file


def _published_names(keys: Iterable[str], checkpoint: Checkpoint) -> dict[str, str]:
    """Our names (with batch norms) -> names in the published layout, in order."""
    units = {"head.classifier": "decode_head.conv_seg"}
    for stage in range(checkpoint.depth):
        for i in (0, 1):  # the first stage has no pooling in front, which shifts its index
            units[f"encoder.{stage}.{i}"] = f"backbone.encoder.{stage}.{min(stage, 1)}.convs.{i}"
            units[f"decoder.{stage}.block.{i}"] = f"backbone.decoder.{stage}.conv_block.convs.{i}"
        units[f"decoder.{stage}.reduce"] = f"backbone.decoder.{stage}.upsample.interp_upsample.1"
    units |= {f"head.{k}": f"decode_head.{v}" for k, v in _HEADS[checkpoint.head].items()}
    names = {}
    for key in keys:
        unit = next(unit for unit in units if key.startswith(f"{unit}."))
        names[key] = units[unit] + key.removeprefix(unit).replace(".norm.", ".bn.")
    return names


def _check_complete(
    file: WeightsFile, checkpoint: Checkpoint, wanted: Mapping[str, Tensor]
) -> None:
    """Every wanted tensor there, of its shape, finite; nothing left over but what is dropped."""
    state = file.state
    dropped = ("auxiliary_head.",)  # used in training only
    faults = {
        "missing": [name for name in wanted if name not in state],
        "unexpected": [
            name
            for name in state
            if name not in wanted
            and not name.startswith(dropped)
            and not name.endswith("num_batches_tracked")
        ],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} where {tuple(value.shape)} is needed"
            for name, value in wanted.items()
            if name in state and state[name].shape != value.shape
        ],
        "not real numbers": [
            f"{name} ({state[name].dtype}, {state[name].layout}, {state[name].device})"
            for name in wanted
            if name in state and not _is_plain(state[name])
        ],
    }
    if not any(faults.values()):
        faults["not finite"] = [n for n in wanted if not state[n].float().isfinite().all()]
    listed = [f"{what}: {_shorten(names)}" for what, names in faults.items() if names]
    if listed:
        raise CheckpointError(
            f"{str(file.path)!r} does not hold the weights of {checkpoint.name!r} (U-Net of width "
            f"{checkpoint.width}, depth {checkpoint.depth}, head {checkpoint.head!r})."
            + "\n  ".join([_hint(state, checkpoint), *listed])
        )


def _is_plain(value: Tensor) -> bool:
    """Floating-point numbers in memory: neither sparse nor without content."""
    return value.is_floating_point() and value.layout == torch.strided and value.is_cpu


def _hint(state: Mapping[str, Tensor], checkpoint: Checkpoint) -> str:
    """The head that the file seems to have, where it is another one."""
    for head, units in _HEADS.items():
        first = next(iter(units.values()))
        if head != checkpoint.head and any(k.startswith(f"decode_head.{first}.") for k in state):
            return f" It seems to have the head {head!r}: choose a model with that head."
    return ""


def _shorten(names: list[str], most: int = 6) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
