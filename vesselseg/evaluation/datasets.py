"""Data sets of labelled photographs, found as their official downloads unpack.

DRIVE (Staal et al. 2004, doi:10.1109/TMI.2004.825627), STARE (Hoover et al. 2000,
doi:10.1109/42.845178), CHASE_DB1 (Fraz et al. 2012, doi:10.1109/TBME.2012.2205687) and HRF
(Budai et al. 2013, doi:10.1155/2013/154860). Their files have names of their own, so they are
found by name at any depth of a folder, and the published splits are lists of names: no folder
can pass training images off as a test.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import DatasetError, OptionError, did_you_mean

SPLITS = ("test", "train", "all")
_DEPTH = 4  # of folders that are looked into


@dataclass(frozen=True)
class Sample:
    """The files of one photograph.

    Attributes
    ----------
    name : str
    split : {"test", "train", ""}
        The half of its data set; empty where that is not known.
    image, label : Path
    second : Path or None
        The label of a second observer.
    fov : Path or None
        The data set's own field of view.
    """

    name: str
    split: str
    image: Path
    label: Path
    second: Path | None = None
    fov: Path | None = None


@dataclass(frozen=True)
class Dataset:
    """The photographs to evaluate on.

    Attributes
    ----------
    name, title : str
        Such as "chase_db1" and "CHASE_DB1".
    split : {"test", "train", "all"}
    samples : tuple of Sample
        Sorted by name within each half.
    missing : tuple of str
        Photographs of the split that are not in the folder.
    """

    name: str
    title: str
    split: str
    samples: tuple[Sample, ...]
    missing: tuple[str, ...] = ()

    @property
    def has_training_images(self) -> bool:
        """Whether any is a training image."""
        return any(sample.split == "train" for sample in self.samples)

    @property
    def caution(self) -> str:
        """What has to stand beside every figure of training images; empty without any."""
        if not self.has_training_images:
            return ""
        mixed = any(sample.split != "train" for sample in self.samples)
        return f"training images{' among them' if mixed else ''}, not a test"

    @property
    def description(self) -> str:
        """What is evaluated, in a line."""
        found, training = len(self.samples), sum(s.split == "train" for s in self.samples)
        if self.name == "pairs":
            named = f", {training} of them named like training images of {self.title}"
            return f"{found} pairs{named if training else ''}"
        count = f"{found} of {found + len(self.missing)} images"
        if self.split == "all":
            return f"{self.title}, test and training images together, not a test: {count}"
        return f"{self.title}, {self.caution or 'test split'}: {count}"


class Layout(NamedTuple):
    """How a data set names its photographs, and the files of each."""

    title: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    image: str
    label: str
    second: str = ""
    fov: str = ""


def _numbered(form: str, first: int, last: int) -> tuple[str, ...]:
    return tuple(form.format(number) for number in range(first, last + 1))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LAYOUTS: Mapping[str, Layout] = {
    "drive": Layout(
        "DRIVE",
        train=_numbered("{:02}_training", 21, 40),
        test=_numbered("{:02}_test", 1, 20),
        image="{name}.tif", label="{number}_manual1.gif", second="{number}_manual2.gif",
        fov="{name}_mask.gif",
    ),
    "stare": Layout(
        "STARE",
        train=_words("im0001 im0002 im0003 im0004 im0005 im0044 im0077 im0081 im0082 im0139"),
        test=_words("im0162 im0163 im0235 im0236 im0239 im0240 im0255 im0291 im0319 im0324"),
        image="{name}.ppm", label="{name}.ah.ppm", second="{name}.vk.ppm",
    ),
    "chase_db1": Layout(
        "CHASE_DB1",
        train=tuple(f"Image_{n:02}{eye}" for n in range(1, 11) for eye in "LR"),
        test=tuple(f"Image_{n}{eye}" for n in range(11, 15) for eye in "LR"),
        image="{name}.jpg", label="{name}_1stHO.png", second="{name}_2ndHO.png",
    ),
    "hrf": Layout(
        "HRF",
        train=tuple(f"{n:02}_{kind}" for n in range(1, 6) for kind in ("dr", "g", "h")),
        test=tuple(f"{n:02}_{kind}" for n in range(6, 16) for kind in ("dr", "g", "h")),
        image="{name}.jpg", label="{name}.tif", fov="{name}_mask.tif",
    ),
}  # fmt: skip
"""How the files of each data set are named, and its published split (that of mmsegmentation)."""

DATASETS = (*LAYOUTS, "pairs")


def read_dataset(
    folder: str | os.PathLike[str], dataset: str, *, split: str = "test"
) -> Dataset:  # fmt: skip
    """Find the photographs of a data set and their labels.

    Parameters
    ----------
    folder : path
        Where the downloads were unpacked; files are found up to four folders below it.
    dataset : {"drive", "stare", "chase_db1", "hrf"}
    split : {"test", "train", "all"}
        The published halves: of DRIVE 01 to 20 are the test, of STARE the last 10 of the 20
        labelled, of CHASE_DB1 11 to 14 L and R, of HRF 06 to 15 of dr, g and h.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    DatasetError
        If it holds no photograph of the split, or one without its label.
    OptionError
        If `dataset` or `split` is none of these.
    """
    if dataset not in LAYOUTS:
        raise OptionError(
            f"dataset is {dataset!r}; allowed are {', '.join(LAYOUTS)}, and for anything else "
            f"two folders with the same names (pairs).{did_you_mean(dataset, LAYOUTS)}"
        )
    if split not in SPLITS:
        raise OptionError(f"split is {split!r}; allowed are {', '.join(SPLITS)}.")
    layout = LAYOUTS[dataset]
    files = _Files(Path(folder))
    asked = {"test": layout.test, "train": layout.train, "all": layout.test + layout.train}[split]
    found = {name: path for name in asked if (path := files.find(layout.image, name))}
    if not found:
        raise DatasetError(_nothing_found(dataset, split, files))
    label, second, fov = (
        {name: path for name in found if (path := files.find(pattern, name))}
        for pattern in (layout.label, layout.second, layout.fov)
    )
    for what, pattern, partners in (("label", layout.label, label),
                                    ("field-of-view mask", layout.fov, fov)):  # fmt: skip
        without = [name for name in found if name not in partners]
        if without and (what == "label" or partners):  # masks: of all photographs, or of none
            raise DatasetError(_without(what, pattern, without, layout, files))
    samples = tuple(
        Sample(name, "test" if name in layout.test else "train", path, label[name],
               second.get(name), fov.get(name))
        for name, path in found.items()
    )  # fmt: skip
    missing = tuple(name for name in asked if name not in found)
    return Dataset(dataset, layout.title, split, samples, missing)


class _Files:
    """The files below a folder by their names, case aside: 01_dr.JPG, 01_g.jpg."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
        self.folder = folder
        self.paths: defaultdict[str, list[Path]] = defaultdict(list)
        for parent, folders, names in os.walk(folder, followlinks=True):
            folders.sort()
            if len(Path(parent).relative_to(folder).parts) == _DEPTH:
                folders.clear()
            for name in names:
                self.paths[name.lower()].append(Path(parent, name))

    def find(self, pattern: str, name: str) -> Path | None:
        """The file that a pattern of :class:`Layout` means, unpacked or gzipped."""
        wanted = _filename(pattern, name)
        if not wanted:
            return None
        for key in (wanted.lower(), f"{wanted.lower()}.gz"):
            paths = {path.resolve(): path for path in self.paths.get(key, [])}
            if len(paths) > 1:
                raise DatasetError(
                    f"There are {len(paths)} files {wanted!r}: "
                    f"{', '.join(repr(str(p)) for p in paths.values())}. Give the folder of one."
                )
            if paths:
                return next(iter(paths.values()))
        return None


