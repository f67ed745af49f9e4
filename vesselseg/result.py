"""The result of a segmentation: mask, probability, and how they were computed."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from .errors import OptionError
from .files import whole_file
from .images import RGB

Kind: TypeAlias = Literal["mask", "probability", "overlay", "fov"]
Style: TypeAlias = Literal["tint", "outline"]
KINDS = ("mask", "probability", "overlay", "fov")
STYLES = ("tint", "outline")
_CYAN = (0, 220, 255)  # stands out from the reds and yellows of a retina, for the colour-blind too


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """The vessels of one photograph, at its own size.

    Attributes
    ----------
    mask : ndarray of bool (H, W)
        True where `probability` exceeds the threshold.
    probability : ndarray of float32 (H, W)
        Probability that a pixel is vessel, in [0, 1].
    field_of_view : ndarray of bool (H, W)
        True inside the camera's bright disc, as :func:`vesselseg.field_of_view` returns it.
    provenance : dict
        How the result was computed, as plain values: ``vesselseg`` and ``torch`` (versions),
        ``model``, ``sha256`` of its weights, ``scale`` (the rule), ``network_size`` (height and
        width that the network saw), ``fov_diameter`` (pixels of the photograph, or None),
        ``backend``, ``device``, ``precision`` and ``threshold``.
    """

    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    field_of_view: NDArray[np.bool_]
    provenance: dict[str, Any]
    _photograph: RGB = field(repr=False)

    def at_threshold(self, threshold: float) -> Segmentation:
        """The same probabilities with the mask of another threshold; the model does not run.

        Parameters
        ----------
        threshold : float
            Pixels with a higher probability are vessel, in [0, 1].

        Raises
        ------
        OptionError
            If `threshold` is not a number in [0, 1].
        """
        threshold = check_threshold(threshold)
        return dataclasses.replace(
            self,
            mask=self.probability > np.float32(threshold),
            provenance={**self.provenance, "threshold": threshold},
        )

    def overlay(
        self, *, style: Style = "tint", color: tuple[int, int, int] = _CYAN, opacity: float = 0.6
    ) -> Image.Image:
        """The vessels drawn over the photograph.

        Parameters
        ----------
        style : {"tint", "outline"}
            Colour the vessels, or only their border, one pixel wide.
        color : (int, int, int)
            R, G and B from 0 to 255.
        opacity : float
            Opacity of the colour, from 0 to 1.

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
            raise OptionError(f"opacity is {opacity!r}; it must be from 0 to 1.")
        if len(color) != 3 or not all(0 <= part <= 255 for part in color):
            raise OptionError(f"color is {color!r}; it must be three numbers from 0 to 255.")
        drawn = self.mask if style == "tint" else border(self.mask)
        pixels = self._photograph.copy()
        pixels[drawn] = np.rint(pixels[drawn] * (1 - opacity) + np.asarray(color) * opacity)
        return Image.fromarray(pixels)

    def save(
        self, path: str | os.PathLike[str], kind: Kind = "mask", *, style: Style = "tint"
    ) -> None:
        """Write one picture as a PNG file, with the provenance as text in it.

        The file is written whole or not at all; an existing one is replaced.

        Parameters
        ----------
        path : path
            Ends in ``.png``.
        kind : {"mask", "probability", "overlay", "fov"}
            The mask as 0 and 255; the probability in 16 bits, `round(p * 65535)`; the
            overlay in RGB; or the field of view as 0 and 255.
        style : {"tint", "outline"}
            Style of the overlay: vessels coloured, or only their border.

        Raises
        ------
        OptionError
            If the path does not end in .png, or there is no such kind or style.
        OutputError
            If the file cannot be written.
        """
        if Path(path).suffix.lower() != ".png":
            raise OptionError(f"{str(path)!r} must end in .png, a lossless format.")
        with whole_file(path) as part, part.open("wb") as stream:
            self.write(stream, kind, style=style)

    def write(
        self, stream: IO[bytes], kind: Kind = "mask", *, style: Style = "tint", opacity: float = 0.6
    ) -> None:
        """Write the PNG file of :meth:`save` to a binary stream.

        Parameters
        ----------
        stream : binary file object
        kind : {"mask", "probability", "overlay", "fov"}
        style : {"tint", "outline"}
            Style of the overlay.
        opacity : float
            Opacity of the overlay's colour, from 0 to 1.

        Raises
        ------
        OptionError
            If an argument is outside what is described here.
        """
        if kind == "overlay":
            picture = self.overlay(style=style, opacity=opacity)
        elif kind == "probability":
            picture = Image.fromarray(np.rint(self.probability * 65535.0).astype(np.uint16))
        elif kind in ("mask", "fov"):
            shown = self.mask if kind == "mask" else self.field_of_view
            picture = Image.fromarray(shown.astype(np.uint8) * 255)
        else:
            raise OptionError(f"kind is {kind!r}; allowed are {', '.join(map(repr, KINDS))}.")
        text = PngImagePlugin.PngInfo()
        text.add_text("Software", f"vesselseg {self.provenance['vesselseg']}")
        text.add_text("vesselseg", json.dumps({"kind": kind, **self.provenance}))
        picture.save(stream, format="PNG", pnginfo=text)

    def vessel_fraction(self) -> float | None:
        """Share of the field of view that is vessel, in [0, 1]; None if there is no pixel in it."""
        inside = self.mask[self.field_of_view]
        return float(inside.mean()) if inside.size else None

    def __repr__(self) -> str:
        height, width = self.mask.shape
        share = 100 * (self.vessel_fraction() or 0.0)
        return (
            f"<Segmentation of {width} x {height} pixels by {self.provenance['model']}: "
            f"{share:.1f} % of the field of view is vessel>"
        )


def check_threshold(threshold: float) -> float:
    """Return the threshold; raise OptionError if it is not a number in [0, 1]."""
    is_number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
    if not (is_number and 0 <= threshold <= 1):
        raise OptionError(f"threshold is {threshold!r}; it must be a number from 0 to 1.")
    return float(threshold)


def border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask with one of their four neighbours outside it; the frame counts as inside."""
    padded = np.pad(mask, 1, constant_values=True)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(mask & ~inner)
