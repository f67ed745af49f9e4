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
    drawn.write(tmp_path / "masks" / "eye.tif", drawn.disc())

    eye, second_eye = read(tmp_path).samples

    assert eye.label.name == "eye_vessels.png"
    assert second_eye.label.name == "eye_2_vessels.png"
    assert eye.fov == tmp_path / "masks" / "eye.tif"  # the stem alone goes first
    assert second_eye.fov == tmp_path / "masks" / "eye_2_mask.tif"


def test_training_images_of_known_data_sets_are_called_so_by_their_names(tmp_path):
    drawn.pairs(tmp_path, names=("Image_01L", "Image_11L", "mine"))

    dataset = read(tmp_path)

    assert dataset.caution
    assert dataset.description == "3 pairs, 1 of them named like training images of CHASE_DB1"
    assert dataset.caution == "training images among them, not a test"


@pytest.mark.parametrize(
    ("removed", "added", "message"),
    [
        ("labels/b.png", [], r"1 of 3 images of .* no label in .*: b\.png"),
        ("labels/b.png", ["labels/b_1.png", "labels/b_2.png"],
         r"'b\.png' has 2 files .* b_1\.png, b_2\.png"),
        (None, ["images/b.jpg"], "several images named 'b'"),
    ],
)  # fmt: skip
def test_what_is_missing_or_there_twice(tmp_path, removed, added, message):
    drawn.pairs(tmp_path)
    if removed:
        (tmp_path / removed).unlink()
    for file in added:
        drawn.write(tmp_path / file, drawn.photograph(0))

    with pytest.raises(DatasetError, match=message):
        read(tmp_path)


def test_folders_that_are_empty_or_do_not_exist(tmp_path):
    (tmp_path / "images").mkdir()

    with pytest.raises(DatasetError, match="holds no image"):
        read(tmp_path)
    drawn.write(tmp_path / "images" / "a.png", drawn.photograph(0))
    with pytest.raises(FileNotFoundError, match="labels"):
        read(tmp_path)
