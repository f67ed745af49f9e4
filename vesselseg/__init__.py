"""Segment the blood vessels in fundus photographs.

::

    import vesselseg

    result = vesselseg.segment("eye.jpg")
    result.mask          # (H, W) bool
    result.probability   # (H, W) float32
    result.save("vessels.png")

    model = vesselseg.load_model("unet_s5-d16_drive")  # reusable

Research software, not a medical device.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import (
    CheckpointError,
    DatasetError,
    DeviceError,
    DownloadError,
    ImageError,
    MissingExtraError,
    OptionError,
    OutputError,
    ResourceError,
    UnknownModelError,
    VesselsegError,
)

if TYPE_CHECKING:
    from . import metrics
    from .api import clear_models, download, find_cached, import_file, load_model, segment
    from .images import field_of_view
    from .registry import list_models
    from .result import Segmentation
    from .segmenter import Segmenter
    from .spec import ModelSpec, Source

__all__ = [
    "CheckpointError",
    "DatasetError",
    "DeviceError",
    "DownloadError",
    "ImageError",
    "MissingExtraError",
    "ModelSpec",
    "OptionError",
    "OutputError",
    "ResourceError",
    "Segmentation",
    "Segmenter",
    "Source",
    "UnknownModelError",
    "VesselsegError",
    "__version__",
    "clear_models",
    "download",
    "field_of_view",
    "find_cached",
    "import_file",
    "list_models",
    "load_model",
    "metrics",
    "segment",
]

# Public name -> its module, imported on first use: `import vesselseg` loads no torch.
_MODULES = {
    "ModelSpec": "spec",
    "Segmentation": "result",
    "Segmenter": "segmenter",
    "Source": "spec",
    "clear_models": "api",
    "download": "api",
    "field_of_view": "images",
    "find_cached": "api",
    "import_file": "api",
    "list_models": "registry",
    "load_model": "api",
    "metrics": "metrics",
    "segment": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'vesselseg' has no attribute {name!r}")
    module = importlib.import_module(f".{_MODULES[name]}", __name__)
    value = module if name == "metrics" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
