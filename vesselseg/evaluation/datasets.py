"""Data sets of labelled photographs, read as their official downloads unpack.

DRIVE (Staal et al. 2004, doi:10.1109/TMI.2004.825627), STARE (Hoover et al. 2000,
doi:10.1109/42.845178), CHASE_DB1 (Fraz et al. 2012, doi:10.1109/TBME.2012.2205687) and HRF
(Budai et al. 2013, doi:10.1155/2013/154860). Files are found by their official names at any depth
of a folder, and the published splits are lists of names, so that no folder can pass training
images off as a test. Anything else is read as pairs: photographs in one folder, labels of the
same names in another.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from ..batch.places import identity
from ..batch.search import LeftOut, is_photograph, walk
from ..errors import DatasetError, OptionError, did_you_mean
from ..files import StrPath, is_folder
from ..formats import endings
from ..images import RGB, check_bits, to_rgb
from ..labels import Label, orientation_of, read_content, read_fov, read_label, read_partial_label
from ..metrics import Mask
from ..spec import check_integer

__all__ = [
    "Dataset",
    "Label",
    "Sample",
    "read_dataset",
    "read_label",
    "read_pairs",
    "read_partial_label",
]

logger = logging.getLogger(__name__)

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
    """How a data set names its photographs, and from each name its files and its subject.

    mmsegmentation's converters make PNG files of the same stems, below ``images`` and
    ``annotations``.
    """

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
    folder: StrPath,
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
    if dataset not in tuple(LAYOUTS):
        raise OptionError(
            f"dataset is {dataset!r}; allowed are {', '.join(LAYOUTS)}, and pairs of folders for "
            f"anything else.{did_you_mean(dataset, LAYOUTS)}"
        )
    layout = LAYOUTS[dataset]
    splits = {"test": layout.test, "train": layout.train, "all": layout.test + layout.train}
    if split not in tuple(splits):
        raise OptionError(f"split is {split!r}; allowed are {', '.join(splits)}.")
    if observer not in (1, 2):
        raise OptionError(f"observer is {observer!r}; allowed are 1 and 2.")
    folder, names, limit, bits = Path(folder), splits[split], _check_limit(limit), check_bits(bits)
    if observer == 2 and not layout.second:
        raise OptionError(f"{layout.title} has the labels of one observer only.")
    label, second = layout.label, layout.second
    if observer == 2:
        label, second = second, label
    files = _list_files(folder)
    images = _find_all(files, layout.image, names, "images")
    if not images:
        raise DatasetError(_describe_empty(folder, files, layout, split))
    present = tuple(images)[:limit]
    labels, seconds, fovs = (
        _find_all(files, pattern, present, "annotations") for pattern in (label, second, layout.fov)
    )
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
        samples.append(Sample(name, half, *paths, bits, find_subject(name, layout.subject)))
    missing = tuple(name for name in names if name not in present)
    return Dataset(dataset, layout.title, split, tuple(samples), missing, observer)


def _check_limit(limit: int | None) -> int | None:
    """Return the limit; raise OptionError if it is not a positive integer or None."""
    allowed = "a positive integer, or None"
    return None if limit is None else check_integer("limit", limit, allowed=allowed)


def _list_files(folder: Path) -> Mapping[str, list[Path]]:
    """The files below a folder by name in lower case, since 01_dr.JPG stands beside 01_g.jpg."""
    files = defaultdict(list)
    for path in walk(folder, LeftOut(), lambda place: len(place.parts) <= _DEPTH):
        files[path.name.lower()].append(path)
    return files


def _find_all(
    files: Mapping[str, list[Path]], pattern: str, names: tuple[str, ...], converted: str
) -> dict[str, Path]:
    """The files that a pattern of a layout means, by photograph.

    They are unpacked or gzipped, or PNG files of mmsegmentation below a folder `converted`.
    """
    found: dict[str, Path] = {}
    for name in names if pattern else ():
        filename = pattern.format(name)
        official = [*files.get(filename.lower(), ()), *files.get(f"{filename.lower()}.gz", ())]
        others = files.get(f"{Path(filename).stem.lower()}.png", ())
        candidates = official or [path for path in others if converted in path.parts[-3:-1]]
        paths = {identity(str(path)): path for path in candidates}
        if len(paths) > 1:
            listed = ", ".join(repr(str(path)) for path in paths.values())
            raise DatasetError(
                f"There are {len(paths)} files {filename!r}: {listed}. Pass the folder of one."
            )
        if paths:
            (found[name],) = paths.values()
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
        test, train = (
            _find_all(files, other.image, names, "images") for names in (other.test, other.train)
        )
        if test:
            message += f" There are {len(test)} test images of {other.title} (--dataset {key})."
        if train:
            message += (
                f" There are {len(train)} training images of {other.title}, which are not a test; "
                f"evaluate them as such (--dataset {key} --split train)."
            )
    return message


def read_pairs(
    images: StrPath,
    labels: StrPath,
    masks: StrPath | None = None,
    *,
    group: str | None = None,
    limit: int | None = None,
    bits: int | None = None,
) -> Dataset:
    """Read photographs in one folder with labels in another, or both in one, paired by their names.

    The stem of a label, or of a field of view in `masks`, is that of its photograph, alone or
    followed by more after a character that is no letter or digit: ``eye.jpg`` goes with ``eye.png``
    or ``eye_vessels.png``. The names of the published data sets go together as well, and the first
    observer's label goes before the second's. If photographs and labels are in one folder, the
    labels are the files whose names say which photograph they belong to.

    `group` is a regular expression for the file names of photographs. Its first group, or the whole
    match if it has none, names the subject; without it, every photograph counts as a subject of its
    own. `limit` keeps only the first photographs; `bits` is the number of significant bits in
    16-bit ones.

    A warning is logged that says what was left out, and why. Raises FileNotFoundError if a folder
    does not exist, ImageError if one cannot be read, DatasetError if there is no photograph, or one
    without a label or with several, and OptionError if `group` is not a regular expression or does
    not match every file name.
    """
    images, labels, masks = Path(images), Path(labels), None if masks is None else Path(masks)
    limit, bits, left_out = _check_limit(limit), check_bits(bits), LeftOut()
    found = walk(images, left_out, lambda _: False)
    photographs = [path for path in found if is_photograph(path, left_out)]
    if any(is_folder(other) and images.samefile(other) for other in (labels, masks or labels)):
        names = {stem_of(path) for path in photographs}
        photographs = [
            path
            for path, stem in ((path, stem_of(path)) for path in photographs)
            if not any(_find_owner(stem, names - {stem}, what) for what in _PARTNERS)
        ]
    left_out.log(str(images))
    if not photographs:
        raise DatasetError(f"{str(images)!r} holds no image ({', '.join(endings())}).")
    stems = [stem_of(path) for path in photographs]
    stem, number = Counter(stems).most_common(1)[0]
    if number > 1:
        raise DatasetError(
            f"{str(images)!r} holds several images named {stem!r}. Keep one of each; labels with "
            f"the names of photographs need a folder of their own."
        )
    chosen = photographs[:limit]
    label_of = _find_partners(photographs, chosen, labels, "label")
    fov_of = _find_partners(photographs, chosen, masks, "field-of-view mask") if masks else {}
    # Training images of a known data set are called training images here too.
    training = {name: layout.title for layout in LAYOUTS.values() for name in layout.train}
    samples = []
    for path in chosen:
        stem = stem_of(path)
        half = "train" if stem in training else ""
        paths = path, label_of[stem], None, fov_of.get(stem)
        files = [str(file) for file in paths if file]
        if len(set(map(identity, files))) < len(files):
            raise DatasetError(
                f"One file is meant to be two of photograph, label and field of view: "
                f"{', '.join(files)}."
            )
        subject = stem if group is None else find_subject(path.name, group)
        samples.append(Sample(stem, half, *paths, bits, subject))
    titles = sorted({training[sample.name] for sample in samples if sample.split})
    title, missing = " and ".join(titles) or "pairs", tuple(stems[len(chosen) :])
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


def stem_of(path: Path) -> str:
    """The name of a file without its ending, in the one of its forms that Unicode calls NFC."""
    return normalize("NFC", path.stem)


def _find_owner(stem: str, names: Collection[str], what: str) -> tuple[str, int] | None:
    """The photograph, among names, to which a label or field of view belongs by its stem.

    The number is smaller for names that say more: the same stem, the official names of data sets
    with the first observer before the second, and longer stems.
    """
    if stem in names:
        return stem, 0
    name, order = _PARTNERS[what].get(stem, ("", 0))
    if name in names:
        return name, order
    for end in range(len(stem) - 1, 0, -1):  # the longest name wins
        if not stem[end].isalnum() and stem[:end] in names:
            return stem[:end], 2
    return None


def _official_partners(*patterns: str) -> dict[str, tuple[str, int]]:
    """Stems of the official files of each pattern -> the photograph, and 1, 3 in their order."""
    return {
        Path(getattr(layout, pattern).format(name)).stem: (name, 1 + 2 * number)
        for number, pattern in enumerate(patterns)
        for layout in LAYOUTS.values()
        for name in layout.train + layout.test
        if getattr(layout, pattern)
    }


_PARTNERS = {
    "label": _official_partners("label", "second"),
    "field-of-view mask": _official_partners("fov"),
}


def _find_partners(
    photographs: list[Path], chosen: list[Path], folder: Path, what: str
) -> dict[str, Path]:
    """Stem of each chosen photograph -> the file in `folder` that belongs to it."""
    names = {stem_of(path) for path in photographs}
    files = {identity(str(path)) for path in photographs}
    left_out = LeftOut()
    candidates: defaultdict[str, list[tuple[int, Path]]] = defaultdict(list)
    for path in walk(folder, left_out, lambda _: False):
        if identity(str(path)) in files or not is_photograph(path, left_out, or_result=True):
            continue
        owner = _find_owner(stem_of(path), names, what)
        if owner is None:
            left_out.add(path, "of no photograph by the name")
        else:
            candidates[owner[0]].append((owner[1], path))
    if not photographs[0].parent.samefile(folder):
        left_out.log(str(folder))
    without = [path.name for path in chosen if stem_of(path) not in candidates]
    if without:
        raise DatasetError(
            f"{len(without)} of {len(chosen)} images of {str(chosen[0].parent)!r} have no {what} "
            f"in {str(folder)!r}: {', '.join(without[:3])}. The stem of a {what} is that of its "
            f"image, alone or followed by '_' and more."
        )
    partners = {}
    for path in chosen:
        fitting = candidates[stem_of(path)]
        best = [partner for order, partner in fitting if order == min(fitting)[0]]
        if len(best) > 1:
            raise DatasetError(
                f"{path.name!r} has {len(best)} files that could be its {what}: "
                f"{', '.join(partner.name for partner in best)}. Keep one."
            )
        partners[stem_of(path)] = best[0]
    return partners


def read_photograph(sample: Sample) -> RGB:
    """Read a photograph, gzipped or not, as uint8 RGB (H, W, 3); errors as ``images.to_rgb``."""
    path = sample.image
    is_gzipped = path.suffix.lower() == ".gz"
    return to_rgb(read_content(path) if is_gzipped else path, bits=sample.bits)


def read_sample_label(sample: Sample, path: Path, photograph: RGB) -> Label:
    """Read a label of a photograph (H, W, 3).

    Raises DatasetError as :func:`read_partial_label` does, and if the sizes differ. A warning is
    logged if the EXIF orientation turns the photograph alone.
    """
    label = read_partial_label(path)
    _check_fit(sample, path, photograph, label.vessels)
    return label


def read_sample_fov(sample: Sample, path: Path, photograph: RGB) -> Mask:
    """Read a field of view of a photograph (H, W, 3), as :func:`read_sample_label` reads a label.

    A warning is also logged if it is darker than what is outside it.
    """
    inside = read_fov(path)
    _check_fit(sample, path, photograph, inside)
    if not inside.all() and photograph[inside].mean() < photograph[~inside].mean():
        logger.warning("Field of view %r is darker inside than outside. Is it inverted?", str(path))
    return inside


def _check_fit(sample: Sample, path: Path, photograph: RGB, mask: Mask) -> None:
    """Raise DatasetError if a label or field of view differs in size from its photograph."""
    turned = orientation_of(sample.image)
    (height, width), (rows, columns) = photograph.shape[:2], mask.shape
    if (rows, columns) != (height, width):
        is_stored = turned >= 5 and (rows, columns) == (width, height)  # by a quarter
        hint = " Turn it as the EXIF orientation turns the photograph." if is_stored else ""
        raise DatasetError(
            f"{path.name!r} is {columns} x {rows} pixels, but its photograph "
            f"{sample.image.name!r} is {width} x {height}; they must have the same size.{hint}"
        )
    if turned != 1 and orientation_of(path) == 1:
        logger.warning(
            "The EXIF orientation turns %r, but not %r, which is taken to be drawn on the turned "
            "photograph.", str(sample.image), str(path),
        )  # fmt: skip
