"""Weights files: read safely, mapped completely or refused, and saved in a layout of our own.

Two layouts are read. The published one is mmsegmentation's: ``{"meta", "state_dict"}``, or the
bare state dict, with batch norms apart from their convolutions. Our own, written by
:func:`save`, is ``{"format", "version", "record", "state_dict"}``: batch norms folded, and the
record that says how the weights are used. Both are read with ``weights_only=True``: nothing in
a file is ever executed.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import threading
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import CheckpointError
from .files import whole_file
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

# Scalars of NumPy may stand in the meta data of a published file. They are not needed, so their
# constructors are replaced by an inert object instead of being allowed to run.
_NUMPY_SCALARS = (
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    *(f"numpy.dtypes.{kind}DType" for kind in
      ("Bool", "Int32", "Int64", "Float32", "Float64", "Str", "Bytes")),
)  # fmt: skip
_SAFE_GLOBALS_LOCK = threading.Lock()


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
    if not path.exists():
        raise FileNotFoundError(f"There is no weights file {str(path)!r}.")
    if not path.is_file():
        raise CheckpointError(f"{str(path)!r} is a folder; a weights file (.pth) is needed.")
    _check_container(path)
    content = _unpickle(path)
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
    state = {key: file.state[name] for key, name in names.items()}
    state = fold_batch_norm(state)
    network.load_state_dict(state, assign=True)
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
    with whole_file(path) as part:
        torch.save(content, part)


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_container(path: Path) -> None:
    """Refuse what is not a checkpoint by its looks, and archives whose members are damaged."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head:
        raise CheckpointError(f"{str(path)!r} is empty.")
    if head.lstrip()[:1] == b"<":
        raise CheckpointError(
            f"{str(path)!r} is a web page, not a weights file: the server answered with a page "
            f"in place of the file. Delete it and download it again."
        )
    if head[:4] != b"PK\x03\x04":
        return  # a legacy file, or none: the unpickler tells
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # torch.save never compresses; a member that does could unpack to any size.
            packed = [m for m in members if m.compress_type != zipfile.ZIP_STORED]
            damaged = (packed[0].filename if packed else None) or (
                "its size" if sum(m.file_size for m in members) > size else archive.testzip()
            )
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(_damaged(path, str(error))) from error
    if damaged:
        raise CheckpointError(_damaged(path, f"{damaged} does not agree with its check sum"))


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file's bytes can provoke; told apart below
        if not any(name in str(error) for name in _NUMPY_SCALARS):
            raise CheckpointError(_unreadable(path, error)) from error
    inert: list[Any] = [(_Inert, name) for name in _NUMPY_SCALARS]
    try:
        with _SAFE_GLOBALS_LOCK, torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(_unreadable(path, error)) from error


class _Inert:
    """Stands where a NumPy scalar would; takes any arguments and state, and does nothing."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def _unreadable(path: Path, error: Exception) -> str:
    refused = re.search(r"(?:GLOBAL|class|function) ([\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and refused:
        name = refused[1]
        return (
            f"{str(path)!r} was not read: it asks for {name}, and that could execute code. Whole "
            f"training checkpoints often hold more than weights; whoever made this one can save "
            f'the weights alone: torch.save({{"state_dict": model.state_dict()}}, "weights.pth").'
        )
    return _damaged(path, str(error).partition("\n")[0] or type(error).__name__)


def _damaged(path: Path, detail: str) -> str:
    return (
        f"{str(path)!r} is damaged or not a PyTorch weights file ({detail[:200]}). "
        f"Get it again, and compare its length or digest with the original's."
    )


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
            f"{name} ({state[name].dtype})"
            for name in wanted
            if name in state and not state[name].is_floating_point()
        ],
    }
    if not any(faults.values()):
        faults["not finite"] = [n for n in wanted if not bool(torch.isfinite(state[n]).all())]
    listed = [f"{what}: {_shorten(names)}" for what, names in faults.items() if names]
    if listed:
        raise CheckpointError(
            f"{str(file.path)!r} does not hold the weights of {checkpoint.name!r} (U-Net of width "
            f"{checkpoint.width}, depth {checkpoint.depth}, head {checkpoint.head!r})."
            + "\n  ".join([_hint(state, checkpoint), *listed])
        )


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
