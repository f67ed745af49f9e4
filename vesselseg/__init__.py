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
    from . import finetune, metrics
    from .api import clear_models, download, find_cached, import_file, load_model, segment
    from .batch.folder import segment_folder
    from .images import field_of_view
    from .measures import Measures, measure
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
    "Measures",
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
    "finetune",
    "import_file",
    "list_models",
    "load_model",
    "measure",
    "metrics",
    "segment",
    "segment_folder",
]

# Module -> its public names, imported on first use: `import vesselseg` loads no torch.
_MODULES = {
    "api": ("clear_models", "download", "find_cached", "import_file", "load_model", "segment"),
    "batch.folder": ("segment_folder",),
    "images": ("field_of_view",),
    "measures": ("Measures", "measure"),
    "registry": ("list_models",),
    "result": ("Segmentation",),
    "segmenter": ("Segmenter",),
    "spec": ("ModelSpec", "Source"),
}


def __getattr__(name: str) -> Any:
    if name in ("finetune", "metrics"):
        return importlib.import_module(f".{name}", __name__)
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(importlib.import_module(f".{module}", __name__), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'vesselseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
