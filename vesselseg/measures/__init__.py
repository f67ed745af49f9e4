"""Measures of the vessels in a mask: density, length, branching, width, dimension, tortuosity.

::

    mask -> cleaned -> centrelines -> measures -> table, overlay

Every measure is the same for a mask, its mirror image and its turns by 90 degrees.
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from ..errors import MissingExtraError, OptionError, require
from ..images import RGB, ImageLike, to_rgb
from ..metrics import to_bool
from ..spec import check_integer, is_factor, plain
from .centrelines import (
    Mask,
    box_dimension,
    canonical,
    find_branches,
    find_points,
    weighted_quantiles,
)
from .cleaning import clean
from .columns import COLUMNS, MM_COLUMNS, SEGMENT_COLUMNS, Column
from .drawing import ColorBy as ColorBy
from .drawing import Geometry, draw

__all__ = ["COLUMNS", "MM_COLUMNS", "SEGMENT_COLUMNS", "Column", "Measures", "measure"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Measures(Geometry):
    """Measures of one mask, and where each was taken; None is what a mask does not have.

    The columns of tables have the same names as these attributes, and the same values.

    Attributes
    ----------
    fov_area_px : int
        Pixels of the field of view.
    fov_diameter_px : float
        Diameter of the disc with that area, in pixels.
    density : float
        Share of the field of view that is vessel, in [0, 1].
    length_px : float
        Length of all centrelines, in pixels.
    length_density : float
        `length_px` times `fov_diameter_px` over `fov_area_px`: how many diameters of centreline
        there are for each square diameter of area.
    branch_points, end_points : int
        Where three or more segments meet, and where one ends inside the field of view. Places
        where the border of the field of view cuts a vessel are not counted as ends.
    width_q1_px, width_median_px, width_q3_px : float or None
        Lower quartile, median and upper quartile of the width along the centrelines, in pixels.
    width_q1_fov, width_median_fov, width_q3_fov : float or None
        The same as shares of `fov_diameter_px`.
    box_dimension : float or None
        Dimension of the centrelines, from 1 (a line) to 2 (they fill the plane).
    tortuosity : float or None
        Median ratio of arc to chord, over segments weighted by their length; 1 is straight.
    length_mm, width_q1_um, width_median_um, width_q3_um : float or None
        Length in millimetres and widths in micrometres, if you passed `mm_per_pixel`.
    mm_per_pixel, fill_holes, min_size
        What you passed to :func:`measure`.
    segments : dict of str to ndarray
        A table of the segments, as columns of equal length that ``pandas.DataFrame`` takes:
        ``length_px``, ``chord_px``, ``tortuosity`` (NaN for a closed loop), ``width_px`` (median;
        NaN where ends lie too close to tell), and ``start_row_px``, ``start_column_px``,
        ``end_row_px``, ``end_column_px`` of both ends.
    centrelines : list of ndarray (N, 2)
        Rows and columns along each segment, in pixels, in the order of `segments`.
    branch_positions, end_positions : ndarray (N, 2)
        Rows and columns of the branch points and of the end points, in pixels.
    mask, field_of_view : ndarray of bool (H, W)
        What was measured: the vessels in the field of view without specks and pinholes, and the
        field of view.
    """

    fov_area_px: int
    fov_diameter_px: float
    density: float
    length_px: float
    length_density: float
    branch_points: int
    end_points: int
    width_q1_px: float | None
    width_median_px: float | None
    width_q3_px: float | None
    width_q1_fov: float | None
    width_median_fov: float | None
    width_q3_fov: float | None
    box_dimension: float | None
    tortuosity: float | None
    length_mm: float | None
    width_q1_um: float | None
    width_median_um: float | None
    width_q3_um: float | None
    fill_holes: int
    min_size: int
    mask: Mask = field(repr=False)
    _photograph: RGB | None = field(repr=False)

    def to_dict(self) -> dict[str, float | int | None]:
        """The measures as plain numbers, by the names of the columns.

        ``_px`` is pixels and ``_fov`` the share of the field of view's diameter. With a scale,
        ``length_mm`` and widths in micrometres, ``_um``, are added.
        """
        return {column.name: getattr(self, column.name) for column in self.columns}

    def overlay(
        self,
        photograph: ImageLike | None = None,
        *,
        color_by: ColorBy = "width",
        crop: tuple[int, int, int, int] | None = None,
        zoom: int | None = None,
    ) -> Image.Image:
        """What was measured, drawn over the photograph, with a legend below.

        Parameters
        ----------
        photograph : path, bytes, binary file object, PIL image, ndarray or Tensor, optional
            As :func:`vesselseg.segment` takes it, of the mask's size. None is the photograph of
            the result that was measured; measures of a mask alone are drawn over the mask.
        color_by : {"width", "segment"}
            Colour each centreline by its median width, or so that segments that meet differ.
        crop : (int, int, int, int), optional
            Left, top, right and bottom of the part to draw, in pixels of the photograph, as
            ``PIL.Image.Image.crop`` takes them; None is the whole photograph.
        zoom : int, optional
            Pixels of the drawing for each pixel of the photograph, from 1 to 16. None is the
            least that makes the part, or the field of view in it, about 1000 pixels across.

        Returns
        -------
        PIL.Image.Image
            RGB: the part, `zoom` times as large, and below it the legend, with a bar of a round
            length if `mm_per_pixel` is known. Small parts are centred over a wider legend.

        Raises
        ------
        FileNotFoundError, ImageError
            If the photograph does not exist or cannot be decoded.
        OptionError
            If the photograph has another size than the mask, or another argument is outside what
            is described here.

        Examples
        --------
        >>> import numpy as np, vesselseg
        >>> mask = np.zeros((200, 200), bool)
        >>> mask[96:104, 20:180] = True
        >>> vesselseg.measure(mask).overlay(crop=(0, 50, 200, 150), zoom=4).width
        800
        """
        pixels: RGB | None = self._photograph
        if photograph is not None:
            pixels = to_rgb(photograph)
        if pixels is None:
            pixels = np.repeat(self.mask[..., None] * np.uint8(110), 3, axis=2)
        height, width = self.mask.shape
        if pixels.shape[:2] != (height, width):
            raise OptionError(
                f"The photograph has {pixels.shape[1]} x {pixels.shape[0]} pixels, but the mask "
                f"that was measured {width} x {height}. Pass the photograph that it belongs to."
            )
        return draw(self, pixels, color_by=color_by, crop=crop, zoom=zoom)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of its table: name, unit, definition and source of each measure."""
        return COLUMNS if self.mm_per_pixel is None else COLUMNS + MM_COLUMNS

    def _repr_html_(self) -> str:
        # Notebooks show the measures as a table that says what they are.
        rows = []
        for name, unit, definition, _ in self.columns:
            value = getattr(self, name)
            text = "-" if value is None else f"{value:.6g}"
            cells = (name, text, unit, html.escape(definition))
            rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        heads = "".join(f"<th>{head}</th>" for head in ("measure", "value", "unit", "definition"))
        return f"<table><tr>{heads}</tr>{''.join(rows)}</table>"


