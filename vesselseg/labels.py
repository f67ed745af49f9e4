"""Labels: files that say of every pixel whether there is a vessel, from any program."""

from __future__ import annotations

import gzip
import io
import logging
import math
import zlib
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from .errors import DatasetError
from .files import StrPath
from .formats import MAX_PIXELS
from .metrics import Mask
from .pictures import collect_complaints, load_whole, open_picture
from .result import read_provenance

logger = logging.getLogger(__name__)

CORRECTIONS = "corrections"
"""The folder beside photographs that holds their corrected masks, which are labels."""

_WHITES = (1, 255, 65535)
_UNKNOWN = 128  # between 0 and 255: not known whether there is a vessel
_TWO_VALUES = (
    "A label has two values: 0, and 255 or 1 (65535 in files of 16 bits) where there is a vessel. "
    "Beside 0 and 255, 128 means that it is not known. "
    "To make a label of probabilities or of numbers of objects: np.uint8(values > threshold) * 255."
)
_LOSSY = ("JPEG", "MPO", "WEBP", "JPEG2000", "AVIF")
_NEAR = 1 / 32  # of white: how far lossy compression moves black and white
_LEAST_WHITE = 3 / 4  # where lossy compression leaves a label's brightest value
_FEW = 8  # values: classes or numbers of objects rather than shades
_TINT = 32  # difference of channels that lossy compression makes of grey
_MANY_BETWEEN = 0.1  # pixels between a quarter and three quarters of white, per white pixel
_LARGEST_SHARE = 0.5  # of vessel pixels in a label, where about a tenth is usual


class Label(NamedTuple):
    """A label that may be known in part only: two masks (H, W)."""

    vessels: Mask
    """True where there is a vessel; False where it is not known."""
    known: Mask
    """True where it is known whether there is a vessel."""


def read_label(path: StrPath) -> Mask:
    """Read a label (H, W), True where there is a vessel.

    A label is two-valued. Vessels are white on black: 255 or 1 (65535 in files of 16 bits) on 0; or
    all of one colour on black or on a transparent background. Values in between, such as those that
    JPEG leaves, count as vessel from half of white, with a logged warning if there are many. The
    EXIF orientation is applied, as it is to photographs.

    Raises FileNotFoundError if there is no such file, and DatasetError if it cannot be decoded, has
    other values or colours or more of them, is known in part only
    (:func:`read_partial_label`), or if most of it is vessel. A mask that vesselseg wrote can be
    read; its other pictures are rejected.
    """
    label = read_partial_label(path)
    _check_known(label, path)
    return label.vessels


def read_partial_label(path: StrPath) -> Label:
    """Read a label that may be known in part only.

    In a label whose values are 0, 128 and 255, or 128 and one of the others, 128 means that it is
    not known whether there is a vessel. A warning is logged unless it is in a folder
    ``corrections`` or vesselseg wrote it. Everything else is as in :func:`read_label`.
    """
    path = Path(path)
    label, is_ours = _read_values(path, ("mask", "correction"))
    share = label.vessels.mean()
    if share > _LARGEST_SHARE and not is_ours:
        raise DatasetError(
            f"In label {str(path)!r} {math.floor(100 * share)} % of the pixels are vessel. Vessels "
            f"must be white and everything else black. Invert the label if it is the other way "
            f"round."
        )
    unknown = 1 - label.known.mean()
    if unknown and not is_ours and path.absolute().parent.name != CORRECTIONS:
        logger.warning(
            "In label %r %.1f %% of the pixels are %d, which is read as not known.",
            str(path), 100 * unknown, _UNKNOWN,
        )  # fmt: skip
    return label


def read_fov(path: Path) -> Mask:
    """Read a field of view (H, W), True inside, by the rule of :func:`read_label`.

    Raises as that does, except that all of it can be inside; but if none is, DatasetError.
    """
    label, _ = _read_values(path, ("fov",))
    _check_known(label, path)
    if not label.vessels.any():
        raise DatasetError(f"Field of view {str(path)!r} is all black. White is inside.")
    return label.vessels


