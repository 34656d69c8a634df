"""Figures of merit as pure functions of stored predictions: labels (n,), logits and probabilities (n, classes).

An image whose logits have no finite maximum, as those of a diverged network, belongs to no class: :func:`classify` says
-1, its probabilities are NaN, it counts as wrong, and it is in no cell of the confusion matrix.
"""

from __future__ import annotations

import importlib
import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "accuracy",
    "auc",
    "classify",
    "confusion",
    "correct",
    "cross_entropy",
    "load_libraries",
    "log_odds",
    "rank_auc",
    "softmax",
    "wilson",
]


def load_libraries() -> None:
    """Import now what these functions would import when they are first called, which takes a while."""
    importlib.import_module("scipy.special")


def softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Return probabilities of the shape of ``logits`` (..., classes), computed in float64."""
    from scipy import special

    with np.errstate(invalid="ignore"):
        return np.asarray(special.softmax(np.asarray(logits, np.float64), axis=-1), np.float64)


def classify(scores: ArrayLike) -> NDArray[np.int64]:
    """Return labels (n,): where ``scores`` (n, classes) are highest, the first of equals; -1 where nowhere."""
    scores = np.asarray(scores)
    return np.where(np.isfinite(scores.max(axis=1)), scores.argmax(axis=1), -1).astype(np.int64)


def correct(labels: ArrayLike, predicted: ArrayLike) -> int:
    """Count the images (n,) that were classified rightly."""
    return int(np.count_nonzero(np.asarray(labels) == np.asarray(predicted)))


def accuracy(labels: ArrayLike, predicted: ArrayLike) -> float:
    """Return the share of images (n,) that were classified rightly; NaN where there are no images."""
    n = len(np.asarray(labels))
    return correct(labels, predicted) / n if n else float("nan")


def confusion(labels: ArrayLike, predicted: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Count images by [true label, predicted label], shape (classes, classes)."""
    labels, predicted = np.asarray(labels, np.int64), np.asarray(predicted, np.int64)
    cells = (labels * classes + predicted)[predicted >= 0]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def cross_entropy(labels: ArrayLike, logits: ArrayLike) -> float:
    """Return the mean over images of minus the log probability of the true class, in nats."""
    from scipy import special

    labels = np.asarray(labels, np.int64)
    with np.errstate(invalid="ignore"):
        log_probabilities = special.log_softmax(np.asarray(logits, np.float64), axis=-1)
    return float(-np.take_along_axis(log_probabilities, labels[:, None], axis=-1).mean())


def auc(labels: ArrayLike, probabilities: ArrayLike) -> float | None:
    """Return the area under the ROC curve, or None where it is not defined.

    Two classes: that of class 1. More: one class against the rest, averaged over the classes that occur. Images are
    ranked by the odds of the class rather than its probability, which rounds to 1 where a network is very sure.

    Args:
        labels: (n,)
        probabilities: (n, classes), each row summing to one.

    Returns:
        None where fewer than two classes occur, or where a probability is NaN.
    """
    labels, probabilities = np.asarray(labels, np.int64), np.asarray(probabilities, np.float64)
    occurring = np.unique(labels)
    if len(occurring) < 2 or np.isnan(probabilities).any():
        return None
    ranked = [1] if probabilities.shape[1] == 2 else occurring
    return float(np.mean([rank_auc(labels == label, log_odds(probabilities, label)) for label in ranked]))


def rank_auc(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Return the area under the ROC curve of one score an image: Mann and Whitney's statistic, as a share of the pairs.

    Equal scores share their mean rank.

    Args:
        positive: (n,), with images of both kinds.
        scores: (n,)
    """
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[which]
    n = int(positive.sum())
    return float(ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n))


def log_odds(probabilities: NDArray[np.float64], label: int) -> NDArray[np.float64]:
    """Return how sure the network is that images are of class ``label``, (n,), as the logarithm of its odds.

    It ranks images that a probability, which rounds to 1, would not tell apart; ends are at -1e9 and 1e9.

    Args:
        probabilities: (n, classes), each row summing to one.
        label: a class.
    """
    with np.errstate(divide="ignore"):
        rest = np.log(np.delete(probabilities, label, axis=1).sum(axis=1))
        odds: NDArray[np.float64] = np.log(probabilities[:, label]) - rest
    return odds.clip(-1e9, 1e9)


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval (Wilson 1927) of the share ``correct / n``.

    Raises:
        ValueError: there is no such share.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} of {n} is no share")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre, half = correct + z**2 / 2, z * math.sqrt(correct * (n - correct) / n + z**2 / 4)
    return max(0.0, (centre - half) / (n + z**2)), min(1.0, (centre + half) / (n + z**2))
