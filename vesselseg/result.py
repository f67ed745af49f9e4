"""The result of a segmentation: mask, probability, and how they were computed."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias, Union, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image, PngImagePlugin
from PIL.TiffImagePlugin import IMAGEDESCRIPTION

from .errors import ImageError, OptionError
from .files import whole_file
from .formats import endings, is_dicom
from .images import RGB, ImageSource, is_source, open_source
from .pictures import open_picture
from .spec import is_tuple, plain

if TYPE_CHECKING:
    from .measures import Measures

Kind: TypeAlias = Literal["mask", "probability", "overlay", "fov"]
Style: TypeAlias = Literal["tint", "outline"]
Format: TypeAlias = Literal["png", "tiff", "npy"]
Target: TypeAlias = Union[str, "os.PathLike[str]", IO[bytes]]
KINDS: tuple[Kind, ...] = get_args(Kind)
_STYLES: tuple[Style, ...] = get_args(Style)
FORMATS: dict[str, Format] = {".png": "png", ".tif": "tiff", ".tiff": "tiff", ".npy": "npy"}
_PREVIEW = 400  # pixels of the longer side of the picture that a notebook shows
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
        ``model``, ``sha256`` of its weights, ``spec`` (digest of the model spec), ``stride``,
        ``scale`` (the rule), ``network_size`` (height and width at the network's scale),
        ``fov_diameter`` (pixels of the photograph, or None), ``backend``, ``device``,
        ``precision``, ``threshold``, ``familiarity``, ``undecided_fraction`` (share of the field of
        view with a probability from 0.25 to 0.75) and ``warning``. Files that
        :func:`vesselseg.segment_folder` writes also have the ``input_version`` of the photograph.
    """

    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    field_of_view: NDArray[np.bool_]
    provenance: dict[str, Any]
    _photograph: RGB

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
        check_style(style)
        if not _is_share(plain(opacity)):
            raise OptionError(f"opacity is {opacity!r}; it must be from 0 to 1.")
        rgb = plain(color)
        if not is_tuple(rgb, 3) or not all(0 <= part <= 255 for part in rgb):
            raise OptionError(f"color is {color!r}; it must be three numbers from 0 to 255.")
        drawn = self.mask if style == "tint" else _border(self.mask)
        pixels = self._photograph.copy()
        pixels[drawn] = np.rint(pixels[drawn] * (1 - opacity) + np.asarray(rgb) * opacity)
        return Image.fromarray(pixels)

    def save(
        self,
        target: Target,
        kind: Kind = "mask",
        *,
        format: Format | None = None,
        style: Style = "tint",
        color: tuple[int, int, int] = _CYAN,
        opacity: float = 0.6,
    ) -> None:
        """Write one picture to a file or a binary stream.

        A file is written whole or not at all; an existing one is replaced.

        Parameters
        ----------
        target : path or binary file object
            A path ends in ``.png``, ``.tif``, ``.tiff`` or ``.npy``.
        kind : {"mask", "probability", "overlay", "fov"}
            What to write; the table below has the values.
        format : {"png", "tiff", "npy"}, optional
            None goes by the path's ending, which it must not contradict; a stream needs it.
        style : {"tint", "outline"}
            Style of the overlay: vessels coloured, or only their border.
        color : (int, int, int)
            R, G and B of the overlay's colour, from 0 to 255.
        opacity : float
            Opacity of the overlay's colour, from 0 to 1.

        Raises
        ------
        OptionError
            If the ending or an argument is outside what is described here.
        OutputError
            If the file cannot be written. What a stream raises is passed on.

        Notes
        -----
        PNG and TIFF files are compressed without loss and hold the provenance as JSON, in the
        text chunk ``vesselseg`` and in the image description; in TIFF files also the ``crc32`` of
        the pixels.

        ============  ========================  ==================  =====================
        kind          PNG                       TIFF                NPY
        ============  ========================  ==================  =====================
        mask, fov     uint8, 0 and 255          uint8, 0 and 255    uint8, 0 and 1
        probability   uint16, round(p * 65535)  float32, 0 to 1     float32, 0 to 1
        overlay       uint8 RGB                 uint8 RGB           uint8 RGB, (H, W, 3)
        ============  ========================  ==================  =====================
        """
        if isinstance(target, (str, os.PathLike)):
            ending = PurePath(target).suffix.lower()
            if format is None:
                format = FORMATS.get(ending)
            elif ending in (*FORMATS, *endings()) and FORMATS.get(ending) != format:
                raise OptionError(
                    f"{str(target)!r} ends in {ending}, but format is {format!r}. Leave format "
                    f"out, or choose another ending: {', '.join(FORMATS)}."
                )
        if format is None or format not in FORMATS.values():
            raise OptionError(
                f"{str(target)!r} must end in {', '.join(FORMATS)}. In Python, a stream needs "
                f"format='png', 'tiff' or 'npy'. DICOM files are written by save_dicom."
            )
        if kind not in KINDS:
            raise OptionError(f"kind is {kind!r}; allowed are {', '.join(map(repr, KINDS))}.")
        drawn = {"style": style, "color": color, "opacity": opacity} if kind == "overlay" else {}
        _write(target, self._encode(kind, format, drawn))

    def save_dicom(self, target: Target, source: ImageSource) -> None:
        """Write the mask as a DICOM Segmentation object that refers to its photograph.

        Parameters
        ----------
        target : path or binary file object
            A file is written whole or not at all; an existing one is replaced.
        source : path, bytes or binary file object
            The DICOM file of the photograph. A file object that was read before is read again
            from its start.

        Raises
        ------
        FileNotFoundError, ImageError
            If `source` does not exist, is damaged, or is no DICOM photograph of this size.
        OutputError
            If the file cannot be written. What a stream raises is passed on.
        OptionError
            If `target` ends as pictures do.
        MissingExtraError
            If the extra ``vesselseg[dicom]`` is not installed.

        Notes
        -----
        The object has one binary segment, of the photograph's size (DICOM PS3.3, A.51). It has the
        attributes of the patient and the study, the laterality and the pixel spacing; the other
        files that vesselseg writes have nothing from a header. The provenance is in Algorithm
        Parameters. UIDs and times are new in each file.
        """
        from . import dicom

        if isinstance(target, (str, os.PathLike)) and PurePath(target).suffix.lower() in FORMATS:
            raise OptionError(
                f"{str(target)!r} is the name of a picture, which save() writes. Choose another "
                f"ending, such as .dcm."
            )
        content, label = read_dicom_source(source)
        _write(target, dicom.encode_segmentation(content, label, self.mask, self.provenance))

    def _encode(self, kind: Kind, format: Format, drawn: dict[str, Any]) -> bytes:
        """The content of a file; `drawn` says how an overlay is."""
        stream = io.BytesIO()
        values: NDArray[Any]
        if kind == "overlay":
            values = np.asarray(self.overlay(**drawn))
        elif kind == "probability":
            values = self.probability
            if format == "png":
                values = np.rint(values * 65535.0).astype(np.uint16)
        else:
            values = (self.mask if kind == "mask" else self.field_of_view).astype(np.uint8)
            if format != "npy":
                values *= 255
        if format == "npy":
            np.save(stream, values)
            return stream.getvalue()
        # A PNG file has checksums of its own.
        crc = {"crc32": _checksum(values)} if format == "tiff" else {}
        provenance = {"kind": kind, **drawn, **crc, **self.provenance}
        picture = Image.fromarray(values)
        if format == "tiff":
            picture.save(
                stream, "TIFF", compression="tiff_adobe_deflate", software=_software(provenance),
                description=json.dumps(provenance),
            )  # fmt: skip
            return stream.getvalue()
        # A mask is mostly runs of equal pixels. Looking for these alone is faster.
        is_binary = kind in ("mask", "fov")
        return encode_png(picture, provenance, zlib.Z_RLE if is_binary else zlib.Z_DEFAULT_STRATEGY)

    @property
    def familiarity(self) -> float | None:
        """How like those trained on the photograph is, in [0, 1]; None if the spec has no figure.

        The Dice that the probabilities expect of the mask, over that on photographs like those
        trained on, times the photograph's sharpness over the least that the model needs; both
        factors are at most 1. Photographs below 0.85 are warned of. It sees blur, noise and
        strong compression, but not where a model is wrong and sure: 1 is no proof.
        """
        value: float | None = self.provenance.get("familiarity")
        return value

    def measure(
        self, *, mm_per_pixel: float | None = None, fill_holes: int = 20, min_size: int = 20
    ) -> Measures:
        """Measure the vessels in the field of view; see :func:`vesselseg.measure`.

        Parameters
        ----------
        mm_per_pixel : float, optional
            Size of a pixel on the retina, in millimetres, if you know it.
        fill_holes : int
            Holes of at most this many pixels are pinholes in a vessel and are filled; larger ones
            are loops. 0 fills none.
        min_size : int
            Parts of fewer pixels are specks and are removed. 0 removes none.

        Returns
        -------
        Measures
            Its ``overlay()`` draws what was measured over the photograph.

        Raises
        ------
        OptionError
            If an argument is outside what is described here, or the field of view is empty.
        MissingExtraError
            If the extra ``vesselseg[measure]`` is not installed.
        """
        from .measures import measure_photograph

        return measure_photograph(
            self.mask,
            self._photograph,
            fov=self.field_of_view,
            mm_per_pixel=mm_per_pixel,
            fill_holes=fill_holes,
            min_size=min_size,
        )

    def vessel_fraction(self) -> float | None:
        """Share of the field of view that is vessel, in [0, 1]; None if there is no pixel in it."""
        inside = self.mask[self.field_of_view]
        return float(inside.mean()) if inside.size else None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the photograph, in pixels."""
        height, width = self.mask.shape
        return height, width

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        # np.asarray(result) is the mask.
        if copy:
            return np.array(self.mask, dtype=dtype)
        values = self.mask if dtype is None else self.mask.astype(dtype, copy=False)
        if copy is False and values is not self.mask:
            raise ValueError(f"The mask is bool; it cannot become {dtype} without a copy.")
        return values

    def __repr__(self) -> str:
        height, width = self.mask.shape
        share = 100 * (self.vessel_fraction() or 0.0)
        return (
            f"<Segmentation of {width} x {height} pixels by {self.provenance['model']}: "
            f"{share:.1f} % of the field of view is vessel>"
        )

    def _repr_png_(self) -> bytes:
        # The overlay, reduced in size and to a palette of 128 colours, which makes it small.
        overlay = self.overlay()
        overlay.thumbnail((_PREVIEW, _PREVIEW))
        stream = io.BytesIO()
        overlay.quantize(128).save(stream, "PNG")
        return stream.getvalue()

    def _repr_html_(self) -> str:
        # Notebooks prefer this to the picture alone.
        height, width = self.shape
        share, diameter = self.vessel_fraction(), self.provenance.get("fov_diameter")
        figures = {
            "model": self.provenance["model"],
            "size": f"{width} x {height} pixels",
            "field of view": f"{diameter:.0f} pixels across" if diameter else "not found",
            "vessels": "-" if share is None else f"{100 * share:.1f} % of the field of view",
            "threshold": self.provenance["threshold"],
            "familiarity": self.familiarity,
            "warning": self.provenance.get("warning"),
        }
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th>"
            f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
            for name, value in figures.items()
            if value not in (None, "")
        )
        picture = base64.b64encode(self._repr_png_()).decode()
        return (
            f"<div style='display:flex;flex-wrap:wrap;gap:1em'><img src='data:image/png;base64,"
            f"{picture}' alt='The photograph with its vessels coloured' style='max-width:100%'>"
            f"<table>{rows}</table></div>"
        )


def _write(target: Target, content: bytes) -> None:
    """Write a file whole or not at all, or to a stream."""
    if isinstance(target, (str, os.PathLike)):
        with whole_file(target) as part:
            part.write_bytes(content)
    else:
        target.write(content)


def encode_png(
    picture: Image.Image, provenance: Mapping[str, Any], strategy: int = zlib.Z_DEFAULT_STRATEGY
) -> bytes:
    """A PNG file that says how it was made; `strategy` is zlib's."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", _software(provenance))
    text.add_text("vesselseg", json.dumps(dict(provenance)))
    stream = io.BytesIO()
    picture.save(stream, "PNG", pnginfo=text, compress_type=strategy)
    return stream.getvalue()


