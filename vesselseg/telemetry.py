"""Optional dependencies without their usage reports.

ONNX Runtime, OpenVINO and NNCF report how they are used unless they are told not to. ONNX Runtime
reads a variable when it is imported. The others report with the module ``openvino_telemetry``, and
work without it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .errors import require

_VARIABLE = "ORT_DISABLE_TELEMETRY"
_MODULE = "openvino_telemetry"
_LOCK = threading.RLock()


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Switch off the reports of what is imported meanwhile; then restore everything."""
    with _LOCK:
        variable = os.environ.get(_VARIABLE)
        module = {_MODULE: sys.modules[_MODULE]} if _MODULE in sys.modules else {}
        os.environ[_VARIABLE] = "1"
        sys.modules[_MODULE] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            del sys.modules[_MODULE], os.environ[_VARIABLE]
            sys.modules.update(module)
            if variable is not None:
                os.environ[_VARIABLE] = variable


def import_without_telemetry(module: str, extra: str) -> Any:
    """Import a module of an optional extra, which then reports nothing unless it was there before.

    Raises MissingExtraError if it cannot be imported.
    """
    with _LOCK:
        if sys.modules.get(module) is not None:
            return sys.modules[module]
        with without_telemetry():
            return require(module, extra)
