"""Two folders with the same names."""

from __future__ import annotations

import pytest
from support import drawn

from vesselseg import DatasetError
from vesselseg.evaluation.datasets import read_pairs


def read(folder):
    masks = folder / "masks"
    return read_pairs(folder / "images", folder / "labels", masks if masks.exists() else None)


def test_labels_have_the_stems_of_their_images(tmp_path):
    dataset = read(drawn.pairs(tmp_path))

    assert [sample.name for sample in dataset.samples] == ["a", "b", "c"]
    assert dataset.samples[1].image == tmp_path / "images" / "b.png"
    assert dataset.samples[1].label == tmp_path / "labels" / "b.png"
    assert dataset.samples[1].fov is None
    assert dataset.description == "3 pairs"


def test_a_label_may_say_more_after_the_stem(tmp_path):
    for name in ("eye", "eye_2"):
        drawn.write(tmp_path / "images" / f"{name}.jpg", drawn.photograph(0))
        drawn.write(tmp_path / "labels" / f"{name}_vessels.png", drawn.vessels(0))
        drawn.write(tmp_path / "masks" / f"{name}_mask.tif", drawn.disc())

    eye, second_eye = read(tmp_path).samples

    assert eye.label.name == "eye_vessels.png"
    assert second_eye.label.name == "eye_2_vessels.png"
    assert second_eye.fov == tmp_path / "masks" / "eye_2_mask.tif"


def test_training_images_of_known_data_sets_are_called_so_by_their_names(tmp_path):
    drawn.pairs(tmp_path, names=("Image_01L", "Image_11L", "mine"))

    dataset = read(tmp_path)

    assert dataset.has_training_images
    assert dataset.description == "3 pairs, 1 of them named like training images of CHASE_DB1"
    assert dataset.caution == "training images among them, not a test"


def test_an_image_without_label(tmp_path):
    (drawn.pairs(tmp_path) / "labels" / "b.png").unlink()

    with pytest.raises(DatasetError, match=r"1 image of .* no label in .*: b\.png"):
        read(tmp_path)


def test_an_image_with_two_labels(tmp_path):
    drawn.pairs(tmp_path)
    (tmp_path / "labels" / "b.png").rename(tmp_path / "labels" / "b_first.png")
    drawn.write(tmp_path / "labels" / "b_second.png", drawn.vessels(0))

    with pytest.raises(DatasetError, match=r"'b\.png' has 2 files .* b_first\.png, b_second\.png"):
        read(tmp_path)


def test_two_images_of_one_name(tmp_path):
    drawn.write(drawn.pairs(tmp_path) / "images" / "b.jpg", drawn.photograph(1))

    with pytest.raises(DatasetError, match="several images named 'b'"):
        read(tmp_path)


def test_folders_that_are_empty_or_do_not_exist(tmp_path):
    (tmp_path / "images").mkdir()

    with pytest.raises(DatasetError, match="holds no image"):
        read(tmp_path)
    drawn.write(tmp_path / "images" / "a.png", drawn.photograph(0))
    with pytest.raises(FileNotFoundError, match="labels"):
        read(tmp_path)
