"""A model on a data set: whole frames, inside the field of view, pooled and per image."""

from __future__ import annotations

import dataclasses
import math
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import drawn, models
from support.dicom import dicom_file

import vesselseg
from vesselseg import DatasetError, MissingExtraError, OptionError, metrics
from vesselseg.evaluation.datasets import (
    Sample,
    read_dataset,
    read_pairs,
    read_photograph,
)
from vesselseg.evaluation.scores import (
    THRESHOLDS,
    Case,
    Tally,
    evaluate,
    evaluate_other_observer,
    score,
)
from vesselseg.labels import read_fov, read_label
from vesselseg.metrics import confusion


@pytest.fixture
def model(tmp_path):
    return models.tiny_model(tmp_path)


def read(folder, **options):
    return read_pairs(folder / "images", folder / "labels", **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["drive", "stare"])  # with fields of view, and gzipped
def test_published_data_sets_are_evaluated_image_by_image(tmp_path, model, name):
    dataset = read_dataset(getattr(drawn, name)(tmp_path / name), name, limit=3)

    evaluation = evaluate(model, dataset.samples)

    assert [image.name for image in evaluation.images] == [s.name for s in dataset.samples]
    for sample, image in zip(dataset.samples, evaluation.images, strict=True):
        photograph, label = read_photograph(sample), read_label(sample.label)
        found = model(photograph)
        view = read_fov(sample.fov) if sample.fov else vesselseg.field_of_view(photograph)
        assert 0 < view.mean() < 1
        assert image.whole == confusion(found.mask, label)
        assert image.inside == confusion(found.mask, label, view)
        assert image.figures.auc == metrics.auc(found.probability, label, view)
        assert image.figures.cldice == metrics.cldice(found.mask, label, view)


def test_pixels_that_are_not_known_count_nowhere(tmp_path, model):
    data = drawn.pairs(tmp_path / "data", names=("a", "b"))
    values = np.where(drawn.vessels(0), 255, 0).astype(np.uint8)
    values[:, :20] = 128
    drawn.write(data / "labels" / "a.png", values)

    image, other = evaluate(model, read(data).samples).images

    sample, _ = read(data).samples
    photograph, label, known = read_photograph(sample), values == 255, values != 128
    found = model(photograph)
    inside = vesselseg.field_of_view(photograph) & known
    assert image.whole == confusion(found.mask, label, known)
    assert image.inside == confusion(found.mask, label, inside)
    assert sum(image.whole) == known.sum() < sum(other.whole) == known.size
    assert image.figures.auc == metrics.auc(found.probability, label, inside)
    assert image.figures.cldice == metrics.cldice(found.mask, label, inside)
    assert sum(image.tally.curve[0]) == inside.sum()


def test_an_observer_counts_where_both_are_known(tmp_path):
    data = drawn.chase_db1(tmp_path / "data")
    dataset = read_dataset(data, "chase_db1")
    sample = dataset.samples[0]
    known = np.ones((2, drawn.HEIGHT, drawn.WIDTH), dtype=bool)
    known[0, :10], known[1, :, :10] = False, False
    for path, is_known in zip((sample.label, sample.second), known, strict=True):
        drawn.write(path, np.where(is_known, read_label(path) * 255, 128).astype(np.uint8))

    image = evaluate_other_observer(dataset).images[0]

    assert sum(image.whole) == known.all(axis=0).sum()


def test_photographs_of_12_bits_have_the_same_scores(tmp_path, model):
    grey, deep = (drawn.pairs(tmp_path / name, names=("a",)) for name in ("grey", "deep"))
    values = read_photograph(read(grey).samples[0])[..., 1]
    Image.fromarray(values).save(grey / "images" / "a.png")
    Image.fromarray(drawn.twelve_bits(values)).save(deep / "images" / "a.png")
    expected = evaluate(model, read(grey).samples)
    evaluation = evaluate(model, read(deep, bits=12).samples)
    assert evaluation.images == expected.images
    assert evaluation.provenance == {**expected.provenance, "bits": 12}
    per_photograph = {
        "size", "network_size", "fov_diameter", "vessel_bias", "familiarity",
        "undecided_fraction", "warning",
    }  # fmt: skip
    assert not per_photograph & evaluation.provenance.keys()


