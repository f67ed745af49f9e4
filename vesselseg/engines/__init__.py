"""Other programs' formats and runtimes behind the same :class:`vesselseg.Segmenter`."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import MissingExtraError


def require(module: str, extra: str) -> Any:
    """Import a module of an optional extra.

    Raises
    ------
    MissingExtraError
        If it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"This needs {module}, which cannot be imported here ({error}). "
            f'Install it: pip install "vesselseg[{extra}]".'
        ) from error