def _check_known(label: Label, path: StrPath) -> None:
    """Raise DatasetError if a label is known in part only."""
    if not label.known.all():
        raise DatasetError(
            f"{str(path)!r} is known in part only: {_UNKNOWN} between 0 and 255 means that it is "
            f"not known. Make it 0 or 255; only evaluation and training accept such labels."
        )


def _read_values(path: Path, kinds: tuple[str, ...]) -> tuple[Label, bool]:
    """A label or field of view, and whether vesselseg wrote it, which must be as these kinds."""
    content = read_content(path)
    ours = read_provenance(io.BytesIO(content))
    if ours.get("kind", kinds[0]) not in kinds:
        raise DatasetError(
            f"{str(path)!r} cannot be used as a {kinds[0]}: vesselseg wrote it as {ours['kind']}."
        )
    try:
        stream = io.BytesIO(content)
        with collect_complaints() as complaints, open_picture(stream) as opened:
            pages, is_lossy = getattr(opened, "n_frames", 1), opened.format in _LOSSY
            load_whole(opened, stream)
            upright = opened
            if _orientation(opened) != 1:
                upright = ImageOps.exif_transpose(opened)
            values = _to_values(upright)
    except Exception as error:  # bytes from outside can make a decoder raise anything
        reason = str(error).partition("\n")[0]
        raise DatasetError(f"Label {str(path)!r} could not be decoded: {reason}.") from error
    for complaint in dict.fromkeys(complaints):
        logger.warning("Label %r may be damaged: %s", str(path), complaint.strip())
    if pages > 1:
        raise DatasetError(f"Label {str(path)!r} has {pages} pages; it must have one.")
    known = np.ones(values.shape[:2], np.bool_)
    if values.ndim == 3:
        vessels = _from_colors(values, path)
    elif not is_lossy and _has_unknown(values, path):
        vessels, known = np.asarray(values == 255), np.asarray(values != _UNKNOWN)
    else:
        vessels = _from_grey(values, path, is_lossy)
    return Label(vessels, known), bool(ours)


def _has_unknown(values: NDArray[Any], path: Path) -> bool:
    """Whether values are 0, 128 and 255; DatasetError if there are others beside many of 128."""
    if values.dtype != np.uint8:
        return False
    counts = np.bincount(values.ravel(), minlength=256)
    levels = set(counts.nonzero()[0].tolist())
    if levels <= {0, _UNKNOWN, 255}:
        return _UNKNOWN in levels and len(levels) > 1
    if counts[_UNKNOWN] > counts[1:255].sum() / 2:  # a soft brush on what is not known
        raise DatasetError(
            f"Label {str(path)!r} has many pixels of {_UNKNOWN}, which means that they are not "
            f"known, and others between 0 and 255. Paint with a hard brush (a pencil, without "
            f"antialiasing), so that there are only 0, {_UNKNOWN} and 255."
        )
    return False


