"""A model on a data set: whole frames, inside the field of view, pooled and per image."""

from __future__ import annotations

import math
import statistics
import sys

import numpy as np
import pytest
from PIL import Image
from support import drawn, models

import vesselseg
from vesselseg import DatasetError, MissingExtraError, metrics
from vesselseg.evaluation.datasets import (
    LAYOUTS,
    read_dataset,
    read_label,
    read_pairs,
    read_photograph,
)
from vesselseg.evaluation.scores import evaluate, evaluate_other_observer
from vesselseg.metrics import confusion


@pytest.fixture
def model(tmp_path):
    return models.tiny_model(tmp_path)


def read(folder):
    return read_pairs(folder / "images", folder / "labels")


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_official_layout_is_evaluated_image_by_image(tmp_path, model, name):
    dataset = read_dataset(getattr(drawn, name)(tmp_path / name), name)

    evaluation = evaluate(model, dataset.samples)

    assert [image.name for image in evaluation.images] == [s.name for s in dataset.samples]
    for sample, image in zip(dataset.samples, evaluation.images, strict=True):
        photograph, label = read_photograph(sample.image), read_label(sample.label)
        found = model(photograph)
        view = read_label(sample.fov) if sample.fov else vesselseg.field_of_view(photograph)
        assert 0 < view.mean() < 1
        assert image.whole == confusion(found.mask, label)
        assert image.inside == confusion(found.mask, label, view)
        assert image.figures.auc == metrics.auc(found.probability, label, view)
        assert image.figures.cldice == metrics.cldice(found.mask, label, view)


def test_photographs_of_12_bits(tmp_path, model):
    grey, deep = (drawn.pairs(tmp_path / name, names=("a",)) for name in ("grey", "deep"))
    values = read_photograph(grey / "images" / "a.png")[..., 1]
    Image.fromarray(values).save(grey / "images" / "a.png")
    twelve = np.rint(values * (4095 / 255)).astype(np.uint16)
    Image.fromarray(twelve).save(deep / "images" / "a.png")
    expected = evaluate(model, read(grey).samples)
    evaluation = evaluate(model, read(deep).samples, bits=12)
    assert evaluation.images == expected.images
    assert evaluation.provenance == {**expected.provenance, "bits": 12}
    per_photograph = {"size", "network_size", "fov_diameter", "vessel_bias", "warning"}
    assert not per_photograph & evaluation.provenance.keys()


def test_figures_of_whole_frames_and_inside_the_field_of_view_are_pooled_over_pixels(
    tmp_path, model
):
    dataset = read(drawn.pairs(tmp_path))
    photographs = [read_photograph(sample.image) for sample in dataset.samples]
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
        metrics.auc(probability, label, view),
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
        assert np.array_equal(case.photograph, read_photograph(case.sample.image))
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

    with pytest.raises(DatasetError, match=r"is 44 x 39 pixels, but its photograph .* 44 x 40"):
        evaluate(model, found.samples) if dataset == "pairs" else evaluate_other_observer(found)


def test_without_scikit_image_nothing_is_computed_in_vain(tmp_path, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.morphology", None)
    monkeypatch.setattr(type(model), "segment_keyed", None)

    with pytest.raises(MissingExtraError, match=r"vesselseg\[eval\]"):
        evaluate(model, read(drawn.pairs(tmp_path)).samples)