def _filename(pattern: str, name: str) -> str:
    return pattern.format(name=name, number=name[:2])


def _nothing_found(dataset: str, split: str, files: _Files) -> str:
    """Why there is nothing to evaluate, from what is there instead."""
    layout, where = LAYOUTS[dataset], f"{str(files.folder)!r}"

    def count(names: Iterable[str], of: Layout = layout) -> int:
        return sum(files.find(of.image, name) is not None for name in names)

    if split == "test" and (training := count(layout.train)):
        return (
            f"{where} has {training} training images of {layout.title} and no test image. "
            f"Training images are not a test: add the test images, or evaluate the training "
            f"images as such, split 'train' (--split train)."
        )
    if split == "train" and (test := count(layout.test)):
        return f"{where} has {test} test images of {layout.title} and no training image."
    names = layout.train if split == "train" else layout.test
    others = [
        key for key, of in LAYOUTS.items() if key != dataset and count(of.test + of.train, of)
    ]
    return (
        f"{where} has no image of {layout.title}. Expected were "
        f"{_filename(layout.image, names[0])!r} and so on, in it or up to {_DEPTH} folders below; "
        f"{sum(map(len, files.paths.values()))} other files are there."
        + "".join(f" They look like --dataset {other}." for other in others)
    )


def _without(
    what: str, pattern: str, names: list[str], layout: Layout, files: _Files
) -> str:  # fmt: skip
    hint = ""
    if layout.title == "DRIVE" and what == "label":
        hint = " Some downloads of DRIVE leave out the labels of the test images."
    return (
        f"{number(names, 'image')} of {layout.title} in {str(files.folder)!r} lack their {what}, "
        f"{_filename(pattern, names[0])!r} for instance. Unpack the {what}s as well.{hint}"
    )


def number(names: list[str], noun: str) -> str:
    """Such as "1 image" or "3 images"."""
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''}"
