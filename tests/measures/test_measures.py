"""Vessel measures, on shapes whose measures are known."""

import dataclasses
import itertools
import json
import math
import sys

import numpy as np
import pytest
from support import EXAMPLE
from support import shapes as drawn_shapes
from support.drawn import vessels

import vesselseg
from vesselseg import MissingExtraError, OptionError, Segmentation, measure
from vesselseg.measures import COLUMNS, MM_COLUMNS, SEGMENT_COLUMNS

pytest.importorskip("skan", reason="needs the extra measure")


def width_quartiles(measures):
    return measures.width_q1_px, measures.width_median_px, measures.width_q3_px


def relative_errors(shape):
    measured = measure(shape.mask).to_dict()
    return {name: abs(measured[name] / true - 1) for name, true in shape.truth.items()}


class TestShapes:
    @pytest.mark.slow
    @pytest.mark.parametrize("angle", [0, 23, 52])
    @pytest.mark.parametrize("width", [3, 8])
    @pytest.mark.parametrize("name", ["line", "comb", "arc", "ring"])
    def test_measures_are_right_to_two_percent(self, name, width, angle):
        errors = relative_errors(getattr(drawn_shapes, name)(angle, width))
        assert errors.pop("width_median_px") < 0.05  # drawn in whole pixels
        assert max(errors.values()) < 0.02

    def test_measures_of_a_tree_are_right_to_three_percent(self):
        errors = relative_errors(drawn_shapes.tree(23, 5))
        assert errors["branch_points"] == errors["end_points"] == 0
        assert max(errors.values()) < 0.03

    @pytest.mark.slow
    def test_the_box_dimension_of_the_koch_curve_is_right(self):
        shape = drawn_shapes.koch(23, 1)
        measures = measure(shape.mask)
        assert measures.box_dimension == pytest.approx(shape.truth["box_dimension"], rel=0.035)
        assert (measures.branch_points, measures.end_points) == (0, 2)

    def test_a_line_with_square_ends_has_its_full_length(self):
        mask = np.zeros((100, 200), dtype=bool)
        mask[45:54, 20:180] = True
        measures = measure(mask)
        assert measures.length_px == pytest.approx(160, abs=1)
        assert width_quartiles(measures) == pytest.approx((9, 9, 9), rel=0.01)

    def test_the_centreline_of_a_thin_straight_line_is_the_line_up_to_both_ends(self):
        mask = np.zeros((50, 90), dtype=bool)
        mask[20, 10:80] = True
        (line,) = measure(mask).centrelines
        assert line == pytest.approx(np.array([(20, column) for column in range(10, 80)]), abs=1e-9)

    def test_the_tortuosity_is_that_of_the_branch_that_most_of_the_length_is_in(self):
        mask = np.zeros((300, 300), dtype=bool)
        mask[50:53, 50:90] = True
        assert measure(mask).tortuosity == pytest.approx(1, abs=0.01)
        mask[100:103, 50:250] = mask[100:250, 50:53] = True  # a corner, much longer
        assert measure(mask).tortuosity == pytest.approx(math.sqrt(2), rel=0.02)

    def test_a_disc_has_density_but_no_segments(self):
        rows, columns = np.indices((101, 101)) - 50
        measures = measure(np.hypot(rows, columns) <= 30)
        assert measures.density == pytest.approx(math.pi * 30**2 / 101**2, rel=0.01)
        assert measures.branch_points == 0
        assert len(measures.segments["length_px"]) == 0

    def test_a_ring_has_neither_ends_nor_branch_points(self):
        distance = np.hypot(*(np.indices((101, 101)) - 50))
        measures = measure((distance > 27) & (distance < 33))
        assert (measures.branch_points, measures.end_points) == (0, 0)
        assert measures.length_px == pytest.approx(2 * math.pi * 30, rel=0.02)
        assert measures.tortuosity is None

    def test_a_crossing_is_one_branch_point(self):
        mask = np.zeros((200, 200), dtype=bool)
        mask[95:102, 20:180] = mask[20:180, 95:102] = True
        assert (measure(mask).branch_points, measure(mask).end_points) == (1, 4)

    @pytest.mark.parametrize("width", [1, 3, 9])
    def test_the_branch_point_of_a_crossing_is_in_its_middle(self, width):
        mask = np.zeros((121, 161), dtype=bool)
        half = width // 2
        mask[60 - half : 61 + half, 20:141] = mask[15:106, 80 - half : 81 + half] = True
        assert measure(mask).branch_positions.tolist() == [[60, 80]]

    @pytest.mark.slow
    @pytest.mark.parametrize("angle", [23, 52])
    @pytest.mark.parametrize("between", [50, 90])
    def test_two_lines_that_cross_at_an_angle_are_as_long_and_straight_as_apart(
        self, between, angle
    ):
        ends = np.array([[300.0, 100.0], [300.0, 500.0]])  # lines of 400 pixels
        pairs = [drawn_shapes.turned(ends, turn, 600) for turn in (angle, angle + between)]
        measures = measure(drawn_shapes.strokes(pairs, 9, 600))
        assert measures.length_px == pytest.approx(2 * (400 + 9), rel=0.01)
        assert measures.tortuosity == pytest.approx(1, abs=0.01)
        assert measures.width_median_px == pytest.approx(9, rel=0.05)
        assert (measures.branch_points, measures.end_points) == (1, 4)

    def test_thin_branches_of_a_wide_vessel_have_their_own_width_and_it_keeps_its(self):
        mask = np.zeros((160, 300), dtype=bool)
        mask[70:91, 20:280] = True
        for column in (80, 140, 200):
            mask[54:70, column : column + 3] = mask[91:107, column + 30 : column + 33] = True
        measures = measure(mask)
        widths = measures.segments["width_px"]
        assert len(widths) == 13
        assert sorted(widths) == pytest.approx([3] * 6 + [21] * 7, abs=0.5)
        assert width_quartiles(measures) == pytest.approx((3, 21, 21), abs=0.5)

    def test_a_bump_on_a_vessel_is_not_a_branch(self):
        mask = np.zeros((100, 200), dtype=bool)
        mask[45:54, 20:180] = True
        mask[42:45, 100:103] = True
        assert (measure(mask).branch_points, measure(mask).end_points) == (0, 2)


