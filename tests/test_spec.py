"""Model specs: what they accept, and how they travel in a saved file."""

import dataclasses

import numpy as np
import pytest

from vesselseg import CheckpointError, ModelSpec, OptionError, Source
from vesselseg.registry import list_models

PLAIN = {"name": "mine", "dataset": "my clinic", "crop": 128, "stride": 85}


def test_a_spec_of_ones_own_needs_four_values():
    spec = ModelSpec(**PLAIN)
    assert (spec.head, spec.width, spec.depth) == ("fcn", 64, 5)
    assert spec.filename == "mine.pth"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("dataset", 3),
        ("crop", 0),
        ("crop", 64.0),
        ("crop", True),
        ("stride", 0),
        ("stride", 129),
        ("head", "unknown"),
        ("width", 6),
        ("depth", 1),
        ("scale", "other"),
        ("scale", -1.0),
        ("fit_size", (584,)),
        ("fit_size", (0, 565)),
        ("fov_diameter", 0),
        ("fov_diameter", float("nan")),
        ("fov_diameter_max", 1000.0),  # without a fov_diameter
        ("fov_rgb_mean", (1.0, 2.0)),
        ("fov_rgb_mean", (1.0, 0.0, 2.0)),
        ("small_fov_bias", (0.0, 2.5)),
        ("expected_dice", 0.0),
        ("expected_dice", 1.1),
        ("least_sharpness", 0.0),
        ("small_fov_bias", (900.0, float("nan"))),
        ("mean", (1.0, 2.0)),
        ("std", (1.0, 0.0, 1.0)),
        ("sources", "https://weights.example.org/net.pth"),
        ("sources", ("https://weights.example.org/net.pth",)),
    ],
)
def test_values_outside_the_allowed_are_rejected_by_name(field, value):
    with pytest.raises(OptionError, match=f"ModelSpec {field} is"):
        ModelSpec(**{**PLAIN, field: value})


def test_numbers_of_numpy_and_lists_are_stored_as_plain_values():
    source = Source("https://weights.example.org/net.pth")
    spec = ModelSpec(
        name="mine",
        dataset="my clinic",
        crop=np.int64(128),
        stride=np.uint8(85),
        scale=np.float32(0.5),
        mean=list(np.ones(3)),
        fit_size=[584, 565],
        sources=[source],
    )
    values = [spec.crop, spec.stride, spec.scale, *spec.mean]
    assert [type(value) for value in values] == [int, int, float, float, float, float]
    assert (spec.fit_size, spec.sources) == ((584, 565), (source,))
    assert hash(spec) == hash(dataclasses.replace(spec))


@pytest.mark.parametrize(("scale", "field"), [("fit", "fit_size"), ("fov", "fov_diameter")])
def test_a_scale_rule_needs_its_size(scale, field):
    with pytest.raises(OptionError, match=f"{field} is None; it must be"):
        ModelSpec(**PLAIN, scale=scale)


def test_the_largest_field_of_view_is_not_below_the_least():
    with pytest.raises(OptionError, match=r"max is 999;.*at least fov_diameter, 1000"):
        ModelSpec(**PLAIN, fov_diameter=1000, fov_diameter_max=999)


@pytest.mark.parametrize("spec", list_models(), ids=lambda spec: spec.name)
def test_travels_without_its_sources(spec):
    carried = ModelSpec.from_dict(spec.to_dict())
    assert carried == dataclasses.replace(spec, sources=())


def test_entries_of_a_newer_version_are_rejected():
    with pytest.raises(CheckpointError, match=r"does not know: colour\..*update"):
        ModelSpec.from_dict({**PLAIN, "colour": "red"})


@pytest.mark.parametrize("change", [{"crop": "64"}, {"stride": 999}, {"name": None}])
def test_damaged_specs_are_rejected(change):
    with pytest.raises(CheckpointError, match="is not valid"):
        ModelSpec.from_dict({**PLAIN, **change})


def test_missing_entries_are_rejected():
    with pytest.raises(CheckpointError, match="is not valid"):
        ModelSpec.from_dict({"name": "mine"})


def test_filename_is_the_last_part_of_the_first_source():
    source = Source("https://example.org/a/b/c-12345678.pth", "12345678")
    assert ModelSpec(**PLAIN, sources=(source,)).filename == "c-12345678.pth"
    assert Source("package:model.pth").filename == "model.pth"
