"""Which models there are, and how they are found by name."""

import json
import re
from collections import Counter

import pytest
from support.models import GOLDENS

import vesselseg
from vesselseg.registry import EMBEDDED, REGISTRY, find_spec, list_models

PUBLISHED = json.loads((GOLDENS / "published.json").read_text())


def name_of(row):
    """The name of a model that mmsegmentation lists."""
    loss = "" if row["loss"] == "ce" else "ce-dice"
    head = "" if row["head"] == "fcn" else row["head"]
    return "_".join(part for part in ("unet_s5-d16", head, loss, row["dataset"]) if part)


class TestModelsOfMmsegmentation:
    @pytest.mark.parametrize("row", PUBLISHED, ids=name_of)
    def test_have_what_it_lists(self, row):
        spec = find_spec(name_of(row))
        assert (spec.head, spec.loss, spec.dataset) == (row["head"], row["loss"], row["dataset"])
        assert (spec.dice, spec.mdice) == (row["dice"], row["mdice"])
        assert spec.config.endswith("/" + row["config"])
        addresses = [row["current"], *([row["original"]] if "original" in row else [])]
        assert [source.url for source in spec.sources] == addresses
        for source in spec.sources:
            assert source.url.endswith(f"-{source.digits}.pth")

    @pytest.mark.parametrize(
        ("name", "fit_size", "crop", "stride"),
        [
            ("unet_s5-d16_drive", (584, 565), 64, 42),
            ("unet_s5-d16_stare", (605, 700), 128, 85),
            ("unet_s5-d16_chase_db1", (960, 999), 128, 85),
            ("unet_s5-d16_hrf", (2336, 3504), 256, 170),
        ],
    )
    def test_have_its_windows_and_sizes(self, name, fit_size, crop, stride):
        spec = find_spec(name)
        assert spec.scale == "fit"
        assert (spec.fit_size, spec.crop, spec.stride) == (fit_size, crop, stride)


class TestEveryModel:
    @pytest.fixture(params=list_models(), ids=lambda spec: spec.name)
    def spec(self, request):
        return request.param

    def test_has_a_name_that_is_one_word(self, spec):
        assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*", spec.name)
        assert find_spec(spec.name) is spec

    def test_states_its_licence_and_the_terms_of_its_data(self, spec):
        assert spec.license
        assert spec.data_terms

    def test_has_addresses_that_are_verified(self, spec):
        assert spec.sources
        for source in spec.sources:
            assert source.url.startswith(("https://", "package:"))
            assert re.fullmatch(r"\w[\w.-]*\.pth", source.filename)
        assert not spec.config or spec.config.startswith("https://")

    def test_pins_a_digest_unless_it_is_one_of_mmsegmentation(self, spec):
        for source in spec.sources:
            if spec.name in map(name_of, PUBLISHED):
                assert re.fullmatch("[0-9a-f]{8}", source.digits)
            else:
                assert re.fullmatch("[0-9a-f]{64}", source.sha256)


def test_no_two_models_have_files_of_the_same_name():
    names = Counter(
        filename
        for spec in list_models()
        for filename in {source.filename for source in spec.sources}
    )
    assert set(names.values()) == {1}


def test_the_embedded_model_comes_first():
    assert list_models()[0] is EMBEDDED
    assert len(list_models()) == len(REGISTRY)


def test_unknown_name_is_rejected_with_the_nearest_ones():
    with pytest.raises(vesselseg.UnknownModelError, match=r"Did you mean 'unet_s5-d16_drive'"):
        find_spec("unet_s5_d16_drive")
    with pytest.raises(ValueError, match="list_models"):
        find_spec("resnet50")


def test_the_registry_cannot_be_changed():
    with pytest.raises(TypeError):
        REGISTRY["mine"] = EMBEDDED  # type: ignore[index]
    with pytest.raises(AttributeError):
        EMBEDDED.crop = 3  # type: ignore[misc]
