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
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError, OptionError, did_you_mean
from ..formats import endings, open_picture
from ..images import RGB, check_bits, to_rgb

__all__ = ["Dataset", "Sample", "read_dataset", "read_label", "read_pairs"]

_SPLITS = ("test", "train", "all")
_DEPTH = 4  # of folders that are searched


@dataclass(frozen=True)
class Sample:
    """The files of one photograph; `split` is "test", "train", or empty if it is not known.

    `second` is the label of the other observer, and `fov` the data set's own field of view. `bits`
    is the number of significant bits if the photograph has 16-bit values. `subject` names the
    person, whose photographs count as one where intervals are computed; empty if it is not known.
    """

    name: str
    split: str
    image: Path
    label: Path
    second: Path | None = None
    fov: Path | None = None
    bits: int | None = None
    subject: str = ""


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
    def caution(self) -> str:
        """What must stand beside every figure if there are training images, else ""."""
        splits = {sample.split for sample in self.samples}
        if splits == {"train"}:
            return "training images, not a test"
        return "training images among them, not a test" if "train" in splits else ""

    @property
    def description(self) -> str:
        """One line on what is evaluated."""
        present = len(self.samples)
        if self.name == "pairs":
            training = sum(sample.split == "train" for sample in self.samples)
            named = f", {training} of them named like training images of {self.title}"
            return f"{present} pairs{named if training else ''}"
        what = self.caution or "test split"
        if self.split == "all":
            what = "test and training images together, not a test"
        return f"{self.title}, {what}: {present} of {present + len(self.missing)} images"


class Layout(NamedTuple):
    """How a data set names its photographs, and from each name its files and its subject."""

    title: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    image: str
    label: str
    second: str = ""
    fov: str = ""
    subject: str | None = None  # a pattern for names; None: one photograph of each person


LAYOUTS: Mapping[str, Layout] = {
    "drive": Layout(
        "DRIVE",
        train=tuple(f"{n:02}_training" for n in range(21, 41)),
        test=tuple(f"{n:02}_test" for n in range(1, 21)),
        image="{}.tif", label="{:.2}_manual1.gif", second="{:.2}_manual2.gif",
        fov="{}_mask.gif",
    ),
    "stare": Layout(
        "STARE",
        train=("im0001", "im0002", "im0003", "im0004", "im0005",
               "im0044", "im0077", "im0081", "im0082", "im0139"),
        test=("im0162", "im0163", "im0235", "im0236", "im0239",
              "im0240", "im0255", "im0291", "im0319", "im0324"),
        image="{}.ppm", label="{}.ah.ppm", second="{}.vk.ppm",
    ),
    "chase_db1": Layout(
        "CHASE_DB1",
        train=tuple(f"Image_{n:02}{eye}" for n in range(1, 11) for eye in "LR"),
        test=tuple(f"Image_{n}{eye}" for n in range(11, 15) for eye in "LR"),
        image="{}.jpg", label="{}_1stHO.png", second="{}_2ndHO.png",
        subject=r"Image_\d+",  # L and R are the eyes of one child
    ),
    "hrf": Layout(
        "HRF",
        train=tuple(f"{n:02}_{kind}" for n in range(1, 6) for kind in ("dr", "g", "h")),
        test=tuple(f"{n:02}_{kind}" for n in range(6, 16) for kind in ("dr", "g", "h")),
        image="{}.jpg", label="{}.tif", fov="{}_mask.tif",
    ),
}  # fmt: skip
"""File names of each data set, and its published split (that of mmsegmentation)."""


