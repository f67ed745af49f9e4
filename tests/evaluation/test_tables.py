"""Evaluations as text, JSON and CSV, beside what is published."""

from __future__ import annotations

import csv
import dataclasses
import json
import math

import numpy as np
import pytest
from support import drawn, models

from vesselseg import OutputError, metrics
from vesselseg.evaluation import report
from vesselseg.evaluation.datasets import read_dataset, read_pairs
from vesselseg.evaluation.scores import evaluate, evaluate_other_observer
from vesselseg.files import sha256
from vesselseg.spec import Source


@pytest.fixture
def spec(tmp_path):
    """Spec of a model whose Dice on CHASE_DB1 is published, with the digest of its file."""
    digest = sha256(models.tiny_weights(tmp_path / "tiny.pth"))
    source = Source("https://example.org/tiny.pth", digits=digest[:8])
    return dataclasses.replace(
        models.TINY, name="known", dataset="chase_db1", dice=80.24, sources=(source,)
    )


def chase_db1(tmp_path, split="test"):
    return read_dataset(drawn.chase_db1(tmp_path / "data"), "chase_db1", split=split)


def test_text_has_the_published_figure_beside_that_of_whole_frames(tmp_path, spec):
    dataset = chase_db1(tmp_path)
    evaluation = evaluate(models.tiny_model(tmp_path, spec), dataset)
    second = evaluate_other_observer(dataset)

    text = report.to_text(dataset, [evaluation, second])

    head, whole, inside, each = text.split("\n\n")
    assert head.splitlines() == [
        "CHASE_DB1, test split: 8 of 8 images",
        "Labels: first observer. Field of view: found in the photographs.",
        f"known: weights {evaluation.provenance['sha256'][:8]}, scale native, float32 on cpu, "
        f"threshold 0.5",
    ]
    title, columns, model, observer = whole.splitlines()
    assert "published convention" in title
    assert columns.split() == ["Dice", "published"]
    assert model.split() == ["known", f"{100 * metrics.dice(evaluation.whole):.2f}", "80.24"]
    assert observer.split() == ["second", "observer",
                                f"{100 * metrics.dice(second.whole):.2f}", "-"]  # fmt: skip
    pooled = [f"{100 * value:.2f}" for value in evaluation.pooled]
    assert inside.splitlines()[2].split() == ["known", *pooled]
    spread = zip(evaluation.mean, evaluation.std, strict=True)
    expected = " ".join(f"{100 * mean:.2f} ± {100 * std:.2f}" for mean, std in spread)
    assert each.splitlines()[2].split() == ["known", *expected.split()]


def test_columns_are_aligned(tmp_path, spec):
    dataset = chase_db1(tmp_path)
    evaluation = evaluate(models.tiny_model(tmp_path, spec), dataset)

    for table in report.to_tables(dataset, [evaluation, evaluate_other_observer(dataset)]):
        _, *lines = str(table).splitlines()
        assert len({len(line) for line in lines}) == 1


def test_training_images_are_called_so_in_every_table(tmp_path, spec):
    dataset = chase_db1(tmp_path, split="train")
    evaluation = evaluate(models.tiny_model(tmp_path, spec), dataset)

    text = report.to_text(dataset, [evaluation])

    headings = [block.splitlines()[0] for block in text.split("\n\n")]
    assert all("training images, not a test" in heading for heading in headings[:4])
    assert headings[4] == (
        "known: the published figure cannot be compared: it is for the test images, not for "
        "training images."
    )


@pytest.mark.parametrize(
    ("change", "options", "difference"),
    [
        ({}, {}, []),
        ({}, {"threshold": 0.4}, ["it is for threshold 0.5"]),
        ({}, {"scale": 0.5}, ["it is for scale native"]),
        ({"sources": ()}, {},
         ["the digest of these weights differs from the published file's name"]),
    ],
)  # fmt: skip
def test_what_the_published_figure_is_not_for_is_said(tmp_path, spec, change, options, difference):
    dataset = chase_db1(tmp_path)
    model = models.tiny_model(tmp_path, dataclasses.replace(spec, **change))
    evaluation = evaluate(model, dataset, **options)

    assert report.compare_with_published(evaluation, dataset) == (0.8024, difference)


