"""Layers in, layers out, without a viewer."""

from types import SimpleNamespace

import numpy as np
import pytest
from support.drawn import photograph

import vesselseg
from vesselseg import ImageError, MissingExtraError, Segmentation

# Without napari, "napari" alone would be found: it is this folder.
pytest.importorskip("napari.layers", reason="needs the extra napari")

from napari.layers import Image, Layer

from vesselseg.napari import measures_to_layers, segment_to_layers
from vesselseg.napari.layers import fundus_sample

PHOTOGRAPH = photograph(0)
MISSING = "Measures need scikit-image."


def test_layers_are_a_probability_with_a_mask_on_top(model):
    layer = Image(PHOTOGRAPH, name="eye")
    probability, mask = segment_to_layers(layer, model=model, threshold=0.4)
    result = vesselseg.segment(PHOTOGRAPH, model=model, threshold=0.4)

    assert probability[2] == "image"
    assert probability[1]["name"] == "eye probability"
    assert np.array_equal(probability[0], result.probability)

    assert mask[2] == "labels"
    assert mask[1]["name"] == "eye vessels"
    assert np.array_equal(mask[0], result.mask)
    for _, options, _ in (probability, mask):
        assert options["metadata"]["vesselseg"] == result.provenance


def test_layers_have_the_position_of_the_photograph(model):
    affine = [[1, 0.1, 5], [0, 1.2, 3], [0, 0, 1]]
    layer = Image(
        PHOTOGRAPH, scale=(0.02, 0.03), translate=(1, 2), rotate=30, shear=[0.2], affine=affine,
        units=("mm", "mm"), axis_labels=("down", "right"),
    )  # fmt: skip
    for data in segment_to_layers(layer, model=model):
        added = Layer.create(*data)
        corners = [(0, 0), (39, 0), (39, 43)]
        for corner in corners:
            np.testing.assert_allclose(added.data_to_world(corner), layer.data_to_world(corner))
        assert added.units == layer.units
        assert added.axis_labels == layer.axis_labels
        added.affine = np.eye(3)  # moving a result leaves the photograph where it is
        assert np.array_equal(layer.affine.affine_matrix, affine)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (np.dstack([PHOTOGRAPH, np.full((40, 44), 255, np.uint8)]), {}),
        (PHOTOGRAPH[..., 1], {}),
        ([PHOTOGRAPH, PHOTOGRAPH[::2, ::2]], {"multiscale": True}),
    ],
    ids=["RGBA", "grey", "multiscale"],
)
def test_layers_of_one_photograph_are_accepted(data, options, model):
    layer = Image(data, **options)
    for values, _, _ in segment_to_layers(layer, model=model):
        assert values.shape == (40, 44)


@pytest.mark.parametrize(
    ("data", "rgb", "match"),
    [
        (np.zeros((5, 40, 44), np.uint8), False, r"'eye' has data of shape \(5, 40, 44\)"),
        (np.zeros((40, 44, 3), np.uint8), False, "rgb=True"),
        (np.zeros((5, 40, 44, 3), np.uint8), True, "must hold one photograph"),
        (np.full((40, 44), 200.0), False, "divide by 255"),
    ],
    ids=["stack", "RGB shown as a stack", "stack of RGB", "float up to 255"],
)
def test_other_layers_are_rejected(data, rgb, match, model):
    with pytest.raises(ImageError, match=match):
        segment_to_layers(Image(data, rgb=rgb, name="eye"), model=model)


class TestMeasures:
    @pytest.fixture
    def measures(self):
        pytest.importorskip("skan", reason='needs pip install "vesselseg[measure]"')
        mask = np.zeros((100, 120), bool)
        mask[45:54] = mask[10:90, 60:63] = True
        return vesselseg.measure(mask)

    def test_layers_show_what_was_measured_at_the_position_of_the_photograph(self, measures):
        layer = Image(np.zeros((100, 120, 3), np.uint8), name="eye", scale=(0.02, 0.03), rotate=30)
        added = [Layer.create(*data) for data in measures_to_layers(measures, layer)]
        names = ["field of view", "centrelines", "end points", "branch points"]
        assert [each.name for each in added] == [f"eye {name}" for name in names]
        for each in added:
            np.testing.assert_allclose(each.data_to_world((9, 7)), layer.data_to_world((9, 7)))
        fov, lines, ends, branches = added
        assert fov.data.all()
        assert len(lines.data) == 4
        np.testing.assert_allclose(lines.features["width_px"], measures.segments["width_px"])
        assert len(np.unique(lines.edge_color, axis=0)) >= 2
        np.testing.assert_allclose(ends.data, measures.end_positions)
        np.testing.assert_allclose(branches.data, measures.branch_positions)

    def test_a_mask_without_vessels_has_no_lines_and_points(self):
        pytest.importorskip("skan", reason='needs pip install "vesselseg[measure]"')
        empty = vesselseg.measure(np.zeros((40, 44), bool))
        [(_, options, kind)] = measures_to_layers(empty, Image(PHOTOGRAPH, name="eye"))
        assert (options["name"], kind) == ("eye field of view", "labels")


def test_features_hold_all_measures(model, monkeypatch):
    measures = SimpleNamespace(to_dict=lambda: {"length": 120.5, "width": {"mean": 3.0}})
    monkeypatch.setattr(Segmentation, "measure", lambda _: measures, raising=False)
    _, (data, options, kind) = segment_to_layers(Image(PHOTOGRAPH), model=model)
    features = Layer.create(data, options, kind).features
    assert list(features) == ["index", "vessel_fraction", "length", "width.mean"]
    assert features["length"].tolist() == [120.5]
    assert features["index"].tolist() == [1]  # the label of the vessels


def test_features_without_the_extra_hold_only_the_vessel_fraction(model, monkeypatch):
    def missing(_):
        raise MissingExtraError(MISSING)

    monkeypatch.setattr(Segmentation, "measure", missing, raising=False)
    _, (_, options, _) = segment_to_layers(Image(PHOTOGRAPH), model=model)
    expected = vesselseg.segment(PHOTOGRAPH, model=model).vessel_fraction()
    assert options["features"].to_dict("records") == [{"index": 1, "vessel_fraction": expected}]


def test_the_sample_is_a_photograph():
    [(data, options, kind)] = fundus_sample()
    layer = Layer.create(data, options, kind)
    assert (layer.name, layer.rgb, layer.data.shape) == ("fundus", True, (1000, 1000, 3))
