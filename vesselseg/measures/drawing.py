"""What was measured, drawn over the photograph, with a legend below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from ..errors import OptionError
from ..images import RGB
from ..spec import check_integer, is_integer, plain
from .centrelines import Mask, Points

ColorBy: TypeAlias = Literal["width", "segment"]
Color: TypeAlias = "tuple[int, int, int]"
Box: TypeAlias = "tuple[int, int, int, int]"  # left, top, right, bottom

# Both sets can be told apart without seeing red or green, and on a red retina.
_SCALE = ((255, 255, 190), (255, 225, 70), (90, 215, 160), (60, 190, 255), (150, 140, 255))
_SEGMENTS = ((255, 255, 255), (86, 180, 233), (240, 228, 66), (0, 190, 140), (225, 150, 255))
_UNKNOWN = (190, 190, 190)
_WHITE = (255, 255, 255)
_BLACK = (0, 0, 0)
_PANEL = (24, 24, 24)

_ACROSS = 1000  # pixels that a drawing is across at least, where `zoom` is None
_MOST_ZOOM = 16
_SMOOTH = 3  # times as large, each tile is drawn and reduced
_TILE = 512  # pixels
_LINE = 2  # pixels of the drawing, as the following
_CASING = 1  # dark, on both sides of a line
_MARKER = 5  # radius
_TEXT = 15  # this and the following are larger below drawings that are more than _ACROSS wide
_ROW = 28  # height of the legend's items
_SPACE = 12
_BARS = (10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02)  # millimetres


@dataclass(frozen=True, eq=False, kw_only=True)
class Geometry:
    """Where measures were taken: the part of them that can be drawn."""

    mm_per_pixel: float | None
    segments: dict[str, NDArray[np.float64]] = field(repr=False)
    centrelines: list[Points] = field(repr=False)
    branch_positions: Points = field(repr=False)
    end_positions: Points = field(repr=False)
    field_of_view: Mask = field(repr=False)


def draw(
    measures: Geometry, photograph: RGB, *, color_by: ColorBy, crop: Box | None, zoom: int | None
) -> Image.Image:
    """Draw the centrelines, points and the field of view over a part of the photograph."""
    if color_by not in get_args(ColorBy):
        raise OptionError(f"color_by is {color_by!r}; allowed are 'width' and 'segment'.")
    box = _check_crop(crop, photograph)
    rows, columns = (measures.field_of_view.any(axis=axis).sum() for axis in (1, 0))
    across = min(max(box[2] - box[0], box[3] - box[1]), max(rows, columns))
    zoom = _check_zoom(zoom, across)
    part = Image.fromarray(photograph).crop(box)
    picture = part.resize((part.width * zoom, part.height * zoom), Image.Resampling.BICUBIC)
    _draw_border(picture, measures.field_of_view, box)
    _draw_lines(picture, measures, color_segments(measures, color_by), box, zoom)
    return _add_legend(picture, _make_legend(measures, color_by, box, zoom))


def _check_crop(crop: Box | None, photograph: RGB) -> Box:
    """The part to draw; OptionError if it is not within the photograph."""
    height, width = photograph.shape[:2]
    box = plain(crop if crop is not None else (0, 0, width, height))
    is_box = isinstance(box, tuple) and len(box) == 4
    if not is_box or not all(is_integer(side, 0, max(width, height)) for side in box):
        raise OptionError(
            f"crop is {crop!r}; it must be left, top, right and bottom, in whole pixels."
        )
    left, top, right, bottom = box
    if not (left < right <= width and top < bottom <= height):
        raise OptionError(
            f"crop is {crop!r}; it must lie within the {width} x {height} pixels of the photograph."
        )
    return left, top, right, bottom


def _check_zoom(zoom: int | None, across: float) -> int:
    """Pixels of the drawing for each of the photograph."""
    if zoom is None:
        return min(max(round(_ACROSS / across), 1), _MOST_ZOOM)
    return check_integer("zoom", zoom, 1, _MOST_ZOOM, f"an integer from 1 to {_MOST_ZOOM}")


def color_segments(measures: Geometry, color_by: ColorBy) -> list[Color]:
    """The colour of each segment: by its width, or other than those of segments that it meets."""
    if color_by == "width":
        low, high = _width_range(measures)
        return [_color_of((width - low) / (high - low)) for width in measures.segments["width_px"]]
    names = ("start_row_px", "start_column_px", "end_row_px", "end_column_px")
    ends = np.stack([measures.segments[name] for name in names], axis=1)
    taken: dict[tuple[float, ...], set[int]] = {}  # the colours at each end
    colors = []
    for number, places in enumerate(ends.tolist()):
        both = (tuple(places[:2]), tuple(places[2:]))
        used = set().union(*(taken.setdefault(end, set()) for end in both))
        order = [(number + step) % len(_SEGMENTS) for step in range(len(_SEGMENTS))]
        chosen = next((each for each in order if each not in used), order[0])
        for end in both:
            taken[end].add(chosen)
        colors.append(_SEGMENTS[chosen])
    return colors


def _width_range(measures: Geometry) -> tuple[float, float]:
    """The widths that the ends of the scale stand for, in pixels."""
    widths = measures.segments["width_px"]
    widths = widths[np.isfinite(widths)]
    if not len(widths):
        return 0.0, 1.0
    low, high = np.percentile(widths, (5, 95))
    return float(low), float(max(high, low + 1))


def _color_of(place: float) -> Color:
    """The colour at a place of the scale, from 0 to 1; grey for NaN."""
    if math.isnan(place):
        return _UNKNOWN
    stops = np.linspace(0, 1, len(_SCALE))
    parts = np.array(_SCALE).T
    red, green, blue = (round(float(np.interp(place, stops, part))) for part in parts)
    return red, green, blue


def _draw_lines(
    picture: Image.Image, measures: Geometry, colors: Sequence[Color], box: Box, zoom: int
) -> None:
    """Draw centrelines and points into a picture of a part of the photograph.

    They are drawn larger and reduced, which smooths them, tile by tile, which saves memory.
    """

    def place(points: Points) -> Points:
        return (points[:, ::-1] + 0.5 - box[:2]) * zoom  # columns and rows of the picture

    lines = list(zip(map(place, measures.centrelines), colors, strict=True))
    branch_points, end_points = map(place, (measures.branch_positions, measures.end_positions))
    margin = 2 * _MARKER
    for top in range(0, picture.height, _TILE):
        for left in range(0, picture.width, _TILE):
            corner = np.array([left, top])

            def is_near(points: Points, corner: NDArray[np.int64] = corner) -> bool:
                starts_before = (points.min(axis=0) < corner + _TILE + margin).all()
                return bool(starts_before and (points.max(axis=0) > corner - margin).all())

            layer = Image.new("RGBA", (_TILE * _SMOOTH, _TILE * _SMOOTH))
            pen = ImageDraw.Draw(layer)
            near = [
                (((points - corner) * _SMOOTH).ravel().tolist(), color)
                for points, color in lines
                if is_near(points)
            ]
            for points, _ in near:
                pen.line(points, (0, 0, 0, 190), (_LINE + 2 * _CASING) * _SMOOTH, joint="curve")
            for points, color in near:
                pen.line(points, color, _LINE * _SMOOTH, joint="curve")
            for points, mark in ((end_points, _mark_end), (branch_points, _mark_branch)):
                for x, y in (points - corner) * _SMOOTH:
                    mark(pen, x, y)
            layer = layer.reduce(_SMOOTH)
            picture.paste(layer, (left, top), layer)


def _mark_branch(pen: ImageDraw.ImageDraw, x: float, y: float) -> None:
    """A white disc with a dark rim."""
    for radius, color in ((_MARKER, _BLACK), (_MARKER - 1.5, _WHITE)):
        pen.ellipse(_around(x, y, radius), fill=color)


def _mark_end(pen: ImageDraw.ImageDraw, x: float, y: float) -> None:
    """A dark square with a white rim."""
    for radius, color in ((_MARKER, _BLACK), (_MARKER - 1, _WHITE), (_MARKER - 2.5, _BLACK)):
        pen.rectangle(_around(x, y, radius), fill=color)


def _around(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    reach = radius * _SMOOTH
    return x - reach, y - reach, x + reach, y + reach


def _draw_border(picture: Image.Image, inside: Mask, box: Box) -> None:
    """Draw the border of the field of view; there is none at the frame."""
    padded = np.pad(inside, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    border = Image.fromarray(inside & ~inner).crop(box)
    picture.paste(_UNKNOWN, (0, 0), border.resize(picture.size, Image.Resampling.NEAREST))


def _make_legend(measures: Geometry, color_by: ColorBy, box: Box, zoom: int) -> list[Image.Image]:
    """What the drawing shows, as small pictures of one height."""
    left, top, right, bottom = box
    scale = measures.mm_per_pixel
    large = max((right - left) * zoom / _ACROSS, 1.0)

    def item(colors: ArrayLike, width: float, height: float, text: str) -> Image.Image:
        swatch = Image.fromarray(np.array([colors], dtype=np.uint8))
        size = (round(width), round(height * large))
        return _item(swatch.resize(size, Image.Resampling.NEAREST), text, large)

    items = []
    if color_by == "width":
        low, high = _width_range(measures)
        text = f"width {low:.1f} to {high:.1f} px"
        if scale:
            text = f"width {1000 * scale * low:.0f} to {1000 * scale * high:.0f} um"
        colors = [_color_of(x) for x in np.linspace(0, 1, 140)]
        items.append(item(colors, 140 * large, 12, text))
        if np.isnan(measures.segments["width_px"]).any():
            items.append(item([_UNKNOWN], 24 * large, 4, "too short for a width"))
    else:
        items.append(item(_SEGMENTS, 70 * large, 4, "segments"))
    for points, mark, name in (
        (measures.branch_positions, _mark_branch, "branch points"),
        (measures.end_positions, _mark_end, "end points"),
    ):
        shown = ((points >= (top, left)) & (points < (bottom, right))).all(axis=1).sum()
        side = (2 * _MARKER + 3) * _SMOOTH
        layer = Image.new("RGB", (side, side), _PANEL)
        mark(ImageDraw.Draw(layer), side / 2, side / 2)
        size = round(side / _SMOOTH * large)
        swatch = layer.resize((size, size), Image.Resampling.LANCZOS)
        items.append(_item(swatch, f"{shown} {name if shown != 1 else name[:-1]}", large))
    if not measures.field_of_view[top:bottom, left:right].all():
        items.append(item([_UNKNOWN], 24 * large, 2, "field of view"))
    bars = [mm for mm in _BARS if scale and mm / scale <= (right - left) / 4]
    if scale and bars:
        items.append(item([_WHITE], bars[0] / scale * zoom, 4, f"{bars[0]} mm"))
    return items


def _item(swatch: Image.Image, text: str, large: float) -> Image.Image:
    """An item of the legend: a small picture and what it means."""
    font = ImageFont.load_default(_TEXT * large)
    start, height = swatch.width + round(_SPACE * large / 2), round(_ROW * large)
    item = Image.new("RGB", (start + math.ceil(font.getlength(text)), height), _PANEL)
    item.paste(swatch, (0, (height - swatch.height) // 2))
    ImageDraw.Draw(item).text((start, height / 2), text, fill=_WHITE, font=font, anchor="lm")
    return item


def _add_legend(picture: Image.Image, items: Sequence[Image.Image]) -> Image.Image:
    """Put the items below a picture, in as many rows as they need."""
    row = items[0].height
    space = row * _SPACE // _ROW
    width = max(picture.width, *(item.width + 2 * space for item in items))
    places = []
    x, y = space, picture.height + space // 2
    for item in items:
        if x > space and x + item.width + space > width:
            x, y = space, y + row
        places.append((x, y))
        x += item.width + 2 * space
    drawing = Image.new("RGB", (width, y + row + space // 2), _PANEL)
    drawing.paste(picture, ((width - picture.width) // 2, 0))
    for item, place in zip(items, places, strict=True):
        drawing.paste(item, place)
    return drawing
