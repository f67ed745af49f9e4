"""Read files of ``torch.save`` without executing anything in them."""

from __future__ import annotations

import pickle
import re
import threading
import zipfile
from pathlib import Path
from stat import S_ISREG
from typing import Any

import torch

from .errors import CheckpointError

# Checkpoints of a training hold more than weights: the scalars and arrays of a log, and objects of
# the framework. They are not needed, so an inert object takes the place of what would make them.
_NOT_NEEDED = re.compile(
    r"(?:numpy|mmengine|mmcv|mmseg|argparse|datetime|pathlib)\..+|(?:builtins\.)?getattr"
)
_MOST_STAND_INS = 100
_SAFE_GLOBALS_LOCK = threading.Lock()


class _Inert:
    """Takes the place of a class or function: accepts any arguments and state, does nothing."""

    def __init__(self, *_: object) -> None: ...

    __setstate__ = __init__


def safe_load(path: Path) -> Any:
    """The plain values and tensors in a file, on the CPU.

    Raises CheckpointError if it is damaged, is not a PyTorch file, or would need code to be read.
    """
    try:
        if not S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{str(path)!r} is not a file; a weights file (.pth) is needed.")
        _check_container(path)
        return _load(path)
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no weights file {str(path)!r}.") from error
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"{str(path)!r} cannot be read: {reason}.") from error
    except Exception as error:  # the bytes of a file can provoke anything
        rejected = _rejected_name(error)
        if rejected:
            raise CheckpointError(
                f"{str(path)!r} was not read: it needs {rejected}, which could execute code. "
                f"Whole training checkpoints often hold more than weights. Ask its author to save "
                f'the weights alone: torch.save({{"state_dict": model.state_dict()}}, '
                f'"weights.pth").'
            ) from error
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise CheckpointError(
            f"{str(path)!r} is damaged or not a PyTorch weights file ({reason}). Get it again, and "
            f"compare its length or digest with the original's."
        ) from error


def _load(path: Path) -> Any:
    """The content of a file, with stand-ins for what is not needed."""
    stand_ins: list[Any] = []
    while True:
        try:
            with _SAFE_GLOBALS_LOCK, torch.serialization.safe_globals(stand_ins):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            name = _rejected_name(error)
            if not _NOT_NEEDED.fullmatch(name) or len(stand_ins) == _MOST_STAND_INS:
                raise
            stand_ins.append((_Inert, "builtins.getattr" if name == "getattr" else name))


def _rejected_name(error: Exception) -> str:
    """The class or function that PyTorch did not allow, or ""."""
    found = re.search(r"(?:GLOBAL|class|function) ([\w.]+)", str(error))
    return found[1] if found and isinstance(error, pickle.UnpicklingError) else ""


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
