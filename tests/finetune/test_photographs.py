"""Pairs of photographs and labels: what is rejected before a training, and which are held out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import drawn

from vesselseg import DatasetError, ImageError, OptionError
from vesselseg.evaluation.datasets import Sample, find_subject
from vesselseg.finetune.photographs import split_by_subject
from vesselseg.finetune.trainer import Trainer


def samples(*names: str) -> tuple[Sample, ...]:
    return tuple(Sample(name, "", Path(f"{name}.png"), Path(f"{name}.png")) for name in names)


def subjects(files: list[Sample], group: str | None = None) -> set[str]:
    return {find_subject(sample.image.name, group) for sample in files}


def without_label(data: Path) -> None:
    (data / "labels" / "ben_L.png").unlink()


def with_two_labels(data: Path) -> None:
    (data / "labels" / "ben_L.png").rename(data / "labels" / "ben_L_first.png")
    drawn.write(data / "labels" / "ben_L_second.png", drawn.vessels(1))


def with_a_smaller_label(data: Path) -> None:
    drawn.write(data / "labels" / "ben_L.png", drawn.vessels(1)[1:])


def with_an_empty_label(data: Path) -> None:
    drawn.write(data / "labels" / "ben_L.png", np.zeros_like(drawn.vessels(1)))


def with_an_inverted_label(data: Path) -> None:
    drawn.write(data / "labels" / "ben_L.png", ~drawn.vessels(1))


def with_a_damaged_label(data: Path) -> None:
    (data / "labels" / "ben_L.png").write_bytes(b"no picture")


def with_a_damaged_photograph(data: Path) -> None:
    (data / "images" / "ben_L.png").write_bytes(b"no picture")


def without_photographs(data: Path) -> None:
    for path in (data / "images").iterdir():
        path.unlink()


def without_folder(data: Path) -> None:
    (data / "labels").rename(data / "elsewhere")


@pytest.mark.parametrize(
    ("spoil", "error", "message", "seed"),  # which decides on which side ben_L is
    [
        (without_label, DatasetError, r"1 of 5 images .* have no label", 0),
        (with_two_labels, DatasetError, "2 files that could be its label.*Keep one", 0),
        (with_a_smaller_label, DatasetError, "44 x 39 pixels.*is 44 x 40.*same size", 0),
        (with_an_empty_label, DatasetError, "ben_L.*no vessel.*Vessels must be white", 0),
        (with_an_empty_label, DatasetError, "ben_L.*no vessel.*Vessels must be white", 1),
        (with_an_inverted_label, DatasetError, "ben_L.*91 % .*Invert", 0),
        (with_a_damaged_label, DatasetError, "ben_L.*could not be decoded", 1),
        (with_a_damaged_photograph, ImageError, "ben_L.*could not be decoded", 0),
        (without_photographs, DatasetError, "holds no image", 0),
        (without_folder, FileNotFoundError, "There is no folder", 0),
    ],
)
def test_unusable_files_are_found_before_the_training(
    train: Callable, data: Path, tmp_path: Path, monkeypatch, spoil, error, message, seed
):
    monkeypatch.setattr(Trainer, "step", None)
    spoil(data)
    before = drawn.tree(tmp_path)

    with pytest.raises(error, match=message):
        train(tmp_path / "model.pth", group=None, held_out=0.5, seed=seed)

    assert drawn.tree(tmp_path) == before


def test_seeds_0_and_1_put_the_spoiled_photograph_on_different_sides():
    files = samples("anna_L", "anna_R", "ben_L", "ben_R", "carl_L")
    sides = [subjects(split_by_subject(files, None, 0.5, seed)[1]) for seed in (0, 1)]
    assert ["ben_L.png" in side for side in sides] in ([True, False], [False, True])


@pytest.mark.parametrize(
    ("group", "subject"),
    [
        (None, "07_anna_L.png"),
        ("anna|ben", "anna"),
        (r"\d+_(\w+)_[LR]", "anna"),
        (r"(\d+)_(\w+)_[LR]", "07"),
        (r"^\d+", "07"),
    ],
)
def test_the_first_group_or_the_whole_match_names_the_subject(group, subject):
    training, held_out = split_by_subject(samples("07_anna_L", "08_ben_L"), group, 0.5, seed=0)
    assert subject in subjects(training + held_out, group)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("(", r"group is '\(', which is not a regular expression"),
        ("Anna", "'Anna' finds no subject in the file name 'anna_L.png'.*must match every"),
        ("x*", "finds no subject"),
        ("(b)|anna", "finds no subject"),
    ],
)
def test_a_pattern_that_names_no_subject_raises_an_error(group, message):
    with pytest.raises(OptionError, match=message):
        split_by_subject(samples("anna_L", "ben_L"), group, 0.5, seed=0)


@pytest.mark.parametrize(
    ("share", "number"), [(0.01, 1), (0.25, 1), (0.4, 2), (0.5, 2), (0.75, 3), (0.99, 3)]
)
def test_a_share_of_the_subjects_is_held_out_with_all_their_photographs(share, number):
    files = samples("a_L", "a_R", "b_L", "b_R", "c_L", "d_L")

    training, held_out = split_by_subject(files, "(.)_", share, seed=3)

    assert len(subjects(held_out, "(.)_")) == number
    assert not subjects(training, "(.)_") & subjects(held_out, "(.)_")
    assert len(training + held_out) == len(files)
    assert {*training, *held_out} == set(files)
    for side in (training, held_out):
        assert [sample.name for sample in side] == sorted(sample.name for sample in side)


def test_held_out_subjects_depend_only_on_the_seed():
    files = samples(*"abcdefgh")
    chosen = [subjects(split_by_subject(files, None, 0.25, seed)[1]) for seed in range(20)]
    assert chosen == [subjects(split_by_subject(files, None, 0.25, s)[1]) for s in range(20)]
    assert {name for pair in chosen for name in pair} == {f"{letter}.png" for letter in "abcdefgh"}


def test_a_single_subject_cannot_be_held_out():
    with pytest.raises(OptionError, match="All 2 photographs are of one subject, 'a'"):
        split_by_subject(samples("a_L", "a_R"), "(.)_", 0.25, seed=0)
