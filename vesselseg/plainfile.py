"""Files of ``torch.save``, read without executing anything in them."""

from __future__ import annotations

import pickle
import re
import threading
import zipfile
from pathlib import Path
from typing import Any

import torch

from .errors import CheckpointError

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


def load_plain(path: Path) -> Any:
    """The plain values and tensors in a file, on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is damaged, no such file, or needs code to be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no weights file {str(path)!r}.")
    if not path.is_file():
        raise CheckpointError(f"{str(path)!r} is a folder; a weights file (.pth) is needed.")
    _check_container(path)
    return _unpickle(path)


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
