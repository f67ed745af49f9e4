"""Data sets of labelled photographs, read as their official downloads unpack.

DRIVE (Staal et al. 2004, doi:10.1109/TMI.2004.825627), STARE (Hoover et al. 2000,
doi:10.1109/42.845178), CHASE_DB1 (Fraz et al. 2012, doi:10.1109/TBME.2012.2205687) and HRF
(Budai et al. 2013, doi:10.1155/2013/154860). Files are found by their official names at any depth
of a folder, and the published splits are lists of names, so that no folder can pass training
images off as a test. Anything else is read as pairs: photographs in one folder, labels of the
same names in another.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DatasetError, OptionError, did_you_mean
from ..images import RGB, to_rgb

SPLITS = ("test", "train", "all")
_DEPTH = 4  # of folders that are searched
_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".ppm", ".bmp", ".gif")


@dataclass(frozen=True)
class Sample:
    """The files of one photograph; `split` is "test", "train", or empty if it is not known.

    `second` is the label of the other observer, and `fov` the data set's own field of view.
    """

    name: str
    split: str
    image: Path
    label: Path
    second: Path | None = None
    fov: Path | None = None


@dataclass(frozen=True)
class Dataset:
    """The photographs to evaluate on, sorted by name within each half.

    `missing` names photographs of the split that are not in the folder or beyond the limit;
    `observer` says whose labels count as the truth.
    """

    name: str
    title: str
    split: str
    samples: tuple[Sample, ...]
    missing: tuple[str, ...] = ()
    observer: int = 1

    @property
    def has_training_images(self) -> bool:
        """Whether any photograph is a training image."""
        return any(sample.split == "train" for sample in self.samples)

    @property
    def caution(self) -> str:
        """What must stand beside every figure if there are training images, else ""."""
        if not self.has_training_images:
            return ""
        if all(sample.split == "train" for sample in self.samples):
            return "training images, not a test"
        return "training images among them, not a test"

    @property
    def description(self) -> str:
        """One line on what is evaluated."""
        present = len(self.samples)
        training = sum(sample.split == "train" for sample in self.samples)
        if self.name == "pairs":
            if not training:
                return f"{present} pairs"
            return f"{present} pairs, {training} of them named like training images of {self.title}"
        count = f"{present} of {present + len(self.missing)} images"
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

    def filename(self, pattern: str, name: str) -> str:
        """The name of a photograph's file."""
        return pattern.format(name=name, number=name[:2])


