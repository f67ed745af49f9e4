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
from vesselseg.evaluation.report import percent
from vesselseg.evaluation.scores import evaluate, evaluate_other_observer
from vesselseg.files import sha256
from vesselseg.spec import Source


@pytest.fixture
def score(tmp_path):
    """Evaluate a model whose Dice on CHASE_DB1 is published, with the digest of its file."""
    digest = sha256(models.tiny_weights(tmp_path / "tiny.pth"))
    source = Source("https://example.org/tiny.pth", digits=digest[:8])
    spec = dataclasses.replace(
        models.TINY, name="known", dataset="chase_db1", dice=80.24, sources=(source,)
    )

    def score(dataset, *, change=None, **options):
        model = models.tiny_model(tmp_path, dataclasses.replace(spec, **(change or {})))
        return evaluate(model, dataset.samples, **options)

    return score


def chase_db1(tmp_path, **options):
    return read_dataset(drawn.chase_db1(tmp_path / "data"), "chase_db1", **options)


@pytest.mark.slow
def test_text_has_the_published_figure_beside_that_of_whole_frames(tmp_path, score):
    dataset = chase_db1(tmp_path)
    evaluation, second = score(dataset), evaluate_other_observer(dataset)

    text = report.to_text(dataset, [evaluation, second])

    head, *tables = text.split("\n\n")
    assert head.splitlines() == [
        "CHASE_DB1, test split: 8 of 8 images",
        "Labels: first observer. Field of view: found in the photographs.",
        "95 % intervals: percentile bootstrap over 4 subjects (8 photographs), 2000 resamples. "
        "These intervals are not reliable: with fewer than 10 subjects they are clearly too "
        "narrow.",
        f"known: weights {evaluation.provenance['sha256'][:8]}, scale native, float32 on cpu, "
        f"threshold 0.5",
    ]
    whole, inside, each, more, agreement, differences = (table.splitlines() for table in tables)
    interval = evaluation.intervals()["dice_whole_frame"]
    title, columns, model, model_interval, observer, _ = whole
    assert "published convention" in title
    assert columns.split() == ["Dice", "published"]
    assert model.split() == ["known", percent(metrics.dice(evaluation.total.whole)), "80.24"]
    assert model_interval.split() == [
        "95", "%", "interval", percent(interval.low), "to", percent(interval.high)
    ]  # fmt: skip
    assert observer.split() == [
        "second",
        "observer",
        percent(metrics.dice(second.total.whole)),
        "-",
    ]
    assert inside[2].split() == ["known", *map(percent, evaluation.total.figures)]
    spread = zip(*evaluation.mean_and_std(), strict=True)
    expected = " ".join(f"{100 * mean:.2f} ± {100 * std:.2f}" for mean, std in spread)
    assert each[2].split() == ["known", *expected.split()]
    total = evaluation.total
    threshold, dice = total.best_threshold
    assert more[2].split() == [
        "known", percent(total.centreline_precision), percent(total.centreline_recall),
        *(f"{width:.2f}" for width in total.widths), f"{threshold:.2f}", percent(dice),
        percent(total.calibration_error),
    ]  # fmt: skip
    assert more[4].split()[-3:] == ["-", "-", "-"]  # an observer has no probabilities
    limits = evaluation.agreement()["density"]
    assert f"{percent(limits.low)} to {percent(limits.high)}" in agreement[2]
    compared = second.compare(evaluation).differences["dice"]
    assert f"{100 * compared.value:+.2f}" in differences[2].split()
    assert f"{percent(compared.low)} to {percent(compared.high)}" in differences[3]
    for _, columns, *lines in (whole, inside, each, more, agreement, differences):
        filled = [
            line for line in lines if not line.startswith("  95 %")
        ]  # some end in no interval
        assert {len(line) for line in filled} == {len(columns)}  # aligned


@pytest.mark.slow
def test_training_images_are_called_so_in_every_table(tmp_path, score):
    dataset = chase_db1(tmp_path, split="train")

    text = report.to_text(dataset, [score(dataset)])

    headings = [block.splitlines()[0] for block in text.split("\n\n")]
    assert all("training images, not a test" in heading for heading in headings[:6])
    assert headings[6] == (
        "known: the published figure cannot be compared: it is for the test images, not for "
        "training images."
    )


@pytest.mark.slow
def test_what_the_published_figure_is_not_for_is_said(tmp_path, score):
    dataset = chase_db1(tmp_path, observer=2)
    other = {"sources": (Source("https://example.org/tiny.pth", digits="00000000"),)}
    assert report.compare_with_published(score(dataset), chase_db1(tmp_path)) == (0.8024, [])

    evaluation = score(dataset, change=other, threshold=0.4, scale=0.5)

    assert report.compare_with_published(evaluation, dataset) == (0.8024, [
        "it is for the labels of the first observer",
        "it is for scale native",
        "it is for threshold 0.5",
        "the digest of these weights differs from the published file's name",
    ])  # fmt: skip


def test_of_an_incomplete_test_split_the_missing_images_are_named(tmp_path, score):
    for path in drawn.chase_db1(tmp_path / "data").glob("Image_1[34]*"):
        path.unlink()
    dataset = read_dataset(tmp_path / "data", "chase_db1")

    text = report.to_text(dataset, [score(dataset)])

    assert "CHASE_DB1, test split: 4 of 8 images" in text
    assert "Not evaluated: Image_13L, Image_13R, Image_14L, Image_14R." in text
    assert text.endswith("the published figure cannot be compared: it is for 8 test images.")


