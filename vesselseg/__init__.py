"""Find the blood vessels in photographs of the retina.

::

    import vesselseg

    result = vesselseg.segment("eye.jpg")
    result.mask          # (H, W) bool
    result.probability   # (H, W) float32
    result.save("vessels.png")

    model = vesselseg.load_model("unet_s5-d16_drive")  # to be used many times

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
    from .cache import download
    from .checkpoints import list_models
    from .images import field_of_view
    from .loading import clear_models, load_model, segment
    from .record import Checkpoint, Source
    from .result import Segmentation
    from .segmenter import Segmenter

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "DatasetError",
    "DeviceError",
    "DownloadError",
    "ImageError",
    "MissingExtraError",
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
    "list_models",
    "load_model",
    "metrics",
    "segment",
]

# Imported when first asked for: importing vesselseg takes milliseconds and loads no torch.
_HOMES = {
    "Checkpoint": "record",
    "Segmentation": "result",
    "Segmenter": "segmenter",
    "Source": "record",
    "clear_models": "loading",
    "download": "cache",
    "field_of_view": "images",
    "list_models": "checkpoints",
    "load_model": "loading",
    "metrics": "metrics",
    "segment": "loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vesselseg' has no attribute {name!r}")
    module = importlib.import_module(f".{_HOMES[name]}", __name__)
    value = module if name == _HOMES[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
