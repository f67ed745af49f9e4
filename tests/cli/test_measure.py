"""``vesselseg measure``: tables from photographs and from masks."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.drawn import photographs, pixels, twelve_bits, vessels
from support.models import tiny_weights

from vesselseg.batch.table import Table
from vesselseg.cli import main
from vesselseg.errors import how_to_install

pytest.importorskip("skan", reason="needs the extra measure")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_weights(Path("tiny.pth"))
    photographs(Path("p"), ["a.png", "b.jpg", "sub/c.png"])


OTHERS = {"input", "seconds", "bits", "input_version", "vessel_fraction"}


def measured(path):
    """The columns of a table that depend on the vessels alone."""
    return [{key: row[key] for key in row if key not in OTHERS} for row in table(path)]


def table(path):
    with Path(path).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_measures_photographs(capsys):
    assert main(["measure", "p", "-o", "out/m.csv", "--model", "tiny.pth"]) == 0
    rows = table("out/m.csv")
    assert [row["input"] for row in rows] == ["p/a.png", "p/b.jpg"]
    assert 0 <= float(rows[0]["density"]) <= 1
    assert "2 measured, 0 skipped, 0 failed" in (said := capsys.readouterr().err)
    assert "table: out/m.csv" in said


def test_measures_standard_input(monkeypatch):
    content = Path("p/a.png").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert main(["measure", "-", "p/a.png", "-o", "m.csv", "--model", "tiny.pth"]) == 0
    assert [row["input"] for row in table("m.csv")] == ["-", "p/a.png"]
    assert measured("m.csv")[0] == measured("m.csv")[1]


def test_bits_of_16_bit_photographs():
    grey = pixels(Path("p/a.png"))[..., 1]
    Image.fromarray(twelve_bits(grey)).save("deep.png")
    Image.fromarray(grey).save("grey.png")
    main(["measure", "deep.png", "-o", "deep.csv", "--model", "tiny.pth", "--bits", "12"])
    main(["measure", "grey.png", "-o", "grey.csv", "--model", "tiny.pth"])
    assert measured("deep.csv") == measured("grey.csv")
    assert table("deep.csv")[0]["bits"] == "12"


@pytest.mark.slow
def test_masks_give_the_same_measures():
    main(["p", "-r", "-o", "v", "--fov", "--overlay", "--model", "tiny.pth"])
    words = ["--segments", "s.csv", "--mm-per-pixel", "0.01", "-r"]
    main(["measure", "p", "-o", "first.csv", "--model", "tiny.pth", *words])
    first = table("s.csv")
    assert main(["measure", "v", "--masks", "-o", "second.csv", *words]) == 0
    assert measured("first.csv") == measured("second.csv")
    assert "length_mm" in measured("first.csv")[0]
    assert [row["length_px"] for row in first] == [row["length_px"] for row in table("s.csv")]
    assert {row["input"] for row in table("second.csv")} == {"v/a.png", "v/b.png", "v/sub/c.png"}


def test_masks_of_others_are_named_or_match_a_pattern_and_pictures_of_ours_are_no_masks():
    Path("m").mkdir()
    for seed, white in enumerate((1, 255)):
        Image.fromarray(vessels(seed).astype(np.uint8) * white).save(f"m/{white}.png")
    main(["p/a.png", "-o", "m", "--probability", "--fov", "--model", "tiny.pth"])
    assert main(["measure", "m", "--masks", "-o", "folder.csv"]) == 0
    assert [row["input"] for row in table("folder.csv")] == ["m/a.png"]
    assert main(["measure", "m/*.png", "--masks", "-o", "pattern.csv"]) == 0
    rows = table("pattern.csv")
    assert [row["input"] for row in rows] == ["m/1.png", "m/255.png", "m/a.png"]
    assert float(rows[0]["density"]) == pytest.approx(vessels(0).mean())
    assert main(["measure", "m/a_probability.png", "--masks", "-o", "wrong.csv"]) == 1
    assert "is not a mask: vesselseg wrote it as probability." in table("wrong.csv")[0]["error"]


def test_an_image_that_fails_is_recorded_and_the_rest_goes_on(capsys):
    Path("p/a.png").write_bytes(b"no image")
    assert main(["measure", "p/a.png", "p/b.jpg", "-o", "m.csv", "--model", "tiny.pth"]) == 1
    rows = table("m.csv")
    assert "could not be decoded" in rows[0]["error"]
    assert rows[1]["error"] == ""
    assert "p/a.png" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_and_other_settings_are_measured_again(capsys):
    words = ["measure", "p", "-r", "-o", "m.csv", "--model", "tiny.pth", "--resume"]
    assert main(words) == 0
    assert "3 measured, 0 skipped" in capsys.readouterr().err
    expected = table("m.csv")
    for name in ("model", "sha256", "spec", "threshold", "warning", "familiarity"):
        assert name in expected[0]
    lines = [json.dumps({**row, "error": None}) for row in Table("m.csv").rows]
    Path("m.csv.rows.jsonl").write_text("\n".join(lines[:2]) + "\n" + lines[2][:50])
    Path("m.csv").unlink()
    assert main(words) == 0
    assert "1 measured, 2 skipped" in capsys.readouterr().err
    assert [{**row, "seconds": ""} for row in table("m.csv")] == [
        {**row, "seconds": ""} for row in expected
    ]
    assert main([*words, "--segments", "s.csv"]) == 0  # of which there is none yet
    segments = {row["input"] for row in table("s.csv")}
    assert segments == {row["input"] for row in expected if float(row["length_px"])}
    assert main([*words, "--segments", "s.csv"]) == 0
    assert "0 measured, 3 skipped" in capsys.readouterr().err.splitlines()[-1]
    assert main([*words, "--mm-per-pixel", "0.01"]) == 0
    assert "3 measured (3 again, since their settings" in capsys.readouterr().err
    photographs(Path("p"), ["b.jpg"])  # another photograph of that name
    assert main([*words, "--mm-per-pixel", "0.01"]) == 0
    assert "1 measured (1 again" in capsys.readouterr().err
    assert table("m.csv")[1]["input_version"] != expected[1]["input_version"]


def test_wrong_usage(capsys, monkeypatch):
    Path("empty").mkdir()
    assert main(["measure", "empty", "-o", "m.csv"]) == 2
    assert "nothing to measure in empty" in capsys.readouterr().err
    assert main(["measure", "p", "-o", "m.csv", "--masks"]) == 2
    assert "masks that vesselseg wrote are taken; pass others as" in capsys.readouterr().err
    for number in ("-1", "nan", "x"):
        with pytest.raises(SystemExit, match="2"):
            main(["measure", "p/a.png", "-o", "m.csv", f"--mm-per-pixel={number}"])
        assert f"'{number}' is not a positive number" in capsys.readouterr().err
    assert main(["measure", "p/a.png", "-o", "m.csv", "--segments", "p/../m.csv"]) == 2
    assert "--output and --segments are both 'm.csv'" in capsys.readouterr().err
    assert not Path("m.csv").exists()
    monkeypatch.setitem(sys.modules, "skan", None)
    Image.fromarray(vessels(0)).save("mask.png")
    assert main(["measure", "mask.png", "-o", "other.csv", "--masks"]) == 2
    assert how_to_install("measure") in capsys.readouterr().err
    assert not Path("other.csv").exists()
