"""Any folder of photographs beside a folder of labels with the same names."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from ..errors import DatasetError
from .datasets import LAYOUTS, Dataset, Sample, number

_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".ppm", ".bmp", ".gif")


def read_pairs(
    images: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    masks: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Photographs in one folder, labels of the same stems in another.

    Parameters
    ----------
    images, labels : path
        Folders. A label's stem is that of its photograph, or that followed by ``_`` and more:
        ``eye.jpg`` goes with ``eye.png`` or ``eye_vessels.png``.
    masks : path, optional
        Folder of the fields of view, named likewise.

    Raises
    ------
    FileNotFoundError
        If a folder does not exist.
    DatasetError
        If there is no photograph, or one without or with several labels.
    """
    photographs = _pictures(Path(images))
    if not photographs:
        raise DatasetError(f"{str(images)!r} holds no image ({', '.join(_IMAGES)}).")
    stems = [path.stem for path in photographs]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise DatasetError(
            f"{str(images)!r} holds several images of the name {twice[0]!r}: leave one of each."
        )
    label_of = _partners(photographs, Path(labels), "label")
    fov_of = _partners(photographs, Path(masks), "field-of-view mask") if masks else {}
    # Where the names are those of a known data set, training images are called so here too.
    training = {name: layout.title for layout in LAYOUTS.values() for name in layout.train}
    samples = tuple(
        Sample(
            name=path.stem,
            split="train" if path.stem in training else "",
            image=path,
            label=label_of[path],
            fov=fov_of.get(path),
        )
        for path in photographs
    )
    titles = sorted({training[sample.name] for sample in samples if sample.split})
    return Dataset("pairs", " and ".join(titles) or "pairs", "all", samples)


def _pictures(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _IMAGES and path.is_file() and not path.name.startswith(".")
    )


def _partners(photographs: list[Path], folder: Path, what: str) -> dict[Path, Path]:
    """For each photograph the file of that stem, or of that stem, ``_`` and more."""
    stems = {path.stem for path in photographs}
    candidates: defaultdict[str, list[Path]] = defaultdict(list)
    for path in _pictures(folder):
        parts = path.stem.split("_")
        beginnings = ("_".join(parts[:n]) for n in range(len(parts), 0, -1))
        owner = next((stem for stem in beginnings if stem in stems), None)  # the longest
        if owner is not None:
            candidates[owner].append(path)
    partners = {}
    without = [path.name for path in photographs if path.stem not in candidates]
    if without:
        raise DatasetError(
            f"{number(without, 'image')} of {str(photographs[0].parent)!r} have no {what} in "
            f"{str(folder)!r}: {', '.join(without[:3])}. A {what} has the stem of its image, or "
            f"that stem, '_' and more."
        )
    for path in photographs:
        fitting = candidates[path.stem]
        exact = [partner for partner in fitting if partner.stem == path.stem]
        if len(exact or fitting) > 1:
            raise DatasetError(
                f"{path.name!r} has {len(exact or fitting)} files that may be its {what}: "
                f"{', '.join(partner.name for partner in exact or fitting)}. Leave one."
            )
        partners[path] = (exact or fitting)[0]
    return partners
