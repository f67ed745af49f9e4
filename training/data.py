"""The data sets that the embedded model is trained on, and windows drawn from them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image

from vesselseg.finetune.augmentation import Augmentation
from vesselseg.finetune.windows import LabelledPhotograph, Sizes, Windows

FOV_MEAN = (160.0, 75.0, 30.0)  # R, G, B; of both data sets together, with more blue


@dataclass(frozen=True)
class Source:
    """One training photograph: its files, and its subject (`group`) for splits."""

    name: str
    group: str
    image: Path
    label: Path
    diameter: float  # of the field of view in the file, in pixels

    @property
    def dataset(self) -> str:
        """The data set that it is from, as named in splits."""
        return self.name.split("/")[0]


def chase_db1(folder: Path) -> list[Source]:
    """CHASE_DB1 as images/Image_01L.jpg and labels/Image_01L_1stHO.png."""
    return [
        Source(f"chase_db1/{path.stem}", f"chase_db1/{path.stem[-3:-1]}", path,
               folder / "labels" / f"{path.stem}_1stHO.png", 918)
        for path in sorted((folder / "images").glob("Image_*.jpg"))
    ]  # fmt: skip


def hrf(folder: Path) -> list[Source]:
    """HRF as images/01_dr.JPG and labels/01_dr.tif."""
    return _of_different_subjects("hrf", folder, "*", ".tif", 3263)


def fives(folder: Path) -> list[Source]:
    """FIVES as images/10_A.png and labels/10_A.png."""
    return _of_different_subjects("fives", folder, "*.png", ".png", 2014)


def idrid(folder: Path) -> list[Source]:
    """IDRiD as images/IDRiD_01.jpg and labels/IDRiD_01.png, which pseudo_label.py writes."""
    return _of_different_subjects("idrid", folder, "*.jpg", ".png", 2055)


def _of_different_subjects(
    dataset: str, folder: Path, pattern: str, label_ending: str, diameter: float
) -> list[Source]:
    names = ((path, f"{dataset}/{path.stem}") for path in sorted((folder / "images").glob(pattern)))
    return [
        Source(name, name, path, folder / "labels" / f"{path.stem}{label_ending}", diameter)
        for path, name in names
    ]


def photographs(options: argparse.Namespace) -> list[Source]:
    """All photographs of the folders in the options of :func:`add_folders`."""
    folders = (chase_db1, options.chase_db1), (hrf, options.hrf), (fives, options.fives)
    return [source for find, folder in folders if folder for source in find(folder)]


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Options for the folders of the data sets."""
    for name in ("--chase-db1", "--hrf", "--fives"):
        parser.add_argument(name, type=Path, help="folder with images/ and labels/")


def of_groups(sources: list[Source], groups: list[str]) -> list[Source]:
    """Photographs of the named groups or data sets ("hrf"); ValueError for an unknown name."""
    known = {name for source in sources for name in (source.group, source.dataset)}
    if unknown := sorted(set(groups) - known):
        raise ValueError(f"no such group: {', '.join(unknown)}")
    return [s for s in sources if s.group in groups or s.dataset in groups]


def read(source: Source, bias: float = 0.0, weight: float = 1.0) -> LabelledPhotograph:
    """A photograph and its label: an observer's, or pseudo-labels for IDRiD."""
    rgb = np.asarray(Image.open(source.image).convert("RGB"))
    label = np.asarray(Image.open(source.label).convert("L"))
    if source.dataset != "idrid":
        label = label > label.max() / 2
    return LabelledPhotograph(rgb, label, source.diameter, bias, weight)


def windows(
    sources: list[Source],
    sizes: Sizes,
    seed: int,
    *,
    balance: bool,
    augmentation: Augmentation,
    biases: Mapping[str, float],
    weights: Mapping[str, float] = MappingProxyType({}),
    device: torch.device | str = "cpu",
) -> Windows:
    """Windows of `sources`; `balance` brings their colours to :data:`FOV_MEAN`.

    `biases` are added to the vessel logits of a data set's windows. Windows are drawn from its
    photographs in proportion to `weights`, 1 by default.
    """
    photographs = (
        read(source, biases.get(source.dataset, 0.0), weights.get(source.dataset, 1.0))
        for source in sources
    )
    rgb_mean = FOV_MEAN if balance else None
    return Windows(
        photographs, sizes, seed, rgb_mean=rgb_mean, augmentation=augmentation, device=device
    )
