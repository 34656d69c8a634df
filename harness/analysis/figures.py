"""All figures of merit of one prediction, most of them scikit-learn's.

An image whose probabilities are NaN, as of a diverged network, belongs to no class: it counts as wrong, and figures
that need its probabilities (all of scores, losses and calibration) are not defined. What is not defined is None.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.analysis.metrics import auc, classify, correct, log_odds
from harness.errors import DataError

__all__ = ["ClassFigures", "Figures", "brier", "calibration_error", "figures", "log_loss"]

BINS = 15


@dataclass(frozen=True)
class ClassFigures:
    """One class against the rest.

    Args:
        images: of the class.
        recall: share of them that were classified as it; None where there are none.
        precision: share of what was classified as it that is of it; None where nothing was.
        f1: harmonic mean of both; None where the class neither occurs nor was predicted.
        average_precision: mean precision over the images of the class, ranked by their odds; None where there are none.
    """

    images: int
    recall: float | None
    precision: float | None
    f1: float | None
    average_precision: float | None


@dataclass(frozen=True)
class Figures:
    """Figures of merit of a prediction.

    Args:
        images: how many there are.
        correct: how many were classified rightly.
        balanced_accuracy: mean recall of the classes that occur.
        sensitivity: recall of class 1; None with more than two classes.
        specificity: recall of class 0; None with more than two classes.
        f1: of class 1; with more than two classes the mean of those that have one.
        auc: as of :func:`harness.analysis.metrics.auc`.
        average_precision: of class 1; with more than two classes the mean of those that occur.
        log_loss: mean of minus the log probability of the true class, in nats; None also where a true class got 0.
        brier: mean squared distance of class 1's probability from 1 or 0 (Brier 1950); with more than two classes
            summed over the classes, so from 0 to 2.
        calibration_error: as of :func:`calibration_error`.
        classes: of each class.
    """

    images: int
    correct: int
    balanced_accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    f1: float | None
    auc: float | None
    average_precision: float | None
    log_loss: float | None
    brier: float | None
    calibration_error: float | None
    classes: tuple[ClassFigures, ...]


def figures(labels: ArrayLike, probabilities: ArrayLike, predicted: ArrayLike | None = None) -> Figures:
    """Compute all figures.

    Args:
        labels: (n,), from 0.
        probabilities: (n, classes), each row summing to one; of logits :func:`harness.analysis.metrics.softmax`.
        predicted: (n,), the classes decided on, -1 for none; by default the most probable ones.

    Raises:
        DataError: the arrays are not of the same images and classes.
    """
    truth, scores = np.asarray(labels, np.int64), np.asarray(probabilities, np.float64)
    if scores.ndim != 2 or len(scores) != len(truth) or (truth < 0).any() or (truth >= scores.shape[1]).any():
        raise DataError(
            f"{len(truth)} labels up to {truth.max(initial=-1)} do not go with probabilities of shape {scores.shape}, "
            "which must be (images, classes)"
        )
    decided = classify(scores) if predicted is None else np.asarray(predicted, np.int64)
    if decided.shape != truth.shape:
        raise DataError(f"There are {len(truth)} labels and {decided.size} predicted ones: give one of each an image")
    known = bool(len(truth)) and not np.isnan(scores).any()
    classes = _classes(truth, scores, decided, known)
    binary = len(classes) == 2
    summed = classes[1:] if binary else classes
    return Figures(
        images=len(truth),
        correct=correct(truth, decided),
        balanced_accuracy=_mean([one.recall for one in classes]),
        sensitivity=classes[1].recall if binary else None,
        specificity=classes[0].recall if binary else None,
        f1=_mean([one.f1 for one in summed]),
        auc=auc(truth, scores),
        average_precision=_mean([one.average_precision for one in summed]),
        log_loss=log_loss(truth, scores) if known else None,
        brier=brier(truth, scores) if known else None,
        calibration_error=calibration_error(truth, scores),
        classes=classes,
    )


def calibration_error(labels: ArrayLike, probabilities: ArrayLike) -> float | None:
    """Return the expected calibration error (Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017).

    Images fall into 15 bins of equal width by the probability of their most probable class, a bin holding its upper
    end. The error is the mean over images of the distance, in their bin, between the share that is right and the mean
    of that probability. scikit-learn has none.

    Args:
        labels: (n,)
        probabilities: (n, classes), each row summing to one.

    Returns:
        None where there are no images, or a probability is NaN.
    """
    truth, scores = np.asarray(labels, np.int64), np.asarray(probabilities, np.float64)
    if not len(truth) or np.isnan(scores).any():
        return None
    confidence = scores.max(axis=1)
    bins = np.digitize(confidence, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
    surplus = np.bincount(bins, confidence - (scores.argmax(axis=1) == truth), BINS)
    return float(np.abs(surplus).sum() / len(truth))


def _classes(
    truth: NDArray[np.int64], scores: NDArray[np.float64], decided: NDArray[np.int64], known: bool
) -> tuple[ClassFigures, ...]:
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support

    names = range(scores.shape[1])
    if not len(truth):
        return tuple(ClassFigures(0, None, None, None, None) for _ in names)
    found = precision_recall_fscore_support(truth, decided, labels=names, zero_division=np.nan)
    classes = []
    for name, precision, recall, f1, images in zip(names, *found, strict=True):
        ranked = average_precision_score(truth == name, log_odds(scores, name)) if known and images else None
        classes.append(ClassFigures(int(images), *map(_defined, (recall, precision, f1, ranked))))
    return tuple(classes)


def _defined(figure: float | None) -> float | None:
    return None if figure is None or not np.isfinite(figure) else float(figure)


def _mean(found: list[float | None]) -> float | None:
    defined = [one for one in found if one is not None]
    return float(np.mean(defined)) if defined else None


def log_loss(truth: NDArray[np.int64], scores: NDArray[np.float64]) -> float | None:
    """Return the mean of minus the log probability of the true class, in nats; None where one got 0.

    scikit-learn's clips probabilities of 0, which hides that the loss has no bound.

    Args:
        truth: (n,), from 0; at least one.
        scores: probabilities (n, classes), none of them NaN.
    """
    with np.errstate(divide="ignore"):
        return _defined(-np.log(scores[np.arange(len(truth)), truth]).mean())


def brier(truth: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    """Return the Brier score, as of :class:`Figures`; arguments as of :func:`log_loss`.

    scikit-learn's refuses rows that do not sum to one to the last digits, as of float32.
    """
    squares = (scores - np.eye(scores.shape[1])[truth]) ** 2
    return float((squares[:, 1] if scores.shape[1] == 2 else squares.sum(axis=1)).mean())
