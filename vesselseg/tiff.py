"""What a TIFF file declares about its pixels, and those that Pillow would read wrongly.

Pillow reads most TIFF files rightly. Others are read with tifffile, of the extra ``tiff``, as far
as their pixels are not compressed: what tifffile unpacks has no limit. All others are rejected.
"""

from __future__ import annotations

import math
import re
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from .errors import ImageError, require

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_DESCRIPTION, _SAMPLES, _PLANAR, _COLOR_MAP, _INK_SET = 270, 277, 284, 320, 332
_ORIENTATION, _PROFILE = 274, 34675
_SUBFILE, _EXTRA, _SAMPLE_FORMAT, _SUBSAMPLING, _DNG = 254, 338, 339, 530, 50706
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_PHOTOMETRICS = (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR)
_UNSIGNED, _FLOAT, _SEPARATE = 1, 3, 2
_UNSPECIFIED, _PREMULTIPLIED, _ALPHA = 0, 1, 2
_NO_ALPHA = ((_UNSPECIFIED,), (_PREMULTIPLIED,))
_ADVICE = (
    "Convert it, for example to an RGB file of 8 bits; or read it with tifffile, and pass the "
    "array: uint8, uint16, or float in [0, 1]."
)


class Layout:
    """How the first picture of a TIFF file is stored, by its tags."""

    def __init__(self, tags: ImageFileDirectory_v2) -> None:
        samples = int(tags.get(_SAMPLES, 1))
        bits = tuple(tags.get(_BITS, (1,)))
        self.tags = tags
        self.width, self.height = int(tags[_WIDTH]), int(tags[_HEIGHT])
        self.photometric = tags.get(_PHOTOMETRIC)
        self.samples = samples
        self.bits = set(bits[:samples])
        self.formats = set(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[:samples])
        self.is_compressed = tags.get(_COMPRESSION, 1) != 1
        self.is_separate = samples > 1 and tags.get(_PLANAR, 1) == _SEPARATE
        self.extra = tuple(tags.get(_EXTRA, ()))
        self.orientation = tags.get(_ORIENTATION)  # as EXIF has it
        self.color_profile: bytes | None = tags.get(_PROFILE)
        description, numbers = str(tags.get(_DESCRIPTION, "")), {}
        if description.startswith("ImageJ="):
            pairs = re.findall(r"^(images|channels)=(\d{1,9})\s*$", description, re.MULTILINE)
            numbers = dict(pairs)
        self.images, self.channels = (int(numbers.get(key, 1)) for key in ("images", "channels"))

    @property
    def is_negative(self) -> bool:
        """Whether Pillow makes a negative of it: it inverts values of up to 8 bits only."""
        return self.photometric == _WHITE_IS_ZERO and max(self.bits) > 8

    @property
    def is_composite(self) -> bool:
        """Whether it is an ImageJ file whose three images are the channels of one picture."""
        return self.channels == self.images == 3 and self.samples == 1

    def why_rejected(self) -> str:
        """What makes the pixels of no use, or ""."""
        if self.tags.get(_SUBFILE, 0) & 1 or _DNG in self.tags:
            return (
                "is a raw file of a camera, or begins with a preview. Develop it with the camera's "
                "software or rawpy, and save it as TIFF or PNG."
            )
        colors = self.tags.get(_COLOR_MAP, ())
        problem = ""
        if self.photometric not in (*_PHOTOMETRICS, None):
            problem = f"has colours of another kind (photometric interpretation {self.photometric})"
        elif len(self.formats) > 1 or len(self.bits) > 1:
            problem = "has channels of different types"
        elif self.formats == {2}:
            problem = "has signed values, whose black and white are not defined"
        elif self.formats == {_UNSIGNED} and max(self.bits) > 16:
            problem = f"has integers of {max(self.bits)} bits, whose white is not defined"
        elif self.formats - {_UNSIGNED, _FLOAT}:
            problem = "has complex or undefined values"
        elif self.photometric == _PALETTE and 0 < max(colors, default=0) < 256:
            problem = "has a palette of 8 bits, where TIFF wants 16, and would be black"
        elif self.photometric == _CMYK and self.tags.get(_INK_SET, 1) != 1:
            problem = "has other inks than CMYK"
        elif self.channels > 1 and not self.is_composite:
            problem = f"is an ImageJ file of {self.images} images in {self.channels} channels"
        return f"{problem}. {_ADVICE}" if problem else ""

    def needs_tifffile(self, bits: int | None) -> bool:
        """Whether Pillow reads it wrongly or not at all, or not with this depth."""
        is_deep = max(self.bits) > 8
        is_subsampled = self.photometric == _YCBCR and self.tags.get(_SUBSAMPLING) != (1, 1)
        return (
            self.is_composite
            or (
                self.is_separate and not self.is_compressed and (is_deep or self.extra in _NO_ALPHA)
            )
            or (self.photometric == _RGB and is_deep and bits not in (None, 16))
            or (self.formats == {_FLOAT} and self.is_compressed and self.tags.prefix == b"MM")
            or (is_subsampled and not self.is_compressed)
        )


def read_tags(stream: IO[bytes]) -> ImageFileDirectory_v2:
    """The tags of the first picture."""
    stream.seek(0)
    header = stream.read(8)
    if header[2:3] == b"+" or header[3:4] == b"+":  # BigTIFF
        header += stream.read(8)
    tags = ImageFileDirectory_v2(header)
    stream.seek(tags.next)
    tags.load(stream)
    return tags


def read(stream: IO[bytes], layout: Layout, label: str, max_pixels: float) -> NDArray[Any]:
    """Decode the first picture with tifffile: values (H, W) or (H, W, channels), black at 0."""
    colors = 1 if layout.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) else 3
    is_readable = (
        layout.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
        and layout.samples == colors + len(layout.extra)
        and layout.extra in ((), (_UNSPECIFIED,), (_ALPHA,))
        and layout.bits <= ({8, 16} if layout.formats == {_UNSIGNED} else {16, 32, 64})
    )
    if not is_readable or layout.is_compressed:
        kind = "a compressed TIFF file" if is_readable else "a TIFF file"
        raise ImageError(f"{label} is {kind} whose layout Pillow does not read. {_ADVICE}")
    tifffile = require("tifffile", "tiff")
    stream.seek(0)
    with tifffile.TiffFile(stream) as opened:
        source = opened.series[0] if layout.is_composite else opened.pages[0]
        if math.prod(source.shape) > 4 * max_pixels:
            raise ImageError(f"{label} has more values than {max_pixels:,} pixels have.")
        axes = source.axes.replace("C", "S")
        values: NDArray[Any] = source.asarray()
    if axes == "SYX":
        values = np.moveaxis(values, 0, 2)
    elif axes not in ("YX", "YXS"):
        raise ImageError(f"{label} is a TIFF file with axes {axes}. {_ADVICE}")
    if layout.extra and (colors == 1 or layout.extra == (_UNSPECIFIED,)):
        values = values[..., :colors]
    return invert(values) if layout.photometric == _WHITE_IS_ZERO else values


def invert(values: NDArray[Any]) -> NDArray[Any]:
    """Exchange black and white: integers of all their bits, or float in [0, 1]."""
    white = 1 if values.dtype.kind == "f" else np.iinfo(values.dtype).max
    return np.asarray(white - values, dtype=values.dtype)
