"""Agreement of masks and probabilities with labels, against other implementations."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from vesselseg import MissingExtraError, OptionError, metrics
from vesselseg.metrics import Confusion, confusion

LABEL = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], dtype=bool)
MASK = np.array([[1, 1, 0, 1], [0, 0, 0, 0]], dtype=bool)
NOTHING = np.zeros((2, 4), dtype=bool)


def noisy(seed: int, shape: tuple[int, int] = (60, 70)) -> tuple[np.ndarray, np.ndarray]:
    """A probability of float32, many values occurring twice, and a label that it half knows."""
    rng = np.random.default_rng(seed)
    probability = rng.random(shape, dtype=np.float32).round(3)
    return probability, probability + rng.normal(0, 0.3, shape) > 0.9


def test_counts_and_scores_equal_those_computed_by_hand():
    counts = confusion(MASK, LABEL)

    assert counts == Confusion(tp=2, fp=1, fn=1, tn=4)
    assert metrics.dice(counts) == 4 / 6
    assert metrics.sensitivity(counts) == 2 / 3
    assert metrics.specificity(counts) == 4 / 5
    assert metrics.accuracy(counts) == 6 / 8


def test_pixels_outside_the_field_of_view_are_not_counted():
    fov = np.array([[1, 0, 1, 1], [0, 0, 1, 1]])

    assert confusion(MASK, LABEL, fov) == Confusion(tp=1, fp=1, fn=1, tn=2)


def test_added_counts_are_those_of_all_pixels_together():
    halves = [confusion(MASK[:, :2], LABEL[:, :2]), confusion(MASK[:, 2:], LABEL[:, 2:])]

    assert sum(halves) == halves[0] + halves[1] == confusion(MASK, LABEL)


@pytest.mark.parametrize("white", [1, 255, 65535, 1.0])
def test_masks_may_be_numbers_of_two_values(white):
    as_numbers = np.where(MASK, white, 0)

    assert confusion(as_numbers, LABEL.astype(np.uint8), LABEL | MASK).tp == 2


@pytest.mark.slow
def test_scores_equal_those_of_scikit_learn():
    from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score

    probability, label = noisy(0)
    mask, fov = probability > 0.5, np.indices(label.shape).sum(axis=0) > 30
    counts = confusion(mask, label, fov)
    given = label[fov], mask[fov]

    close = partial(pytest.approx, abs=1e-12)
    assert metrics.dice(counts) == close(f1_score(*given))
    assert metrics.sensitivity(counts) == close(recall_score(*given))
    assert metrics.specificity(counts) == close(recall_score(*given, pos_label=0))
    assert metrics.accuracy(counts) == close(accuracy_score(*given))
    for scores in (probability, np.rint(probability * 65535).astype(np.uint16)):
        expected = close(roc_auc_score(label[fov], scores[fov]))
        assert metrics.auc(scores, label, fov) == expected


def test_auc_of_several_images_is_that_of_their_pixels_together():
    (p1, l1), (p2, l2) = noisy(3), noisy(4)
    probability, label = np.concatenate([p1, p2]), np.concatenate([l1, l2])
    before = probability.copy()

    together = metrics.auc(probability, label)

    vessel, background = np.concatenate([p1[l1], p2[l2]]), np.concatenate([p1[~l1], p2[~l2]])
    assert metrics.auc_of_scores(vessel, background) == together
    assert np.array_equal(probability, before)  # arguments stay as they are


def test_cldice_equals_its_definition_with_the_skeletons_of_scikit_image():
    from skimage.draw import ellipse_perimeter, line
    from skimage.morphology import dilation, disk, skeletonize

    label = np.zeros((80, 90), dtype=bool)
    label[line(5, 5, 70, 80)] = label[ellipse_perimeter(40, 45, 20, 30)] = True
    label = dilation(label, disk(2)).astype(bool)
    mask = np.roll(label, 3, axis=1) & (np.indices(label.shape)[0] < 60)
    of_mask, of_label = skeletonize(mask), skeletonize(label)
    precision, sensitivity = label[of_mask].mean(), mask[of_label].mean()

    expected = 2 * precision * sensitivity / (precision + sensitivity)

    assert 0.1 < expected < 0.9
    assert metrics.cldice(mask, label) == pytest.approx(expected, abs=1e-12)


def test_cldice_ignores_the_width_of_vessels():
    wide, narrow = np.zeros((2, 30, 60), dtype=bool)
    wide[10:19, 5:55] = narrow[13:16, 5:55] = True

    assert metrics.dice(confusion(narrow, wide)) < 0.6
    assert metrics.cldice(narrow, wide) == 1


def test_cldice_counts_only_the_field_of_view():
    label = np.zeros((40, 40), dtype=bool)
    label[10, 5:35] = True
    mask = label.copy()
    mask[30, 5:35] = True
    upper = np.indices(label.shape)[0] < 20

    assert metrics.cldice(mask, label) < 1
    assert metrics.cldice(mask, label, upper) == 1


def test_cldice_of_several_images_is_that_of_their_pixels_together():
    bars = [(slice(4, 9), slice(5, 35)), (slice(18, 21), slice(3, 30)), (slice(6, 8), slice(9, 20))]
    images = np.zeros((3, 30, 40), dtype=bool)
    for image, bar in zip(images, bars, strict=True):
        image[bar] = True
    first, second = (images[0] | images[1], images[0]), (images[2], images[1] | images[2])

    counts = zip(metrics.skeleton_counts(*first), metrics.skeleton_counts(*second), strict=True)
    pooled = metrics.cldice_of_counts(*(sum(pair, Confusion()) for pair in counts))

    assert pooled == metrics.cldice(*np.concatenate([first, second], axis=1))
    assert pooled not in (metrics.cldice(*first), metrics.cldice(*second))


# What has no value is NaN, and what has one is not.
@pytest.mark.parametrize(
    ("mask", "label", "expected"),
    [
        (NOTHING, NOTHING, {"dice": math.nan, "sensitivity": math.nan, "specificity": 1,
                            "accuracy": 1, "cldice": math.nan}),
        (MASK, NOTHING, {"dice": 0, "sensitivity": math.nan, "specificity": 5 / 8,
                         "accuracy": 5 / 8, "cldice": 0}),
        (NOTHING, LABEL, {"dice": 0, "sensitivity": 0, "specificity": 1,
                          "accuracy": 5 / 8, "cldice": 0}),
        (~NOTHING, ~NOTHING, {"dice": 1, "sensitivity": 1, "specificity": math.nan,
                              "accuracy": 1, "cldice": 1}),
    ],
    ids=["no vessel at all", "no vessel in the label", "no vessel in the mask", "vessels only"],
)  # fmt: skip
def test_undefined_scores_are_nan_and_others_are_not(mask, label, expected):
    counts = confusion(mask, label)
    figures = {name: getattr(metrics, name)(counts) for name in expected if name != "cldice"}
    figures["cldice"] = metrics.cldice(mask, label)

    assert figures == pytest.approx(expected, nan_ok=True)


def test_scores_of_an_empty_field_of_view_are_nan():
    counts = confusion(MASK, LABEL, NOTHING)

    assert counts == Confusion(0, 0, 0, 0)
    assert math.isnan(metrics.accuracy(counts))
    assert math.isnan(metrics.auc(MASK, LABEL, NOTHING))


@pytest.mark.parametrize("label", [NOTHING, ~NOTHING])
def test_auc_of_a_single_class_is_nan(label):
    assert math.isnan(metrics.auc(np.linspace(0, 1, 8).reshape(2, 4), label))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confusion(MASK, LABEL[:1]), r"mask has the shape \(2, 4\), but"),
        (lambda: confusion(MASK, LABEL, LABEL.T), r"fov has the shape \(4, 2\)"),
        (lambda: confusion(np.array([[0.2, 0.7]]), [[0, 1]]), "needs a threshold first"),
        (lambda: confusion([[0, -1]], [[0, 1]]), "mask must be bool"),
        (lambda: confusion([[-1, -1]], [[0, 1]]), "mask must be bool"),
        (lambda: metrics.auc(np.ones(3), [0, 1]), r"probability has the shape \(3,\)"),
        (lambda: metrics.auc([0.1, math.nan], [0, 1]), "not numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_rejected(call, message):
    with pytest.raises(OptionError, match=message):
        call()


def test_without_scikit_image_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.morphology", None)

    with pytest.raises(MissingExtraError, match=r"pip install .*\[eval\]"):
        metrics.cldice(MASK, LABEL)
    assert confusion(MASK, LABEL).tp == 2  # all else needs NumPy alone


def test_metrics_need_neither_torch_nor_scikit_image_to_be_imported():
    code = "import sys, vesselseg.metrics; print({'torch', 'skimage'} & set(sys.modules))"

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "set()"
