"""Two folders with the same names."""

from __future__ import annotations

import os
import unicodedata

import pytest
from support import drawn

from vesselseg import DatasetError
from vesselseg.evaluation.datasets import LAYOUTS, read_pairs
from vesselseg.formats import endings


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


@pytest.mark.parametrize("in_one_folder", [False, True])
def test_more_begins_with_a_character_that_is_no_letter_or_digit(tmp_path, in_one_folder):
    folder = "images" if in_one_folder else "labels"
    more = {
        "eye": "_vessels", "eye1": ".ah", "eye10": "-mask", "a": " (2)", "ab": "_1stHO",
        "abc": "__x", "abc1": ".label.v2",
    }  # fmt: skip
    for name, ending in more.items():
        drawn.write(tmp_path / "images" / f"{name}.png", drawn.photograph(0))
        drawn.write(tmp_path / folder / f"{name}{ending}.png", drawn.vessels(0))

    dataset = read_pairs(tmp_path / "images", tmp_path / folder)

    found = {sample.name: sample.label.name for sample in dataset.samples}
    assert found == {name: f"{name}{ending}.png" for name, ending in more.items()}
    assert all(sample.image.stem == sample.name for sample in dataset.samples)


@pytest.mark.parametrize(
    ("name", "in_one_folder"),
    # In one folder, labels of HRF would have the names of its photographs.
    [*((name, False) for name in LAYOUTS), ("drive", True), ("stare", True), ("chase_db1", True)],
)
def test_the_names_of_published_data_sets_go_together(tmp_path, name, in_one_folder):
    layout = LAYOUTS[name]
    stems = (layout.test[0], layout.train[-1])
    for stem in stems:
        drawn.write(tmp_path / "images" / f"{stem}.png", drawn.photograph(0))
        for folder, pattern in [
            ("labels", layout.label), ("labels", layout.second), ("masks", layout.fov),
        ]:  # fmt: skip
            partner = pattern.format(stem).rpartition(".")[0]
            if partner:
                place = "images" if in_one_folder else folder
                drawn.write(tmp_path / place / f"{partner}.png", drawn.vessels(0))
    masks = {False: tmp_path / "masks", True: tmp_path / "images"}[in_one_folder]
    samples = read_pairs(
        tmp_path / "images",
        tmp_path / ("images" if in_one_folder else "labels"),
        masks if layout.fov else None,
    ).samples

    assert [sample.name for sample in samples] == sorted(stems)
    for sample in samples:
        assert sample.label.stem == layout.label.format(sample.name).rpartition(".")[0]
        if layout.fov:
            assert sample.fov.stem == layout.fov.format(sample.name).rpartition(".")[0]


def test_no_file_is_two_things(tmp_path):
    for name in ("a", "b"):
        drawn.write(tmp_path / "images" / f"{name}.png", drawn.photograph(0))

    with pytest.raises(DatasetError, match=r"2 of 2 images .* have no label"):
        read_pairs(tmp_path / "images", tmp_path / "images")

    (tmp_path / "labels").symlink_to("images")
    with pytest.raises(DatasetError, match=r"2 of 2 images .* have no label"):
        read_pairs(tmp_path / "images", tmp_path / "labels")

    (tmp_path / "linked").mkdir()
    for name in ("a", "b"):
        (tmp_path / "linked" / f"{name}.png").symlink_to(tmp_path / "images" / f"{name}.png")
    with pytest.raises(DatasetError, match=r"2 of 2 images .* have no label"):
        read_pairs(tmp_path / "images", tmp_path / "linked")

    data = drawn.pairs(tmp_path / "data")
    with pytest.raises(DatasetError, match="One file is meant to be two"):
        read_pairs(data / "images", data / "labels", data / "labels")


def test_what_is_left_out_is_said_and_nothing_else_is(tmp_path, caplog):
    data = drawn.pairs(tmp_path, names=("a", "b", "c"))
    read(data)
    assert not caplog.text
    (data / "images" / "d.heic").touch()
    os.mkfifo(data / "images" / "e.png")
    (data / "labels" / "a.nii.gz").touch()
    drawn.write(data / "labels" / "z.png", drawn.vessels(0))

    assert len(read(data).samples) == 3
    images, labels = caplog.messages
    assert "2 left out of" in images
    assert "1 of another ending ('d.heic')" in images
    assert "1 not a file but a pipe or a device ('e.png')" in images
    assert "1 of another ending ('a.nii.gz')" in labels
    assert "1 of no photograph by the name ('z.png')" in labels


def test_every_ending_that_is_read_is_taken_and_links_to_nothing_too(tmp_path):
    for number, ending in enumerate(endings()):
        path = tmp_path / "images" / f"eye{number}{ending}"
        path.parent.mkdir(exist_ok=True)
        path.symlink_to("nowhere")
        drawn.write(tmp_path / "labels" / f"eye{number}.png", drawn.vessels(0))

    assert len(read(tmp_path).samples) == len(endings())


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_names_go_together_in_every_form_of_unicode(tmp_path, forms):
    image, label = (unicodedata.normalize(form, "größe é") for form in forms)
    drawn.write(tmp_path / "images" / f"{image}.png", drawn.photograph(0))
    drawn.write(tmp_path / "labels" / f"{label}_vessels.png", drawn.vessels(0))

    (sample,) = read(tmp_path).samples
    assert sample.label.name == f"{label}_vessels.png"


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
