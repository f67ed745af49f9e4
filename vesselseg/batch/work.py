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
from ..measures import ColorBy, Measures, measure, require_skan
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
from .places import is_address, names_dicom, read_bytes, suffix_of, version_of, write_bytes
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
        if any(map(names_dicom, job.outputs.values())):
            read_dicom_source(source)  # an error before any work
        return decode(source, self.max_pixels, self.bits), version

    def finish(self, job: Job, version: str | None, result: Segmentation, seconds: float) -> Row:
        """Write the files of a job; return its row."""
        # The model got the photograph decoded.
        result.provenance.update(bits=self.bits, input_version=version)
        self._write(job, result)
        return self.describe(job, result, seconds)

    def describe(self, job: Job, result: Segmentation, seconds: float) -> Row:
        """The row of a result."""
        row = self._describe(job, result.provenance, result.shape, result.vessel_fraction())
        row["seconds"] = round(seconds, 3)
        if self.measuring is not None:
            self._add_measures(row, job, result.measure(**self.measuring), result.provenance)
        return row

    def read_existing(self, job: Job) -> tuple[tuple[Mask, Mask], dict[str, Any]]:
        """The mask that an earlier run wrote, with the field of view, and its provenance."""
        place = self._path(job.outputs["mask"])
        photograph = to_rgb(self._source(job), self.max_pixels, self.bits)
        inside = find_field_of_view(photograph).mask
        return (read_label(Path(place)), inside), read_provenance(place)

    def finish_existing(
        self, job: Job, provenance: dict[str, Any], masks: tuple[Mask, Mask], _: float
    ) -> Row:
        """The row of a mask that an earlier run wrote; its seconds are not known."""
        mask, inside = masks
        if mask.shape != inside.shape:
            raise ImageError(f"{job.name!r} and its mask differ in size. Segment it again.")
        fraction = float(mask[inside].mean()) if inside.any() else None
        row = self._describe(job, provenance, mask.shape, fraction)
        row["seconds"] = None
        if self.measuring is not None:
            measures = measure(mask, fov=inside, **self.measuring)
            self._add_measures(row, job, measures, provenance)
        return row

    def _describe(
        self,
        job: Job,
        provenance: Mapping[str, Any],
        shape: tuple[int, ...],
        fraction: float | None,
    ) -> Row:
        style = {"style": self.style} if "overlay" in job.outputs else {}
        return {
            "input": job.name,
            **job.outputs,
            **{name: provenance.get(name) for name in _SETTINGS},
            **style,
            "height": shape[0],
            "width": shape[1],
            "vessel_fraction": None if fraction is None else round(fraction, 6),
        }

    def _add_measures(
        self, row: Row, job: Job, measures: Measures, provenance: Mapping[str, Any]
    ) -> None:
        assert self.measuring is not None
        row.update(self.measuring)
        row.update({name: to_six_digits(value) for name, value in measures.to_dict().items()})
        row[SEGMENTS] = _segment_rows(job.name, measures)
        place = job.outputs.get(MEASURES_OVERLAY)
        if place is not None:
            drawn = draw_measures(measures, provenance, self.color_by)
            write_bytes(self._path(place), drawn)

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
            if names_dicom(suffix):
                result.save_dicom(stream, self._source(job))
            else:
                result.save(stream, kind, format=FORMATS[suffix], style=self.style)  # type: ignore[arg-type]
            write_bytes(self._path(place), stream.getvalue())


@dataclass(frozen=True)
class MaskWork(Work):
    """Measure masks that are there; the field of view is ``NAME_fov.png`` beside ``NAME.png``."""

    def read(self, job: Job) -> tuple[Any, Any]:
        path = Path(self._path(job.name))
        provenance = read_provenance(path)
        kind = provenance.get("kind", "mask")
        if kind != "mask":
            raise ImageError(f"{job.name!r} is not a mask: vesselseg wrote it as {kind}.")
        mask = read_label(path)
        fov = path.with_name(f"{path.stem}_fov{path.suffix}")
        inside = read_fov(fov) if exists(fov) else np.ones_like(mask)
        return (mask, inside), {**provenance, "input_version": self.version(job)}

    def finish(self, job: Job, provenance: Any, masks: Any, seconds: float) -> Row:
        row = self.finish_existing(job, provenance, masks, seconds)
        return {**row, "seconds": round(seconds, 3)}


def draw_measures(measures: Measures, provenance: Mapping[str, Any], color_by: ColorBy) -> bytes:
    """The overlay as a PNG file, which says how it was made."""
    made = {"vesselseg": __version__, **provenance, "kind": MEASURES_OVERLAY}
    for name in ("mm_per_pixel", "fill_holes", "min_size"):
        made[name] = getattr(measures, name)
    made["color_by"] = color_by
    return encode_png(measures.overlay(color_by=color_by), made)


def _segment_rows(name: str, measures: Measures) -> list[Row]:
    """A row for each segment; what one does not have is None."""
    columns = {key: values.tolist() for key, values in measures.segments.items()}
    return [
        {
            "input": name,
            **{
                key: None if math.isnan(value) else to_six_digits(value)
                for key, value in zip(columns, values, strict=True)
            },
        }
        for values in zip(*columns.values(), strict=True)
    ]


def to_six_digits(value: float | None) -> float | None:
    """A number with six significant digits, which is more than any measure has."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
