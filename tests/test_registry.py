"""What is published, and how it is found by name."""

import json

import pytest
from support.models import GOLDENS

import vesselseg
from vesselseg.registry import EMBEDDED, REGISTRY, find_spec, list_models

PUBLISHED = json.loads((GOLDENS / "published.json").read_text())


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row["current"].rpartition("/")[2])
def test_a_spec_has_what_mmsegmentation_lists(row):
    loss = "" if row["loss"] == "ce" else "ce-dice"
    head = "" if row["head"] == "fcn" else row["head"]
    name = "_".join(part for part in ("unet_s5-d16", head, loss, row["dataset"]) if part)
    spec = find_spec(name)
    assert (spec.head, spec.loss, spec.dataset) == (row["head"], row["loss"], row["dataset"])
    assert (spec.dice, spec.mdice) == (row["dice"], row["mdice"])
    assert spec.config.endswith("/" + row["config"])
    addresses = [row["current"], *([row["original"]] if "original" in row else [])]
    assert [source.url for source in spec.sources] == addresses
    for source in spec.sources:
        assert source.url.endswith(f"-{source.digits}.pth")
        assert source.filename == source.url.rpartition("/")[2]


def test_all_published_specs_are_there_and_the_embedded_one_comes_first():
    assert list_models()[0] is EMBEDDED
    assert len(list_models()) == len(REGISTRY) == len(PUBLISHED) + 1


@pytest.mark.parametrize(
    ("name", "fit_size", "crop", "stride", "dice"),
    [
        ("unet_s5-d16_drive", (584, 565), 64, 42, 78.67),
        ("unet_s5-d16_stare", (605, 700), 128, 85, 81.02),
        ("unet_s5-d16_chase_db1", (960, 999), 128, 85, 80.24),
        ("unet_s5-d16_hrf", (2336, 3504), 256, 170, 79.45),
    ],
)
def test_the_four_that_the_project_starts_from(name, fit_size, crop, stride, dice):
    spec = find_spec(name)
    assert spec.scale == "fit"
    assert (spec.fit_size, spec.crop, spec.stride) == (fit_size, crop, stride)
    assert spec.dice == dice
    assert not spec.mask_outside_fov


def test_every_spec_states_its_licence_and_the_terms_of_its_data():
    for spec in list_models():
        assert spec.license == "Apache-2.0"
        assert spec.data_terms


def test_unknown_name_is_rejected_with_the_nearest_ones():
    with pytest.raises(vesselseg.UnknownModelError, match=r"Did you mean 'unet_s5-d16_drive'"):
        find_spec("unet_s5_d16_drive")
    with pytest.raises(ValueError, match="list_models"):
        find_spec("resnet50")


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        REGISTRY["mine"] = EMBEDDED  # type: ignore[index]
    with pytest.raises(AttributeError):
        EMBEDDED.crop = 3  # type: ignore[misc]
