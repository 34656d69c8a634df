"""DeLong's test: against the formulas of the paper, its data, and what must not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from harness.analysis.metrics import auc, log_odds, softmax
from harness.analysis.roc import auc_interval, delong
from harness.errors import DataError

# 49 patients with ovarian cancer (DeLong, DeLong and Clarke-Pearson 1988): albumin, total protein, K-G score, and 0
# where surgery helped
PATIENTS = np.fromstring(
    """
    3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1
    3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0
    2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1
    3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0
    3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
    3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
    """,
    sep=" ",
).reshape(-1, 4)


def by_the_paper(labels: np.ndarray, *scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas and their covariance, by the sums over all pairs of the paper's equations 1 to 6."""
    areas, tens, ones = [], [], []
    for score in scores:
        x, y = score[labels == 1], score[labels != 1]
        psi = [[1.0 if b < a else 0.5 if b == a else 0.0 for b in y] for a in x]
        areas.append(sum(map(sum, psi)) / (len(x) * len(y)))
        tens.append([sum(row) / len(y) for row in psi])
        ones.append([sum(row[j] for row in psi) / len(x) for j in range(len(y))])
    m, n = len(tens[0]), len(ones[0])
    covariance = np.zeros((len(scores), len(scores)))
    for r in range(len(scores)):
        for s in range(len(scores)):
            s10 = sum((tens[r][i] - areas[r]) * (tens[s][i] - areas[s]) for i in range(m)) / (m - 1)
            s01 = sum((ones[r][j] - areas[r]) * (ones[s][j] - areas[s]) for j in range(n)) / (n - 1)
            covariance[r, s] = s10 / m + s01 / n
    return np.array(areas), covariance


@pytest.mark.parametrize("levels", [3, 20, 10_000])  # few levels make many ties
def test_against_the_formulas_of_the_paper(levels: int) -> None:
    draws = np.random.default_rng(levels)
    labels = draws.integers(0, 2, 80)
    first, second = (np.round((draws.normal(size=80) + labels) * levels / 4) for _ in range(2))
    areas, covariance = by_the_paper(labels, first, second)
    found, single = delong(labels, first, second), auc_interval(labels, first)
    assert found is not None
    assert single is not None
    assert single.interval is not None
    assert (found.first, found.second) == pytest.approx(tuple(areas), abs=1e-12)
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    difference = areas[0] - areas[1]
    assert found.difference == pytest.approx(difference)
    z = norm.ppf(0.975)
    assert found.interval == pytest.approx((difference - z * error, difference + z * error))
    assert found.p == pytest.approx(2 * norm.sf(abs(difference) / error))
    logit, of_logit = norm.ppf(0.975), math.sqrt(covariance[0, 0]) / (areas[0] * (1 - areas[0]))
    odds = [math.log(bound / (1 - bound)) for bound in single.interval]
    assert sum(odds) / 2 == pytest.approx(math.log(areas[0] / (1 - areas[0])))
    assert (odds[1] - odds[0]) / 2 == pytest.approx(logit * of_logit)


def test_as_published() -> None:
    """SAS/STAT User's Guide, LOGISTIC, *Comparing Receiver Operating Characteristic Curves*, on the paper's own data:
    the areas, and the differences from the K-G score with their intervals and p values.
    """
    albumin, protein, score, label = PATIENTS.T
    ill = (label == 0).astype(int)
    against = {"albumin": albumin, "protein": protein}
    found = {name: delong(ill, -values, score) for name, values in against.items()}
    published = {
        "albumin": (0.7366, 0.7258, 0.0108, (-0.1761, 0.1976), 0.9102),
        "protein": (0.6478, 0.7258, -0.0780, (-0.2830, 0.1271), 0.4561),
    }
    for name, (first, second, difference, interval, p) in published.items():
        one = found[name]
        assert one is not None
        assert (one.first, one.second, one.difference, one.p) == pytest.approx((first, second, difference, p), abs=6e-5)
        assert one.interval == pytest.approx(interval, abs=6e-5)