def test_of_an_incomplete_test_split_the_missing_images_are_named(tmp_path, spec):
    for path in drawn.chase_db1(tmp_path / "data").glob("Image_1[34]*"):
        path.unlink()
    dataset = read_dataset(tmp_path / "data", "chase_db1")
    evaluation = evaluate(models.tiny_model(tmp_path, spec), dataset)

    text = report.to_text(dataset, [evaluation])

    assert "CHASE_DB1, test split: 4 of 8 images" in text
    assert "Not evaluated: Image_13L, Image_13R, Image_14L, Image_14R." in text
    assert text.endswith("the published figure cannot be compared: it is for 8 test images.")


def test_figures_published_for_another_data_set_are_not_shown(tmp_path, spec):
    dataset = chase_db1(tmp_path)
    model = models.tiny_model(tmp_path, dataclasses.replace(spec, dataset="drive"))
    evaluation = evaluate(model, dataset)

    published, _ = report.compare_with_published(evaluation, dataset)

    assert math.isnan(published)
    assert "80.24" not in report.to_text(dataset, [evaluation])


def test_a_single_image_has_no_standard_deviation(tmp_path):
    drawn.pairs(tmp_path, names=("a",))
    dataset = read_pairs(tmp_path / "images", tmp_path / "labels")
    evaluation = evaluate(models.tiny_model(tmp_path), dataset)

    text = report.to_text(dataset, [evaluation])

    assert " ± -" not in text
    assert "- ±" not in text


def test_json_has_fractions_and_null_for_what_is_not_defined(tmp_path):
    drawn.pairs(tmp_path, names=("a", "b"))
    drawn.write(tmp_path / "labels" / "b.png", np.zeros_like(drawn.disc()))
    dataset = read_pairs(tmp_path / "images", tmp_path / "labels")
    evaluation = evaluate(models.tiny_model(tmp_path), dataset)

    report.write_json(tmp_path / "figures.json", dataset, [evaluation])

    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["dataset"] == "pairs"
    assert written["training_images"] is False
    (result,) = written["results"]
    assert result["name"] == "tiny"
    assert result["settings"]["sha256"] == evaluation.provenance["sha256"]
    assert result["whole_frames"]["dice"] == metrics.dice(evaluation.whole)
    assert result["whole_frames"]["tp"] == evaluation.whole.tp
    assert result["whole_frames"]["published_dice"] is None
    inside = result["inside_field_of_view"]
    assert inside["pooled"] == evaluation.pooled._asdict()
    assert inside["mean"]["auc"] == evaluation.images[0].auc
    assert inside["standard_deviation"]["auc"] is None
    assert [image["name"] for image in result["images"]] == ["a", "b"]
    assert result["images"][0]["inside_field_of_view"]["tp"] == evaluation.images[0].inside.tp
    assert result["images"][1]["inside_field_of_view"]["auc"] is None


def test_csv_has_a_row_for_each_image_and_model(tmp_path, spec):
    dataset = chase_db1(tmp_path, split="all")
    evaluation = evaluate(models.tiny_model(tmp_path, spec), dataset)
    second = evaluate_other_observer(dataset)

    report.write_csv(tmp_path / "figures.csv", dataset, [evaluation, second])

    with (tmp_path / "figures.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 28
    first = rows[0]
    assert (first["dataset"], first["image"], first["split"], first["model"]) == (
        "chase_db1", "Image_11L", "test", "known")  # fmt: skip
    assert rows[8]["image"] == "Image_01L"
    assert rows[8]["split"] == "train"
    assert float(first["cldice"]) == evaluation.images[0].figures.cldice
    assert float(first["dice_whole_frame"]) == metrics.dice(evaluation.images[0].whole)
    assert int(first["tp"]) == evaluation.images[0].inside.tp
    assert rows[28]["model"] == "second observer"
    assert rows[28]["auc"] == ""


def test_files_that_cannot_be_written(tmp_path):
    dataset = read_pairs(drawn.pairs(tmp_path) / "images", tmp_path / "labels")
    evaluation = evaluate(models.tiny_model(tmp_path), dataset)

    for write in (report.write_json, report.write_csv):
        with pytest.raises(OutputError, match="folder does not exist"):
            write(tmp_path / "nowhere" / "figures", dataset, [evaluation])
