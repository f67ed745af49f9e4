"""Everything that vesselseg raises on purpose.

::

    VesselsegError
    |- UnknownModelError   (ValueError)   no model of that name
    |- DownloadError       (OSError)      weights could not be obtained
    |- CheckpointError     (ValueError)   a weights file is not what it should be
    |- ImageError          (ValueError)   an input is not an image that is accepted
    |- DeviceError         (ValueError)   a device or precision that this machine lacks
    |- OptionError         (ValueError)   an argument outside what is allowed
    |- DatasetError        (ValueError)   a data set folder is not laid out as expected
    |- OutputError         (OSError)      a result could not be written
    |- ResourceError       (MemoryError)  not enough memory
    `- MissingExtraError   (ImportError)  an optional dependency is not installed

Each also is the built-in exception that fits, so ``except ValueError`` keeps working. A path
that does not exist raises the built-in :class:`FileNotFoundError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VesselsegError(Exception):
    """Base of all errors that vesselseg raises on purpose."""


class UnknownModelError(VesselsegError, ValueError):
    """No model of that name."""


class DownloadError(VesselsegError, OSError):
    """Weights could not be obtained."""


class CheckpointError(VesselsegError, ValueError):
    """A weights file is not what it should be."""


class ImageError(VesselsegError, ValueError):
    """An input is not an image that is accepted."""


class DeviceError(VesselsegError, ValueError):
    """A device or precision that this machine does not have."""


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


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """`` Did you mean "unet_s5-d16_drive"?``, or nothing where no name is near."""
    near = difflib.get_close_matches(str(word).lower(), list(allowed), n=2)
    return f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
