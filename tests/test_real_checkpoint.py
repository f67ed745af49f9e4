"""A spec trained with mmsegmentation's own code, against what mmsegmentation made of it.

It is too large for the repository. `VESSELSEG_TEST_CHECKPOINT` names the file (a U-Net of
mmsegmentation 1.2.2, trained for 1,600 iterations on CHASE_DB1), `VESSELSEG_TEST_CHASE_DB1` a
folder with images/ and labels/ of that data set.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import EXAMPLE

import vesselseg

FILE = os.environ.get("VESSELSEG_TEST_CHECKPOINT")
FOLDER = os.environ.get("VESSELSEG_TEST_CHASE_DB1")
SHA256 = "1816660fcb35820ad14a4487390aef1a048b6e85888de4d1a6b9c0d29814eb48"

pytestmark = pytest.mark.skipif(FILE is None, reason="VESSELSEG_TEST_CHECKPOINT names no file")


@pytest.fixture(scope="module")
def model():
    model = vesselseg.load_model("unet_s5-d16_chase_db1", weights=FILE, device="cpu")
    if model.sha256 != SHA256:
        pytest.skip("VESSELSEG_TEST_CHECKPOINT names another file than the counts were made with")
    return model


@pytest.mark.skipif(FOLDER is None, reason="VESSELSEG_TEST_CHASE_DB1 names no folder")
@pytest.mark.parametrize(
    ("name", "expected"), [("01L", (38665, 7561, 28220)), ("05R", (48489, 7504, 33174))]
)
def test_counts_on_chase_db1(name, expected, model):
    mask = model(Path(str(FOLDER)) / "images" / f"Image_{name}.jpg").mask
    with Image.open(Path(str(FOLDER)) / "labels" / f"Image_{name}_1stHO.png") as image:
        label = np.asarray(image.convert("L")) > 127
    counts = ((mask & label).sum(), (mask & ~label).sum(), (~mask & label).sum())
    print(f"Image_{name}: TP, FP, FN = {[int(count) for count in counts]}")
    assert counts == pytest.approx(expected, abs=2)  # ties may fall either way


def test_count_on_the_example(model):
    count = int(model(EXAMPLE).mask.sum())
    print(f"fundus.jpg: {count} vessel pixels")
    assert count == pytest.approx(144148, abs=4)


def test_bfloat16_agrees_on_the_example(model):
    rounded = vesselseg.load_model(
        "unet_s5-d16_chase_db1", weights=FILE, device="cpu", precision="bfloat16"
    )
    assert (rounded(EXAMPLE).mask == model(EXAMPLE).mask).mean() >= 0.999


@pytest.fixture(scope="module")
def int8(model, tmp_path_factory):
    pytest.importorskip("nncf")
    file = tmp_path_factory.mktemp("exported") / "int8.onnx"
    model.export(file, precision="int8")
    return vesselseg.load_model(file, backend="openvino")


def test_int8_agrees_on_the_example(model, int8):
    equal = (int8(EXAMPLE).mask == model(EXAMPLE).mask).mean()
    print(f"fundus.jpg: {equal:.2%} of the pixels are equal in 8 bits")
    assert equal >= 0.998


@pytest.mark.skipif(FOLDER is None, reason="VESSELSEG_TEST_CHASE_DB1 names no folder")
def test_int8_agrees_on_chase_db1(model, int8):
    dice = {}
    photographs = [Path(str(FOLDER)) / "images" / f"Image_{name}.jpg" for name in ("01L", "05R")]
    masks = {each: [each(path).mask for path in photographs] for each in (model, int8)}
    for each, found in masks.items():
        both = sums = 0
        for path, mask in zip(photographs, found, strict=True):
            with Image.open(path.parents[1] / "labels" / f"{path.stem}_1stHO.png") as image:
                label = np.asarray(image.convert("L")) > 127
            both, sums = both + (mask & label).sum(), sums + mask.sum() + label.sum()
        dice[each] = 200 * both / sums
    equal = [(a == b).mean() for a, b in zip(*masks.values(), strict=True)]
    print(f"equal in 8 bits: {min(equal):.2%}; Dice {dice[int8]:.2f} against {dice[model]:.2f}")
    assert min(equal) >= 0.998
    assert abs(dice[int8] - dice[model]) <= 0.3