def _software(provenance: Mapping[str, Any]) -> str:
    return f"vesselseg {provenance['vesselseg']}"


def check_threshold(threshold: float) -> float:
    """Return the threshold; raise OptionError if it is not a number in [0, 1]."""
    value = plain(threshold)
    if not _is_share(value):
        raise OptionError(f"threshold is {threshold!r}; it must be a number from 0 to 1.")
    return float(value)


def check_style(style: Style) -> None:
    """Raise OptionError for a style that there is not."""
    if style not in _STYLES:
        raise OptionError(f"style is {style!r}; allowed are {' and '.join(map(repr, _STYLES))}.")


def read_dicom_source(source: ImageSource) -> tuple[bytes, str]:
    """The content of the DICOM file that a Segmentation object is to refer to, and its label."""
    if not is_source(source):
        raise ImageError(
            f"The source of a Segmentation object is the DICOM file of the photograph: a path, its "
            f"bytes or a binary file object, not {type(source).__name__}."
        )
    stream: Any = source
    if hasattr(stream, "seekable") and stream.seekable():
        stream.seek(0)  # it may be the one that was segmented
    with open_source(source) as (stream, label):
        content = stream.read()
    if not isinstance(source, (str, os.PathLike)):
        label = "The source"
    if not is_dicom(content[:132]):
        raise ImageError(
            f"{label} is no DICOM file. A Segmentation object refers to the DICOM file of the "
            f"photograph; of other photographs, save the mask as PNG, TIFF or NPY."
        )
    return content, label


