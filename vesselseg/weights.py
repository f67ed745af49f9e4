"""Weights files: read safely, mapped completely onto our U-Net, and saved in our own layout.

Two layouts are read. The published one is mmsegmentation's: ``{"meta", "state_dict"}``, or the
bare state dict, with batch norms beside their convolutions. Our own, written by :func:`save`, is
``{"format", "version", "spec", "state_dict"}``: batch norms folded, with the model spec. Both are
read with ``weights_only=True``, so nothing in a file is ever executed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import CheckpointError
from .files import whole_file
from .safe_load import safe_load
from .spec import ModelSpec
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

_TRAINING_ONLY = "auxiliary_head."


class WeightsFile(NamedTuple):
    """The state dict of a file as it is stored, and the model spec if the layout is our own."""

    path: Path
    state: dict[str, Tensor]
    spec: ModelSpec | None


def load_network(path: str | os.PathLike[str], spec: ModelSpec) -> UNet:
    """Read a weights file and build its network: :func:`read`, then :func:`build_network`."""
    return build_network(read(path), spec)


def read(path: str | os.PathLike[str]) -> WeightsFile:
    """Read a weights file of either layout without executing anything in it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is not a weights file, is damaged, or would need code to be read.

    Notes
    -----
    Files written by PyTorch 1.6 or later are zip archives, whose members are checked against
    their CRC-32. Older ("legacy") files have no checksum: a changed value in one can only be
    detected with the file's digest.
    """
    path = Path(path)
    content = safe_load(path)
    spec = read_spec(path, content)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not is_state_dict(content):
        raise CheckpointError(
            f"{str(path)!r} holds no state dict: there is no dictionary of named tensors, neither "
            f"at its top level nor under 'state_dict'. Whole pickled models are not read."
        )
    state = {key.removeprefix("module."): value for key, value in content.items()}
    if len(state) < len(content):
        raise CheckpointError(
            f"{str(path)!r} holds some tensors twice, with and without the prefix 'module.'. "
            f"Save only one of them."
        )
    return WeightsFile(path, state, spec)


def read_spec(path: Path, content: Any) -> ModelSpec | None:
    """The model spec in a file of our own layout; None for any other."""
    if not isinstance(content, dict) or not isinstance(content.get("format"), str):
        return None
    if content["format"] != _FORMAT:
        return None
    version = content.get("version")
    if not isinstance(version, int) or version != _VERSION:
        raise CheckpointError(
            f"{str(path)!r} is in version {version!r} of vesselseg's layout; this vesselseg reads "
            f"version {_VERSION}. Update vesselseg."
        )
    values = content.get("spec")
    if not isinstance(values, dict):
        raise CheckpointError(f"{str(path)!r} has no model spec.")
    return ModelSpec.from_dict(values)


def is_state_dict(content: object) -> bool:
    """Whether an object is a non-empty dictionary of named tensors."""
    if not isinstance(content, dict) or not content:
        return False
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def build_network(file: WeightsFile, spec: ModelSpec) -> UNet:
    """Build the network of `spec`, batch norms folded, and fill it completely from `file`.

    `file` is emptied in the process, so that the weights are not in memory twice.

    Returns
    -------
    UNet
        On the CPU, float32, in evaluation mode, without gradients.

    Raises
    ------
    CheckpointError
        If tensors are missing, unexpected, of another shape, not real numbers or not finite.
    """
    shape = (spec.width, spec.depth, spec.head)
    # On the meta device nothing is allocated, and no random numbers are drawn.
    with torch.device("meta"):
        network = UNet(*shape)
        expected = (network if file.spec else UNet(*shape, norm=True)).state_dict()
    names = {}  # our name -> name in the file
    for key in expected:
        if not key.endswith("num_batches_tracked"):
            names[key] = key if file.spec else published_name(key, spec)
    check_complete(file, spec, {name: expected[key] for key, name in names.items()})
    state = {key: file.state.pop(name) for key, name in names.items()}
    file.state.clear()
    network.load_state_dict(fold_batch_norm(state), assign=True)
    return network.requires_grad_(False).eval()


def save(
    path: str | os.PathLike[str],
    network: UNet,
    spec: ModelSpec,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a folded network and its model spec in our own layout; whole or not at all.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in network.state_dict().items()}
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "spec": spec.to_dict(),
        "state_dict": state,
    }
    with whole_file(path) as part, part.open("wb") as stream:
        torch.save(content, stream)  # to a path, it would write that path into the file


def published_name(key: str, spec: ModelSpec) -> str:
    """Our name of a tensor, with batch norms -> its name in the published layout."""
    units = {"head.classifier": "decode_head.conv_seg"}
    for stage in range(spec.depth):
        for i in (0, 1):  # the first stage has no pooling in front of it, which shifts its index
            units[f"encoder.{stage}.{i}"] = f"backbone.encoder.{stage}.{min(stage, 1)}.convs.{i}"
            units[f"decoder.{stage}.block.{i}"] = f"backbone.decoder.{stage}.conv_block.convs.{i}"
        units[f"decoder.{stage}.reduce"] = f"backbone.decoder.{stage}.upsample.interp_upsample.1"
    units |= {f"head.{k}": f"decode_head.{v}" for k, v in _HEADS[spec.head].items()}
    unit = next(unit for unit in units if key.startswith(f"{unit}."))
    return units[unit] + key.removeprefix(unit).replace(".norm.", ".bn.")


def check_complete(file: WeightsFile, spec: ModelSpec, expected: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless the file holds exactly the expected tensors, all finite."""
    state = file.state
    present = [name for name in expected if name in state]
    faults = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [
            name
            for name in state
            if name not in expected
            and not name.startswith(_TRAINING_ONLY)
            and not name.endswith("num_batches_tracked")
        ],
        "not real numbers": [
            f"{name} ({state[name].dtype}, {state[name].layout}, {state[name].device})"
            for name in present
            if not is_dense(state[name])
        ],
    }
    dense = [name for name in present if is_dense(state[name])]
    faults["of another shape"] = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in dense
        if state[name].shape != expected[name].shape
    ]
    if not any(faults.values()):
        faults["not finite"] = [n for n in expected if not state[n].float().isfinite().all()]
    lines = []
    for fault, names in faults.items():
        if names:
            more = f", and {len(names) - 6} more" if len(names) > 6 else ""
            lines.append(f"{fault}: {', '.join(names[:6])}{more}")
    if lines:
        message = (
            f"{str(file.path)!r} does not hold the weights of {spec.name!r} (U-Net of width "
            f"{spec.width}, depth {spec.depth}, head {spec.head!r})."
        )
        for head, units in _HEADS.items():
            unit = next(iter(units.values()))
            if head != spec.head and any(k.startswith(f"decode_head.{unit}.") for k in state):
                message += f" It seems to have the head {head!r}: choose a model with that head."
        raise CheckpointError("\n  ".join([message, *lines]))


def is_dense(value: Tensor) -> bool:
    """Whether a tensor holds plain floating-point numbers in memory."""
    return (
        value.is_floating_point()
        and value.layout == torch.strided
        and value.is_cpu
        and not value.is_nested
    )