def read_dataset(
    folder: Path,
    dataset: str,
    *,
    split: str = "test",
    observer: int = 1,
    limit: int | None = None,
    bits: int | None = None,
) -> Dataset:
    """Find the photographs of a published data set and their labels.

    The labels of `observer`, 1 or 2, count as the truth; the published figures use the first.
    `limit` keeps only the first photographs; `bits` is the number of significant bits
    in 16-bit ones. Raises FileNotFoundError if there is no such folder, DatasetError if it holds no
    photograph of the split or one without its label, and OptionError for an argument that is not
    allowed.
    """
    if dataset not in LAYOUTS:
        raise OptionError(
            f"dataset is {dataset!r}; allowed are {', '.join(LAYOUTS)}, and pairs of folders for "
            f"anything else.{did_you_mean(dataset, LAYOUTS)}"
        )
    if split not in _SPLITS:
        raise OptionError(f"split is {split!r}; allowed are {', '.join(_SPLITS)}.")
    if observer not in (1, 2):
        raise OptionError(f"observer is {observer!r}; allowed are 1 and 2.")
    layout = LAYOUTS[dataset]
    if observer == 2 and not layout.second:
        raise OptionError(f"{layout.title} has the labels of one observer only.")
    label, second = layout.label, layout.second
    if observer == 2:
        label, second = second, label
    files = _list_files(folder)
    names = {"test": layout.test, "train": layout.train, "all": layout.test + layout.train}[split]
    images = _find_all(files, layout.image, names)
    if not images:
        raise DatasetError(_describe_empty(folder, files, layout, split))
    present = tuple(images)[:limit]
    labels = _find_all(files, label, present)
    seconds = _find_all(files, second, present)
    fovs = _find_all(files, layout.fov, present)
    required = [("label", label, labels)]
    if fovs:  # of all photographs or of none
        required.append(("field-of-view mask", layout.fov, fovs))
    for what, pattern, found in required:
        without = [name for name in present if name not in found]
        if without:
            message = (
                f"{len(without)} of {len(present)} images of {layout.title} in {str(folder)!r} "
                f"have no {what}, for example {pattern.format(without[0])!r}. Unpack the {what}s "
                f"as well."
            )
            if dataset == "drive" and what == "label":
                message += " Some downloads of DRIVE leave out the labels of the test images."
            raise DatasetError(message)
    samples = []
    for name in present:
        half = "test" if name in layout.test else "train"
        paths = images[name], labels[name], seconds.get(name), fovs.get(name)
        subject = find_subject(name, layout.subject)
        samples.append(Sample(name, half, *paths, check_bits(bits), subject))
    missing = tuple(name for name in names if name not in present)
    return Dataset(dataset, layout.title, split, tuple(samples), missing, observer)


