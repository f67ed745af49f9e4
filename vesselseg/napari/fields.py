"""Fields that the widgets share: a model, a model file, significant bits, a device."""

from __future__ import annotations

from magicgui.widgets import ComboBox, FileEdit

from ..registry import list_models

_BITS = (("all", None), ("14", 14), ("12", 12), ("10", 10))
_DEVICES = ("auto", "cpu", "cuda", "mps")


def model_field() -> ComboBox:
    """The models of the registry."""
    return ComboBox(
        label="Model",
        choices=[spec.name for spec in list_models()],
        tooltip="The first one comes with vesselseg; the others are downloaded on first use",
    )


def model_file_field() -> FileEdit:
    """A file that replaces the model."""
    return FileEdit(
        label="Model file",
        nullable=True,
        filter="Models (*.pth *.pt *.ckpt *.onnx)",
        tooltip="A model of your own, used in place of the one above. Empty for none",
    )


def bits_field() -> ComboBox:
    """The significant bits of 16-bit photographs."""
    return ComboBox(
        label="Bits",
        choices=_BITS,
        tooltip="How many of its 16 bits a 16-bit photograph uses",
    )


def device_field() -> ComboBox:
    """Where the network runs."""
    return ComboBox(label="Device", choices=_DEVICES, tooltip="auto takes a GPU if there is one")
