"""File names as they are in the world: none is lost, and none ends a run."""

from __future__ import annotations

import importlib.util
import os
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from support.drawn import photographs, tree
from support.models import tiny_weights

import vesselseg
from vesselseg import Segmenter, segment_folder
from vesselseg.batch.folder import Summary
from vesselseg.batch.jobs import plan_jobs
from vesselseg.batch.places import identity
from vesselseg.batch.table import Table

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(sys.platform != "linux", reason="other systems do not have all names"),
]

NAMES = [
    os.fsdecode(b"gr\xf6\xdfe.png"), os.fsdecode(b"\xff\xfe.png"), "two\nlines.png", "a\ttab.png",
    "\r.png", "a\x1b[2J.png", "-o.png", "--.png", "dot..png", "dot...png", "space .png", "con.png",
    "NUL.png", "aux.jpg.png", "Case.png", "cASE.png", 'quote".png', "it's.png", "a,b;c.png",
    "=1+1.png", "%s{0}.png", "back\\slash.png", "*.png", "[x].png", "~.png", "$HOME.png", "#.png",
    "眼.png", "\U0001f441.png", "\u202egnp.png", unicodedata.normalize("NFC", "größé.png"),
    unicodedata.normalize("NFD", "größé.png"),
]  # fmt: skip
LONGEST = "x" * 251 + ".png"


@pytest.fixture
def model(tmp_path: Path) -> Segmenter:
    return vesselseg.load_model(tiny_weights(tmp_path / "tiny.pth"), device="cpu")


def run(folder: Path, model: Segmenter, ending: str, **options: object) -> Summary:
    return segment_folder(
        folder / "in", folder / "out", model=model, manifest=folder / f"m.{ending}", **options
    )


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_every_name_has_its_result_and_its_row(
    ending: str, tmp_path: Path, model: Segmenter
) -> None:
    if ending == "parquet" and not importlib.util.find_spec("pyarrow"):
        pytest.skip("pyarrow comes with vesselseg[ray]")
    photographs(tmp_path / "in", NAMES)

    assert run(tmp_path, model, ending).segmented == len(NAMES)

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(NAMES)
    for options, skipped in (({"resume": True}, len(NAMES)), ({}, 0)):
        assert run(tmp_path, model, ending, **options).skipped == skipped
        rows = Table(str(tmp_path / f"m.{ending}")).rows
        assert sorted(Path(row["input"]).name for row in rows) == sorted(NAMES)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("keep_endings", [False, True])
def test_a_name_that_is_too_long_for_a_result_is_the_error_of_its_photograph(
    resume: bool, keep_endings: bool, tmp_path: Path, model: Segmenter
) -> None:
    photographs(tmp_path / "in", [LONGEST, "ok.png"])
    options = {"kinds": ("mask", "overlay"), "resume": resume, "keep_endings": keep_endings}
    for _ in range(2):
        summary = run(tmp_path, model, "jsonl", **options)
        assert summary.failed == 1
        assert summary.segmented + summary.skipped == 1
        rows = {Path(row["input"]).name: row for row in Table(str(tmp_path / "m.jsonl")).rows}
        assert "too long" in rows[LONGEST]["error"]
        assert not rows["ok.png"].get("error")
    assert not [name for name in tree(tmp_path / "out") if name.endswith(".part")]


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "x" * 5000 + ".png", "a\0b.png", "a/b/c.png"])
def test_names_that_cannot_be_are_errors_of_their_photographs(
    name: str, tmp_path: Path, model: Segmenter
) -> None:
    eye = photographs(tmp_path / "in", ["ok.png"])[0]
    summary = segment_folder([eye, tmp_path / name], tmp_path / "out", model=model)
    assert (summary.segmented, summary.failed) == (1, 1)


def test_a_name_that_windows_does_not_have_is_the_error_of_its_photograph(
    tmp_path: Path, model: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs(tmp_path / "in", ["aux.png", "ok.png", "sub./eye.png", "10:30.png"])
    monkeypatch.setattr(sys, "platform", "win32")
    summary = run(tmp_path, model, "jsonl", recursive=True)
    assert (summary.segmented, summary.failed) == (1, 3)
    errors = [row.get("error") for row in Table(str(tmp_path / "m.jsonl")).rows]
    assert sum("Windows has no files and folders named" in (error or "") for error in errors) == 3
    assert list(tree(tmp_path / "out")) == ["ok.png"]


class TestFileSystemsThatIgnoreCase:
    """As those of Windows, macOS and memory cards."""

    @pytest.fixture(autouse=True)
    def ignored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        look = os.lstat

        def ignore(path: Path, **options: Any) -> os.stat_result:
            path = Path(path)
            names = {each.name.casefold(): each.name for each in path.parent.iterdir()}
            return look(path.parent / names.get(path.name.casefold(), path.name), **options)

        monkeypatch.setattr(os, "lstat", ignore)

    @pytest.mark.parametrize(
        ("names", "keep_endings"),
        [(["1/Eye.jpg", "2/eye.jpg"], False), (["1/eye.jpg", "2/eye.JPG"], True)],
    )
    def test_results_do_not_replace_each_other(
        self, names: list[str], keep_endings: bool, tmp_path: Path
    ) -> None:
        eyes = [str(path) for path in photographs(tmp_path / "in", names)]
        for out in (tmp_path / "out", tmp_path / "in", tmp_path / "new" / "out"):
            with pytest.raises(vesselseg.OptionError, match=r"would both write '.*[Ee]ye\."):
                plan_jobs(eyes, str(out), keep_endings=keep_endings)

    def test_no_photograph_is_replaced(self, tmp_path: Path) -> None:
        (eye,) = photographs(tmp_path, ["Eye.png"])
        with pytest.raises(vesselseg.OptionError, match="would be overwritten by the result"):
            plan_jobs([str(eye)], str(tmp_path / "EYE.PNG"))

    def test_are_told_by_what_is_in_them_not_by_the_system(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        photographs(tmp_path / "a", ["Eye.png"])
        one, other = str(tmp_path / "a" / "new.png"), str(tmp_path / "a" / "NEW.png")
        assert identity(one) == identity(other)
        monkeypatch.undo()
        photographs(tmp_path / "b", ["Eye.png"])
        for system in ("darwin", "win32", "linux"):
            monkeypatch.setattr(sys, "platform", system)
            one, other = str(tmp_path / "b" / "new.png"), str(tmp_path / "b" / "NEW.png")
            assert identity(one) != identity(other)


def test_an_empty_card_is_not_told_by_the_folder_that_it_is_mounted_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs(tmp_path, ["Eye.png"])
    look = Path.stat

    def stat(path: Path, **options: Any) -> os.stat_result:
        found = look(path, **options)
        is_mounted = path.name == "card"
        return os.stat_result((*found[:2], found.st_dev + is_mounted, *found[3:]))

    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(sys, "platform", "darwin")
    for name, ignores_case in (("folder", False), ("card", True)):
        (tmp_path / name).mkdir()
        one, other = (identity(str(tmp_path / name / each)) for each in ("new.png", "NEW.png"))
        assert (one == other) == ignores_case


def test_names_that_differ_in_their_form_of_unicode_only_are_one_on_macos(
    tmp_path: Path, model: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    eyes = photographs(tmp_path, [f"1/{NAMES[-2]}", f"2/{NAMES[-1]}"])
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(vesselseg.OptionError, match="would both write"):
        segment_folder(eyes, tmp_path / "out", model=model)