class TestTurning:
    @pytest.mark.slow
    def test_quarter_turns_and_mirrors_change_nothing(self):
        mask = drawn_shapes.tree(23, 5).mask[100:900]
        fov = np.zeros_like(mask)
        fov[50:700, 30:900] = True
        expected = measure(mask, fov=fov).to_dict()
        for mirrored, quarter in itertools.product((False, True), range(4)):
            other = [np.rot90(each.T if mirrored else each, quarter) for each in (mask, fov)]
            assert measure(other[0], fov=other[1]).to_dict() == expected

    @pytest.mark.slow
    @pytest.mark.usefixtures("windows_once")
    def test_other_angles_change_the_measures_of_a_real_mask_only_little(self):
        mask = vesselseg.segment(EXAMPLE, device="cpu").mask[300:1100, 300:1100]
        before = measure(mask, fov=np.ones_like(mask))
        turn = drawn_shapes.turn
        for angle in (17, 45):
            after = measure(turn(mask, angle), fov=turn(np.ones_like(mask), angle))
            for name in ("density", "length_px", "box_dimension", "tortuosity"):
                assert getattr(after, name) == pytest.approx(getattr(before, name), rel=0.02)
            assert width_quartiles(after) == pytest.approx(width_quartiles(before), rel=0.03)
            assert after.branch_points == pytest.approx(before.branch_points, rel=0.05)


