"""What the widgets share: fields, rows of buttons, and the download of a model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from magicgui.widgets import ComboBox, Container, FileEdit, PushButton

from ..choices import DEVICES
from ..registry import list_models

_BITS = (("all", None), ("14", 14), ("12", 12), ("10", 10))


def model_fields() -> tuple[ComboBox, FileEdit, ComboBox, ComboBox]:
    """Fields for a model of the registry, a file in place of it, bits and a device."""
    return (
        ComboBox(
            label="Model",
            choices=[spec.name for spec in list_models()],
            tooltip="The first one comes with vesselseg; the others are downloaded on first use",
        ),
        FileEdit(
            label="Model file",
            nullable=True,
            filter="Models (*.pth *.pt *.ckpt *.onnx)",
            tooltip="A model of your own, used in place of the one above. Empty for none",
        ),
        ComboBox(
            label="Bits", choices=_BITS, tooltip="How many of its 16 bits a 16-bit photograph uses"
        ),
        ComboBox(label="Device", choices=DEVICES, tooltip="auto takes a GPU if there is one"),
    )


def row(*widgets: PushButton) -> Container:
    """Buttons beside one another."""
    return Container(widgets=list(widgets), layout="horizontal", labels=False)


class Cancelled(Exception):  # noqa: N818 # no error: the user asked for it
    """Ends a download that is not wanted any more."""


def download_model(
    model: str | Path,
    cancelled: threading.Event,
    show: Callable[[int, int | None], Any] | None = None,
) -> None:
    """Download a model of the registry, unless `model` is a file. Runs in a thread.

    `show` is called with the bytes that have arrived and that there are. Raises Cancelled once
    `cancelled` is set.
    """
    from ..api import download  # loads PyTorch

    def on_progress(received: int, total: int | None) -> None:
        if cancelled.is_set():
            raise Cancelled
        if show is not None:
            show(received, total)

    if isinstance(model, str):
        download(model, progress=on_progress)