def test_photographs_in_dicom_files_have_the_same_scores(tmp_path, model):
    folder = drawn.pairs(tmp_path, names=("a",))
    expected = evaluate(model, read(folder).samples)
    (folder / "images" / "a.png").unlink()
    (folder / "images" / "a.dcm").write_bytes(dicom_file(drawn.photograph(0)))
    assert evaluate(model, read(folder).samples) == expected


def test_figures_of_whole_frames_and_inside_the_field_of_view_are_pooled_over_pixels(
    tmp_path, model
):
    dataset = read(drawn.pairs(tmp_path))
    photographs = [read_photograph(sample) for sample in dataset.samples]
    label = np.stack([read_label(sample.label) for sample in dataset.samples])
    found = [model(photograph) for photograph in photographs]
    mask = np.stack([f.mask for f in found])
    probability = np.stack([f.probability for f in found])
    view = np.stack([f.field_of_view for f in found])

    evaluation = evaluate(model, dataset.samples)

    assert evaluation.total.whole == confusion(mask, label)
    inside = confusion(mask, label, view)
    assert inside.tp > 0
    side_by_side = [np.concatenate(images, axis=1) for images in (mask, label, view)]
    assert evaluation.total.figures == (
        metrics.dice(inside),
        metrics.sensitivity(inside),
        metrics.specificity(inside),
        metrics.accuracy(inside),
        pytest.approx(metrics.auc(probability, label, view), abs=1e-4),
        metrics.cldice(*side_by_side),
    )


def test_mean_and_standard_deviation_are_over_images(tmp_path, model):
    evaluation = evaluate(model, read(drawn.pairs(tmp_path)).samples)

    mean, std = evaluation.mean_and_std()
    columns = list(zip(*(image.figures for image in evaluation.images), strict=True))
    assert mean == pytest.approx([statistics.mean(values) for values in columns])
    assert std == pytest.approx([statistics.stdev(values) for values in columns])


def test_an_image_without_vessels_counts_where_its_figures_are_defined(tmp_path, model):
    drawn.pairs(tmp_path, names=("a", "b"))
    drawn.write(tmp_path / "labels" / "b.png", np.zeros_like(drawn.disc()))

    evaluation = evaluate(model, read(tmp_path).samples)

    vessels, none = (image.figures for image in evaluation.images)
    assert math.isnan(none.auc)
    mean, std = evaluation.mean_and_std()
    assert mean.auc == vessels.auc
    assert math.isnan(std.auc)  # of a single value
    assert mean.specificity == pytest.approx((vessels.specificity + none.specificity) / 2)


def test_the_data_sets_own_field_of_view_goes_before_the_one_that_is_found(tmp_path, model):
    drawn.pairs(tmp_path, names=("a",))
    left_half = drawn.disc() & (np.indices(drawn.disc().shape)[1] < 20)
    drawn.write(tmp_path / "masks" / "a.png", left_half)

    dataset = read_pairs(tmp_path / "images", tmp_path / "labels", tmp_path / "masks")

    assert sum(evaluate(model, dataset.samples).images[0].inside) == left_half.sum()


def test_the_second_observer_of_photographs_of_12_bits(tmp_path, caplog):
    folder = drawn.chase_db1(tmp_path)
    expected = evaluate_other_observer(read_dataset(folder, "chase_db1"))
    for path in folder.rglob("*.jpg"):
        grey = drawn.pixels(path)[..., 1]
        Image.fromarray(drawn.twelve_bits(grey)).save(path, format="PNG")
    second = evaluate_other_observer(read_dataset(folder, "chase_db1", bits=12))
    assert [image.whole for image in second.images] == [image.whole for image in expected.images]
    assert "16-bit values" not in caplog.text


