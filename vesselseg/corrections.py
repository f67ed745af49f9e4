"""Corrections: masks that you painted over, to be learnt from.

The correction of ``FOLDER/eye.jpg`` is ``FOLDER/corrections/eye.png``, an 8-bit grey PNG file: 0 is
background, 255 vessel, and 128 means that you do not know. If several photographs share a stem,
the whole file name is kept: ``FOLDER/corrections/eye.jpg.png``. Photographs and masks are never
changed.

::

    from vesselseg import corrections

    corrections.save_correction("photographs/eye.jpg", label, result.provenance)
    corrections.find_corrections("photographs")  # what vesselseg.finetune learns from
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ._version import __version__
from .batch.places import write_bytes
from .batch.search import LeftOut, is_photograph, walk
from .errors import DatasetError, OptionError
from .evaluation.datasets import read_partial_label, stem_of
from .files import StrPath, is_file, is_folder
from .formats import endings
from .images import decode
from .labels import CORRECTIONS
from .result import encode_png

__all__ = [
    "UNKNOWN",
    "VESSEL",
    "Correction",
    "find_corrections",
    "read_correction",
    "save_correction",
    "worth_correcting",
]

UNKNOWN = 128
"""The value of pixels that you do not know."""

VESSEL = 255
"""The value of vessels; background is 0."""


class Correction(NamedTuple):
    """A photograph and the file of its correction."""

    photograph: Path
    label: Path


def save_correction(
    photograph: StrPath, label: ArrayLike, provenance: Mapping[str, Any] | None = None
) -> Path:
    """Write the correction of a photograph, replacing an earlier one.

    Parameters
    ----------
    photograph : path
        The photograph's file. The correction goes to the folder ``corrections`` beside it, which
        is made if it does not exist.
    label : array of uint8 (H, W)
        0 for background, 128 where you do not know, 255 for vessel.
    provenance : dict, optional
        Of the mask that was painted over, such as ``result.provenance``.

    Returns
    -------
    Path
        The file of the correction. It holds, in the text chunk ``vesselseg``, the file name of the
        photograph, the date, the version of vesselseg and `provenance` (``painted_over``).

    Raises
    ------
    FileNotFoundError, ImageError
        If the photograph does not exist or cannot be read.
    OptionError
        If `label` has another shape than the photograph, other values, or no pixel that is known.
    OutputError
        If the file cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> import vesselseg
    >>> from vesselseg import corrections
    >>> result = vesselseg.segment("eye.jpg")  # doctest: +SKIP
    >>> label = np.where(result.mask, 255, 0).astype(np.uint8)  # doctest: +SKIP
    >>> label[:100] = 128  # not looked at  # doctest: +SKIP
    >>> corrections.save_correction("eye.jpg", label, result.provenance)  # doctest: +SKIP
    """
    photograph = Path(photograph)
    values = np.asarray(label)
    shape = decode(photograph).rgb.shape[:2]
    if values.shape != shape:
        raise OptionError(
            f"label has the shape {values.shape}, but the photograph {photograph.name!r} "
            f"{shape}; they must be equal."
        )
    found = set(np.unique(values).tolist())
    if not found <= {0, UNKNOWN, VESSEL}:
        raise OptionError(
            f"label has the values {sorted(found)[:8]}; allowed are 0 for background, {UNKNOWN} "
            f"where you do not know, and {VESSEL} for vessel."
        )
    if found == {UNKNOWN}:
        raise OptionError(
            f"All of label is {UNKNOWN}, which means that nothing is known. Paint some vessels or "
            f"background."
        )
    path = _name_correction(photograph)
    write_values(path, values.astype(np.uint8), photograph, provenance or {})
    return path


def write_values(
    path: Path,
    values: NDArray[np.uint8],
    photograph: Path,
    provenance: Mapping[str, Any],
    **more: Any,
) -> None:
    """Write the values of a correction and what it is of, in a folder that is made if needed."""
    about = {
        "kind": "correction",
        "vesselseg": __version__,
        "photograph": photograph.name,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "painted_over": dict(provenance),
        **more,
    }
    write_bytes(str(path), encode_png(Image.fromarray(values), about))


def find_corrections(folder: StrPath, *, recursive: bool = False) -> list[Correction]:
    """The photographs in a folder that have a correction, sorted by name.

    Parameters
    ----------
    folder : path
        The folder of the photographs, which holds the folder ``corrections``.
    recursive : bool
        Also search subfolders, each with a folder ``corrections`` of its own.

    Returns
    -------
    list of Correction
        Empty if there is no correction.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    DatasetError
        If a correction is no PNG file, or belongs to none or to several of the photographs.
    ImageError
        If a subfolder cannot be read.
    """
    folder = Path(folder)
    if not is_folder(folder):
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    folders = {folder}
    if recursive:
        files = walk(folder, LeftOut(), lambda _: True)
        holders = {file.parent for file in files} - {folder}
        folders |= {holder.parent for holder in holders if holder.name == CORRECTIONS}
    return sorted(each for place in folders for each in _find_beside(place))


def _find_beside(folder: Path) -> list[Correction]:
    """The photographs in a folder, and not in those below it, that have a correction."""
    if not is_folder(folder / CORRECTIONS):
        return []
    labels = [
        path for path in sorted((folder / CORRECTIONS).iterdir())
        if path.suffix.lower() in endings() and not path.name.startswith(".")
    ]  # fmt: skip
    for label in labels:
        if label.suffix.lower() != ".png":
            raise DatasetError(
                f"The correction {str(label)!r} is no PNG file. Export it as PNG with a grey "
                f"value of 0, {UNKNOWN} or {VESSEL} for each pixel, or move it away."
            )
    owners: defaultdict[str, list[Path]] = defaultdict(list)
    for path in _photographs(folder, {stem_of(label) for label in labels}):
        for name in _names(path):
            owners[name].append(path)
    label_of: dict[Path, Path] = {}
    for label in labels:
        photographs = owners[stem_of(label)]
        if not photographs:
            raise DatasetError(
                f"The correction {str(label)!r} belongs to no photograph in {str(folder)!r}. Its "
                f"name must be that of the photograph, with the ending .png."
            )
        if len(photographs) > 1:
            names = ", ".join(repr(path.name) for path in photographs)
            raise DatasetError(
                f"The correction {str(label)!r} could belong to {names}. Name it after the whole "
                f"file name, for example {photographs[0].name + '.png'!r}."
            )
        other = label_of.setdefault(photographs[0], label)
        if other is not label:
            raise DatasetError(
                f"{photographs[0].name!r} has two corrections, {other.name!r} and {label.name!r}. "
                f"Keep one."
            )
    return [Correction(*pair) for pair in label_of.items()]


def read_correction(path: StrPath) -> NDArray[np.uint8]:
    """Read a correction, whichever program wrote it.

    Parameters
    ----------
    path : path
        The file of the correction.

    Returns
    -------
    ndarray of uint8 (H, W)
        0 for background, 128 where it is not known, 255 for vessel.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    DatasetError
        If it is damaged or no label (:func:`vesselseg.evaluation.datasets.read_partial_label`).
    """
    label = read_partial_label(Path(path))
    values = np.where(label.vessels, VESSEL, 0)
    return np.where(label.known, values, UNKNOWN).astype(np.uint8)


def worth_correcting(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of a manifest, with those first whose photographs are most worth correcting.

    Parameters
    ----------
    rows : iterable of dict
        Rows with ``familiarity`` and ``undecided_fraction``, as a manifest has them.

    Returns
    -------
    list of dict
        Those without an error, the least familiar first, and of equally familiar ones those with
        the most undecided pixels. A figure that is not known counts as 1 and 0.

    Examples
    --------
    >>> from vesselseg import corrections
    >>> rows = [
    ...     {"input": "a.jpg", "familiarity": 1.0, "undecided_fraction": 0.02},
    ...     {"input": "b.jpg", "familiarity": 1.0, "undecided_fraction": 0.05},
    ...     {"input": "c.jpg", "familiarity": 0.7, "undecided_fraction": 0.03},
    ... ]
    >>> [row["input"] for row in corrections.worth_correcting(rows)]
    ['c.jpg', 'b.jpg', 'a.jpg']
    """

    def order(row: Mapping[str, Any]) -> tuple[float, float]:
        familiarity, undecided = row.get("familiarity"), row.get("undecided_fraction")
        return 1.0 if familiarity is None else familiarity, -(undecided or 0.0)

    return sorted((row for row in rows if not row.get("error")), key=order)


def _name_correction(photograph: Path) -> Path:
    """The file of a photograph's correction: an existing one, or one to be written."""
    folder = photograph.parent / CORRECTIONS
    others = folder.iterdir() if is_folder(folder) else ()
    existing = {stem_of(path): path for path in others if path.suffix.lower() == ".png"}
    names = [photograph.name]
    of_stem = _photographs(photograph.parent, {stem_of(photograph)})
    if all(path.name == photograph.name for path in of_stem):
        names.append(photograph.stem)
    found = [existing[name] for name in (normalize("NFC", x) for x in names) if name in existing]
    return found[0] if found else folder / f"{names[-1]}.png"


def _photographs(folder: Path, names: set[str]) -> list[Path]:
    """The photographs in a folder whose stem or whole name is one of these, sorted."""
    return sorted(
        path for path in folder.iterdir()
        if names & _names(path) and is_file(path) and is_photograph(path, LeftOut())
    )  # fmt: skip


def _names(path: Path) -> set[str]:
    """The stem and the whole name of a file, either of which its correction may have."""
    return {stem_of(path), normalize("NFC", path.name)}