def _to_values(picture: Image.Image) -> NDArray[Any]:
    """The pixels of a label: grey (H, W), or RGB (H, W, 3) if there are colours."""
    if picture.mode.startswith(("I", "F")):  # more than 8 bits
        return np.asarray(picture)
    if not picture.has_transparency_data:
        colors = np.asarray(picture.convert("RGB"))
    else:
        rgba = np.asarray(picture.convert("RGBA")).astype(np.uint16)
        opaque = rgba[..., 3]
        # A transparent background is black; black vessels on it become white.
        is_drawn_in_black = not rgba[opaque > 0, :3].any() and not opaque.all()
        drawn = np.full_like(rgba[..., :3], 255) if is_drawn_in_black else rgba[..., :3]
        colors = ((drawn * opaque[..., None] + 127) // 255).astype(np.uint8)
    red, green, blue = np.moveaxis(colors, 2, 0)
    return red if np.array_equal(red, green) and np.array_equal(green, blue) else colors


def _from_colors(colors: NDArray[np.uint8], path: Path) -> Mask:
    """Whether pixels are vessel in a label with colours."""
    picture = Image.fromarray(colors)
    count_of = {color: count for count, color in picture.getcolors(colors.size) or []}
    if len(count_of) <= 2 and (0, 0, 0) in count_of:
        return np.asarray(colors.any(axis=2))
    if np.ptp(colors, axis=2).max() <= _TINT:
        return _from_grey(np.asarray(picture.convert("L")), path, is_lossy=True)
    named = ", ".join(map(str, sorted(count_of, key=count_of.__getitem__, reverse=True)[:4]))
    raise DatasetError(
        f"Label {str(path)!r} has {len(count_of)} colours, most of it {named}. A label is white on "
        f"black, or one colour on black. If it is a photograph, pass its label instead. If colours "
        f"tell arteries from veins, make both white; in Python, "
        f"np.asarray(image)[..., :3].any(axis=2)."
    )


def _from_grey(values: NDArray[Any], path: Path, is_lossy: bool) -> Mask:
    """Whether pixels are vessel in a grey label."""
    low, high = values.min(), values.max()
    is_whole = values.dtype.kind != "f" or np.array_equal(values, np.rint(values))
    if not (low >= 0 and high <= 65535 and is_whole):
        raise DatasetError(
            f"Label {str(path)!r} has values from {low:g} to {high:g}, as a probability map has. "
            f"{_TWO_VALUES}"
        )
    values = values.astype(np.uint16)
    counts = np.bincount(values.ravel())
    levels = counts.nonzero()[0]
    white = next(white for white in _WHITES if high <= white)
    # Compression moves values a little, at both ends; a few values are classes otherwise.
    is_near = (levels <= _NEAR * white) | (levels >= (1 - _NEAR) * white)
    is_compressed = is_lossy or (is_near.all() and (levels > white / 2).sum() > 1)
    is_shaded = is_compressed or len(levels) > _FEW
    if not (set(levels.tolist()) <= {0, white} or (is_shaded and high >= _LEAST_WHITE * white)):
        listed = ", ".join(map(str, levels[:_FEW].tolist()))
        more = ", ..." if len(levels) > _FEW else ""
        raise DatasetError(f"Label {str(path)!r} has the values {listed}{more}. {_TWO_VALUES}")
    between = counts[math.ceil(white / 4) : math.ceil(white * 3 / 4)].sum()
    vessels = values >= (white + 1) / 2
    share = between / max(np.count_nonzero(vessels), 1)
    if share > 1:
        raise DatasetError(
            f"Label {str(path)!r} has more pixels between black and white than white ones, as a "
            f"photograph has. {_TWO_VALUES}"
        )
    if share > _MANY_BETWEEN:
        logger.warning(
            "Label %r has values between black and white, as a probability map has or a label that "
            "was resized. From half of white they count as vessel.", str(path),
        )  # fmt: skip
    return np.asarray(vessels)


def orientation_of(path: Path) -> int:
    """The EXIF orientation of a file, from 1 to 8; 1 if it has none that can be read."""
    try:
        with open_picture(io.BytesIO(read_content(path))) as opened:
            return _orientation(opened)
    except Exception:  # bytes from outside can make a decoder raise anything
        return 1


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation of a picture; 1 if it has none that can be read."""
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a malformed block is none
        return 1
    return found if found in range(1, 9) else 1


def read_content(path: Path) -> bytes:
    """The bytes of a file, unpacked if it is gzipped."""
    try:
        if not S_ISREG(path.stat().st_mode):
            raise DatasetError(f"{str(path)!r} is not a file, but a folder, a pipe or a device.")
        if path.suffix.lower() != ".gz":
            return path.read_bytes()
        with gzip.open(path) as stream:
            content = stream.read(4 * MAX_PIXELS + 1)
        if len(content) > 4 * MAX_PIXELS:
            raise DatasetError(f"{str(path)!r} unpacks to more than {4 * MAX_PIXELS:,} bytes.")
        return content
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no file {str(path)!r}.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{str(path)!r} cannot be read or unpacked: {error}.") from error
