"""What is done with each photograph of a run: files, measures, and its row of the table."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..errors import ImageError
from ..files import exists
from ..fov import find_field_of_view
from ..images import MAX_PIXELS, Decoded, check_bits, decode, to_rgb
from ..labels import read_fov, read_label
from ..measures import ColorBy, Measures, require_skan
from ..metrics import Mask
from ..preprocess import check_scale
from ..result import (
    FORMATS,
    Segmentation,
    Style,
    check_style,
    check_threshold,
    encode_png,
    read_dicom_source,
    read_provenance,
)
from ..segmenter import Segmenter
from ..spec import Scale
from .jobs import MEASURES_OVERLAY, Job
from .places import is_address, read_bytes, suffix_of, version_of, write_bytes
from .table import Row

_SETTINGS = (
    "model", "sha256", "unverified", "spec", "stride", "scale", "bits", "backend", "device",
    "precision", "threshold", "input_version", "fov_diameter", "familiarity",
    "undecided_fraction", "warning",
)  # fmt: skip

SEGMENTS = "segments"
"""Key of a row under which the rows of its segments travel; it is no column of the table."""


@dataclass(frozen=True)
class Work:
    """Read a photograph; write the files of its result, measure it, and describe it in a row.

    It can be sent to another machine. `folder` is where relative paths start there, by default
    the working directory; `stdin` is the content of the job ``-``. With `measuring`, the options
    of :func:`vesselseg.measure`, the row has them and the measures of the mask; `color_by` is how
    they are drawn. `precision` is that of the workers, if it is not the model's. Raises OptionError
    for an argument that is not allowed, and MissingExtraError if measures cannot be taken.
    """

    scale: Scale | None = None
    threshold: float = 0.5
    bits: int | None = None
    style: Style = "tint"
    measuring: Mapping[str, Any] | None = None
    color_by: ColorBy = "width"
    precision: str | None = None
    max_pixels: int = MAX_PIXELS
    folder: str = ""
    stdin: bytes = b""

    def __post_init__(self) -> None:
        check_style(self.style)
        object.__setattr__(self, "threshold", check_threshold(self.threshold))
        object.__setattr__(self, "bits", check_bits(self.bits))
        if self.measuring is not None:
            require_skan()

    def expected(self, model: Segmenter | None) -> dict[str, Any]:
        """Everything that decides the content of files and rows, besides the photograph itself."""
        if model is None:  # masks are measured
            return {}
        expected = {
            "sha256": model.sha256,
            "spec": model.spec.digest,
            "scale": check_scale(self.scale, model.spec),
            "threshold": self.threshold,
            "bits": self.bits,
            "backend": model.backend,
            "precision": self.precision or model.precision,
        }
        if self.precision == "auto":
            del expected["precision"]  # each worker chooses it
        return expected

    def version(self, job: Job) -> str | None:
        """What tells this version of a job's photograph from another, if that can be found out."""
        return None if job.name == "-" else version_of(self._path(job.name))

    def read(self, job: Job) -> tuple[Decoded, str | None]:
        """The photograph, and its version."""
        version, source = self.version(job), self._source(job)
        if any(suffix_of(place) == ".dcm" for place in job.outputs.values()):
            read_dicom_source(source)  # an error before any work
        return decode(source, self.max_pixels, self.bits), version

    def finish(self, job: Job, version: str | None, result: Segmentation, seconds: float) -> Row:
        """Write the files of a job; return its row."""
        # The model got the photograph decoded.
        result.provenance.update(bits=self.bits, input_version=version)
        self._write(job, result)
        return self.describe(job, result, seconds)

    def describe(self, job: Job, result: Segmentation, seconds: float | None) -> Row:
        """The row of a result; draw what was measured, if the job says where."""
        fraction = result.vessel_fraction()
        style = {"style": self.style} if "overlay" in job.outputs else {}
        row = {
            "input": job.name,
            **job.outputs,
            **{name: result.provenance.get(name) for name in _SETTINGS},
            **style,
            "height": result.shape[0],
            "width": result.shape[1],
            "vessel_fraction": None if fraction is None else round(fraction, 6),
            "seconds": None if seconds is None else round(seconds, 3),
        }
        if self.measuring is not None:
            measures = result.measure(**self.measuring)
            row.update(self.measuring)
            row.update({name: to_six_digits(value) for name, value in measures.to_dict().items()})
            row[SEGMENTS] = _segment_rows(job.name, measures)
            if MEASURES_OVERLAY in job.outputs:
                drawn = draw_measures(measures, result.provenance, self.color_by)
                write_bytes(self._path(job.outputs[MEASURES_OVERLAY]), drawn)
        return row

    def read_existing(self, job: Job) -> tuple[Segmentation, None]:
        """The result of an earlier run: its mask, with the field of view."""
        place = self._path(job.outputs["mask"])
        photograph = to_rgb(self._source(job), self.max_pixels, self.bits)
        inside = find_field_of_view(photograph).mask
        result = _to_result(job, read_label(place), inside, read_provenance(place), photograph)
        return result, None

    def finish_existing(self, job: Job, _: None, result: Segmentation, __: float) -> Row:
        """The row of a result of an earlier run, whose seconds are not known."""
        return self.describe(job, result, None)

    def _path(self, place: str) -> str:
        return place if is_address(place) else str(Path(self.folder, place))

    def _source(self, job: Job) -> bytes | Path:
        if job.name == "-":
            return self.stdin
        return read_bytes(job.name) if is_address(job.name) else Path(self._path(job.name))

    def _write(self, job: Job, result: Segmentation) -> None:
        for kind, place in job.outputs.items():
            if kind == MEASURES_OVERLAY:
                continue  # it is drawn from the measures
            suffix, stream = suffix_of(place), io.BytesIO()
            if suffix == ".dcm":
                result.save_dicom(stream, self._source(job))
            else:
                result.save(stream, kind, format=FORMATS[suffix], style=self.style)  # type: ignore[arg-type]
            write_bytes(self._path(place), stream.getvalue())