def _is_share(value: object) -> bool:
    """Whether a value is a number in [0, 1]."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask with one of their four neighbours outside it; the frame counts as inside."""
    padded = np.pad(mask, 1, constant_values=True)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(mask & ~inner)


def read_provenance(source: Target) -> dict[str, Any]:
    """The provenance in a PNG, TIFF or DICOM file that vesselseg wrote; {} if there is none.

    DICOM files are read from paths, pictures from streams as well.
    """
    try:
        if not isinstance(source, (str, os.PathLike)):
            provenance = _read_from_picture(source)
        elif PurePath(source).suffix.lower() == ".dcm":
            from . import dicom

            provenance = dicom.read_provenance(Path(source))
        else:
            with Path(source).open("rb") as stream:
                provenance = _read_from_picture(stream)
    except Exception:  # the files of others can make a decoder raise anything
        return {}
    is_ours = isinstance(provenance, dict) and "vesselseg" in provenance
    return provenance if is_ours else {}


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether a file that vesselseg wrote is neither cut off nor damaged, by all that it has.

    PNG files have a checksum of every part, and TIFF files one of their pixels. Of NPY and DICOM
    files only the length is known.
    """
    try:
        if PurePath(path).suffix.lower() == ".npy":
            np.load(path, mmap_mode="r", allow_pickle=False)
            return True
        if PurePath(path).suffix.lower() == ".dcm":
            from . import dicom

            return dicom.is_whole(Path(path))
        with Path(path).open("rb") as stream, open_picture(stream, ("PNG", "TIFF")) as opened:
            if opened.format == "PNG":
                opened.verify()
                return True
            return _checksum(np.asarray(opened)) == int(read_provenance(path)["crc32"])
    except Exception:  # a damaged file can make a decoder raise anything
        return False


def _checksum(values: NDArray[Any]) -> int:
    """CRC-32 of the pixels of a picture, their type and their shape."""
    return zlib.crc32(values.tobytes(), zlib.crc32(f"{values.dtype} {values.shape}".encode()))


def _read_from_picture(stream: IO[bytes]) -> Any:
    with open_picture(stream, ("PNG", "TIFF")) as opened:  # only these are written with one
        text = opened.info.get("vesselseg")
        if text is None and hasattr(opened, "tag_v2"):
            text = opened.tag_v2.get(IMAGEDESCRIPTION)
    return json.loads(text or "{}")