IMAGES = st.lists(st.tuples(st.integers(0, 1), st.integers(-5, 5), st.integers(-5, 5)), min_size=4, max_size=40).filter(
    lambda images: 2 <= sum(image[0] for image in images) <= len(images) - 2
)


@settings(deadline=None)
@given(IMAGES, st.randoms())
def test_only_the_order_of_scores_counts(images: list[tuple[int, int, int]], chance) -> None:
    labels, first, second = np.array(images).T
    found = delong(labels, first, second)
    assert found is not None
    assert delong(labels, np.exp(first), second**3 - 7.0) == found
    single = auc_interval(labels, first)
    assert auc_interval(labels, np.arctan(first) * 100) == single
    chance.shuffle(images)
    shuffled = delong(*np.array(images).T)
    assert shuffled is not None
    assert shuffled.p == pytest.approx(found.p)
    assert shuffled.interval == pytest.approx(found.interval)


@settings(deadline=None)
@given(IMAGES)
def test_it_is_symmetric_in_networks_and_in_classes(images: list[tuple[int, int, int]]) -> None:
    labels, first, second = np.array(images).T
    found, swapped, turned = (
        delong(labels, first, second),
        delong(labels, second, first),
        delong(1 - labels, first, second),
    )
    assert found is not None
    assert swapped is not None
    assert turned is not None
    assert swapped.difference == pytest.approx(-found.difference)
    assert turned.difference == pytest.approx(-found.difference)
    assert turned.first == pytest.approx(1 - found.first)
    assert swapped.p == pytest.approx(found.p)
    assert turned.p == pytest.approx(found.p)


def test_the_areas_are_those_shown_elsewhere() -> None:
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 2, 100)
    probabilities = softmax(draws.normal(size=(100, 2)) + 60 * np.eye(2)[labels])  # most round to 1
    found = auc_interval(labels, log_odds(probabilities, 1))
    assert found is not None
    assert found.auc == auc(labels, probabilities)


def test_what_is_not_defined() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    perfect, good = np.arange(6.0), np.array([0.0, 3, 1, 2, 5, 4])
    assert auc_interval(labels, perfect) is not None
    assert auc_interval(labels, perfect).interval is None  # type: ignore[union-attr]
    assert auc_interval(labels, -perfect).auc == 0  # type: ignore[union-attr]
    assert auc_interval(labels, np.zeros(6)).auc == 0.5  # type: ignore[union-attr]
    assert auc_interval(labels, np.zeros(6)).interval is None  # type: ignore[union-attr]
    for equal in (
        delong(labels, perfect, perfect * 2),
        delong(labels, good, good),
        delong(labels, perfect, perfect**3),
    ):
        assert equal is not None
        assert (equal.difference, equal.interval, equal.p) == (0, None, 1)
    opposite = delong(labels, perfect, -perfect)
    assert opposite is not None
    assert (opposite.difference, opposite.interval, opposite.p) == (1, None, None)
    one = delong([0, 0, 0, 1], [1, 2, 3, 2.5], [1, 2, 3, 4])
    assert one is not None
    assert (one.first, one.second, one.interval, one.p) == (pytest.approx(2 / 3), 1, None, None)
    for labels_of_one_class in (np.zeros(6), np.ones(6), np.zeros(0)):
        scores = np.zeros(len(labels_of_one_class))
        assert auc_interval(labels_of_one_class, scores) is None
        assert delong(labels_of_one_class, scores, scores) is None
    assert delong(labels, good, np.where(labels, np.nan, 0)) is None
    with pytest.raises(DataError, match=r"6 labels and scores of shape \(3,\)"):
        delong(labels, good, good[:3])


def test_infinite_scores_are_ends() -> None:
    labels = [0, 0, 1, 1]
    assert auc_interval(labels, [-math.inf, 0, -1, math.inf]) == auc_interval(labels, [-9, 0, -1, 9])
