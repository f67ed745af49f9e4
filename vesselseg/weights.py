"""Weights files: read safely, mapped completely onto our U-Net, and saved in our own layout.

Two layouts are read. The published one is mmsegmentation's: ``{"meta", "state_dict"}``, or the
bare state dict, with batch norms beside their convolutions. Our own, written by :func:`save`, is
``{"format", "version", "spec", "state_dict"}``: batch norms folded, with the model spec. Both are
read with ``weights_only=True``, so nothing in a file is ever executed. The version is that of these
four entries; docs/reference/weights-files.md says how the model spec changes within it.
"""

from __future__ import annotations

import io
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from .errors import CheckpointError
from .files import whole_file
from .safe_load import safe_load
from .spec import ModelSpec
from .unet import UNet, fold_batch_norm

StrPath: TypeAlias = str | os.PathLike[str]

_FORMAT, _VERSION = "vesselseg", 1

# Our names of the units of the heads -> those of the published layout.
_HEAD_UNITS = {
    "classifier": "conv_seg", "unit": "convs.0", "pool": "image_pool.1", "bottleneck": "bottleneck",
    **{f"pyramid.{i}": f"psp_modules.{i}.1" for i in range(4)},
    **{f"atrous.{i}": f"aspp_modules.{i}" for i in range(4)},
}  # fmt: skip
_PART_OF_HEAD = {"fcn": "convs", "pspnet": "psp_modules", "deeplabv3": "image_pool"}


class WeightsFile(NamedTuple):
    """The state dict of a file as it is stored, and the model spec if the layout is our own."""

    path: Path
    state: dict[str, Tensor]
    spec: ModelSpec | None


def load_network(path: StrPath, spec: ModelSpec) -> UNet:
    """Read a weights file and build its network: :func:`read`, then :func:`build_network`."""
    return build_network(read(path), spec)


@torch.inference_mode(mode=False)  # so that they can be trained, wherever they are read
def read(path: StrPath) -> WeightsFile:
    """Read a weights file of either layout without executing anything in it.

    Raises CheckpointError if it is not a weights file, is damaged, or would need code to be read.

    Files written by PyTorch 1.6 or later are zip archives, whose members are checked against
    their CRC-32. Older ("legacy") files have no checksum: a changed value in one can only be
    detected with the file's digest.
    """
    path = Path(path)
    spec, content = None, safe_load(path)
    if isinstance(content, dict) and content.get("format") == _FORMAT:
        version, values = content.get("version"), content.get("spec")
        if not isinstance(version, int) or version != _VERSION:
            raise CheckpointError(
                f"{str(path)!r} is in version {version!r} of vesselseg's layout; this vesselseg "
                f"reads version {_VERSION}. Update vesselseg."
            )
        if not isinstance(values, dict):
            raise CheckpointError(f"{str(path)!r} has no model spec.")
        spec = ModelSpec.from_dict(values)
    stored = content.get("state_dict", content) if isinstance(content, dict) else None
    if not (
        isinstance(stored, dict)
        and stored
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in stored.items())
    ):
        raise CheckpointError(
            f"{str(path)!r} holds no state dict: there is no dictionary of named tensors, neither "
            f"at its top level nor under 'state_dict'. Whole pickled models are not read."
        )
    state = {key.removeprefix("module."): value for key, value in stored.items()}
    if len(state) < len(stored):
        raise CheckpointError(
            f"{str(path)!r} holds some tensors twice, with and without the prefix 'module.'. "
            f"Save only one of them."
        )
    return WeightsFile(path, state, spec)


@torch.inference_mode(mode=False)
def build_network(file: WeightsFile, spec: ModelSpec) -> UNet:
    """Build the network of `spec`, batch norms folded, and fill it completely from `file`.

    It is on the CPU, float32, in evaluation mode, without gradients. `file` is emptied in the
    process, so that the weights are not in memory twice.
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
    _check_complete(file, spec, {name: expected[key] for key, name in names.items()})
    state = {key: file.state.pop(name) for key, name in names.items()}
    file.state.clear()
    network.load_state_dict(fold_batch_norm(state), assign=True)
    return network.requires_grad_(False).eval()


def save(
    path: StrPath, network: UNet, spec: ModelSpec, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a folded network and its model spec in our own layout; whole or not at all."""
    state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in network.state_dict().items()}
    content = {"format": _FORMAT, "version": _VERSION, "spec": spec.to_dict(), "state_dict": state}
    stream = io.BytesIO()
    torch.save(content, stream)  # to a path, it would write that path into the file
    with whole_file(path) as part:
        part.write_bytes(stream.getbuffer())


def published_name(key: str, spec: ModelSpec) -> str:
    """Our name of a tensor, with batch norms -> its name in the published layout."""
    units = {f"head.{ours}": f"decode_head.{theirs}" for ours, theirs in _HEAD_UNITS.items()}
    for stage in range(spec.depth):
        for i in (0, 1):  # the first stage has no pooling in front of it, which shifts its index
            units[f"encoder.{stage}.{i}"] = f"backbone.encoder.{stage}.{min(stage, 1)}.convs.{i}"
            units[f"decoder.{stage}.block.{i}"] = f"backbone.decoder.{stage}.conv_block.convs.{i}"
        units[f"decoder.{stage}.reduce"] = f"backbone.decoder.{stage}.upsample.interp_upsample.1"
    unit = next(unit for unit in units if key.startswith(f"{unit}."))
    return units[unit] + key.removeprefix(unit).replace(".norm.", ".bn.")


def _check_complete(file: WeightsFile, spec: ModelSpec, expected: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless the file holds exactly the expected tensors, all finite."""
    faults: defaultdict[str, list[str]] = defaultdict(list)
    for name, wanted in expected.items():
        value = file.state.get(name)
        if value is None:
            faults["missing"].append(name)
        elif not (
            value.is_floating_point()
            and value.layout == torch.strided
            and value.is_cpu
            and not value.is_nested
        ):
            layout = "nested" if value.is_nested else value.layout
            kind = f"{value.dtype}, {layout}, {value.device}"
            faults["not real numbers"].append(f"{name} ({kind})")
        elif value.shape != wanted.shape:
            shapes = f"{tuple(value.shape)} instead of {tuple(wanted.shape)}"
            faults["of another shape"].append(f"{name} {shapes}")
        elif not value.float().isfinite().all():
            faults["not finite"].append(name)
    for name in file.state:
        is_for_training = name.startswith("auxiliary_head.") or name.endswith("num_batches_tracked")
        if name not in expected and not is_for_training:
            faults["unexpected"].append(name)
    if not faults:
        return
    message = (
        f"{str(file.path)!r} does not hold the weights of {spec.name!r} (U-Net of width "
        f"{spec.width}, depth {spec.depth}, head {spec.head!r})."
    )
    for head, part in _PART_OF_HEAD.items():
        if head != spec.head and any(k.startswith(f"decode_head.{part}.") for k in file.state):
            message += f" It seems to have the head {head!r}: choose a model with that head."
    for fault, names in faults.items():
        more = f", and {len(names) - 6} more" if len(names) > 6 else ""
        message += f"\n  {fault}: {', '.join(names[:6])}{more}"
    raise CheckpointError(message)