def measure(
    mask: ArrayLike,
    *,
    fov: ArrayLike | None = None,
    mm_per_pixel: float | None = None,
    fill_holes: int = 20,
    min_size: int = 20,
) -> Measures:
    """Measure the vessels in a mask.

    Parameters
    ----------
    mask : array_like (H, W)
        bool, or integers with one positive value besides 0, such as 0 and 255.
    fov : array_like (H, W), optional
        The field of view, likewise; None is the whole frame. Vessels outside it do not count.
    mm_per_pixel : float, optional
        Size of a pixel on the retina, in millimetres, if you know it.
    fill_holes : int
        Holes of at most this many pixels are pinholes in a vessel and are filled; larger ones are
        loops. 0 fills none.
    min_size : int
        Parts of fewer pixels are specks and are removed. 0 removes none.

    Returns
    -------
    Measures

    Raises
    ------
    OptionError
        If an argument is outside what is described here, or the field of view is empty.
    MissingExtraError
        If the extra ``vesselseg[measure]`` is not installed, or cannot be imported.

    Notes
    -----
    Pinholes and specks are taken out first. A hole is background that vessels enclose: its pixels
    touch by their sides, and it reaches neither the frame nor the border of the field of view. The
    pixels of a part touch by their sides or corners. Unless `fill_holes` or `min_size` is 0, a
    single pixel that is missing in the wall of a vessel or in a line is filled as well, and one
    that sticks out of a wall is removed.

    The skeleton is that of Zhang and Suen (1984, doi:10.1145/357994.358023), cut into segments by
    skan (Nunez-Iglesias et al. 2018, doi:10.7717/peerj.4312). Two branch points that are closer
    than the vessel is wide become one. A segment with a free end is removed if it is less than a
    pixel longer than the vessel is wide where it starts, until there is none. "As wide" is twice
    the distance to the background.

    - *Length*: each centreline is smoothed with a Gaussian of 2 pixels, its ends held, and
      extended at free ends to the border of the vessel.
    - *Width*: each pixel of the mask belongs to the nearest pixel of the skeleton. Width is the
      area that belongs to a piece of centreline over its length. Near branch points and ends it
      is not defined and left out.
    - *Box dimension*: 2 minus the slope of log A against log r, where A is the area within r of
      the centrelines, for r from 1/180 to 1/20 of the diameter. This Minkowski dimension equals
      the box-counting dimension (Falconer 2014, Fractal Geometry, section 2.2), and does not
      depend on where a grid of boxes lies.
    - *Tortuosity*: arc over chord (Hart et al. 1999, doi:10.1016/S1386-5056(98)00163-4). Closed
      loops have none.

    Examples
    --------
    >>> import numpy as np, vesselseg
    >>> mask = np.zeros((200, 200), bool)
    >>> mask[96:104, 20:180] = True
    >>> measures = vesselseg.measure(mask)
    >>> measures.width_median_px, round(measures.length_px), measures.end_points
    (8.0, 160, 2)
    """
    return measure_photograph(
        mask, None, fov=fov, mm_per_pixel=mm_per_pixel, fill_holes=fill_holes, min_size=min_size
    )


