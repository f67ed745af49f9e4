"""Confidence intervals over subjects, paired differences, and agreement of mask and label."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support import drawn, models

from vesselseg import OptionError, metrics
from vesselseg.evaluation.datasets import read_dataset, read_pairs
from vesselseg.evaluation.scores import Evaluation, Result, Tally, evaluate, evaluate_other_observer
from vesselseg.metrics import Confusion


def photograph(name, subject, dice, *, pixels=1000, density=0.1):
    """Counts of a photograph with a Dice, as far as pixels can give it."""
    vessels = round(pixels * density)
    tp = round(vessels * dice)
    counts = Confusion(tp, vessels - tp, vessels - tp, pixels - 2 * vessels + tp)
    skeleton = Confusion(tp, vessels - tp, 0, 0)
    return Result(name, counts, counts, skeleton, skeleton, math.nan, subject)


def evaluation(images, name="model"):
    return Evaluation(name, tuple(images), None, {})


def subjects(dices, *, photographs=1):
    """A number of equal photographs of each subject."""
    return [
        photograph(f"{place}_{number}", f"{place}", dice)
        for place, dice in enumerate(dices)
        for number in range(photographs)
    ]


DICES = np.random.default_rng(1).uniform(0.6, 0.9, 40)


def test_the_summary_has_the_figures_of_all_images_together_and_their_means(tmp_path):
    dataset = read_pairs(drawn.pairs(tmp_path) / "images", tmp_path / "labels")
    found = evaluate(models.tiny_model(tmp_path), dataset.samples)

    summary, total = found.summary(), found.total

    assert summary["dice_whole_frame"] == metrics.dice(total.whole)
    for name, value in total.figures._asdict().items():
        assert summary[name] == value
    for name, value in found.mean_and_std()[0]._asdict().items():
        assert summary[f"mean_{name}"] == pytest.approx(value)
    assert (summary["mask_width"], summary["label_width"]) == total.widths
    assert summary["calibration_error"] == total.calibration_error
    assert summary["density_difference"] == pytest.approx(found.agreement()["density"].bias)
    assert summary["width_difference"] == pytest.approx(found.agreement()["width"].bias)
    assert found.intervals().keys() == summary.keys()


def test_intervals_are_those_of_scipy():
    from scipy.stats import bootstrap

    images = subjects(DICES)
    counts = np.array([image.inside for image in images])
    dices = np.array([image.figures.dice for image in images])

    def pooled(places, axis):
        tp, fp, fn, _ = counts.T[:, places].sum(axis=axis)
        return 2 * tp / (2 * tp + fp + fn)

    def mean(places, axis):
        return dices[places].mean(axis=axis)

    intervals = evaluation(images).intervals()
    for name, statistic in (("dice", pooled), ("mean_dice", mean)):
        expected = bootstrap(
            (np.arange(len(images)),), statistic, n_resamples=2000, vectorized=True,
            method="percentile", rng=np.random.default_rng(5),
        ).confidence_interval  # fmt: skip
        width = expected.high - expected.low
        assert intervals[name] == pytest.approx((expected.low, expected.high), abs=0.1 * width)


@pytest.mark.slow
def test_more_photographs_of_the_same_subjects_make_no_narrower_interval():
    once = evaluation(subjects(DICES)).intervals()["dice"]
    five_times = evaluation(subjects(DICES, photographs=5)).intervals()["dice"]
    assert five_times == pytest.approx(once)
    as_if_of_others = [
        photograph(image.name, image.name, image.figures.dice)
        for image in subjects(DICES, photographs=5)
    ]
    low, high = evaluation(as_if_of_others).intervals()["dice"]
    assert high - low < 0.6 * (once.high - once.low)


def test_the_seed_decides_and_no_random_state_is_touched():
    found = evaluation(subjects(DICES))
    before = str(np.random.get_state())
    first, again, other = (
        found.intervals(resamples=np.int64(50), seed=seed)["dice"] for seed in (1, np.int64(1), 2)
    )
    assert first == again != other
    assert str(np.random.get_state()) == before


def test_the_area_under_the_curve_and_calibration_are_resampled():
    rng = np.random.default_rng(3)
    images = []
    for place in range(12):
        label = rng.random(2000) < 0.1
        logit = np.where(label, rng.normal(2 + place / 10, 2, 2000), rng.normal(-3, 2, 2000))
        probability = (1 / (1 + np.exp(-logit))).astype(np.float32)
        tally = Tally.count(probability[label], probability[~label])
        counts = metrics.confusion(probability > 0.5, label)
        images.append(Result(f"{place}", counts, counts, counts, counts, tally.auc, "", tally))
    images = [
        Result(i.name, i.whole, i.inside, i.mask_skeleton, i.label_skeleton, i.auc, i.name, i.tally)
        for i in images
    ]
    found = evaluation(images)
    summary, intervals = found.summary(), found.intervals()
    for name in ("auc", "mean_auc", "calibration_error"):
        low, high = intervals[name]
        assert low < summary[name] < high
    low, high = intervals["auc"]
    areas = [image.auc for image in images]
    assert high - low < max(areas) - min(areas)


def test_one_subject_has_no_interval():
    found = evaluation(subjects([0.8], photographs=3))
    assert len(found.subjects) == 1
    assert all(math.isnan(end) for interval in found.intervals().values() for end in interval)


def test_what_is_not_defined_has_no_interval():
    found = evaluation(subjects(DICES))  # of observers, who have no probabilities
    assert math.isnan(found.summary()["auc"])
    assert math.isnan(found.intervals(resamples=50)["auc"].low)
    assert math.isnan(found.compare(found, resamples=50).differences["mean_auc"].high)


@pytest.mark.parametrize("resamples", [0, True])
def test_resamples_must_be_a_positive_integer(resamples):
    with pytest.raises(OptionError, match=r"resamples is .*; it must be a positive integer"):
        evaluation(subjects(DICES)).intervals(resamples=resamples)


def test_the_seed_must_not_be_negative():
    with pytest.raises(OptionError, match="seed is -1"):
        evaluation(subjects(DICES)).intervals(seed=-1)


def test_the_two_eyes_of_a_child_count_as_one(tmp_path):
    dataset = read_dataset(drawn.chase_db1(tmp_path), "chase_db1", split="all")
    found = evaluate_other_observer(dataset)
    assert len(found.images) == 28
    assert len(found.subjects) == 14
    assert found.images[0].subject == found.images[1].subject == "Image_11"


def test_other_data_sets_have_one_photograph_of_each_person(tmp_path):
    dataset = read_dataset(drawn.hrf(tmp_path), "hrf", split="all")
    assert len({sample.subject for sample in dataset.samples}) == 45


def test_a_pattern_names_the_subjects_of_pairs(tmp_path):
    folder = drawn.pairs(tmp_path, names=("anna_L", "anna_R", "ben_L"))
    folders = folder / "images", folder / "labels"
    named = [sample.subject for sample in read_pairs(*folders, group="(.+)_[LR]").samples]
    assert named == ["anna", "anna", "ben"]
    assert len({sample.subject for sample in read_pairs(*folders).samples}) == 3
    with pytest.raises(OptionError, match="finds no subject"):
        read_pairs(*folders, group="carl")


@pytest.mark.slow
def test_differences_in_pairs_are_much_surer_than_those_of_two_intervals():
    first = evaluation(subjects(DICES), "first")
    better = DICES + np.random.default_rng(2).uniform(0, 0.04, 40)
    second = evaluation(subjects(better), "second")

    comparison = second.compare(first)

    difference = comparison.differences["dice"]
    assert (comparison.photographs, comparison.subjects) == (40, 40)
    expected = second.total.figures.dice - first.total.figures.dice
    assert difference.value == pytest.approx(expected)
    assert 0 < difference.low < difference.value < difference.high
    assert first.intervals()["dice"].high > second.intervals()["dice"].low
    back = first.compare(second).differences["dice"]
    assert back == pytest.approx((-difference.value, -difference.high, -difference.low))


def test_only_photographs_in_both_are_compared():
    images = subjects(DICES)
    comparison = evaluation(images[3:]).compare(evaluation(images[:-1]))
    assert (comparison.photographs, comparison.subjects) == (36, 36)
    assert comparison.differences["dice"] == (0, 0, 0)
    with pytest.raises(OptionError, match="share no photograph"):
        evaluation(images[:3]).compare(evaluation(images[3:]))


def test_evaluations_against_different_labels_cannot_be_compared(tmp_path):
    folder = drawn.chase_db1(tmp_path / "data")
    model = models.tiny_model(tmp_path)
    first, second = (
        evaluate(model, read_dataset(folder, "chase_db1", observer=observer).samples)
        for observer in (1, 2)
    )
    with pytest.raises(OptionError, match=r"different files of 'Image_11L' \(label\)"):
        first.compare(second)


def test_limits_of_agreement():
    """Densities of labels are 0.1, and those of masks differ from it by known amounts."""
    differences = [0.01, 0.03, -0.01, 0.02]
    images = []
    for place, difference in enumerate(differences):
        counts = Confusion(tp=100, fp=round(1000 * difference), fn=0, tn=0)
        if difference < 0:
            counts = Confusion(tp=90, fp=0, fn=10, tn=0)
        counts = Confusion(*counts[:3], tn=1000 - sum(counts))
        images.append(Result(f"{place}", counts, counts, Confusion(50), Confusion(50), math.nan))

    agreement = evaluation(images).agreement()["density"]

    assert agreement.number == 4
    assert agreement.bias == pytest.approx(np.mean(differences))
    spread = 1.96 * np.std(differences, ddof=1)
    assert agreement.low == pytest.approx(agreement.bias - spread)
    assert agreement.high == pytest.approx(agreement.bias + spread)


def test_agreement_leaves_out_photographs_without_a_width():
    images = [photograph("a", "a", 0.8), photograph("b", "b", 0.7, density=0)]
    agreement = evaluation(images).agreement()
    assert agreement["width"].number == 1
    assert math.isnan(agreement["width"].low)
    assert agreement["density"].number == 2


def test_the_digest_of_the_data_changes_with_a_label(tmp_path):
    dataset = read_pairs(drawn.pairs(tmp_path) / "images", tmp_path / "labels")
    model = models.tiny_model(tmp_path)
    first = evaluate(model, dataset.samples).data_digest
    assert evaluate(model, dataset.samples[::-1]).data_digest == first
    drawn.write(dataset.samples[1].label, drawn.vessels(9))
    assert evaluate(model, dataset.samples).data_digest != first