def test_figures_published_for_another_data_set_are_not_shown(tmp_path, score):
    dataset = chase_db1(tmp_path)
    evaluation = score(dataset, change={"dataset": "drive"})

    published, _ = report.compare_with_published(evaluation, dataset)

    assert math.isnan(published)
    assert "80.24" not in report.to_text(dataset, [evaluation])


def test_a_single_image_has_no_standard_deviation(tmp_path, score):
    drawn.pairs(tmp_path, names=("a",))
    dataset = read_pairs(tmp_path / "images", tmp_path / "labels")

    text = report.to_text(dataset, [score(dataset)])

    assert "±" not in text.replace("mean ± standard", "")
    assert "There are no confidence intervals, since all photographs are of one subject." in text


def test_json_has_fractions_and_null_for_what_is_not_defined(tmp_path, score):
    drawn.pairs(tmp_path, names=("a", "b"))
    drawn.write(tmp_path / "labels" / "b.png", np.zeros_like(drawn.disc()))
    dataset = read_pairs(tmp_path / "images", tmp_path / "labels")
    evaluation = score(dataset)

    run = report.describe_run([evaluation], "vesselseg evaluate")
    report.write_json(tmp_path / "figures.json", dataset, [evaluation], run)

    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["dataset"] == "pairs"
    assert written["training_images"] is False
    (result,) = written["results"]
    assert result["name"] == "known"
    assert result["settings"]["sha256"] == evaluation.provenance["sha256"]
    assert result["whole_frames"]["dice"] == metrics.dice(evaluation.total.whole)
    assert result["whole_frames"]["tp"] == evaluation.total.whole.tp
    assert result["whole_frames"]["published_dice"] is None
    inside = result["inside_field_of_view"]
    assert inside["pooled"] == evaluation.total.figures._asdict()
    assert inside["mean"]["auc"] == evaluation.images[0].auc
    assert inside["standard_deviation"]["auc"] is None
    assert inside["best_dice"] == evaluation.total.best_threshold[1]
    assert inside["expected_calibration_error"] == evaluation.total.calibration_error
    assert [row["threshold"] for row in inside["thresholds"]] == [n / 100 for n in range(101)]
    assert inside["thresholds"][50]["tp"] == evaluation.total.inside.tp
    assert inside["reliability"] == [each._asdict() for each in evaluation.total.tally.reliability]
    assert [image["name"] for image in result["images"]] == ["a", "b"]
    assert result["images"][0]["inside_field_of_view"]["tp"] == evaluation.images[0].inside.tp
    assert result["images"][1]["inside_field_of_view"]["auc"] is None
    assert result["images"][1]["sha256"]["label"] == sha256(tmp_path / "labels" / "b.png")
    intervals = result["intervals"]
    assert (intervals["subjects"], intervals["reliable"]) == (2, False)
    interval = evaluation.intervals()["dice"]
    assert intervals["figures"]["dice"] == interval._asdict()
    assert inside["agreement"]["density"] == evaluation.agreement()["density"]._asdict()
    assert written["run"]["command"] == "vesselseg evaluate"
    assert written["run"]["data_sha256"] == evaluation.data_digest
    assert written["differences"] == {"from": "known", "of": {}}


@pytest.mark.slow
def test_csv_has_a_row_for_each_image_and_model(tmp_path, score):
    dataset = chase_db1(tmp_path, split="all")
    evaluation, second = score(dataset), evaluate_other_observer(dataset)

    report.write_csv(tmp_path / "figures.csv", dataset, [evaluation, second])

    with (tmp_path / "figures.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 28
    names = [(row["dataset"], row["image"], row["split"], row["model"]) for row in rows]
    assert names[0] == ("chase_db1", "Image_11L", "test", "known")
    assert names[8] == ("chase_db1", "Image_01L", "train", "known")
    assert names[28] == ("chase_db1", "Image_11L", "test", "second observer")
    assert float(rows[0]["cldice"]) == evaluation.images[0].figures.cldice
    assert float(rows[0]["dice_whole_frame"]) == metrics.dice(evaluation.images[0].whole)
    assert int(rows[0]["tp"]) == evaluation.images[0].inside.tp
    assert rows[28]["auc"] == rows[28]["threshold"] == rows[28]["weights_sha256"] == ""
    first, sample = evaluation.images[0], dataset.samples[0]
    for name, value in {
        "subject": "Image_11",
        "mask_width": first.widths[0],
        "label_density": first.densities[1],
        "centreline_recall": first.centreline_recall,
        "expected_calibration_error": first.calibration_error,
        "best_threshold": first.best_threshold[0],
        "threshold": 0.5,
        "scale": "native",
        "weights_sha256": evaluation.provenance["sha256"],
        "spec": evaluation.provenance["spec"],
        "photograph_sha256": sha256(sample.image),
        "label_sha256": sha256(sample.label),
        "fov_sha256": "",
        "mask_sha256": "",
    }.items():
        assert rows[0][name] == str(value)
    assert rows[28]["mask_sha256"] == sha256(sample.second)


def test_files_that_cannot_be_written(tmp_path, score):
    dataset = read_pairs(drawn.pairs(tmp_path) / "images", tmp_path / "labels")
    evaluations, path = [score(dataset)], tmp_path / "nowhere" / "figures"
    run = report.describe_run(evaluations, "vesselseg evaluate")

    with pytest.raises(OutputError, match="folder does not exist"):
        report.write_csv(path, dataset, evaluations)
    with pytest.raises(OutputError, match="folder does not exist"):
        report.write_json(path, dataset, evaluations, run)