class TestTable:
    def test_segments_have_their_positions_in_the_mask(self):
        mask = np.zeros((120, 300), dtype=bool)
        mask[60:65, 30:270] = True
        (row,), (end_row,), (column,), (end_column,) = (
            measure(mask).segments[name]
            for name in ("start_row_px", "end_row_px", "start_column_px", "end_column_px")
        )
        assert (row, end_row) == pytest.approx((62, 62), abs=1)
        assert sorted((column, end_column)) == pytest.approx([32, 267], abs=3)

    def test_all_columns_have_one_value_per_segment(self):
        segments = measure(drawn_shapes.comb(11, 5).mask).segments
        assert {len(column) for column in segments.values()} == {11}
        assert np.nanmedian(segments["tortuosity"]) == pytest.approx(1, abs=0.01)

    def test_the_positions_are_those_of_the_points_that_are_counted(self):
        mask = np.zeros((200, 300), dtype=bool)
        mask[95:102, 20:280] = mask[20:180, 195:202] = True
        measures = measure(mask)
        assert measures.branch_positions == pytest.approx(np.array([[98, 198]]), abs=2)
        ends = sorted(map(tuple, measures.end_positions))
        expected = [(20, 198), (98, 20), (98, 280), (180, 198)]
        assert ends == [pytest.approx(place, abs=7) for place in expected]
        assert len(measures.centrelines) == len(measures.segments["length_px"]) == 4
        ways = [np.hypot(*np.diff(line, axis=0).T).sum() for line in measures.centrelines]
        assert sum(ways) == pytest.approx(measures.length_px, rel=0.05)

    def test_figures_for_the_field_of_view_are_relative_to_a_disc_of_its_area(self):
        mask, fov = np.zeros((2, 100, 300), dtype=bool)
        mask[40:45, 50:250] = fov[10:90, 30:270] = True
        measures = measure(mask, fov=fov)
        area, diameter = 80 * 240, 2 * math.sqrt(80 * 240 / math.pi)
        assert measures.fov_area_px == area
        assert measures.fov_diameter_px == pytest.approx(diameter)
        assert measures.length_density == pytest.approx(measures.length_px * diameter / area)
        for name in ("q1", "median", "q3"):
            in_pixels = getattr(measures, f"width_{name}_px")
            assert getattr(measures, f"width_{name}_fov") == pytest.approx(in_pixels / diameter)

    @pytest.mark.parametrize("mm_per_pixel", [None, 0.01])
    def test_every_column_is_described_and_has_the_name_of_its_attribute(self, mm_per_pixel):
        measures = measure(vessels(1), mm_per_pixel=mm_per_pixel)
        described = COLUMNS if mm_per_pixel is None else COLUMNS + MM_COLUMNS
        values = measures.to_dict()
        assert list(values) == [column.name for column in described]
        assert all(getattr(measures, name) == value for name, value in values.items())
        assert list(measures.segments) == [column.name for column in SEGMENT_COLUMNS]

    def test_names_and_units_agree(self):
        endings = {"px": "pixels", "fov": "diameters", "mm": "millimetres", "um": "micrometres"}
        for column in COLUMNS + MM_COLUMNS + SEGMENT_COLUMNS:
            assert column.unit == endings.get(column.name.rpartition("_")[2], "")
            assert column.definition

    def test_notebooks_show_a_table_with_units(self):
        table = measure(vessels(1))._repr_html_()
        assert "<td>fov_area_px</td><td>1760</td><td>pixels</td>" in table

    def test_names_of_measures_have_units(self):
        values = measure(vessels(1), mm_per_pixel=0.01).to_dict()
        assert values["length_mm"] == pytest.approx(values["length_px"] / 100)
        assert values["width_median_um"] == pytest.approx(10 * values["width_median_px"])
        assert json.loads(json.dumps(values)) == values
        assert "length_mm" not in measure(vessels(1)).to_dict()


