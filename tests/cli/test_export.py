"""``vesselseg export``."""

import numpy as np
import pytest
from PIL import Image
from support import EXAMPLE

import vesselseg
from vesselseg.cli import main
from vesselseg.registry import EMBEDDED

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_file_that_vesselseg_saved(model, tmp_path, capsys):
    model.save(tmp_path / "mine.pth")
    out = tmp_path / "mine.onnx"
    assert main(["export", str(tmp_path / "mine.pth"), "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: narrow, {out.stat().st_size / 1e6:.1f} MB\n"
    assert vesselseg.load_model(out).spec == model.spec
    assert main(["export", str(out), "-o", str(tmp_path / "again.onnx")]) == 2
    assert "Copy the file itself" in capsys.readouterr().err
    assert not (tmp_path / "again.onnx").exists()


@pytest.mark.slow
def test_without_a_model_it_is_the_embedded_one_and_segment_takes_the_file(tmp_path):
    out = tmp_path / "vessels.onnx"
    assert main(["export", "-o", str(out)]) == 0
    assert vesselseg.load_model(out).spec.name == EMBEDDED.name
    with Image.open(EXAMPLE) as image:
        image.reduce(4).save(tmp_path / "eye.png")
    words = [str(tmp_path / "eye.png"), "--model", str(out), "--scale", "1"]
    assert main([*words, "-o", str(tmp_path / "mask.png")]) == 0
    expected = vesselseg.segment(tmp_path / "eye.png", scale=1.0, device="cpu").mask
    with Image.open(tmp_path / "mask.png") as image:
        assert (np.asarray(image) > 0).sum() > 1000
        assert ((np.asarray(image) > 0) != expected).sum() <= 5


def test_a_place_that_is_not_an_onnx_file_is_wrong_usage(capsys):
    assert main(["export", "-o", "drive.pth"]) == 2
    assert "Name the file to write, ending in .onnx" in capsys.readouterr().err