def test_the_second_observer_is_compared_with_the_first(tmp_path):
    dataset = read_dataset(drawn.chase_db1(tmp_path), "chase_db1")

    second = evaluate_other_observer(dataset)

    assert second.name == "second observer"
    assert second.spec is None
    for sample, image in zip(dataset.samples, second.images, strict=True):
        labels = read_label(sample.second), read_label(sample.label)
        assert image.whole == confusion(*labels)
        view = vesselseg.field_of_view(sample.image)
        assert image.figures.cldice == metrics.cldice(*labels, view)
        assert math.isnan(image.figures.auc)  # a mask has no probability
    assert math.isnan(second.total.auc)


def test_without_a_second_observer_there_is_no_figure_of_one(tmp_path):
    assert evaluate_other_observer(read(drawn.pairs(tmp_path))) is None


def test_threshold_and_scale_are_passed_on_and_recorded(tmp_path, model):
    dataset = read(drawn.pairs(tmp_path))

    everything = evaluate(model, dataset.samples, threshold=0, scale=0.5)

    assert everything.provenance["threshold"] == 0
    assert everything.provenance["scale"] == 0.5
    assert everything.provenance["sha256"] == model.sha256
    assert everything.total.figures.sensitivity == 1
    assert everything.total.whole.tn == 0


def test_each_photograph_is_handed_over_with_its_pixels(tmp_path, model):
    dataset = read(drawn.pairs(tmp_path))
    cases = []

    evaluation = evaluate(model, dataset.samples, on_case=cases.append)

    for case, result in zip(cases, evaluation.images, strict=True):
        assert np.array_equal(case.photograph, read_photograph(case.sample))
        assert confusion(case.mask, case.label, case.fov) == result.inside


@pytest.mark.parametrize(
    ("file", "dataset"), [("labels/b.png", "pairs"), ("Image_11L_2ndHO.png", "chase_db1")]
)
def test_a_label_of_another_size_is_rejected(tmp_path, model, file, dataset):
    if dataset == "pairs":
        found = read(drawn.pairs(tmp_path))
    else:
        found = read_dataset(drawn.chase_db1(tmp_path), dataset)
    drawn.write(tmp_path / file, drawn.vessels(0)[:-1])

    def run(**options):
        if dataset == "pairs":
            return evaluate(model, found.samples, **options)
        return evaluate_other_observer(found, **options)

    with pytest.raises(DatasetError, match=r"is 44 x 39 pixels, but its photograph .* 44 x 40"):
        run(on_error="raise")
    evaluation = run()
    ((name, error),) = evaluation.failed.items()
    assert name in ("b", "Image_11L")
    assert "is 44 x 39 pixels" in error
    assert [image.name for image in evaluation.images] == [
        sample.name for sample in found.samples if sample.name != name
    ]


def test_without_scikit_image_nothing_is_computed_in_vain(tmp_path, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.morphology", None)
    monkeypatch.setattr(type(model), "segment_many", None)

    with pytest.raises(MissingExtraError, match=r"pip install .*\[eval\]"):
        evaluate(model, read(drawn.pairs(tmp_path)).samples)


@pytest.mark.parametrize("error", ["network", "photograph", "label"])
def test_a_pair_that_cannot_be_used_is_named_and_the_others_count(tmp_path, model, error):
    dataset = read(drawn.pairs(tmp_path))
    expected = evaluate(model, [dataset.samples[0], dataset.samples[2]])
    if error == "network":
        model.max_pixels = drawn.photograph(0)[..., 0].size
        large = np.pad(drawn.photograph(1), [(0, 1), (0, 0), (0, 0)])
        drawn.write(dataset.samples[1].image, large)
    elif error == "photograph":
        dataset.samples[1].image.write_bytes(b"no image")
    else:
        dataset.samples[1].label.write_bytes(b"no image")
    evaluation = evaluate(model, dataset.samples)
    assert list(evaluation.failed) == [dataset.samples[1].name]
    assert dataclasses.replace(evaluation, failed={}) == expected


def test_nothing_that_can_be_used_is_an_error(tmp_path, model):
    with pytest.raises(DatasetError, match="no photographs to evaluate on"):
        evaluate(model, [])
    dataset = read(drawn.pairs(tmp_path))
    for sample in dataset.samples:
        sample.label.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"None of the 3 photographs could be used\. Label"):
        evaluate(model, dataset.samples)
    with pytest.raises(OptionError, match="on_error is 'skip'"):
        evaluate(model, dataset.samples, on_error="skip")