def measure_photograph(
    mask: ArrayLike, photograph: RGB | None, *, fov: ArrayLike | None = None, **options: Any
) -> Measures:
    """Measure a mask as :func:`measure` does, and keep its photograph for the overlay."""
    vessels = _to_mask(mask, "mask")
    inside = np.ones_like(vessels) if fov is None else _to_mask(fov, "fov")
    if inside.shape != vessels.shape:
        raise OptionError(f"mask has the shape {vessels.shape}, but fov has {inside.shape}.")
    if not inside.any():
        raise OptionError("The field of view is empty: fov has no pixel that is True.")
    options = check_options(**options)
    fill_holes, min_size = options["fill_holes"], options["min_size"]
    require_skan()
    vessels = clean(vessels & inside, inside, fill_holes=fill_holes, min_size=min_size)
    turned, turned_inside, undo = canonical(vessels, inside)
    branches = find_branches(turned)
    branch_positions, end_positions = find_points(branches, turned_inside)
    lengths = np.array([branch.arc + branch.extension for branch in branches])
    tortuosity = np.array([branch.tortuosity for branch in branches])
    is_curve = np.isfinite(tortuosity)
    medians = [weighted_quantiles(*branch.widths, (0.5,))[0] for branch in branches]
    ends = [undo(branch.points[[0, -1]]).ravel() for branch in branches]
    rows, columns, end_rows, end_columns = np.array(ends).reshape(-1, 4).T
    area = int(inside.sum())
    diameter = float(2 * np.sqrt(area / np.pi))
    length = float(lengths.sum())
    every = np.concatenate([np.empty((2, 0)), *(branch.widths for branch in branches)], axis=1)
    quartiles = weighted_quantiles(every[0], every[1], (0.25, 0.5, 0.75))
    widths: dict[str, Any] = dict(zip(("q1", "median", "q3"), quartiles, strict=True))
    mm_per_pixel = options["mm_per_pixel"]
    return Measures(
        fov_area_px=area,
        fov_diameter_px=diameter,
        density=float(vessels.sum() / area),
        length_px=length,
        length_density=length * diameter / area,
        branch_points=len(branch_positions),
        end_points=len(end_positions),
        **{f"width_{name}_px": width for name, width in widths.items()},
        **{f"width_{name}_fov": _times(width, 1 / diameter) for name, width in widths.items()},
        box_dimension=box_dimension(branches, diameter),
        tortuosity=weighted_quantiles(tortuosity[is_curve], lengths[is_curve], (0.5,))[0],
        length_mm=_times(length, mm_per_pixel),
        **{
            f"width_{name}_um": _times(width, mm_per_pixel and 1000 * mm_per_pixel)
            for name, width in widths.items()
        },
        **options,
        segments={
            "length_px": lengths,
            "chord_px": np.array([branch.chord for branch in branches]),
            "tortuosity": tortuosity,
            "width_px": np.array(medians, dtype=np.float64),  # NaN for None
            "start_row_px": rows,
            "start_column_px": columns,
            "end_row_px": end_rows,
            "end_column_px": end_columns,
        },
        centrelines=[undo(branch.line) for branch in branches],
        branch_positions=undo(branch_positions),
        end_positions=undo(end_positions),
        mask=vessels,
        field_of_view=inside,
        _photograph=photograph,
    )


def _times(value: float | None, factor: float | None) -> Any:
    """A product; None if a factor is."""
    return None if value is None or factor is None else value * factor


def check_options(
    *, mm_per_pixel: float | None = None, fill_holes: int = 20, min_size: int = 20
) -> dict[str, Any]:
    """The options of :func:`measure` with their defaults; OptionError for one not allowed."""
    mm_per_pixel = plain(mm_per_pixel)
    if mm_per_pixel is not None and not is_factor(mm_per_pixel):
        raise OptionError(f"mm_per_pixel is {mm_per_pixel!r}; it must be a positive number.")
    sizes = {
        name: check_integer(name, value, 0, allowed="a number of pixels, 0 or more")
        for name, value in (("fill_holes", fill_holes), ("min_size", min_size))
    }
    return {"mm_per_pixel": mm_per_pixel, **sizes}


def require_skan() -> None:
    """Raise MissingExtraError unless what measures are made with can be imported."""
    try:
        require("skan", "measure")
        require("skimage", "measure")
    except RuntimeError as error:  # of Numba, which keeps what it compiles
        raise MissingExtraError(
            f"skan cannot be imported: {error}. If neither its folder nor your home can be "
            f"written, set the environment variable NUMBA_CACHE_DIR to a folder that can."
        ) from error


def _to_mask(values: ArrayLike, name: str) -> Mask:
    """A bool array (H, W); OptionError for anything else."""
    array = np.asarray(values)
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "bui":
        raise OptionError(
            f"{name} has the shape {array.shape} and the type {array.dtype}; it must be (H, W), "
            f"bool or integer. Threshold a probability first: probability > 0.5."
        )
    return to_bool(array, name)
