"""What is chosen on validation images: a threshold, and a temperature. Never give these test images."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.analysis.metrics import cross_entropy
from harness.errors import DataError

__all__ = ["Rule", "classify_at", "temperature", "threshold_on_validation"]

Rule = Literal["youden", "accuracy"]
HOTTEST = 20.0  # temperatures are sought from 1/20 to 20


def threshold_on_validation(labels: ArrayLike, probabilities: ArrayLike, rule: Rule = "youden") -> float | None:
    """Choose the probability of class 1 from which on an image is classified as 1.

    ``youden`` makes sensitivity + specificity - 1 greatest (Youden 1950, Cancer 3:32), whatever the shares of the
    classes; ``accuracy`` the number of images that are right, which holds for images with such shares only. Thresholds
    between the same two probabilities are equal: 0.5 stands for them if it is one of them, else the middle. Of several
    equally good ones the nearest to 0.5 is taken, of two as near the lower.

    Args:
        labels: (n,), 0 or 1, of validation images.
        probabilities: (n,), of class 1.
        rule: what to make greatest.

    Returns:
        A number from 0 to 1, or the next above 1, at which nothing is classified as 1. None where there are no images,
        where a probability is NaN, and for ``youden`` where all images are of one class.

    Raises:
        DataError: there are not as many probabilities as labels, or one is none.
    """
    positive, values = np.asarray(labels) == 1, np.asarray(probabilities, np.float64)
    if values.shape != positive.shape:
        raise DataError(
            f"There are {positive.size} labels and probabilities of shape {values.shape}: give that of class 1 for each"
        )
    if (values < 0).any() or (values > 1).any():
        raise DataError(f"Probabilities are from 0 to 1, and these from {values.min()} to {values.max()}")
    m, n = int(positive.sum()), int((~positive).sum())
    if not m + n or np.isnan(values).any() or (rule == "youden" and not (m and n)):
        return None
    distinct, which = np.unique(values, return_inverse=True)
    # from threshold to threshold, upwards: images of each class that are still classified as 1
    hits = m - np.concatenate([[0], np.cumsum(np.bincount(which, positive))])
    alarms = n - np.concatenate([[0], np.cumsum(np.bincount(which, ~positive))])
    gained = hits * n - alarms * m if rule == "youden" else hits - alarms  # whole numbers, so that ties are ties
    found = _thresholds(distinct)[gained == gained.max()]
    return float(found[np.abs(found - 0.5).argmin()])


def classify_at(probabilities: ArrayLike, threshold: float) -> NDArray[np.int64]:
    """Return 1 where the probability of class 1 (n,) is at least ``threshold``, -1 where it is NaN, else 0."""
    values = np.asarray(probabilities, np.float64)
    return np.where(np.isnan(values), -1, values >= threshold).astype(np.int64)


def temperature(labels: ArrayLike, logits: ArrayLike) -> float | None:
    """Return the number to divide logits by that makes the log loss of validation images least (Guo et al. 2017).

    It changes no decision, only how sure a network says it is. Sought from 1/20 to 20 by scipy, on a logarithmic
    scale, where the loss has one minimum. A network that is right on all images has none, and gets a number near 1/20,
    at which the loss is 0 to the last digit.

    Args:
        labels: (n,), of validation images.
        logits: (n, classes)

    Returns:
        1 where it would change nothing, as all logits of each image are equal; None where there are no images or a
        logit is not finite.
    """
    from scipy.optimize import minimize_scalar

    truth, values = np.asarray(labels, np.int64), np.asarray(logits, np.float64)
    if not values.size or not np.isfinite(values).all():
        return None
    if not np.ptp(values, axis=1).any():
        return 1.0
    end = float(np.log(HOTTEST))

    def loss(logarithm: float) -> float:
        return cross_entropy(truth, values / np.exp(logarithm))

    return float(np.exp(minimize_scalar(loss, bounds=(-end, end), method="bounded", options={"xatol": 1e-6}).x))


def _thresholds(distinct: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return one below all probabilities, one between each two, and one above all."""
    below, above = np.concatenate([[0.0], distinct]), np.concatenate([distinct, [np.nextafter(1, 2)]])
    middle = (below + above) / 2
    found = np.where((below < 0.5) & (above >= 0.5), 0.5, middle)
    return np.where(found > below, found, above)  # of neighbouring numbers the middle is the lower
