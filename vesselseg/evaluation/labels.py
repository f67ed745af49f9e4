"""Labels, fields of view and photographs of data sets, from file to pixels."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DatasetError
from ..images import RGB, to_rgb


def read_photograph(path: Path) -> RGB:
    """A photograph, gzipped or not, as uint8 RGB (H, W, 3); errors as ``images.to_rgb``."""
    return to_rgb(_content(path) if path.suffix.lower() == ".gz" else path)


def read_label(path: Path) -> NDArray[np.bool_]:
    """A label or field of view, True where it is white.

    Returns
    -------
    ndarray of bool (H, W)
        By the published convention: values of at least 128 of 255, or above 0 in a file whose
        largest value is 1.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    DatasetError
        If it cannot be decoded, or neither convention fits its values.
    """
    content = _content(path)
    try:
        # Bytes from outside can make a decoder raise anything; all of it means the same here.
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            mode = opened.mode
            if mode in ("1", "L", "I", "F") or mode.startswith("I;16"):
                values = np.asarray(opened)
            else:  # palettes and colours by their brightness
                values = np.asarray(opened.convert("L"))
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise DatasetError(f"Label {str(path)!r} could not be decoded: {reason}.") from error
    if values.dtype == np.bool_:
        return values
    largest = values.max()
    if largest <= 1:
        return np.asarray(values > 0)
    white = 65535 if largest > 255 else 255
    label = values >= (white + 1) / 2
    if largest > 65535 or not label.any():
        raise DatasetError(
            f"Label {str(path)!r} has values up to {largest:g}; expected are black and white as "
            f"0 and 255, or as 0 and 1."
        )
    return np.asarray(label)


def _content(path: Path) -> bytes:
    """The bytes of a file, unpacked if it is gzipped."""
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix.lower() == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{str(path)!r} cannot be read or unpacked: {error}.") from error
