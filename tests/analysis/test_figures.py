"""Figures of merit against scikit-learn and by hand; what is chosen on validation images against a search."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as theirs

from harness.analysis.figures import Figures, calibration_error, figures
from harness.analysis.metrics import classify, cross_entropy, softmax
from harness.analysis.validation import classify_at, temperature, threshold_on_validation
from harness.errors import DataError

DRAWS = np.random.default_rng(0)
LABELS = DRAWS.integers(0, 3, 90)
LOGITS = DRAWS.normal(size=(90, 3)) * 2 + np.eye(3)[LABELS]
BINARY, OF_TWO = (LABELS > 0).astype(int), softmax(LOGITS[:, :2])
OF_THREE = softmax(LOGITS)


def test_two_classes_against_scikit_learn() -> None:
    found, predicted = figures(BINARY, OF_TWO), classify(OF_TWO)
    assert (found.images, found.correct) == (90, int((predicted == BINARY).sum()))
    expected = {
        "balanced_accuracy": theirs.balanced_accuracy_score(BINARY, predicted),
        "sensitivity": theirs.recall_score(BINARY, predicted),
        "specificity": theirs.recall_score(BINARY, predicted, pos_label=0),
        "f1": theirs.f1_score(BINARY, predicted),
        "auc": theirs.roc_auc_score(BINARY, OF_TWO[:, 1]),
        "average_precision": theirs.average_precision_score(BINARY, OF_TWO[:, 1]),
        "log_loss": theirs.log_loss(BINARY, OF_TWO),
        "brier": theirs.brier_score_loss(BINARY, OF_TWO[:, 1]),
    }
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value), name
    assert [one.images for one in found.classes] == np.bincount(BINARY).tolist()
    assert found.classes[0].precision == pytest.approx(theirs.precision_score(BINARY, predicted, pos_label=0))


def test_three_classes_against_scikit_learn() -> None:
    found, predicted = figures(LABELS, OF_THREE), classify(OF_THREE)
    assert (found.sensitivity, found.specificity) == (None, None)
    assert found.balanced_accuracy == pytest.approx(theirs.balanced_accuracy_score(LABELS, predicted))
    assert found.f1 == pytest.approx(theirs.f1_score(LABELS, predicted, average="macro"))
    for label, one in enumerate(found.classes):
        is_it = label == LABELS
        assert one.average_precision == pytest.approx(theirs.average_precision_score(is_it, OF_THREE[:, label]))
        assert one.recall == pytest.approx(theirs.recall_score(is_it, predicted == label))
    assert found.average_precision == pytest.approx(np.mean([one.average_precision for one in found.classes]))
    assert found.log_loss == pytest.approx(theirs.log_loss(LABELS, OF_THREE))
    assert found.log_loss == pytest.approx(cross_entropy(LABELS, LOGITS))
    assert found.brier == pytest.approx(((OF_THREE - np.eye(3)[LABELS]) ** 2).sum() / 90)


def test_calibration_error_by_hand() -> None:
    """Two bins: 0.8 holds its upper end (12/15), with 1 of 2 right; 0.9 has 2 of 2 right; and 0.55 is wrong."""
    confidence = np.array([0.8, 0.79, 0.9, 0.91, 0.55])
    probabilities = np.stack([1 - confidence, confidence], axis=1)
    labels = [1, 0, 1, 1, 0]
    by_hand = (2 * abs(0.5 - (0.8 + 0.79) / 2) + 2 * abs(1 - 0.905) + abs(0 - 0.55)) / 5
    assert calibration_error(labels, probabilities) == pytest.approx(by_hand)
    assert calibration_error([0, 1], [[1, 0], [0, 1]]) == 0
    assert calibration_error([1, 1], [[1, 0], [1, 0]]) == 1
    assert calibration_error([0, 1], [[0.5, 0.5], [0.5, 0.5]]) == 0


def test_a_calibrated_network_has_little_error_and_a_sharpened_one_more() -> None:
    draws = np.random.default_rng(1)
    logits = draws.normal(size=(20_000, 2)) * 2
    labels = (draws.random(20_000) < softmax(logits)[:, 1]).astype(int)
    calibrated, sharpened = (calibration_error(labels, softmax(logits * factor)) for factor in (1, 3))
    assert calibrated is not None
    assert sharpened is not None
    assert calibrated < 0.015 < 0.05 < sharpened


def test_images_of_a_diverged_network_are_wrong() -> None:
    logits = np.array([[2.0, 0], [np.nan, 1], [0, 2], [0, 1]])
    found = figures([0, 0, 1, 1], softmax(logits))
    assert (found.correct, found.sensitivity, found.specificity, found.balanced_accuracy) == (3, 1, 0.5, 0.75)
    assert found.classes[0].precision == 1
    undefined = (found.auc, found.average_precision, found.log_loss, found.brier, found.calibration_error)
    assert undefined == (None,) * 5
    nothing = figures([0, 1], np.full((2, 2), np.nan))
    assert (nothing.correct, nothing.sensitivity, nothing.f1, nothing.classes[1].precision) == (0, 0, 0, None)


def test_what_is_not_defined_is_none() -> None:
    alike = figures([0, 0], [[0.9, 0.1], [0.8, 0.2]])
    assert (alike.sensitivity, alike.specificity, alike.balanced_accuracy) == (None, 1, 1)
    assert (alike.f1, alike.auc, alike.average_precision, alike.classes[1].recall) == (None,) * 4
    votes = figures([0, 1], [[0, 1], [0, 1]])
    assert votes.log_loss is None, "a true class had no vote"
    assert votes.brier == 0.5
    empty = figures([], np.zeros((0, 2)))
    assert empty.images == 0
    assert {
        getattr(empty, name) for name in Figures.__dataclass_fields__ if name not in ("images", "correct", "classes")
    } == {None}


def test_decisions_may_be_others_than_the_most_probable() -> None:
    found = figures([0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]], classify_at([0.1, 0.4, 0.7], 0.4))
    assert (found.correct, found.sensitivity) == (3, 1)
    assert found.calibration_error == figures([0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]).calibration_error


def test_networks_that_are_too_sure_for_a_double_are_ranked() -> None:
    probabilities = softmax([[0, 50], [0, 60], [50, 0], [60, 0]])
    assert figures([0, 1, 0, 0], probabilities).average_precision == 1


@pytest.mark.parametrize(("labels", "shape"), [([0, 1], (3, 2)), ([0, 2], (2, 2)), ([0, -1], (2, 2)), ([0, 1], (2,))])
def test_labels_and_probabilities_go_together(labels: list[int], shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="do not go with"):
        figures(labels, np.full(shape, 0.5))
    with pytest.raises(DataError, match="predicted"):
        figures([0, 1], np.full((2, 2), 0.5), [0])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), *[st.integers(-40, 40)] * 3), min_size=1, max_size=40), st.randoms())
def test_the_order_of_images_and_classes_does_not_matter(images: list[tuple[int, ...]], chance) -> None:
    def of(rows: list[tuple[int, ...]]) -> Figures:
        table = np.array(rows)
        return figures(table[:, 0], softmax(table[:, 1:] + np.array([0, 0.25, 0.5])))

    found = of(images)
    chance.shuffle(images)
    shuffled = of(images)
    for name in (
        "correct",
        "balanced_accuracy",
        "f1",
        "auc",
        "average_precision",
        "log_loss",
        "brier",
        "calibration_error",
    ):
        assert getattr(shuffled, name) == pytest.approx(getattr(found, name)), name
    table = np.array(images)
    renamed = figures((table[:, 0] + 1) % 3, np.roll(softmax(table[:, 1:] + np.array([0, 0.25, 0.5])), 1, axis=1))
    assert renamed.f1 == pytest.approx(shuffled.f1)
    assert renamed.brier == pytest.approx(shuffled.brier)


# --- chosen on validation images


def _by_search(labels: np.ndarray, values: np.ndarray, rule: str) -> float:
    """The best of what any threshold reaches."""
    best = -math.inf
    for threshold in [*values, 2.0]:
        predicted = values >= threshold
        if rule == "accuracy":
            reached = float((predicted == labels).mean())
        else:
            reached = float(predicted[labels == 1].mean() - predicted[labels == 0].mean())
        best = max(best, reached)
    return best


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 12)), min_size=2, max_size=40),
    st.sampled_from(["youden", "accuracy"]),
)
def test_no_threshold_is_better(images: list[tuple[int, int]], rule: str) -> None:
    labels, values = np.array(images).T
    values = values / 12
    found = threshold_on_validation(labels, values, rule)  # type: ignore[arg-type]
    if rule == "youden" and len(set(labels.tolist())) < 2:
        assert found is None
        return
    assert found is not None
    predicted = classify_at(values, found)
    if rule == "accuracy":
        reached = float((predicted == labels).mean())
    else:
        reached = float(predicted[labels == 1].mean() - predicted[labels == 0].mean())
    assert reached == pytest.approx(_by_search(labels, values, rule))


@pytest.mark.parametrize(
    ("labels", "values", "rule", "expected"),
    [
        ([0, 0, 1, 1], [0.7, 0.8, 0.9, 0.95], "youden", pytest.approx(0.85)),
        ([0, 0, 1, 1], [0.1, 0.2, 0.9, 0.95], "youden", 0.5),  # one of those between 0.2 and 0.9
        ([0, 1, 0, 1], [0.25, 0.375, 0.625, 0.75], "youden", 0.3125),  # and 0.6875, as far from 0.5
        ([1, 1, 1], [0.6, 0.7, 0.9], "accuracy", 0.5),
        ([1, 1], [0.2, 0.4], "accuracy", 0.1),
        ([0, 0], [1.0, 0.2], "accuracy", math.nextafter(1, 2)),
        ([0, 1], [0.0, 0.0], "youden", 0.5),
        ([0, 1], [0.9, math.nextafter(0.9, 1)], "youden", math.nextafter(0.9, 1)),  # nothing lies between
        ([0, 1], [0.5, math.nan], "accuracy", None),
        ([], [], "accuracy", None),
        ([1, 1], [0.2, 0.4], "youden", None),
    ],
)
def test_ties_between_thresholds(labels: list[int], values: list[float], rule: str, expected: float | None) -> None:
    assert threshold_on_validation(labels, values, rule) == expected  # type: ignore[arg-type]


def test_thresholds_are_of_probabilities() -> None:
    with pytest.raises(DataError, match="from 0 to 1"):
        threshold_on_validation([0, 1], [0.5, 1.5])
    with pytest.raises(DataError, match="2 labels"):
        threshold_on_validation([0, 1], [0.5])
    assert classify_at([0.5, math.nan, 0.4], 0.5).tolist() == [1, -1, 0]


@pytest.mark.parametrize("factor", [0.25, 1, 4])
def test_temperature_undoes_what_sharpened_the_logits(factor: float) -> None:
    draws = np.random.default_rng(2)
    logits = draws.normal(size=(20_000, 3)) * 2
    labels = (draws.random((20_000, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1)
    found = temperature(labels, logits * factor)
    assert found == pytest.approx(factor, rel=0.05)
    losses = [cross_entropy(labels, logits * factor / t) for t in (found, found * 1.01, found / 1.01)]
    assert losses[0] == min(losses)


def test_temperature_has_ends() -> None:
    right, wrong = temperature([0, 1], [[5, 0], [0, 5]]), temperature([1, 0], [[5, 0], [0, 5]])
    assert right is not None
    assert 1 / 20 <= right < 1 / 5
    assert cross_entropy([0, 1], np.array([[5, 0], [0, 5]]) / right) < 1e-12
    assert wrong == pytest.approx(20, rel=1e-4)
    assert temperature([0, 1], [[3, 3], [1, 1]]) == 1
    assert temperature([0], [[math.nan, 1]]) is None
    assert temperature([], np.zeros((0, 2))) is None
