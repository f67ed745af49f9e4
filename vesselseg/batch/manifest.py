"""The record of a run over many images: JSON lines, one per image."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from .. import fov
from ..errors import OptionError, OutputError
from ..files import whole_file
from ..images import to_rgb
from ..result import Segmentation
from .plan import Job

logger = logging.getLogger(__name__)

Line: TypeAlias = "dict[str, Any]"

_START = '{"input":'
_MADE_WITH = ("model", "sha256", "scale", "backend", "device", "precision", "threshold")


def describe(job: Job, result: Segmentation) -> Line:
    """What the manifest says of an image that was segmented; the seconds are still None."""
    inside = result.mask[result.field_of_view]
    return _line(job, result.provenance, _fraction(inside))


def describe_failure(job: Job, error: BaseException) -> Line:
    """What the manifest says of an image that was not."""
    return {"input": job.name, "error": str(error) or type(error).__name__}


def describe_existing(job: Job) -> Line:
    """What the manifest would have said of results that an earlier run left.

    The settings are those that the mask's file carries, the fraction is counted anew, and the
    seconds are unknown: None. So is whatever a file that vesselseg did not write does not tell.
    """
    provenance: dict[str, Any] = {}
    fraction = None
    try:
        with Image.open(job.outputs["mask"]) as opened:
            provenance = json.loads(opened.info.get("vesselseg", "{}"))
            mask = np.asarray(opened) > 127
        inside = fov.find(to_rgb(job.image)).mask
        fraction = _fraction(mask[inside]) if mask.shape == inside.shape else None
    except Exception as error:  # files of others: a decoder may raise anything
        logger.debug("%r tells nothing: %s", str(job.outputs["mask"]), error)
    return _line(job, provenance, fraction)


def _line(job: Job, provenance: dict[str, Any], fraction: float | None) -> Line:
    return {
        "input": job.name,
        "outputs": {kind: str(path) for kind, path in job.outputs.items()},
        **{name: provenance.get(name) for name in _MADE_WITH},
        "seconds": None,
        "vessel_fraction": fraction,
    }


def _fraction(inside: np.ndarray[Any, np.dtype[np.bool_]]) -> float | None:
    return round(float(inside.mean()), 6) if inside.size else None


class Manifest:
    """A file of lines. Each is whole as soon as it is added; in the end they are sorted.

    Parameters
    ----------
    path : Path
        The folder is created; an older manifest is replaced.
    lines : iterable of dict
        What it begins with.

    Raises
    ------
    OptionError
        If the file exists and is no manifest.
    OutputError
        If it cannot be written.
    """

    def __init__(self, path: Path, lines: Iterable[Line] = ()) -> None:
        self._path = path
        kept = list(lines)
        read(path)  # whatever else the file may be, it is not replaced
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._rewrite(kept)
            self._stream = path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise _unwritable(path, error) from error

    def add(self, line: Line) -> None:
        """Append a line and hand it to the operating system."""
        try:
            self._stream.write(_text(line))
            self._stream.flush()
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def finish(self) -> None:
        """Put the lines in the order of their inputs, whatever order they were added in."""
        self.close()
        self._rewrite(sorted(read(self._path), key=lambda x: (x["input"], str(x.get("outputs")))))

    def close(self) -> None:
        """Close the file; nothing can be added any more."""
        self._stream.close()

    def _rewrite(self, lines: Iterable[Line]) -> None:
        with whole_file(self._path) as part:
            part.write_text("".join(map(_text, lines)), encoding="utf-8", newline="\n")


def read(path: Path) -> list[Line]:
    """Lines of a manifest; none if there is no file, and without the last one if it is cut off.

    Raises
    ------
    OptionError
        If the file is no manifest.
    """
    if not path.exists():
        return []
    try:
        if not path.is_file():
            raise ValueError("a folder or a device")
        content = path.read_text(encoding="utf-8")
        if any(not line.startswith(_START) for line in content.splitlines()):
            raise ValueError("a line of something else")
        whole, _, _ = content.rpartition("\n")  # what follows was cut off
        return [json.loads(line) for line in whole.splitlines()]
    except (OSError, ValueError) as error:
        raise OptionError(
            f"{str(path)!r} is not a manifest of vesselseg, so it is not replaced ({error}). "
            f"Give another name, or move it away."
        ) from error


def _text(line: Line) -> str:
    return json.dumps(line) + "\n"


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"The manifest {str(path)!r} cannot be written: {error}.")
