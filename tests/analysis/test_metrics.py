"""Metrics against values worked out by hand, and against scikit-learn and torch where those define them."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binomtest, mannwhitneyu
from sklearn.metrics import confusion_matrix, log_loss, roc_auc_score

from harness.analysis.metrics import accuracy, auc, classify, confusion, correct, cross_entropy, softmax, wilson

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 60)
LOGITS = RNG.normal(size=(60, 3)).astype(np.float32) * 3


def test_softmax_stands_large_logits_and_shows_diverged_ones():
    found = softmax(np.array([[[1000, 1000], [0, np.log(3)]], [[np.nan, 0], [-np.inf, 0]]], np.float32))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [[[0.5, 0.5], [0.25, 0.75]], [[np.nan, np.nan], [0, 1]]], rtol=1e-7)


def test_an_image_without_a_class_is_wrong_and_in_no_cell():
    logits = [[1, 0], [0, 1], [np.nan, 5], [np.inf, 0], [2, 2], [-np.inf, 0]]
    predicted = classify(logits)
    assert predicted.tolist() == [0, 1, -1, -1, 0, 1]
    labels = [0, 0, 0, 1, 0, 1]
    assert correct(labels, predicted) == 3
    assert accuracy(labels, predicted) == 0.5
    assert confusion(labels, predicted, 2).tolist() == [[2, 1], [0, 1]]
    assert auc(labels, softmax(logits)) is None


def test_against_scikit_learn():
    predicted = classify(LOGITS)
    np.testing.assert_array_equal(confusion(LABELS, predicted, 3), confusion_matrix(LABELS, predicted))
    assert cross_entropy(LABELS, LOGITS) == pytest.approx(log_loss(LABELS, softmax(LOGITS)))
    assert auc(LABELS, softmax(LOGITS)) == pytest.approx(roc_auc_score(LABELS, softmax(LOGITS), multi_class="ovr"))
    binary = LABELS > 0
    assert auc(binary, softmax(LOGITS[:, :2])) == pytest.approx(roc_auc_score(binary, softmax(LOGITS[:, :2])[:, 1]))


def test_a_class_that_is_never_predicted_has_a_column():
    assert confusion([0, 2], [0, 0], 3).tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("labels", "probabilities", "expected"),
    [
        ([0, 1, 0, 1], [[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]], 1.0),
        ([0, 1, 0, 1], [[1, 0], [0, 1], [0, 1], [1, 0]], 0.5),  # votes: certain, and tied
        ([1, 1], [[0.5, 0.5], [0.1, 0.9]], None),
        ([], np.zeros((0, 2)), None),
        ([0, 0, 2, 2], [[0.8, 0.1, 0.1], [0.2, 0.3, 0.5], [0.3, 0.3, 0.4], [0.1, 0.1, 0.8]], 0.75),  # class 1 is absent
    ],
)
def test_auc(labels, probabilities, expected):
    assert auc(labels, probabilities) == expected


def test_auc_ranks_images_of_which_the_network_is_too_sure_for_a_double():
    logits = np.array([[0, 50], [0, 60], [50, 0], [60, 0]], np.float32)
    assert softmax(logits)[0, 1] == softmax(logits)[1, 1] == 1.0
    assert auc([0, 1, 0, 0], softmax(logits)) == 1.0


def test_wilson_gives_the_published_interval():
    # Newcombe 1998, table I, doi 10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E
    for (right, n), published in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
    }.items():
        assert wilson(right, n) == pytest.approx(published, abs=5e-5)
    low, high = wilson(545, 624, confidence=0.99)
    assert low < wilson(545, 624)[0] < 545 / 624 < wilson(545, 624)[1] < high
    with pytest.raises(ValueError, match="n"):
        wilson(1, 0)


def test_what_is_written_by_hand_is_scipys():
    for n in (1, 2, 7, 624):
        for right in {0, 1, n // 2, n - 1, n}:
            for confidence in (0.9, 0.95):
                theirs = binomtest(right, n).proportion_ci(confidence, method="wilson")
                assert wilson(right, n, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    draws = np.random.default_rng(0)
    for levels in (2, 5, 1000):  # few levels make many ties
        labels, scores = draws.integers(0, 2, 200), draws.integers(0, levels, 200) / levels
        one, other = scores[labels == 1], scores[labels == 0]
        expected = mannwhitneyu(one, other).statistic / (len(one) * len(other))
        assert auc(labels, np.stack([1 - scores, scores], axis=1)) == pytest.approx(expected, abs=1e-12)


def test_importing_it_is_cheap():
    script = "import sys, harness.analysis.metrics; assert not {'torch', 'sklearn', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
