"""Read and check labelled photographs, and split them by subject."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from ..corrections import find_corrections
from ..errors import DatasetError, OptionError
from ..evaluation.datasets import Sample, find_subject, read_photograph, read_sample_label
from ..fov import find_field_of_view
from ..images import check_bits
from ..preprocess import vessel_bias
from ..spec import ModelSpec
from .windows import LabelledPhotograph


def split_by_subject(
    samples: tuple[Sample, ...], group: str | None, held_out: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """The photographs to train on, and those to measure on; both are sorted by subject.

    The share `held_out` of the subjects, at least one, is chosen at random from `seed`. `group` is
    a regular expression for file names, after the names of subfolders. Its first group, or the
    whole match if it has none, names the subject. Without `group`, every photograph counts as a
    subject of its own.

    Raises OptionError if `group` is not a regular expression, does not match every file name, or
    finds only one subject.
    """
    samples_of: dict[str, list[Sample]] = {}
    for sample in samples:
        samples_of.setdefault(find_subject(name_in_folder(sample), group), []).append(sample)
    names = sorted(samples_of)
    if len(names) < 2:
        raise OptionError(
            f"All {len(samples)} photographs are of one subject, {names[0]!r}, so none can be held "
            f"out to measure on. Add photographs of other subjects, or change group ({group!r})."
        )
    number = min(max(round(held_out * len(names)), 1), len(names) - 1)
    order = np.random.default_rng(seed).permutation(len(names))
    training, measured = (
        [sample for place in sorted(places) for sample in samples_of[names[place]]]
        for places in (order[number:], order[:number])
    )
    return training, measured


def name_in_folder(sample: Sample) -> str:
    """The file name of a photograph, after the subfolders that it is in."""
    return str(PurePosixPath(sample.name).with_name(sample.image.name))


def read_corrected(folder: Path, recursive: bool, bits: int | None) -> tuple[Sample, ...]:
    """The photographs in a folder that have a correction, with it as their label.

    Raises FileNotFoundError if there is no such folder, and DatasetError if fewer than two are
    corrected or it is not clear which.
    """
    found = find_corrections(folder, recursive=recursive)
    if len(found) < 2:
        hint = "" if recursive else " --recursive also searches subfolders."
        raise DatasetError(
            f"Corrected photographs in {str(folder)!r}: {len(found)}. At least two are needed, one "
            f"to train on and one to measure on. The correction of 'eye.jpg' is "
            f"'corrections/eye.png' in that folder.{hint}"
        )
    bits = check_bits(bits)
    return tuple(
        Sample(
            (photograph.parent.relative_to(folder) / label.stem).as_posix(), "", photograph, label,
            bits=bits,
        )
        for photograph, label in found
    )  # fmt: skip


def read_labelled(sample: Sample, spec: ModelSpec) -> LabelledPhotograph:
    """Read a photograph and its label, and check them.

    Raises ImageError if the photograph cannot be decoded, and DatasetError if the label cannot be
    decoded, has another size, or shows too many vessels, or none though all of it is known.
    """
    rgb = read_photograph(sample)
    label, known = read_sample_label(sample, sample.label, rgb)
    is_partial = not known.all()
    if not (label.any() or is_partial):
        raise DatasetError(
            f"Label {str(sample.label)!r} has no vessel: all of it is black. Vessels must be "
            f"white. Draw them, or remove the photograph {sample.image.name!r} and its label."
        )
    diameter = find_field_of_view(rgb).diameter
    size = float(max(rgb.shape)) if diameter is None else diameter
    bias = vessel_bias(diameter, spec)
    return LabelledPhotograph(rgb, label, size, bias, known=known if is_partial else None)