def test_the_pooled_area_is_that_of_all_pixels():
    """Of probabilities as networks give them: nearly all close to 0 or 1."""
    rng = np.random.default_rng(0)
    label = rng.random(200_000) < 0.1
    logit = np.where(label, rng.normal(3, 4, label.size), rng.normal(-6, 4, label.size))
    probability = (1 / (1 + np.exp(-logit))).astype(np.float32)
    vessel, background = probability[label], probability[~label]
    assert Tally.count(vessel, background).auc == pytest.approx(
        metrics.auc(probability, label), abs=1e-4
    )


def test_the_curve_has_the_counts_at_every_threshold(tmp_path, model):
    dataset = read(drawn.pairs(tmp_path))
    curve = evaluate(model, dataset.samples).total.tally.curve
    assert len(curve) == len(THRESHOLDS) == 101
    for place in (0, 7, 50, 93, 100):
        threshold = float(THRESHOLDS[place])
        assert threshold == pytest.approx(place / 100)
        assert evaluate(model, dataset.samples, threshold=threshold).total.inside == curve[place]


def test_the_best_threshold_is_that_of_the_highest_dice(tmp_path, model):
    evaluation = evaluate(model, read(drawn.pairs(tmp_path)).samples)
    dices = [metrics.dice(counts) for counts in evaluation.total.tally.curve]
    threshold, dice = evaluation.total.best_threshold
    assert dice == max(dices)
    assert dices[round(100 * threshold)] == dice
    assert dices[: round(100 * threshold)].count(dice) == 0  # the lowest of equal ones


def test_reliability_and_its_error_are_those_of_the_pixels_one_by_one(tmp_path, model):
    dataset = read(drawn.pairs(tmp_path))
    evaluation = evaluate(model, dataset.samples)
    probability, actual = [], []
    for sample in dataset.samples:
        found = model(read_photograph(sample))
        probability.append(found.probability[found.field_of_view])
        actual.append(read_label(sample.label)[found.field_of_view])
    probability, actual = np.concatenate(probability), np.concatenate(actual)
    place = np.ceil(probability.astype(np.float64) * 10).clip(1).astype(int) - 1
    error = 0.0
    for each, number in zip(evaluation.total.tally.reliability, np.unique(place), strict=True):
        here = place == number
        assert each.pixels == here.sum()
        assert each.probability == pytest.approx(probability[here].mean(), rel=1e-5)
        assert each.vessels == actual[here].sum()
        error += abs(actual[here].mean() - probability[here].mean()) * here.mean()
    assert evaluation.total.calibration_error == pytest.approx(error, rel=1e-4)


def test_centrelines_and_widths():
    label, mask = np.zeros((2, 40, 60), dtype=bool)
    label[18:23, 5:55] = True  # 5 wide
    mask[17:24, 5:30] = True  # 7 wide, half as long
    sample = Sample("bars", "", Path("bars.png"), Path("bars.png"))
    photograph = np.zeros((40, 60, 3), dtype=np.uint8)
    result = score(Case(sample, photograph, mask, label, np.ones_like(mask)), math.nan)
    mask_width, label_width = result.widths
    assert mask_width == pytest.approx(7, rel=0.35)  # skeletons are shorter than bars
    assert label_width == pytest.approx(5, rel=0.15)
    assert mask_width / label_width > 1.2
    assert result.centreline_precision == 1
    assert result.centreline_recall == pytest.approx(0.5, abs=0.1)
    precision, recall = result.centreline_precision, result.centreline_recall
    assert metrics.cldice(mask, label) == 2 * precision * recall / (precision + recall)


def test_an_observer_has_no_curve_but_centrelines(tmp_path):
    dataset = read_dataset(drawn.chase_db1(tmp_path / "data"), "chase_db1")
    observer = evaluate_other_observer(dataset)
    assert observer.total.tally.curve == observer.total.tally.reliability == ()
    assert math.isnan(observer.total.best_threshold[0])
    assert math.isnan(observer.total.calibration_error)
    assert 0 < observer.total.centreline_precision < 1
