"""What a segmentation gives: mask, probability, and how they came about."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from .errors import OptionError
from .files import whole_file
from .images import RGB

KINDS = ("mask", "probability", "overlay", "fov")
STYLES = ("tint", "outline")
_CYAN = (0, 220, 255)  # far from the reds and yellows of a retina, also for the colour-blind


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """The vessels of one photograph, at its own size.

    Attributes
    ----------
    mask : ndarray of bool (H, W)
        True where `probability` exceeds the threshold.
    probability : ndarray of float32 (H, W)
        That a pixel is vessel, in [0, 1].
    field_of_view : ndarray of bool (H, W)
        True inside the camera's bright disc, as :func:`vesselseg.field_of_view` gives it.
    provenance : dict
        Plain values that say how this came about: ``vesselseg`` and ``torch`` (versions),
        ``model``, ``sha256`` of its weights, ``scale`` (the rule), ``network_size`` (height and
        width that the network saw), ``fov_diameter`` (pixels of the photograph, or None),
        ``engine``, ``device``, ``precision`` and ``threshold``.
    """

    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    field_of_view: NDArray[np.bool_]
    provenance: dict[str, Any]
    _photograph: RGB = field(repr=False)

    def overlay(
        self,
        *,
        style: str = "tint",
        color: tuple[int, int, int] = _CYAN,
        opacity: float = 0.6,
    ) -> Image.Image:
        """The vessels drawn over the photograph.

        Parameters
        ----------
        style : {"tint", "outline"}
            Vessels coloured, or only their border, one pixel wide.
        color : (int, int, int)
            R, G and B from 0 to 255.
        opacity : float
            Of the colour, from 0 to 1.

        Returns
        -------
        PIL.Image.Image
            RGB, of the photograph's size.

        Raises
        ------
        OptionError
            If an argument is outside what is described here.
        """
        if style not in STYLES:
            raise OptionError(f"style is {style!r}; allowed are 'tint' and 'outline'.")
        if not 0 <= opacity <= 1:
            raise OptionError(f"opacity is {opacity!r}; it has to be from 0 to 1.")
        if len(color) != 3 or not all(0 <= part <= 255 for part in color):
            raise OptionError(f"color is {color!r}; it has to be three numbers from 0 to 255.")
        drawn = self.mask if style == "tint" else self.mask & ~_inner(self.mask)
        pixels = self._photograph.copy()
        tinted = pixels[drawn] * (1 - opacity) + np.asarray(color) * opacity
        pixels[drawn] = np.rint(tinted).astype(np.uint8)
        return Image.fromarray(pixels)

    def save(
        self, path: str | os.PathLike[str], kind: str = "mask", *, style: str = "tint"
    ) -> None:
        """Write one picture as PNG, with the provenance in it as text; whole or not at all.

        Parameters
        ----------
        path : path
            Ends in ``.png``. An existing file is replaced.
        kind : {"mask", "probability", "overlay", "fov"}
            The mask as 0 and 255; the probability in 16 bits, `round(p * 65535)`; the
            overlay in RGB; or the field of view as 0 and 255.
        style : {"tint", "outline"}
            Of the overlay, as for :meth:`overlay`.

        Raises
        ------
        OptionError
            If the path does not end in .png, or the kind or the style is none of these.
        OutputError
            If the file cannot be written.
        """
        if kind not in KINDS:
            raise OptionError(f"kind is {kind!r}; allowed are {', '.join(map(repr, KINDS))}.")
        if Path(path).suffix.lower() != ".png":
            raise OptionError(f"{str(path)!r} has to end in .png: masks are kept without loss.")
        with whole_file(path) as part:
            self._write(part, kind, style=style)

    def _write(self, target: Path | IO[bytes], kind: str, **drawn: Any) -> None:
        """The PNG file of :meth:`save`; `drawn` are arguments of :meth:`overlay`."""
        picture = self._picture(kind, **drawn)
        picture.save(target, format="PNG", pnginfo=self._text_chunks(kind))

    def _picture(self, kind: str, **drawn: Any) -> Image.Image:
        if kind == "overlay":
            return self.overlay(**drawn)
        if kind == "probability":
            return Image.fromarray(np.rint(self.probability * 65535.0).astype(np.uint16))
        shown = self.mask if kind == "mask" else self.field_of_view
        return Image.fromarray(shown.astype(np.uint8) * 255)

    def _text_chunks(self, kind: str) -> PngImagePlugin.PngInfo:
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("Software", f"vesselseg {self.provenance['vesselseg']}")
        chunks.add_text("vesselseg", json.dumps({"kind": kind, **self.provenance}))
        return chunks

    def __repr__(self) -> str:
        height, width = self.mask.shape
        inside = self.mask[self.field_of_view]
        share = 100 * float(inside.mean()) if inside.size else 0.0
        return (
            f"<Segmentation of {width} x {height} pixels by {self.provenance['model']}: "
            f"{share:.1f} % of the field of view is vessel>"
        )


def _inner(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels whose four neighbours are True too; the frame counts as True."""
    padded = np.pad(mask, 1, constant_values=True)
    neighbours = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(neighbours & mask)
