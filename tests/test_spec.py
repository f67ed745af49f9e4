"""Model specs: what they accept, and how they travel in a saved file."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

import vesselseg
from vesselseg import CheckpointError, ModelSpec, OptionError, Source, weights
from vesselseg.registry import EMBEDDED, list_models
from vesselseg.spec import check_integer

PLAIN = {"name": "mine", "dataset": "my clinic", "crop": 128, "stride": 85}
FULL = ModelSpec(
    **PLAIN, scale="fov", fit_size=(584, 565), fov_diameter=1000, fov_diameter_max=1500,
    fov_rgb_mean=(160, 75, 30), small_fov_bias=(900, 2.5), expected_dice=0.9,
    least_sharpness=0.5, dice=80, sources=(Source("https://weights.example.org/net.pth"),),
)  # fmt: skip
DECIDING = {
    "crop": 96, "stride": 84, "head": "pspnet", "width": 32, "depth": 4, "scale": "native",
    "fit_size": (584, 566), "fov_diameter": 1001, "fov_diameter_max": None,
    "fov_rgb_mean": None, "small_fov_bias": (900, 2.6), "expected_dice": 0.91,
    "least_sharpness": None, "mean": (1, 2, 3), "std": (1, 2, 3),
}  # fmt: skip
DESCRIPTIVE = {
    "name": "other", "dataset": "other", "loss": "ce", "dice": 81.0, "mdice": 90.0,
    "sources": (), "license": "MIT", "data_terms": "none", "config": "https://example.org",
    "unverified": True,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Later(ModelSpec):
    """The model spec of a later version, which has one more field."""

    gamma: float = dataclasses.field(default=1.0, metadata={"since": "0.2"})


def test_a_spec_of_ones_own_needs_four_values():
    spec = ModelSpec(**PLAIN)
    assert (spec.head, spec.width, spec.depth) == ("fcn", 64, 5)
    assert spec.filename == "mine.pth"


@pytest.mark.parametrize(("depth", "divisor"), [(2, 2), (5, 16), (8, 128)])
def test_windows_are_halved_once_less_than_there_are_stages(depth, divisor):
    assert ModelSpec(**PLAIN, depth=depth).size_divisor == divisor


def test_values_are_given_by_name():
    with pytest.raises(TypeError, match="positional"):
        ModelSpec(*PLAIN.values())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("dataset", 3),
        ("crop", 0),
        ("crop", 65537),
        ("crop", 64.0),
        ("crop", True),
        ("stride", 0),
        ("stride", 129),
        ("head", "unknown"),
        ("width", 0),
        ("width", 6),
        ("width", 1028),
        ("depth", 1),
        ("depth", 9),
        ("scale", "other"),
        ("scale", -1.0),
        ("fit_size", (584,)),
        ("fit_size", (0, 565)),
        ("fit_size", (584, 65537)),
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


@pytest.mark.parametrize(
    "values",
    [
        {"crop": 1, "stride": 1},
        {"crop": 65536, "stride": 65536},
        {"width": 4, "depth": 2},
        {"width": 1024, "depth": 8},
        {"fit_size": (1, 65536)},
        {"fov_diameter": 1000, "fov_diameter_max": 1000},
        {"expected_dice": 1.0},
    ],
    ids=str,
)
def test_the_least_and_the_largest_values_are_allowed(values):
    spec = ModelSpec(**{**PLAIN, **values})
    assert {name: getattr(spec, name) for name in values} == values


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


class TestOtherVersions:
    """A stored spec may come from an earlier or a later version of vesselseg."""

    def test_fields_that_a_file_lacks_have_their_defaults(self):
        assert ModelSpec.from_dict(PLAIN) == ModelSpec(**PLAIN)

    def test_fields_of_a_later_version_are_rejected_by_name(self):
        with pytest.raises(CheckpointError, match=r"does not know: colour\..*update"):
            ModelSpec.from_dict({**PLAIN, "colour": "red"})

    def test_a_dropped_field_is_read_with_the_only_value_that_was_stored(self):
        assert ModelSpec.from_dict({**PLAIN, "mask_outside_fov": False}) == ModelSpec(**PLAIN)
        for value in (True, 0, None, "", np.zeros(2)):
            with pytest.raises(CheckpointError, match="does not know: mask_outside_fov"):
                ModelSpec.from_dict({**PLAIN, "mask_outside_fov": value})

    def test_the_embedded_file_still_has_that_field_and_is_read(self):
        path = vesselseg.find_cached(EMBEDDED)
        stored = torch.load(path, weights_only=True)["spec"]
        assert stored["mask_outside_fov"] is False
        assert weights.read(path).spec == dataclasses.replace(EMBEDDED, sources=())

    def test_a_field_that_a_later_version_adds_is_stored_only_if_it_is_used(self):
        plain, used = Later(**PLAIN), Later(**PLAIN, gamma=2.0)
        assert ModelSpec.from_dict(plain.to_dict()) == ModelSpec(**PLAIN)
        assert plain.digest == ModelSpec(**PLAIN).digest != used.digest
        with pytest.raises(CheckpointError, match="does not know: gamma"):
            ModelSpec.from_dict(used.to_dict())
        for spec in (plain, used):
            assert Later.from_dict(spec.to_dict()) == spec


class TestDigest:
    def test_every_field_is_one_or_the_other(self):
        names = [field.name for field in dataclasses.fields(ModelSpec)]
        assert sorted(names) == sorted([*DECIDING, *DESCRIPTIVE])

    @pytest.mark.parametrize("field", DECIDING)
    def test_changes_with_each_field_that_decides_the_result(self, field):
        changed = dataclasses.replace(FULL, **{field: DECIDING[field]})
        assert changed.digest != FULL.digest

    @pytest.mark.parametrize("field", DESCRIPTIVE)
    def test_does_not_change_with_a_field_that_describes(self, field):
        changed = dataclasses.replace(FULL, **{field: DESCRIPTIVE[field]})
        assert changed.digest == FULL.digest

    def test_is_64_hexadecimal_digits_and_the_same_on_every_machine(self):
        assert re.fullmatch("[0-9a-f]{64}", FULL.digest)
        assert EMBEDDED.digest == "df0b38e307bf3279d3c051509a6463213bc459f860c45eb9a4561424268ddb92"

    def test_a_number_is_the_same_as_an_integer_and_as_a_float(self):
        floats = dataclasses.replace(
            FULL, fov_diameter=1000.0, fov_rgb_mean=(160.0, 75.0, 30.0),
            small_fov_bias=(np.float32(900), 2.5),
        )  # fmt: skip
        assert floats.digest == FULL.digest

    @pytest.mark.parametrize("spec", [FULL, *list_models()], ids=lambda spec: spec.name)
    def test_survives_storage_as_the_spec_does_without_its_sources(self, spec):
        carried = ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
        assert carried == dataclasses.replace(spec, sources=())
        assert carried.digest == spec.digest


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({**PLAIN, "crop": "64"}, "ModelSpec crop is '64'"),
        ({**PLAIN, "stride": 999}, "ModelSpec stride is 999; it must be from"),
        ({"name": "mine"}, "missing"),
    ],
)
def test_damaged_specs_are_rejected_with_what_is_wrong(values, match):
    with pytest.raises(CheckpointError, match=f"is not valid: .*{match}"):
        ModelSpec.from_dict(values)


def test_filename_is_the_last_part_of_the_first_source():
    source = Source("https://example.org/a/b/c-12345678.pth", "12345678")
    assert ModelSpec(**PLAIN, sources=(source,)).filename == "c-12345678.pth"
    assert Source("package:model.pth").filename == "model.pth"


@pytest.mark.parametrize(
    "end", ["?download=1", "?path=a/b.pth&x=1", "#part", "?a=1#b/c", "#b?c", "?", "#"]
)
def test_filename_has_neither_query_nor_fragment(end):
    assert Source(f"https://example.org/records/12/net.pth{end}").filename == "net.pth"


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "4", None, 2**70])
def test_what_is_no_integer_in_the_range_is_rejected(value):
    with pytest.raises(OptionError, match=f"count is {value!r}; it must be a positive integer."):
        check_integer("count", value)


def test_an_integer_of_numpy_is_one_of_python():
    count = check_integer("count", np.int64(3))
    assert (count, type(count)) == (3, int)
