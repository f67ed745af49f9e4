"""The model inside the package."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from support import EXAMPLE

import vesselseg
from vesselseg import weights
from vesselseg.files import sha256
from vesselseg.registry import EMBEDDED

FOLDER = Path(vesselseg.__file__).parent / "embedded"
FILE = FOLDER / EMBEDDED.filename


def test_it_is_the_file_that_the_spec_pins():
    assert sha256(FILE) == EMBEDDED.sources[0].sha256
    assert FILE.stat().st_size <= 4_000_000


def test_it_is_in_our_own_layout_in_float16():
    file = weights.read(FILE)
    assert file.spec == dataclasses.replace(EMBEDDED, sources=())
    assert {value.dtype for value in file.state.values()} == {torch.float16}


def test_nothing_else_is_shipped():
    assert {path.name for path in FOLDER.iterdir()} == {FILE.name, "MODEL_CARD.md", "fundus.jpg"}


def test_card_names_model_data_and_limits():
    card = (FOLDER / "MODEL_CARD.md").read_text()
    sources = ["CC BY 4.0", "10.1109/TBME.2012.2205687", "10.1155/2013/154860"]
    for words in [EMBEDDED.name, EMBEDDED.sources[0].sha256, *sources]:
        assert words in card
    assert "not a medical device" in " ".join(card.split())


@pytest.fixture(scope="module")
def result(windows_once):  # noqa: ARG001
    return vesselseg.segment(EXAMPLE, device="cpu")


@pytest.mark.slow
def test_it_finds_the_vessels_of_the_example(result):
    """Vessels are darker than what is around them, most of all in green."""
    assert 0.08 < result.mask[result.field_of_view].mean() < 0.15
    assert result.mask[~result.field_of_view].mean() < 0.001
    with Image.open(EXAMPLE) as image:
        green = np.asarray(image)[..., 1].astype(float)
    grown = np.asarray(Image.fromarray(result.mask).convert("L").filter(ImageFilter.MaxFilter(15)))
    around = (grown > 0) & ~result.mask & result.field_of_view
    assert green[result.mask].mean() < green[around].mean() - 15


@pytest.mark.slow
def test_it_follows_its_spec(result):
    assert result.provenance["scale"] == "fov"
    assert result.provenance["network_size"] == [1411, 1411]  # between least and largest size
    assert np.isfinite(result.probability).all()
