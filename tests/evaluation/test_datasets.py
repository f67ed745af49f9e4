"""The official downloads as they unpack, and their published splits."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import drawn

from vesselseg import DatasetError, OptionError
from vesselseg.evaluation.datasets import LAYOUTS, read_dataset, read_label, read_pairs


@pytest.mark.parametrize(
    ("name", "tests", "trainings", "first", "last"),
    [
        ("drive", 20, 20, "01_test", "20_test"),
        ("stare", 10, 10, "im0162", "im0324"),
        ("chase_db1", 8, 20, "Image_11L", "Image_14R"),
        ("hrf", 30, 15, "06_dr", "15_h"),
    ],
)
def test_the_published_test_split_is_the_default(tmp_path, name, tests, trainings, first, last):
    folder = getattr(drawn, name)(tmp_path)

    test = read_dataset(folder, name)

    names = [sample.name for sample in test.samples]
    assert (len(names), names[0], names[-1]) == (tests, first, last)
    assert test.description == f"{LAYOUTS[name].title}, test split: {tests} of {tests} images"
    assert not test.caution
    assert {sample.split for sample in test.samples} == {"test"}

    train = read_dataset(folder, name, split="train")
    assert len(train.samples) == trainings
    assert not {s.image for s in train.samples} & {s.image for s in test.samples}
    assert train.caution
    assert "training images, not a test" in train.description

    both = read_dataset(folder, name, split="all")
    assert both.samples == test.samples + train.samples
    assert both.caution
    assert "test and training images together, not a test" in both.description


@pytest.mark.parametrize(
    ("name", "options", "sample", "files"),
    [
        ("drive", {}, "01_test",
         ["test/images/01_test.tif", "test/1st_manual/01_manual1.gif",
          "test/2nd_manual/01_manual2.gif", "test/mask/01_test_mask.gif"]),
        ("drive", {}, "21_training",
         ["training/images/21_training.tif", "training/1st_manual/21_manual1.gif",
          None, "training/mask/21_training_mask.gif"]),
        ("stare", {}, "im0162",
         ["stare-images/im0162.ppm.gz", "labels-ah/im0162.ah.ppm.gz",
          "labels-vk/im0162.vk.ppm.gz", None]),
        ("stare", {"gzipped": False}, "im0162",
         ["stare-images/im0162.ppm", "labels-ah/im0162.ah.ppm", "labels-vk/im0162.vk.ppm", None]),
        ("chase_db1", {}, "Image_11L",
         ["Image_11L.jpg", "Image_11L_1stHO.png", "Image_11L_2ndHO.png", None]),
        ("hrf", {}, "06_dr",
         ["images/06_dr.JPG", "manual1/06_dr.tif", None, "mask/06_dr_mask.tif"]),
        ("hrf", {}, "06_g",
         ["images/06_g.jpg", "manual1/06_g.tif", None, "mask/06_g_mask.tif"]),
    ],
)  # fmt: skip
def test_the_files_of_a_photograph_are_found(tmp_path, name, options, sample, files):
    dataset = read_dataset(getattr(drawn, name)(tmp_path, **options), name, split="all")

    (found,) = (entry for entry in dataset.samples if entry.name == sample)
    paths = [found.image, found.label, found.second, found.fov]
    assert paths == [file and tmp_path / file for file in files]


@pytest.mark.parametrize("name", LAYOUTS)
def test_data_sets_that_mmsegmentation_converted_are_read(tmp_path, name):
    layout = LAYOUTS[name]
    halves = {"train": "training", "test": "validation"}
    for half, names in (("training", layout.train[:3]), ("validation", layout.test[:3])):
        for seed, stem in enumerate(names):
            drawn.write(tmp_path / "images" / half / f"{stem}.png", drawn.photograph(seed))
            for pattern in filter(None, (layout.label, layout.second)):
                label = Path(pattern.format(stem)).with_suffix(".png")
                values = drawn.vessels(seed).astype(np.uint8)  # 0 and 1
                drawn.write(tmp_path / "annotations" / half / label, values)

    for split, half in halves.items():
        dataset = read_dataset(tmp_path, name, split=split)
        assert [sample.name for sample in dataset.samples] == list(getattr(layout, split)[:3])
        for seed, sample in enumerate(dataset.samples):
            assert sample.image == tmp_path / "images" / half / f"{sample.name}.png"
            assert sample.label.parent == tmp_path / "annotations" / half
            assert sample.label.stem == Path(layout.label.format(sample.name)).stem
            assert (sample.second is None) == (not layout.second)
            assert np.array_equal(read_label(sample.label), drawn.vessels(seed))


def test_pipes_and_loops_of_links_among_the_files_end_nothing(tmp_path):
    drawn.chase_db1(tmp_path / "data", numbers=range(11, 15))
    os.mkfifo(tmp_path / "data" / "Image_01L.jpg")
    for link in ("loop", "data/loop", "data/again"):
        (tmp_path / link).symlink_to(tmp_path)

    assert len(read_dataset(tmp_path, "chase_db1").samples) == 8


@pytest.mark.parametrize(
    ("numbers", "split", "message"),
    [
        (
            range(1, 11),
            "test",
            "no image .* 20 training images of CHASE_DB1, which are not a test.*--split train",
        ),
        (
            range(11, 15),
            "train",
            "no image of CHASE_DB1, split 'train'.* 8 test images of CHASE_DB1",
        ),
    ],
)
def test_one_half_is_never_taken_for_the_other(tmp_path, numbers, split, message):
    drawn.chase_db1(tmp_path, numbers=numbers)

    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path, "chase_db1", split=split)


def test_ten_images_of_stare_are_not_a_test_for_being_the_last_ten(tmp_path):
    drawn.stare(tmp_path)
    for path in tmp_path.rglob("im0[23]*"):  # leaves the ten for training and two for testing
        path.unlink()

    dataset = read_dataset(tmp_path, "stare")

    assert [sample.name for sample in dataset.samples] == ["im0162", "im0163"]
    assert dataset.description == "STARE, test split: 2 of 10 images"
    assert dataset.missing[0] == "im0235"


def test_another_data_set_is_recognised(tmp_path):
    drawn.hrf(tmp_path)

    with pytest.raises(DatasetError, match=r"no image of DRIVE.*'01_test\.tif'.*--dataset hrf"):
        read_dataset(tmp_path, "drive")


def test_labels_left_out_of_a_download_are_named(tmp_path):
    shutil.rmtree(drawn.drive(tmp_path) / "test" / "1st_manual")

    with pytest.raises(DatasetError, match=r"20 of 20 images .* '01_manual1\.gif'.*Some downloads"):
        read_dataset(tmp_path, "drive")


def test_fields_of_view_are_those_of_all_images_or_of_none(tmp_path):
    masks = drawn.hrf(tmp_path) / "mask"
    (masks / "07_g_mask.tif").unlink()

    with pytest.raises(
        DatasetError, match=r"1 of 30 images .* field-of-view mask, .* '07_g_mask\.tif'"
    ):
        read_dataset(tmp_path, "hrf")

    shutil.rmtree(masks)
    assert all(sample.fov is None for sample in read_dataset(tmp_path, "hrf").samples)


def test_two_files_of_one_name_are_not_chosen_between(tmp_path):
    for copy in ("old", "new"):
        drawn.chase_db1(tmp_path / copy, numbers=range(11, 12))

    with pytest.raises(DatasetError, match=r"2 files 'Image_11L\.jpg': .*new.*old"):
        read_dataset(tmp_path, "chase_db1")


def test_a_file_found_twice_through_a_link_is_one(tmp_path):
    folder = drawn.chase_db1(tmp_path / "CHASEDB1", numbers=range(11, 15))
    (tmp_path / "favourites").mkdir()
    (tmp_path / "favourites" / "Image_11L.jpg").symlink_to(folder / "Image_11L.jpg")

    assert len(read_dataset(tmp_path, "chase_db1").samples) == 8


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("chasedb1", {}, "Did you mean 'chase_db1'"),
        ("drive", {"split": "validation"}, "allowed are test, train, all"),
        (["drive"], {}, "allowed are drive, stare"),
        ("drive", {"split": ["test"]}, "allowed are test, train, all"),
        ("drive", {"observer": 3}, "allowed are 1 and 2"),
        ("hrf", {"observer": 2}, "labels of one observer only"),
    ],
)
def test_arguments_that_are_not_allowed_are_rejected(tmp_path, name, options, message):
    with pytest.raises(OptionError, match=message):
        read_dataset(tmp_path, name, **options)


def test_a_folder_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_dataset(tmp_path / "DRIVE", "drive")


def test_the_second_observer_can_count_as_the_truth(tmp_path):
    drawn.chase_db1(tmp_path)
    first = read_dataset(tmp_path, "chase_db1")
    second = read_dataset(tmp_path, "chase_db1", observer=2)
    assert [s.label for s in second.samples] == [s.second for s in first.samples]
    assert [s.second for s in second.samples] == [s.label for s in first.samples]


def test_a_limit_takes_the_first_photographs_and_names_the_others(tmp_path):
    drawn.chase_db1(tmp_path)
    dataset = read_dataset(tmp_path, "chase_db1", limit=3)
    assert [s.name for s in dataset.samples] == ["Image_11L", "Image_11R", "Image_12L"]
    assert dataset.description == "CHASE_DB1, test split: 3 of 8 images"


@pytest.mark.parametrize("limit", [0, True])
def test_a_limit_must_be_a_positive_integer(tmp_path, limit):
    for read in (
        lambda: read_dataset(drawn.chase_db1(tmp_path), "chase_db1", limit=limit),
        lambda: read_pairs(tmp_path, tmp_path, limit=limit),
    ):
        with pytest.raises(OptionError, match=r"limit is .*; it must be a positive integer"):
            read()


def test_paths_can_be_text(tmp_path):
    folder = drawn.chase_db1(tmp_path / "data")
    dataset = read_dataset(folder, "chase_db1")
    assert read_dataset(str(folder), "chase_db1") == dataset
    label = dataset.samples[0].label
    assert np.array_equal(read_label(str(label)), read_label(label))
    images, labels = (drawn.pairs(tmp_path / "pairs") / name for name in ("images", "labels"))
    assert read_pairs(str(images), str(labels)) == read_pairs(images, labels)
