"""``vesselseg measure``: tables from photographs and from masks."""

import csv
import inspect
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.drawn import photographs, pixels, twelve_bits, vessels
from support.models import tiny_weights

import vesselseg
import vesselseg.ray
from vesselseg.batch.table import Table
from vesselseg.cli import build_parser, main
from vesselseg.errors import how_to_install
from vesselseg.measures import COLUMNS, MM_COLUMNS, SEGMENT_COLUMNS
from vesselseg.result import read_provenance

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


def test_written_numbers_have_at_most_six_significant_digits():
    main(["measure", "p", "-o", "m.csv", "--segments", "s.csv", "--model", "tiny.pth"])
    names = [column.name for column in COLUMNS + SEGMENT_COLUMNS]
    numbers = [row[name] for path in ("m.csv", "s.csv") for row in table(path) for name in row
               if name in (*names, "fov_diameter", "vessel_fraction")]  # fmt: skip
    assert len(numbers) > 30
    for text in filter(None, numbers):
        assert float(f"{float(text):.6g}") == float(text)


def test_the_columns_are_listed(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["measure", "--columns"])
    listed = capsys.readouterr().out
    for column in COLUMNS + MM_COLUMNS + SEGMENT_COLUMNS:
        assert re.search(
            rf"^  {column.name} +{column.unit}.*{column.definition[:20]}", listed, re.M
        )
        assert column.source in listed


class TestOverlay:
    WORDS = ("-r", "--model", "tiny.pth", "--overlay", "drawn")

    @pytest.mark.slow
    def test_what_was_measured_is_drawn_over_each_photograph(self):
        assert main(["measure", "p", "-o", "m.csv", *self.WORDS]) == 0
        rows = table("m.csv")
        places = [row["measures_overlay"] for row in rows]
        assert places == [f"drawn/{n}_measures.png" for n in ("a", "b", "sub/c")]
        photograph = vesselseg.segment("p/a.png", model="tiny.pth")
        expected = photograph.measure().overlay()
        assert np.array_equal(pixels(Path(places[0])), np.asarray(expected))
        made = read_provenance(places[0])
        assert (made["kind"], made["fill_holes"], made["color_by"]) == (
            "measures_overlay", 20, "width",
        )  # fmt: skip
        main(["measure", "drawn", "-r", "-o", "none.csv", "--model", "tiny.pth"])
        assert not Path("none.csv").exists()  # it is no photograph

    def test_or_over_each_mask(self):
        Image.fromarray(vessels(1)).save("m.png")
        main(["measure", "m.png", "--masks", "-o", "m.csv", "--overlay", "d", "--keep-endings"])
        drawn = pixels(Path("d/m.png_measures.png"))
        assert np.array_equal(drawn, np.asarray(vesselseg.measure(vessels(1)).overlay()))

    @pytest.mark.slow
    def test_resuming_draws_again_what_is_missing_or_other(self, capsys):
        words = ["measure", "p", "-o", "m.csv", *self.WORDS, "--resume"]
        assert main(words) == 0
        Path("drawn/a_measures.png").unlink()
        assert main(words) == 0
        assert "1 measured, 2 skipped" in capsys.readouterr().err
        assert main([*words, "--color-by", "segment"]) == 0
        assert "3 measured (3 again" in capsys.readouterr().err

    def test_two_that_would_be_the_same_file_are_an_error_before_anything_is_done(self, capsys):
        photographs(Path("p"), ["a.jpg"])
        assert main(["measure", "p", "-o", "m.csv", *self.WORDS]) == 2
        assert "would both write 'drawn/a_measures.png'" in capsys.readouterr().err
        assert not Path("m.csv").exists()


@pytest.mark.slow
def test_resuming_measures_again_with_other_pinholes_or_specks(capsys):
    first = ["measure", "p/a.png", "-o", "m.csv", "--model", "tiny.pth", "--resume"]
    assert main(first) == 0
    assert (table("m.csv")[0]["fill_holes"], table("m.csv")[0]["min_size"]) == ("20", "20")
    assert main([*first, "--fill-holes", "3"]) == 0
    assert "1 measured (1 again, since their settings" in capsys.readouterr().err
    assert (table("m.csv")[0]["fill_holes"], table("m.csv")[0]["min_size"]) == ("3", "20")


def test_segment_measures_with_the_same_options():
    words = ["--model", "tiny.pth", "--fill-holes", "3", "--min-size", "4"]
    main(["p/a.png", "-o", "v", "--measure", "--manifest", "s.csv", *words])
    main(["measure", "p/a.png", "-o", "m.csv", *words])
    assert float(table("s.csv")[0]["length_px"]) == float(table("m.csv")[0]["length_px"])
    assert table("s.csv")[0]["min_size"] == "4"


def test_defaults_are_those_of_python():
    _, commands = build_parser()
    for call in (vesselseg.measure, vesselseg.Segmentation.measure, vesselseg.segment_folder,
                 vesselseg.ray.segment_dataset):  # fmt: skip
        for name in ("fill_holes", "min_size"):
            default = inspect.signature(call).parameters[name].default
            for command in ("segment", "measure"):
                assert commands[command].get_default(name) == default


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


def test_a_mask_without_vessels_has_counts_of_zero_and_no_widths():
    Image.fromarray(np.zeros((40, 60), np.uint8)).save("black.png")
    assert main(["measure", "black.png", "--masks", "-o", "m.csv"]) == 0
    (row,) = table("m.csv")
    assert (row["error"], row["fov_area_px"], row["density"]) == ("", "2400", "0.0")
    assert (row["branch_points"], row["width_median_px"], row["tortuosity"]) == ("0", "", "")


@pytest.mark.slow
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


def test_wrong_usage_is_rejected(capsys, monkeypatch):
    Path("empty").mkdir()
    assert main(["measure", "empty", "-o", "m.csv"]) == 2
    assert "nothing to measure in empty" in capsys.readouterr().err
    assert main(["measure", "p", "-o", "m.csv", "--masks"]) == 2
    assert "masks that vesselseg wrote are taken; pass others as" in capsys.readouterr().err
    for number in ("-1", "nan", "x"):
        with pytest.raises(SystemExit, match="2"):
            main(["measure", "p/a.png", "-o", "m.csv", f"--mm-per-pixel={number}"])
        assert f"'{number}' is not a positive number" in capsys.readouterr().err
    for option in ("--fill-holes", "--min-size"):
        with pytest.raises(SystemExit, match="2"):
            main(["measure", "p/a.png", "-o", "m.csv", option, "-1"])
        assert f"{option}: '-1' is not a number of pixels, 0 or m" in capsys.readouterr().err
    assert main(["measure", "p/a.png", "-o", "m.csv", "--segments", "p/../m.csv"]) == 2
    assert "--output and --segments are both 'm.csv'" in capsys.readouterr().err
    assert not Path("m.csv").exists()
    monkeypatch.setitem(sys.modules, "skan", None)
    Image.fromarray(vessels(0)).save("mask.png")
    assert main(["measure", "mask.png", "-o", "other.csv", "--masks"]) == 2
    assert how_to_install("measure") in capsys.readouterr().err
    assert not Path("other.csv").exists()
