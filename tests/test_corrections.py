"""Corrections: their files, and which photographs are most worth correcting."""

from __future__ import annotations

from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image
from support import drawn
from support.dicom import dicom_file

import vesselseg
from vesselseg import DatasetError, OptionError, OutputError
from vesselseg.batch.jobs import plan_jobs
from vesselseg.batch.search import is_correction
from vesselseg.corrections import (
    find_corrections,
    read_correction,
    save_correction,
    worth_correcting,
)
from vesselseg.result import read_provenance

LABEL = np.where(drawn.vessels(0), 255, 0).astype(np.uint8)
LABEL[:12] = 128


@pytest.fixture
def folder(tmp_path):
    """A folder of three photographs."""
    for number, name in enumerate(("a.png", "b.tif", "c.png")):
        drawn.write(tmp_path / name, drawn.photograph(number))
    return tmp_path


def names(folder):
    return [(photograph.name, label.name) for photograph, label in find_corrections(folder)]


class TestSave:
    def test_and_read_and_find(self, folder):
        before = (folder / "b.tif").read_bytes()

        path = save_correction(folder / "b.tif", LABEL, {"model": "m", "threshold": 0.5})

        assert path == folder / "corrections" / "b.png"
        assert find_corrections(folder) == [(folder / "b.tif", path)]
        assert np.array_equal(read_correction(path), LABEL)
        assert (folder / "b.tif").read_bytes() == before

    def test_writes_plain_grey_with_provenance(self, folder):
        path = save_correction(folder / "a.png", LABEL, {"model": "m"})

        with Image.open(path) as picture:
            assert (picture.format, picture.mode) == ("PNG", "L")
            assert np.array_equal(np.asarray(picture), LABEL)
        provenance = read_provenance(path)
        assert provenance.pop("date").endswith("+00:00")
        assert provenance == {
            "kind": "correction", "vesselseg": vesselseg.__version__, "photograph": "a.png",
            "painted_over": {"model": "m"},
        }  # fmt: skip

    def test_again_replaces(self, folder):
        save_correction(folder / "a.png", LABEL)
        path = save_correction(folder / "a.png", np.zeros_like(LABEL))
        assert not read_correction(path).any()
        assert [x.name for x in (folder / "corrections").iterdir()] == ["a.png"]

    @pytest.mark.parametrize(
        ("label", "said"),
        [
            (LABEL[:-1], "must be equal"),
            (LABEL // 2, "allowed are 0 for background, 128"),
            (LABEL > 0, "allowed are 0 for background, 128"),
            (np.full_like(LABEL, 128), "nothing is known"),
        ],
    )
    def test_rejects_other_labels(self, folder, label, said):
        with pytest.raises(OptionError, match=said):
            save_correction(folder / "a.png", label)
        assert not (folder / "corrections").exists()

    def test_photographs_that_are_missing(self, folder):
        with pytest.raises(FileNotFoundError):
            save_correction(folder / "d.png", LABEL)

    def test_where_the_folder_cannot_be_made(self, folder):
        (folder / "corrections").write_text("a file")
        with pytest.raises(OutputError, match="cannot be created"):
            save_correction(folder / "a.png", LABEL)


class TestNames:
    """A correction is called like its photograph."""

    def test_keep_the_ending_if_two_photographs_share_a_stem(self, folder):
        drawn.write(folder / "a.jpg", drawn.photograph(5))
        save_correction(folder / "a.png", LABEL)
        save_correction(folder / "a.jpg", LABEL)
        assert names(folder) == [("a.jpg", "a.jpg.png"), ("a.png", "a.png.png")]

    def test_that_are_whole_stay_so(self, folder):
        drawn.write(folder / "a.jpg", drawn.photograph(5))
        path = save_correction(folder / "a.png", LABEL)
        (folder / "a.jpg").unlink()
        assert save_correction(folder / "a.png", LABEL) == path
        assert names(folder) == [("a.png", "a.png.png")]

    def test_of_photographs_without_an_ending(self, folder):
        (folder / "IM0001").write_bytes(dicom_file(drawn.photograph(4)))
        save_correction(folder / "IM0001", LABEL)
        assert names(folder) == [("IM0001", "IM0001.png")]

    def test_may_end_in_capitals(self, folder):
        drawn.write(folder / "corrections" / "a.PNG", LABEL)
        save_correction(folder / "a.png", LABEL)
        assert names(folder) == [("a.png", "a.PNG")]

    def test_are_the_same_in_every_form_of_unicode(self, folder):
        image, label = (normalize(form, "é.png") for form in ("NFC", "NFD"))
        drawn.write(folder / image, drawn.photograph(4))
        drawn.write(folder / "corrections" / label, LABEL)
        save_correction(folder / image, LABEL)
        assert names(folder) == [(image, label)]
        assert is_correction(folder / "corrections" / label)

    def test_of_masks_beside_photographs_do_not_count(self, folder, model):
        model(drawn.photograph(1)).save(folder / "b.png")
        save_correction(folder / "b.tif", LABEL)
        assert names(folder) == [("b.tif", "b.png")]

    @pytest.mark.parametrize(
        ("photographs", "corrections", "said"),
        [
            ([], ["d.png"], "belongs to no photograph"),
            (["a.jpg"], ["a.png"], r"could belong to 'a\.jpg', 'a\.png'.*'a\.jpg\.png'"),
            ([], ["a.png", "a.png.png"], "has two corrections"),
            ([], ["b.tif"], r"b\.tif' is no PNG file\. .* 0, 128 or 255 for each"),
        ],
    )
    def test_that_are_not_clear(self, folder, photographs, corrections, said):
        for name in photographs:
            drawn.write(folder / name, drawn.photograph(5))
        for name in corrections:
            drawn.write(folder / "corrections" / name, LABEL)
        with pytest.raises(DatasetError, match=said):
            find_corrections(folder)


def test_those_of_subfolders_are_found_on_request(folder):
    save_correction(folder / "c.png", LABEL)
    for place in ("right", "left/2024"):
        drawn.write(folder / place / "a.png", drawn.photograph(1))
        save_correction(folder / place / "a.png", LABEL)
    drawn.write(folder / "left" / "corrections" / "drafts" / "b.png", LABEL)
    assert names(folder) == [("c.png", "c.png")]
    found = find_corrections(folder, recursive=True)
    places = [each.photograph.relative_to(folder).as_posix() for each in found]
    assert places == ["c.png", "left/2024/a.png", "right/a.png"]
    assert all(each.label.parents[1] == each.photograph.parent for each in found)


def test_a_folder_without_corrections_has_none(folder):
    assert find_corrections(folder) == []
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_corrections(folder / "other")


@pytest.mark.parametrize("address", [False, True])
def test_corrections_of_any_program_are_no_photographs(folder, address, caplog):
    save_correction(folder / "a.png", LABEL)
    drawn.write(folder / "corrections" / "b.png", LABEL)
    drawn.write(folder / "corrections" / "other.png", drawn.photograph(3))
    place = f"file://{folder}" if address else str(folder)

    jobs = plan_jobs([place], str(folder / "out"), recursive=True)

    expected = ["a.png", "b.tif", "c.png", "corrections/other.png"]
    assert [job.name.removeprefix(f"{place}/") for job in jobs] == expected
    assert not caplog.records


def test_those_most_worth_correcting_come_first():
    rows = [
        {"input": "sure", "familiarity": 1.0, "undecided_fraction": 0.01},
        {"input": "of an earlier run", "familiarity": 1.0, "undecided_fraction": None},
        {"input": "undecided", "familiarity": 1.0, "undecided_fraction": 0.2},
        {"input": "damaged", "error": "it could not be decoded"},
        {"input": "unfamiliar", "familiarity": 0.6, "undecided_fraction": 0.1},
        {"input": "of no familiarity", "familiarity": None, "undecided_fraction": 0.1},
    ]
    assert [row["input"] for row in worth_correcting(rows)] == [
        "unfamiliar", "undecided", "of no familiarity", "sure", "of an earlier run",
    ]  # fmt: skip