def test_without_a_folder_for_numba_the_error_names_its_variable(tmp_path, monkeypatch):
    (tmp_path / "skan.py").write_text("raise RuntimeError('cannot cache function')")
    monkeypatch.delitem(sys.modules, "skan")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match=r"cannot cache function\. .*NUMBA_CACHE_DIR"):
        measure(vessels(0))


class TestArguments:
    def test_an_empty_mask_has_no_widths(self):
        measures = measure(np.zeros((40, 50), dtype=np.uint8))
        assert (measures.density, measures.length_px, measures.branch_points) == (0, 0, 0)
        assert measures.to_dict()["width_median_px"] is None
        assert measures.box_dimension is measures.tortuosity is None

    @pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1), (3, 3), (40, 40)])
    def test_a_full_mask_has_a_density_of_1(self, shape):
        measures = measure(np.ones(shape, dtype=bool), min_size=0)
        assert measures.density == 1
        json.dumps(measures.to_dict())

    def test_only_the_field_of_view_counts(self):
        mask = np.zeros((100, 200), dtype=bool)
        mask[45:52] = True
        fov = np.zeros_like(mask)
        fov[:, 50:150] = True
        measures = measure(mask * 255, fov=fov.astype(np.uint8))
        assert measures.density == pytest.approx(0.07)
        assert measures.length_px == pytest.approx(100, abs=1)
        assert measures.end_points == 0  # the border cuts it
        dot = np.zeros_like(mask)
        dot[50, 50] = True
        assert measure(mask, fov=dot, min_size=0).density == 1

    def test_measures_cannot_be_changed(self):
        measures = measure(vessels(1))
        with pytest.raises(dataclasses.FrozenInstanceError):
            measures.length_px = 0.0

    @pytest.mark.slow
    def test_a_result_measures_its_own_mask(self):
        mask = vessels(3)
        fov = np.ones_like(mask)
        provenance = {"vesselseg": "1", "model": "m", "threshold": 0.5}
        photograph = np.zeros((*mask.shape, 3), np.uint8)
        result = Segmentation(mask, mask.astype(np.float32), fov, provenance, photograph)
        options = {"mm_per_pixel": 2, "fill_holes": 3, "min_size": 4}
        measures = result.measure(**options)
        assert measures.to_dict() == measure(mask, **options).to_dict()
        assert measures.overlay() == measure(mask, **options).overlay(photograph)

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"mask": np.zeros((4, 4, 3), bool)}, r"mask has the shape \(4, 4, 3\)"),
            ({"mask": np.full((4, 4), 0.3)}, "Threshold a probability first"),
            ({"mask": np.arange(16, dtype=np.uint8).reshape(4, 4)}, "one positive value besides 0"),
            ({"mask": np.zeros((0, 4), bool)}, r"mask has the shape \(0, 4\)"),
            ({"fov": np.ones((4, 5), bool)}, r"mask has the shape \(4, 4\), but fov has \(4, 5\)"),
            ({"fov": np.zeros((4, 4), bool)}, "field of view is empty"),
            ({"mm_per_pixel": 0}, "mm_per_pixel is 0; it must be a positive number"),
            ({"mm_per_pixel": math.nan}, "must be a positive number"),
            ({"mm_per_pixel": "x"}, "mm_per_pixel is 'x'; it must be a positive number"),
            ({"fill_holes": -1}, "fill_holes is -1; it must be a number of pixels, 0 or more"),
            ({"min_size": 2.5}, "min_size is 2.5; it must be a number of pixels"),
            ({"min_size": True}, "min_size is True"),
        ],
    )
    def test_wrong_arguments_raise_errors_that_say_what_is_allowed(self, arguments, match):
        with pytest.raises(OptionError, match=match):
            measure(**{"mask": np.zeros((4, 4), bool), **arguments})

    def test_a_missing_extra_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "skan", None)
        with pytest.raises(MissingExtraError, match=r"pip install .*\[measure\]"):
            measure(np.zeros((4, 4), bool))
