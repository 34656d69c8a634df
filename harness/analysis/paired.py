"""Classifiers on the same images: can they be told apart, by how much would they have to differ, and who ranks where?

Every test here takes images as independent. Where several are of one patient, they hold less than they seem to, and
:mod:`harness.analysis.bootstrap` gives an interval that knows of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import DataError

__all__ = ["ALPHA", "McNemar", "detectable", "holm", "mcnemar", "pairwise", "ranks", "smallest_difference"]

ALPHA = 0.05  # how often equals are told apart


@dataclass(frozen=True)
class McNemar:
    """Two classifiers on the same images: those that only one of them got right, and the exact test's two-sided p."""

    only_first: int
    only_second: int
    p: float

    @property
    def told_apart(self) -> bool:
        """True where the difference is more than chance makes of equals in one of twenty cases."""
        return self.p < ALPHA


def mcnemar(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> McNemar:
    """Compare predicted labels (n,) by McNemar's exact test, two-sided.

    It counts only images on which one of the two erred; where there is none, p is 1. It is conservative: of equals it
    tells apart fewer than 5 %.

    Raises:
        DataError: the arrays are not of the same images.
    """
    right = _right(labels, [first, second])
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    return McNemar(only_first, only_second, float(_exact(np.array(only_first), np.array(only_second))))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p values (n,), adjusted for there being n of them by Holm's step-down rule (1979, Scand J Stat 6:65).

    Those below 0.05 are, all together, wrong in at most one of twenty families of tests. statsmodels computes it, and
    collects garbage at each call, which takes a tenth of a second in a large process.

    Raises:
        ValueError: one is no probability.
    """
    from statsmodels.stats.multitest import multipletests

    given = np.asarray(p_values, np.float64)
    if not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"{given[~((given >= 0) & (given <= 1))][0]} is no p value")
    return np.asarray(multipletests(given, method="holm")[1], np.float64) if len(given) else given


def pairwise(labels: ArrayLike, predictions: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Test each of several classifiers against each other one.

    Args:
        labels: (n,)
        predictions: predicted labels (n,) of each classifier, of the same images.

    Returns:
        (classifiers, classifiers), symmetric: p of McNemar's exact test, adjusted by Holm for all pairs; 1 on the
        diagonal.

    Raises:
        DataError: a prediction is not of the same images.
    """
    only = _only(labels, predictions)
    upper = np.triu_indices(len(only), 1)
    found = np.ones(only.shape)
    found[upper] = holm(_exact(only[upper], only.T[upper]))
    return np.minimum(found, found.T)


def ranks(labels: ArrayLike, predictions: Sequence[ArrayLike]) -> list[int]:
    """Rank classifiers so that those that cannot be told apart from the best share its rank.

    A rank is one more than the number of classifiers that are better beyond chance: right on more images, with an
    adjusted p of :func:`pairwise` below 0.05. Telling apart is not transitive: of three, the first may differ from the
    third alone; then the first and the second are both 1, and the third 2. Nor do ranks always follow accuracy,
    since p depends on how often two disagree: one that errs where the best errs may be told apart from it, and one of
    lower accuracy, whose errors are elsewhere, may not.

    Args:
        labels: (n,)
        predictions: predicted labels (n,) of each classifier, of the same images.

    Returns:
        A rank for each, from 1, in the order given.

    Raises:
        DataError: a prediction is not of the same images.
    """
    only = _only(labels, predictions)
    worse = (only < only.T) & (pairwise(labels, predictions) < ALPHA)
    return [int(number) + 1 for number in worse.sum(axis=1)]


def smallest_difference(n: int, discordant_share: float, alpha: float = ALPHA, power: float = 0.8) -> float | None:
    """Return the smallest difference in accuracy that McNemar's test would find with ``n`` images.

    With the share s of images on which one of two erred and their difference d, Connor (1987, Biometrics 43:207) needs
    n = (z_a sqrt(s) + z_b sqrt(s - d^2))^2 / d^2, z_a and z_b being the normal quantiles at 1 - alpha / 2 and at the
    power; here it is solved for d. The exact test needs slightly more.

    Args:
        n: images.
        discordant_share: share of them on which exactly one of the two classifiers erred.
        alpha: of the two-sided test.
        power: in what share of cases the difference would be found.

    Returns:
        A share of images; None where even a difference as large as ``discordant_share`` would not be found.

    Raises:
        ValueError: an argument is out of range.
    """
    if n < 1 or not 0 <= discordant_share <= 1 or not 0 < alpha < 1 or not 0 < power < 1:
        raise ValueError(f"n {n}, discordant share {discordant_share}, alpha {alpha}, power {power}: out of range")
    a, b = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    left = n - a**2 + b**2
    if left < 0:
        return None
    found = math.sqrt(discordant_share) * (a * math.sqrt(n) + b * math.sqrt(left)) / (n + b**2)
    return found if 0 < found <= discordant_share else None


def detectable(labels: ArrayLike, predictions: Sequence[ArrayLike]) -> float | None:
    """Return the smallest difference in accuracy that a comparison of two of these classifiers would find.

    It is :func:`smallest_difference` with the share of images on which exactly one of two erred, as a mean over all
    pairs, at 5 % without any adjustment for many and a power of 80 %.

    Args:
        labels: (n,)
        predictions: predicted labels (n,) of each classifier, of the same images.

    Returns:
        None with fewer than two classifiers or no images, too.
    """
    only = _only(labels, predictions)
    n = np.size(np.asarray(labels))
    if len(only) < 2 or not n:
        return None
    upper = np.triu_indices(len(only), 1)
    return smallest_difference(n, float((only + only.T)[upper].mean()) / n)


def _right(labels: ArrayLike, predictions: Sequence[ArrayLike]) -> NDArray[np.bool_]:
    """Return (classifiers, n): what each got right."""
    truth = np.asarray(labels)
    for number, prediction in enumerate(predictions, 1):
        if np.shape(prediction) != truth.shape:
            raise DataError(
                f"Prediction {number} is of {np.size(prediction)} images, and there are {truth.size} labels: compare "
                "only predictions of the same images"
            )
    return np.array([np.asarray(prediction) == truth for prediction in predictions]).reshape(
        len(predictions), truth.size
    )


def _only(labels: ArrayLike, predictions: Sequence[ArrayLike]) -> NDArray[np.int64]:
    """Return (classifiers, classifiers): images on which that of the row was right, and that of the column wrong."""
    right = _right(labels, predictions).astype(np.float64)  # products of whole numbers take far longer
    return (right @ (1 - right).T).astype(np.int64)


def _exact(only_first: NDArray[np.int64], only_second: NDArray[np.int64]) -> NDArray[np.float64]:
    """Twice the binomial's smaller tail: for a share of one half the distribution is symmetric."""
    from scipy.stats import binom

    fewer = np.minimum(only_first, only_second)
    return np.minimum(2 * np.asarray(binom.cdf(fewer, only_first + only_second, 0.5), np.float64), 1.0)