LAYOUTS: Mapping[str, Layout] = {
    "drive": Layout(
        "DRIVE",
        train=tuple(f"{n:02}_training" for n in range(21, 41)),
        test=tuple(f"{n:02}_test" for n in range(1, 21)),
        image="{name}.tif", label="{number}_manual1.gif", second="{number}_manual2.gif",
        fov="{name}_mask.gif",
    ),
    "stare": Layout(
        "STARE",
        train=("im0001", "im0002", "im0003", "im0004", "im0005",
               "im0044", "im0077", "im0081", "im0082", "im0139"),
        test=("im0162", "im0163", "im0235", "im0236", "im0239",
              "im0240", "im0255", "im0291", "im0319", "im0324"),
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
"""File names of each data set, and its published split (that of mmsegmentation)."""

DATASETS = (*LAYOUTS, "pairs")


def read_dataset(
    folder: str | os.PathLike[str],
    dataset: str,
    *,
    split: str = "test",
    observer: int = 1,
    limit: int | None = None,
) -> Dataset:
    """Find the photographs of a data set and their labels.

    Parameters
    ----------
    folder : path
        Where the downloads were unpacked. Files are found up to four folders below it.
    dataset : {"drive", "stare", "chase_db1", "hrf"}
    split : {"test", "train", "all"}
        The published halves. The test images are 01 to 20 of DRIVE, the last 10 of the 20
        labelled ones of STARE, 11 to 14 L and R of CHASE_DB1, and 06 to 15 of dr, g and h of HRF.
    observer : {1, 2}
        Whose labels count as the truth. The published figures use those of the first.
    limit : int, optional
        Use only the first photographs, that many.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    DatasetError
        If it holds no photograph of the split, or one without its label.
    OptionError
        If an argument is outside what is described here.
    """
    if dataset not in LAYOUTS:
        raise OptionError(
            f"dataset is {dataset!r}; allowed are {', '.join(LAYOUTS)}, and pairs of folders for "
            f"anything else.{did_you_mean(dataset, LAYOUTS)}"
        )
    if split not in SPLITS:
        raise OptionError(f"split is {split!r}; allowed are {', '.join(SPLITS)}.")
    if observer not in (1, 2):
        raise OptionError(f"observer is {observer!r}; allowed are 1 and 2.")
    layout = LAYOUTS[dataset]
    if observer == 2 and not layout.second:
        raise OptionError(f"{layout.title} has the labels of one observer only.")
    files = FileIndex(Path(folder))
    names = {"test": layout.test, "train": layout.train, "all": layout.test + layout.train}[split]
    images = files.find_all(layout, layout.image, names)
    if not images:
        raise DatasetError(describe_empty(dataset, split, files))
    present = list(images)[:limit]
    labels = files.find_all(layout, layout.label, present)
    seconds = files.find_all(layout, layout.second, present)
    fovs = files.find_all(layout, layout.fov, present)
    if observer == 2:
        labels, seconds = seconds, labels
    check_partners("label", layout.second if observer == 2 else layout.label, present, labels,
                   layout, files)  # fmt: skip
    if fovs:  # of all photographs or of none
        check_partners("field-of-view mask", layout.fov, present, fovs, layout, files)
    samples = tuple(
        Sample(
            name,
            "test" if name in layout.test else "train",
            images[name],
            labels[name],
            seconds.get(name),
            fovs.get(name),
        )
        for name in present
    )
    missing = tuple(name for name in names if name not in present)
    return Dataset(dataset, layout.title, split, samples, missing, observer)


class FileIndex:
    """The files below a folder by name, ignoring case: 01_dr.JPG, 01_g.jpg."""

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

    def find_all(
        self, layout: Layout, pattern: str, names: tuple[str, ...] | list[str]
    ) -> dict[str, Path]:
        """The files that a pattern of `layout` means, unpacked or gzipped, by photograph."""
        found: dict[str, Path] = {}
        for name in names:
            filename = layout.filename(pattern, name)
            for key in (filename.lower(), f"{filename.lower()}.gz"):
                paths = list({path.resolve(): path for path in self.paths.get(key, [])}.values())
                if len(paths) > 1:
                    raise DatasetError(
                        f"There are {len(paths)} files {filename!r}: "
                        f"{', '.join(repr(str(path)) for path in paths)}. Pass the folder of one."
                    )
                if paths and filename:
                    found.setdefault(name, paths[0])
        return found


def describe_empty(dataset: str, split: str, files: FileIndex) -> str:
    """An error message for a folder without a photograph of the split: what is there instead."""
    layout, folder = LAYOUTS[dataset], repr(str(files.folder))
    training = len(files.find_all(layout, layout.image, layout.train))
    test = len(files.find_all(layout, layout.image, layout.test))
    if split == "test" and training:
        return (
            f"{folder} has {training} training images of {layout.title} and no test image. "
            f"Training images are not a test. Add the test images, or evaluate the training "
            f"images as such: split 'train' (--split train)."
        )
    if split == "train" and test:
        return f"{folder} has {test} test images of {layout.title} and no training image."
    expected = layout.filename(layout.image, (layout.train if split == "train" else layout.test)[0])
    message = (
        f"{folder} has no image of {layout.title}. Expected are {expected!r} and so on, in it or "
        f"up to {_DEPTH} folders below; {sum(map(len, files.paths.values()))} other files are "
        f"there."
    )
    for key, other in LAYOUTS.items():
        if key != dataset and files.find_all(other, other.image, other.test + other.train):
            message += f" They look like --dataset {key}."
    return message


def check_partners(
    what: str,
    pattern: str,
    names: list[str],
    partners: dict[str, Path],
    layout: Layout,
    files: FileIndex,
) -> None:
    """Raise DatasetError if a photograph lacks its label or its field of view."""
    without = [name for name in names if name not in partners]
    if not without:
        return
    hint = ""
    if layout.title == "DRIVE" and what == "label":
        hint = " Some downloads of DRIVE leave out the labels of the test images."
    raise DatasetError(
        f"{count(without, 'image')} of {layout.title} in {str(files.folder)!r} lack their {what}, "
        f"for example {layout.filename(pattern, without[0])!r}. Unpack the {what}s as well.{hint}"
    )


def count(items: list[str], noun: str) -> str:
    """For example "1 image" or "3 images"."""
    return f"{len(items)} {noun}" if len(items) == 1 else f"{len(items)} {noun}s"


def read_pairs(
    images: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    masks: str | os.PathLike[str] | None = None,
    *,
    limit: int | None = None,
) -> Dataset:
    """Read photographs in one folder with labels of the same stems in another.

    Parameters
    ----------
    images, labels : path
        Folders. The stem of a label is that of its photograph, alone or followed by ``_`` and
        more: ``eye.jpg`` goes with ``eye.png`` or ``eye_vessels.png``.
    masks : path, optional
        Folder of the fields of view, named in the same way.
    limit : int, optional
        Use only the first photographs, that many.

    Raises
    ------
    FileNotFoundError
        If a folder does not exist.
    DatasetError
        If there is no photograph, or one without a label or with several.
    """
    photographs = list_pictures(Path(images))
    if not photographs:
        raise DatasetError(f"{str(images)!r} holds no image ({', '.join(_IMAGES)}).")
    stems = [path.stem for path in photographs]
    repeated = sorted({stem for stem in stems if stems.count(stem) > 1})
    if repeated:
        raise DatasetError(
            f"{str(images)!r} holds several images named {repeated[0]!r}. Keep one of each."
        )
    photographs = photographs[:limit]
    label_of = find_partners(photographs, Path(labels), "label")
    fov_of = find_partners(photographs, Path(masks), "field-of-view mask") if masks else {}
    # Training images of a known data set are called training images here too.
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
    missing = tuple(stems[len(photographs) :])
    return Dataset("pairs", " and ".join(titles) or "pairs", "all", samples, missing)


def list_pictures(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _IMAGES and path.is_file() and not path.name.startswith(".")
    )


def find_partners(photographs: list[Path], folder: Path, what: str) -> dict[Path, Path]:
    """For each photograph, the file in `folder` with its stem, or its stem, ``_`` and more."""
    stems = {path.stem for path in photographs}
    candidates: defaultdict[str, list[Path]] = defaultdict(list)
    for path in list_pictures(folder):
        parts = path.stem.split("_")
        for n in range(len(parts), 0, -1):  # the longest stem wins
            stem = "_".join(parts[:n])
            if stem in stems:
                candidates[stem].append(path)
                break
    without = [path.name for path in photographs if path.stem not in candidates]
    if without:
        raise DatasetError(
            f"{count(without, 'image')} of {str(photographs[0].parent)!r} have no {what} in "
            f"{str(folder)!r}: {', '.join(without[:3])}. The stem of a {what} is that of its "
            f"image, alone or followed by '_' and more."
        )
    partners = {}
    for path in photographs:
        fitting = candidates[path.stem]
        exact = [candidate for candidate in fitting if candidate.stem == path.stem]
        chosen = exact or fitting
        if len(chosen) > 1:
            raise DatasetError(
                f"{path.name!r} has {len(chosen)} files that could be its {what}: "
                f"{', '.join(candidate.name for candidate in chosen)}. Keep one."
            )
        partners[path] = chosen[0]
    return partners


def read_photograph(path: Path) -> RGB:
    """Read a photograph, gzipped or not, as uint8 RGB (H, W, 3); errors as ``images.to_rgb``."""
    return to_rgb(read_content(path) if path.suffix.lower() == ".gz" else path)


def read_label(path: Path) -> NDArray[np.bool_]:
    """Read a label or a field of view, True where it is white.

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
    content = read_content(path)
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            mode = opened.mode
            if mode in ("1", "L", "I", "F") or mode.startswith("I;16"):
                values = np.asarray(opened)
            else:  # palettes and colours by their brightness
                values = np.asarray(opened.convert("L"))
    except Exception as error:  # bytes from outside can make a decoder raise anything
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
            f"Label {str(path)!r} has values up to {largest:g}; black and white must be 0 and 255, "
            f"or 0 and 1."
        )
    return np.asarray(label)


def read_content(path: Path) -> bytes:
    """The bytes of a file, unpacked if it is gzipped."""
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix.lower() == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{str(path)!r} cannot be read or unpacked: {error}.") from error
