"""Read files of ``torch.save`` without executing anything in them."""

from __future__ import annotations

import pickle
import re
import threading
import zipfile
from pathlib import Path
from typing import Any

import torch

from .errors import CheckpointError

# The meta data of a published file may hold NumPy scalars. They are not needed, so an inert object
# takes the place of their constructors instead of allowing those to run.
_NUMPY_SCALARS = (
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    *(f"numpy.dtypes.{kind}DType" for kind in
      ("Bool", "Int32", "Int64", "Float32", "Float64", "Str", "Bytes")),
)  # fmt: skip
_SAFE_GLOBALS_LOCK = threading.Lock()


class _Inert:
    """Takes the place of a NumPy scalar: accepts any arguments and state, and does nothing."""

    def __init__(self, *_: object) -> None: ...

    __setstate__ = __init__


def safe_load(path: Path) -> Any:
    """The plain values and tensors in a file, on the CPU.

    Raises CheckpointError if it is damaged, is not a PyTorch file, or would need code to be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no weights file {str(path)!r}.")
    if not path.is_file():
        raise CheckpointError(f"{str(path)!r} is not a file; a weights file (.pth) is needed.")
    try:
        _check_container(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if not any(name in str(error) for name in _NUMPY_SCALARS):
                raise
        inert: list[Any] = [(_Inert, name) for name in _NUMPY_SCALARS]
        with _SAFE_GLOBALS_LOCK, torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # the bytes of a file can provoke anything
        rejected = re.search(r"(?:GLOBAL|class|function) ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and rejected:
            raise CheckpointError(
                f"{str(path)!r} was not read: it needs {rejected[1]}, which could execute code. "
                f"Whole training checkpoints often hold more than weights. Ask its author to save "
                f'the weights alone: torch.save({{"state_dict": model.state_dict()}}, '
                f'"weights.pth").'
            ) from error
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise CheckpointError(
            f"{str(path)!r} is damaged or not a PyTorch weights file ({reason}). Get it again, and "
            f"compare its length or digest with the original's."
        ) from error


def _check_container(path: Path) -> None:
    """Raise if a file is visibly no checkpoint, or an archive with a damaged member."""
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head:
        raise CheckpointError(f"{str(path)!r} is empty.")
    if head.lstrip()[:1] == b"<":
        raise CheckpointError(
            f"{str(path)!r} is a web page, not a weights file: the server sent a page in place of "
            f"the file. Delete it and download it again."
        )
    if head[:4] != b"PK\x03\x04":
        return  # a legacy file or no checkpoint at all: the unpickler decides
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        # torch.save never compresses; a compressed member could unpack to any size.
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("it has compressed members")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its members are larger than the file")
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"{damaged} does not agree with its checksum")
