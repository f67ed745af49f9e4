"""The columns of the tables: name, unit, definition and source of each measure."""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """A column of a table of measures, and the attribute or array of the same name."""

    name: str
    unit: str
    """Empty for a plain number."""
    definition: str
    source: str = ""
    """Who defined it, or how; empty where the definition says it all."""


_SKELETON = "Zhang and Suen 1984, doi:10.1145/357994.358023"
_BRANCHES = "Nunez-Iglesias et al. 2018, doi:10.7717/peerj.4312"
_DIMENSION = "Falconer 2014, Fractal Geometry, section 2.2"
_TORTUOSITY = "Hart et al. 1999, doi:10.1016/S1386-5056(98)00163-4"
_WIDTH = "width along all centrelines: the vessel's area over its length"

COLUMNS = (
    Column("fov_area_px", "pixels", "area of the field of view"),
    Column("fov_diameter_px", "pixels", "diameter of the disc with that area"),
    Column("density", "", "share of the field of view that is vessel, from 0 to 1"),
    Column("length_px", "pixels", "length of all centrelines", _SKELETON),
    Column("length_density", "", "length times the diameter over the area of the field of view"),
    Column("branch_points", "", "number of places where three or more segments meet", _BRANCHES),
    Column("end_points", "", "number of free ends inside the field of view", _BRANCHES),
    Column("width_q1_px", "pixels", f"lower quartile of the {_WIDTH}"),
    Column("width_median_px", "pixels", f"median of the {_WIDTH}"),
    Column("width_q3_px", "pixels", f"upper quartile of the {_WIDTH}"),
    Column("width_q1_fov", "diameters", "width_q1_px over fov_diameter_px"),
    Column("width_median_fov", "diameters", "width_median_px over fov_diameter_px"),
    Column("width_q3_fov", "diameters", "width_q3_px over fov_diameter_px"),
    Column("box_dimension", "", "dimension of the centrelines, from 1 to 2", _DIMENSION),
    Column("tortuosity", "", "median of arc over chord, segments weighted by length", _TORTUOSITY),
)
"""What is measured of a mask."""

MM_COLUMNS = (
    Column("length_mm", "millimetres", "length_px times mm_per_pixel"),
    Column("width_q1_um", "micrometres", "width_q1_px times mm_per_pixel times 1000"),
    Column("width_median_um", "micrometres", "width_median_px times mm_per_pixel times 1000"),
    Column("width_q3_um", "micrometres", "width_q3_px times mm_per_pixel times 1000"),
)
"""What is added with the size of a pixel."""

SEGMENT_COLUMNS = (
    Column("length_px", "pixels", "length of the centreline"),
    Column("chord_px", "pixels", "distance between both ends"),
    Column("tortuosity", "", "arc over chord; none for a closed loop", _TORTUOSITY),
    Column("width_px", "pixels", "median width; none where ends are too close to tell"),
    Column("start_row_px", "pixels", "row of one end; that of the topmost pixels is 0"),
    Column("start_column_px", "pixels", "its column; that of the leftmost pixels is 0"),
    Column("end_row_px", "pixels", "row of the other end"),
    Column("end_column_px", "pixels", "its column"),
)
"""What is measured of each segment between branch points and ends."""
