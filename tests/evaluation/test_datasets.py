"""The official downloads as they unpack, and their published splits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import drawn

from vesselseg import DatasetError, OptionError
from vesselseg.evaluation.datasets import LAYOUTS, read_dataset

TREES = {
    "drive": drawn.drive,
    "stare": drawn.stare,
    "chase_db1": drawn.chase_db1,
    "hrf": drawn.hrf,
}


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
    folder = TREES[name](tmp_path)

    test = read_dataset(folder, name)

    names = [sample.name for sample in test.samples]
    assert (len(names), names[0], names[-1]) == (tests, first, last)
    assert test.description == f"{LAYOUTS[name].title}, test split: {tests} of {tests} images"
    assert not test.has_training_images
    assert {sample.split for sample in test.samples} == {"test"}

    train = read_dataset(folder, name, split="train")
    assert len(train.samples) == trainings
    assert not {s.image for s in train.samples} & {s.image for s in test.samples}
    assert train.has_training_images
    assert "training images, not a test" in train.description

    both = read_dataset(folder, name, split="all")
    assert both.samples == test.samples + train.samples
    assert both.has_training_images
    assert "test and training images together, not a test" in both.description


def test_files_of_drive(tmp_path):
    sample = read_dataset(drawn.drive(tmp_path), "drive").samples[0]

    assert sample.image == tmp_path / "test/images/01_test.tif"
    assert sample.label == tmp_path / "test/1st_manual/01_manual1.gif"
    assert sample.second == tmp_path / "test/2nd_manual/01_manual2.gif"
    assert sample.fov == tmp_path / "test/mask/01_test_mask.gif"
    assert read_dataset(tmp_path, "drive", split="train").samples[0].second is None


@pytest.mark.parametrize("gzipped", [True, False])
def test_files_of_stare_gzipped_or_not(tmp_path, gzipped):
    sample = read_dataset(drawn.stare(tmp_path, gzipped=gzipped), "stare").samples[0]

    end = ".ppm.gz" if gzipped else ".ppm"
    assert sample.image == tmp_path / f"stare-images/im0162{end}"
    assert sample.label == tmp_path / f"labels-ah/im0162.ah{end}"
    assert sample.second == tmp_path / f"labels-vk/im0162.vk{end}"
    assert sample.fov is None


def test_files_of_chase_db1(tmp_path):
    sample = read_dataset(drawn.chase_db1(tmp_path), "chase_db1").samples[0]

    assert sample.image == tmp_path / "Image_11L.jpg"
    assert sample.label == tmp_path / "Image_11L_1stHO.png"
    assert sample.second == tmp_path / "Image_11L_2ndHO.png"
    assert sample.fov is None


def test_files_of_hrf_whose_endings_differ_in_case(tmp_path):
    retinopathy, glaucoma, *_ = read_dataset(drawn.hrf(tmp_path), "hrf").samples

    assert retinopathy.image == tmp_path / "images/06_dr.JPG"
    assert glaucoma.image == tmp_path / "images/06_g.jpg"
    assert retinopathy.label == tmp_path / "manual1/06_dr.tif"
    assert retinopathy.fov == tmp_path / "mask/06_dr_mask.tif"
    assert retinopathy.second is None


def test_the_folder_above_the_data_set_will_do(tmp_path):
    drawn.chase_db1(tmp_path / "downloads" / "CHASEDB1")

    assert len(read_dataset(tmp_path, "chase_db1").samples) == 8


def test_training_images_are_never_a_test(tmp_path):
    drawn.chase_db1(tmp_path, numbers=range(1, 11))

    with pytest.raises(DatasetError, match="20 training images of CHASE_DB1 and no test image"):
        read_dataset(tmp_path, "chase_db1")


def test_ten_images_of_stare_are_not_a_test_for_being_the_last_ten(tmp_path):
    drawn.stare(tmp_path)
    for path in tmp_path.rglob("im0[23]*"):  # leaves the ten for training and two for testing
        path.unlink()

    dataset = read_dataset(tmp_path, "stare")

    assert [sample.name for sample in dataset.samples] == ["im0162", "im0163"]
    assert dataset.description == "STARE, test split: 2 of 10 images"
    assert dataset.missing[0] == "im0235"


def test_test_images_are_not_taken_for_training_images(tmp_path):
    drawn.chase_db1(tmp_path, numbers=range(11, 15))

    with pytest.raises(DatasetError, match="8 test images of CHASE_DB1 and no training image"):
        read_dataset(tmp_path, "chase_db1", split="train")


def test_another_data_set_is_recognised(tmp_path):
    drawn.hrf(tmp_path)

    with pytest.raises(DatasetError, match=r"no image of DRIVE.*'01_test\.tif'.*--dataset hrf"):
        read_dataset(tmp_path, "drive")


def test_labels_left_out_of_a_download_are_named(tmp_path):
    shutil.rmtree(drawn.drive(tmp_path) / "test" / "1st_manual")

    with pytest.raises(DatasetError, match=r"20 images .* '01_manual1\.gif'.*Some downloads"):
        read_dataset(tmp_path, "drive")


def test_fields_of_view_are_those_of_all_images_or_of_none(tmp_path):
    masks = drawn.hrf(tmp_path) / "mask"
    (masks / "07_g_mask.tif").unlink()

    with pytest.raises(DatasetError, match=r"1 image .* field-of-view mask, .* '07_g_mask\.tif'"):
        read_dataset(tmp_path, "hrf")

    shutil.rmtree(masks)
    assert all(sample.fov is None for sample in read_dataset(tmp_path, "hrf").samples)


def test_two_files_of_one_name_are_not_chosen_between(tmp_path):
    for copy in ("old", "new"):
        drawn.chase_db1(tmp_path / copy, numbers=range(11, 12))

    with pytest.raises(DatasetError, match=r"2 files 'Image_11L\.jpg': .*new.*old"):
        read_dataset(tmp_path, "chase_db1")


def test_a_file_found_twice_through_a_link_is_one(tmp_path):
    drawn.chase_db1(tmp_path / "CHASEDB1", numbers=range(11, 15))
    Path(tmp_path / "link").symlink_to(tmp_path / "CHASEDB1", target_is_directory=True)

    assert len(read_dataset(tmp_path, "chase_db1").samples) == 8


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_dataset(tmp_path / "DRIVE", "drive")


def test_names_that_are_not_known(tmp_path):
    with pytest.raises(OptionError, match="Did you mean 'chase_db1'"):
        read_dataset(tmp_path, "chasedb1")
    with pytest.raises(OptionError, match="allowed are test, train, all"):
        read_dataset(tmp_path, "drive", split="validation")


def test_the_second_observer_can_count_as_the_truth(tmp_path):
    drawn.chase_db1(tmp_path)
    first = read_dataset(tmp_path, "chase_db1")
    second = read_dataset(tmp_path, "chase_db1", observer=2)
    assert [s.label for s in second.samples] == [s.second for s in first.samples]
    assert [s.second for s in second.samples] == [s.label for s in first.samples]


def test_an_observer_that_the_data_set_does_not_have(tmp_path):
    drawn.hrf(tmp_path)
    with pytest.raises(OptionError, match="labels of one observer only"):
        read_dataset(tmp_path, "hrf", observer=2)


def test_a_limit_takes_the_first_photographs_and_names_the_others(tmp_path):
    drawn.chase_db1(tmp_path)
    dataset = read_dataset(tmp_path, "chase_db1", limit=3)
    assert [s.name for s in dataset.samples] == ["Image_11L", "Image_11R", "Image_12L"]
    assert dataset.description == "CHASE_DB1, test split: 3 of 8 images"
