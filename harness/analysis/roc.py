"""Areas under ROC curves of the same images, by DeLong, DeLong and Clarke-Pearson (1988, Biometrics 44:837).

Only the order of scores counts. Give log odds (:func:`harness.analysis.metrics.log_odds`, or the difference of two
logits) rather than probabilities, which round to 1 where a network is very sure. Images are taken as independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import DataError

__all__ = ["Auc", "DeLong", "auc_interval", "delong"]

Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Auc:
    """An area under the ROC curve, and its 95 % interval; None where DeLong's variance is 0 or not defined."""

    auc: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class DeLong:
    """Two areas on the same images, the first less the second with its 95 % interval, and the two-sided p of no
    difference.
    """

    first: float
    second: float
    difference: float
    interval: tuple[float, float] | None
    p: float | None


@dataclass(frozen=True)
class _Placements:
    """For each image of class 1 the images of the other class that it outranks, and for each of those the images of
    class 1 by which it is outranked. An image of the same score counts half, so these numbers are exact.
    """

    positive: NDArray[np.float64]
    negative: NDArray[np.float64]

    @property
    def auc(self) -> float:
        return float(self.positive.sum()) / (len(self.positive) * len(self.negative))

    def __sub__(self, other: _Placements) -> _Placements:
        return _Placements(self.positive - other.positive, self.negative - other.negative)

    @property
    def variance(self) -> float | None:
        """DeLong's, of the area; None with a single image of a class."""
        m, n = len(self.positive), len(self.negative)
        if min(m, n) < 2:
            return None
        return float(np.var(self.positive, ddof=1)) / n**2 / m + float(np.var(self.negative, ddof=1)) / m**2 / n


def auc_interval(labels: ArrayLike, scores: ArrayLike) -> Auc | None:
    """Return the area under the ROC curve with a 95 % interval.

    The interval is DeLong's normal one on the scale of the logarithm of the area's odds (Pepe 2003, *The Statistical
    Evaluation of Medical Tests*), so that it stays between 0 and 1. An area of 0 or 1 has none, and neither has
    one of scores that are all equal, or with a single image of a class.

    Args:
        labels: (n,), 1 for images of the positive class.
        scores: (n,), higher the more an image looks like one of class 1.

    Returns:
        None where the images are all of one class, or a score is NaN.

    Raises:
        DataError: there are not as many scores as labels.
    """
    found = _placements(labels, scores)
    if found is None:
        return None
    area, variance = found.auc, found.variance
    if not variance or not 0 < area < 1:
        return Auc(area, None)
    centre, half = math.log(area / (1 - area)), Z * math.sqrt(variance) / (area * (1 - area))
    low, high = (1 / (1 + math.exp(-bound)) for bound in (centre - half, centre + half))
    return Auc(area, (low, high))


def delong(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> DeLong | None:
    """Compare the areas under two ROC curves of the same images.

    The algorithm is Sun and Xu's (2014, IEEE Signal Processing Letters 21:1389), by ranks. The interval is the normal
    one of the difference. Where the variance is 0, as of scores that rank all images alike, or of two areas of 1, or
    where a class has a single image, there is no interval; p is then 1 for equal areas and None for others, about
    which the method says nothing.

    Args:
        labels: (n,), 1 for images of the positive class.
        first: scores (n,), higher the more an image looks like one of class 1.
        second: likewise, of the other network.

    Returns:
        None where the images are all of one class, or a score is NaN.

    Raises:
        DataError: there are not as many scores as labels.
    """
    from scipy.stats import norm

    one, other = _placements(labels, first), _placements(labels, second)
    if one is None or other is None:
        return None
    between = one - other
    difference, variance = between.auc, between.variance
    if not variance:
        return DeLong(one.auc, other.auc, difference, None, None if difference else 1.0)
    error = math.sqrt(variance)
    interval = max(-1.0, difference - Z * error), min(1.0, difference + Z * error)
    return DeLong(one.auc, other.auc, difference, interval, 2 * float(norm.sf(abs(difference) / error)))


def _placements(labels: ArrayLike, scores: ArrayLike) -> _Placements | None:
    from scipy.stats import rankdata

    positive, values = np.asarray(labels) == 1, np.asarray(scores, np.float64)
    if values.shape != positive.shape:
        raise DataError(
            f"There are {positive.size} labels and scores of shape {values.shape}: give one of each an image"
        )
    m = int(positive.sum())
    if m in (0, len(positive)) or np.isnan(values).any():
        return None
    among_all = rankdata(values)
    outranked = among_all[positive] - rankdata(values[positive])
    outranking = m - (among_all[~positive] - rankdata(values[~positive]))
    return _Placements(outranked, outranking)