@dataclass(frozen=True)
class MaskWork(Work):
    """Measure masks that are there; the field of view is ``NAME_fov.png`` beside ``NAME.png``."""

    def read(self, job: Job) -> tuple[Any, None]:
        path = Path(self._path(job.name))
        provenance = read_provenance(path)
        kind = provenance.get("kind", "mask")
        if kind != "mask":
            raise ImageError(f"{job.name!r} is not a mask: vesselseg wrote it as {kind}.")
        mask = read_label(path)
        fov = path.with_name(f"{path.stem}_fov{path.suffix}")
        inside = read_fov(fov) if exists(fov) else np.ones_like(mask)
        provenance["input_version"] = self.version(job)
        return _to_result(job, mask, inside, provenance, None), None

    def finish(self, job: Job, _: Any, result: Segmentation, seconds: float) -> Row:
        return self.describe(job, result, seconds)


def _to_result(
    job: Job, mask: Mask, inside: Mask, provenance: dict[str, Any], photograph: Any
) -> Segmentation:
    """A mask from a file as a result, whose probabilities are 0 and 1.

    `photograph` is None where there is no photograph.
    """
    if mask.shape != inside.shape:
        raise ImageError(f"{job.name!r} and its mask differ in size. Segment it again.")
    return Segmentation(mask, mask.astype(np.float32), inside, provenance, photograph)


def draw_measures(measures: Measures, provenance: Mapping[str, Any], color_by: ColorBy) -> bytes:
    """The overlay as a PNG file, which says how it was made."""
    made = {"vesselseg": __version__, **provenance, "kind": MEASURES_OVERLAY}
    for name in ("mm_per_pixel", "fill_holes", "min_size"):
        made[name] = getattr(measures, name)
    made["color_by"] = color_by
    return encode_png(measures.overlay(color_by=color_by), made)


def _segment_rows(name: str, measures: Measures) -> list[Row]:
    """A row for each segment."""
    columns = measures.segments
    return [
        {"input": name, **dict(zip(columns, map(to_six_digits, values), strict=True))}
        for values in zip(*(column.tolist() for column in columns.values()), strict=True)
    ]


def to_six_digits(value: float | None) -> float | None:
    """A number with six significant digits, which is more than any measure has; None for NaN."""
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else float(f"{value:.6g}")
