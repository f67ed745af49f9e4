"""Your own labelled photographs: read, checked, and split by person."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import DatasetError, OptionError
from ..evaluation.datasets import Sample, read_photograph
from ..evaluation.scores import read_mask
from ..fov import find_field_of_view
from ..preprocess import vessel_bias
from ..spec import ModelSpec
from .windows import LabelledPhotograph

_LARGEST_SHARE = 0.5  # of a label that is vessel; real ones have about a tenth


class Person(NamedTuple):
    """Somebody's photographs."""

    name: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Split:
    """The persons that are trained on and those that are held out, each sorted by name."""

    training: tuple[Person, ...]
    held_out: tuple[Person, ...]

    @property
    def training_samples(self) -> list[Sample]:
        """The photographs to train on."""
        return [sample for person in self.training for sample in person.samples]

    @property
    def held_out_samples(self) -> list[Sample]:
        """The photographs to measure on."""
        return [sample for person in self.held_out for sample in person.samples]


def split_by_person(
    samples: tuple[Sample, ...], group: str | None, held_out: float, seed: int
) -> Split:
    """Hold out the share `held_out` of the persons, at least one, drawn with `seed` alone.

    `group` is a regular expression for file names; its first group, or else the whole match, names
    the person. None counts every photograph as another person's.
    """
    samples_of: dict[str, list[Sample]] = {}
    for sample in samples:
        samples_of.setdefault(find_person(sample.image.name, group), []).append(sample)
    names = sorted(samples_of)
    if len(names) < 2:
        raise OptionError(
            f"All {len(samples)} photographs are of one person, {names[0]!r}, so none can be held "
            f"out to measure on. Add photographs of other persons, or change group ({group!r})."
        )
    number = min(max(round(held_out * len(names)), 1), len(names) - 1)
    chosen = np.random.default_rng(seed).permutation(len(names))[:number]
    persons = [Person(name, tuple(samples_of[name])) for name in names]
    return Split(
        tuple(person for place, person in enumerate(persons) if place not in chosen),
        tuple(person for place, person in enumerate(persons) if place in chosen),
    )


def find_person(filename: str, group: str | None) -> str:
    """The person that a photograph's file name means; OptionError if it names none."""
    if group is None:
        return filename
    try:
        match = re.search(group, filename)
    except re.error as error:
        raise OptionError(
            f"group is {group!r}, which is not a regular expression: {error}. An example is "
            f"'(.+)_[LR]', which names the person by what stands before _L or _R."
        ) from error
    person = match and match[1 if match.re.groups else 0]
    if not person:
        raise OptionError(
            f"group {group!r} finds no person in the file name {filename!r}. It must match every "
            f"photograph; its first group in brackets, or the whole match, names the person."
        )
    return person


def read_labelled(sample: Sample, spec: ModelSpec) -> LabelledPhotograph:
    """Read a photograph and its label for a model.

    Raises ImageError for a photograph that cannot be decoded, and DatasetError for a label that
    cannot be decoded, is of another size, or has no vessels or too many.
    """
    rgb = read_photograph(sample)
    label = read_mask(sample.label, sample, rgb)
    share = label.mean()
    if share == 0:
        raise DatasetError(
            f"Label {str(sample.label)!r} has no vessel: all of it is black. Vessels must be "
            f"white. Draw them, or remove the photograph {sample.image.name!r} and its label."
        )
    if share > _LARGEST_SHARE:
        raise DatasetError(
            f"In label {str(sample.label)!r} {math.floor(100 * share)} % of the pixels are vessel. "
            f"Vessels must be white and everything else black. Invert the label if it is the other "
            f"way round."
        )
    diameter = find_field_of_view(rgb).diameter
    size = float(max(rgb.shape)) if diameter is None else diameter
    return LabelledPhotograph(rgb, label, size, vessel_bias(diameter, spec))
