"""What the backends that run exported ONNX files have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import CheckpointError, OptionError
from ..spec import ModelSpec
from . import EXPORT_INT8


class OnnxFile(NamedTuple):
    """The content of a file, and its path for messages."""

    content: bytes
    label: str


def read(path: Path) -> OnnxFile:
    """Read a file; raise FileNotFoundError or CheckpointError if that fails."""
    if not path.exists():
        raise FileNotFoundError(f"There is no model file {str(path)!r}.")
    if not path.is_file():
        raise CheckpointError(f"{str(path)!r} is a folder, not an exported model (.onnx).")
    try:
        return OnnxFile(path.read_bytes(), str(path))
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error.strerror}.") from error


def damaged(label: str, error: Exception) -> CheckpointError:
    """Return the error for a file that a runtime cannot read."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    detail = lines[-1].strip()[:200] if lines else type(error).__name__
    return CheckpointError(
        f"{label!r} is damaged or not an ONNX file ({detail}). Export the model again."
    )


def read_metadata(
    metadata: Mapping[str, str], precision: str | None, label: str
) -> tuple[ModelSpec, str]:
    """Return the model spec and the precision in the metadata of a file.

    Raises CheckpointError if there is no model spec, and OptionError if the file does not run in
    the precision that the caller chose.
    """
    try:
        values = json.loads(metadata.get("spec", ""))
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{label!r} contains no model spec. Use a file written by `vesselseg export` or "
            f"Segmenter.export()."
        )
    spec, of_file = ModelSpec.from_dict(values), metadata.get("precision", "float32")
    if of_file == "int8" and precision not in (None, "auto", "int8"):
        raise OptionError(
            f"{label!r} is an int8 file, which cannot run in {precision}. Leave precision out, or "
            f"load the model that the file was exported from."
        )
    if of_file != "int8" and precision == "int8":
        raise OptionError(f"{label!r} is not an int8 file. {EXPORT_INT8}")
    return spec, of_file