def _list_files(folder: Path) -> Mapping[str, list[Path]]:
    """The files below a folder by name in lower case, since 01_dr.JPG stands beside 01_g.jpg."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    files = defaultdict(list)
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        if len(Path(parent).relative_to(folder).parts) == _DEPTH:
            folders.clear()
        for name in names:
            files[name.lower()].append(Path(parent, name))
    return files


def _find_all(
    files: Mapping[str, list[Path]], pattern: str, names: tuple[str, ...]
) -> dict[str, Path]:
    """The files that a pattern of a layout means, unpacked or gzipped, by photograph."""
    found: dict[str, Path] = {}
    for name in names if pattern else ():
        filename = pattern.format(name)
        for key in (filename.lower(), f"{filename.lower()}.gz"):
            paths = {path.resolve(): path for path in files.get(key, [])}
            if len(paths) > 1:
                listed = ", ".join(repr(str(path)) for path in paths.values())
                raise DatasetError(
                    f"There are {len(paths)} files {filename!r}: {listed}. Pass the folder of one."
                )
            for path in paths.values():
                found.setdefault(name, path)
    return found


def _describe_empty(
    folder: Path, files: Mapping[str, list[Path]], layout: Layout, split: str
) -> str:
    """An error message for a folder without a photograph of the split: what is there instead."""
    example = layout.image.format(layout.train[0] if split == "train" else layout.test[0])
    message = (
        f"{str(folder)!r} has no image of {layout.title}, split {split!r}. Expected are "
        f"{example!r} and so on, in it or up to {_DEPTH} folders below; "
        f"{sum(map(len, files.values()))} other files are there."
    )
    for key, other in LAYOUTS.items():
        test, train = (_find_all(files, other.image, names) for names in (other.test, other.train))
        if test:
            message += f" There are {len(test)} test images of {other.title} (--dataset {key})."
        if train:
            message += (
                f" There are {len(train)} training images of {other.title}, which are not a test; "
                f"evaluate them as such (--dataset {key} --split train)."
            )
    return message


def read_pairs(
    images: Path,
    labels: Path,
    masks: Path | None = None,
    *,
    group: str | None = None,
    limit: int | None = None,
    bits: int | None = None,
) -> Dataset:
    """Read photographs in one folder with labels of the same stems in another.

    The stem of a label, or of a field of view in `masks`, is that of its photograph, alone or
    followed by ``_`` and more: ``eye.jpg`` goes with ``eye.png`` or ``eye_vessels.png``. `group` is
    a regular expression for the file names of photographs. Its first group, or the whole match if
    it has none, names the subject; without it, every photograph counts as a subject of its own.
    `limit` keeps only the first photographs; `bits` is the number of significant bits in 16-bit
    ones. Raises FileNotFoundError if a folder does not exist, DatasetError if there is no
    photograph, or one without a label or with several, and OptionError if `group` is not a regular
    expression or does not match every file name.
    """
    photographs = _list_pictures(images)
    if not photographs:
        raise DatasetError(f"{str(images)!r} holds no image ({', '.join(endings())}).")
    stems = [path.stem for path in photographs]
    stem, number = Counter(stems).most_common(1)[0]
    if number > 1:
        raise DatasetError(
            f"{str(images)!r} holds several images named {stem!r}. Keep one of each."
        )
    photographs = photographs[:limit]
    label_of = _find_partners(photographs, labels, "label")
    fov_of = _find_partners(photographs, masks, "field-of-view mask") if masks else {}
    # Training images of a known data set are called training images here too.
    training = {name: layout.title for layout in LAYOUTS.values() for name in layout.train}
    samples = []
    for path in photographs:
        half = "train" if path.stem in training else ""
        paths = path, label_of[path.stem], None, fov_of.get(path.stem)
        subject = path.stem if group is None else find_subject(path.name, group)
        samples.append(Sample(path.stem, half, *paths, check_bits(bits), subject))
    titles = sorted({training[sample.name] for sample in samples if sample.split})
    title, missing = " and ".join(titles) or "pairs", tuple(stems[len(photographs) :])
    return Dataset("pairs", title, "all", tuple(samples), missing)


def find_subject(filename: str, group: str | None) -> str:
    """Return the subject that a file name stands for; raise OptionError if there is none."""
    if group is None:
        return filename
    try:
        match = re.search(group, filename)
    except re.error as error:
        raise OptionError(
            f"group is {group!r}, which is not a regular expression: {error}. For "
            f"example, '(.+)_[LR]' takes the part before _L or _R as the subject."
        ) from error
    subject = match and match[1 if match.re.groups else 0]
    if not subject:
        raise OptionError(
            f"group {group!r} finds no subject in the file name {filename!r}. It must match every "
            f"photograph; its first group in brackets, or the whole match, names the subject."
        )
    return subject


def _list_pictures(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in endings() and path.is_file() and not path.name.startswith(".")
    )


def _find_partners(photographs: list[Path], folder: Path, what: str) -> dict[str, Path]:
    """Stem of each photograph -> the file in `folder` with it, alone or with ``_`` and more."""
    stems = {path.stem for path in photographs}
    candidates: defaultdict[str, list[Path]] = defaultdict(list)
    for path in _list_pictures(folder):
        stem = path.stem
        while stem not in stems and "_" in stem:  # the longest stem wins
            stem = stem.rpartition("_")[0]
        candidates[stem].append(path)
    without = [path.name for path in photographs if path.stem not in candidates]
    if without:
        raise DatasetError(
            f"{len(without)} of {len(photographs)} images of {str(photographs[0].parent)!r} have "
            f"no {what} in {str(folder)!r}: {', '.join(without[:3])}. The stem of a {what} is that "
            f"of its image, alone or followed by '_' and more."
        )
    partners = {}
    for path in photographs:
        fitting = candidates[path.stem]
        chosen = [partner for partner in fitting if partner.stem == path.stem] or fitting
        if len(chosen) > 1:
            raise DatasetError(
                f"{path.name!r} has {len(chosen)} files that could be its {what}: "
                f"{', '.join(partner.name for partner in chosen)}. Keep one."
            )
        partners[path.stem] = chosen[0]
    return partners


def read_photograph(sample: Sample) -> RGB:
    """Read a photograph, gzipped or not, as uint8 RGB (H, W, 3); errors as ``images.to_rgb``."""
    path = sample.image
    is_gzipped = path.suffix.lower() == ".gz"
    return to_rgb(_read_content(path) if is_gzipped else path, bits=sample.bits)


def read_label(path: Path) -> NDArray[np.bool_]:
    """Read a label or a field of view (H, W), True where it is white.

    By the published convention that is at least 128 of 255, or above 0 in a file whose largest
    value is 1. Raises DatasetError if neither fits or the file cannot be decoded.
    """
    content = _read_content(path)
    try:
        with open_picture(io.BytesIO(content)) as opened:
            more_than_8_bits = opened.mode.startswith(("I", "F"))
            # Palettes and colours count by their brightness.
            values = np.asarray(opened if more_than_8_bits else opened.convert("L"))
    except Exception as error:  # bytes from outside can make a decoder raise anything
        reason = str(error).partition("\n")[0]
        raise DatasetError(f"Label {str(path)!r} could not be decoded: {reason}.") from error
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


def _read_content(path: Path) -> bytes:
    """The bytes of a file, unpacked if it is gzipped."""
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix.lower() == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{str(path)!r} cannot be read or unpacked: {error}.") from error
