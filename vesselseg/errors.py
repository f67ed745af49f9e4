"""The exceptions that vesselseg raises.

::

    VesselsegError
    |- UnknownModelError   (ValueError)   no model of that name
    |- DownloadError       (OSError)      weights could not be obtained
    |- CheckpointError     (ValueError)   a weights file is damaged or does not fit
    |- ImageError          (ValueError)   an input is not an accepted image
    |- DeviceError         (ValueError)   a device or precision that is not available
    |- OptionError         (ValueError)   an argument outside what is allowed
    |- DatasetError        (ValueError)   a data set folder is not laid out as expected
    |- OutputError         (OSError)      a result could not be written
    |- ResourceError       (MemoryError)  not enough memory
    `- MissingExtraError   (ImportError)  an optional dependency is not installed

Each is also the built-in exception in brackets, so ``except ValueError`` works. A path that does
not exist raises the built-in :class:`FileNotFoundError`.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from typing import Any

from ._version import __version__

__all__ = [
    "CheckpointError",
    "DatasetError",
    "DeviceError",
    "DownloadError",
    "ImageError",
    "MissingExtraError",
    "OptionError",
    "OutputError",
    "ResourceError",
    "UnknownModelError",
    "VesselsegError",
]


class VesselsegError(Exception):
    """Base class of vesselseg's exceptions."""


class UnknownModelError(VesselsegError, ValueError):
    """No model of that name."""


class DownloadError(VesselsegError, OSError):
    """Weights could not be obtained."""


class CheckpointError(VesselsegError, ValueError):
    """A weights file is damaged or does not fit the model."""


class ImageError(VesselsegError, ValueError):
    """An input is not an accepted image."""


class DeviceError(VesselsegError, ValueError):
    """A device or precision that is not available on this machine."""


class OptionError(VesselsegError, ValueError):
    """An argument outside what is allowed."""


class DatasetError(VesselsegError, ValueError):
    """A data set folder is not laid out as expected."""


class OutputError(VesselsegError, OSError):
    """A result could not be written."""


class ResourceError(VesselsegError, MemoryError):
    """Not enough memory."""


class MissingExtraError(VesselsegError, ImportError):
    """An optional dependency is not installed."""


def redact(text: object) -> str:
    """A text with addresses as it may be shown: without passwords and the queries of addresses."""
    shown = re.sub(r"//[^/\s,'\"]*@", "//***@", str(text))
    shown = re.sub(r"(?<![\w/])[^\s/\\@,:='\"]+:[^\s/\\@,'\"]*@", "***@", shown)  # of proxies
    shown = re.sub(r"(\w://[^\s?#,'\"]*)[?#][^\s,'\"]*", r"\1", shown)
    return re.sub(r"\?[^\s?=,'\"]+=[^\s,'\")]*", "", shown)


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """A question such as `` Did you mean 'unet_s5-d16_drive'?``, or "" if no name is similar."""
    names, word = list(allowed), str(word).lower()
    similar = difflib.get_close_matches(word, names, n=2)
    if not similar and len(word) > 2:
        similar = [name for name in names if word in name.lower()][:2]
    return f" Did you mean {' or '.join(map(repr, similar))}?" if similar else ""


def install_command(extra: str) -> str:
    """The command that installs an optional extra: from the repository until a release."""
    if ".dev" in __version__:
        return f'pip install -c constraints.txt ".[{extra}]"'
    return f'pip install "vesselseg[{extra}]"'


def how_to_install(extra: str) -> str:
    """The sentence that says how to install an optional extra, for messages."""
    where = ", in the top folder of the repository" if ".dev" in __version__ else ""
    return f"Install it{where}: {install_command(extra)}."


def missing_extra(module: str, extra: str, reason: object) -> MissingExtraError:
    """The error for a module of an optional extra that cannot be imported."""
    return MissingExtraError(
        f"This needs {module}, which cannot be imported here ({reason}). {how_to_install(extra)}"
    )


def require(module: str, extra: str) -> Any:
    """Import a module of an optional extra; raise MissingExtraError if that fails."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing_extra(module, extra, error) from error
