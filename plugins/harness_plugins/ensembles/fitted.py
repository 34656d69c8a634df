"""Rules that look at how members did on validation images, and two that only look at ranks or the middle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.api import Combined, Ensemble
from harness.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GreedySelection", "MedianProbability", "RankAverage", "Stacking", "WeightedMean"]

_LEAST = 1e-7  # probability that a logarithm is taken of


class MedianProbability(Ensemble):
    """The class with the highest median probability over the members wins; medians are divided by their sum."""

    def combine(self, probabilities: NDArray[np.float64]) -> Combined:
        """Combine probabilities (members, n, classes)."""
        return _highest(_to_one(np.median(probabilities, axis=0)))


class RankAverage(Ensemble):
    """For each class images are ranked by the mean of their ranks with the members, so that it does not matter how sure
    a member is, only whom it is surer of. The image of the kth rank gets the mean of the members' kth probabilities.
    """

    def combine(self, probabilities: NDArray[np.float64]) -> Combined:
        """Combine probabilities (members, n, classes)."""
        from scipy.stats import rankdata

        mean_rank = rankdata(probabilities, axis=1).mean(axis=0)
        kth = np.sort(probabilities, axis=1).mean(axis=0)
        n, classes = mean_rank.shape
        scores = np.empty((n, classes))
        for label in range(classes):
            scores[:, label] = np.interp(rankdata(mean_rank[:, label]), np.arange(1, n + 1), kth[:, label])
        return _highest(_to_one(scores))


class _Weighted(Ensemble):
    """A mean of the members' probabilities whose weights were found on validation images."""

    def __init__(self, weights: NDArray[np.float64] | None = None) -> None:
        self._weights = weights

    def combine(self, probabilities: NDArray[np.float64]) -> Combined:
        """Combine probabilities (members, n, classes)."""
        return _highest(np.tensordot(_fitted(self._weights), probabilities, axes=1))


class WeightedMean(_Weighted):
    """A mean of the members' probabilities whose weights give validation images the highest likelihood."""

    def fit(self, probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> WeightedMean:
        """Find the weights."""
        return WeightedMean(_likeliest_weights(_of_truth(probabilities, labels)))


class GreedySelection(_Weighted):
    """Members are added one after another, each as often as it helps the likelihood of validation images most, until
    none does; their mean decides (Caruana et al. 2004, doi 10.1145/1015330.1015432).
    """

    most = 100  # additions

    def fit(self, probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> GreedySelection:
        """Select members."""
        of_truth = _of_truth(probabilities, labels)
        counts, total = np.zeros(len(of_truth)), np.zeros(of_truth.shape[1])
        best = np.inf
        for number in range(1, self.most + 1):
            losses = -np.log((total + of_truth) / number).mean(axis=1)
            chosen = int(losses.argmin())
            if losses[chosen] >= best:
                break
            best, total = losses[chosen], total + of_truth[chosen]
            counts[chosen] += 1
        return GreedySelection(counts / counts.sum())


class Stacking(Ensemble):
    """A logistic regression on the members' log probabilities, fitted to validation images (Wolpert 1992)."""

    def __init__(self, regression: Any = None) -> None:
        self._regression = regression

    def fit(self, probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> Stacking:
        """Fit the regression."""
        from sklearn.linear_model import LogisticRegression

        if len(np.unique(labels)) < probabilities.shape[2]:
            raise DataError("stacking needs validation images of every class")
        return Stacking(LogisticRegression(solver="newton-cholesky", tol=1e-8).fit(_log(probabilities), labels))

    def combine(self, probabilities: NDArray[np.float64]) -> Combined:
        """Combine probabilities (members, n, classes)."""
        return _highest(_fitted(self._regression).predict_proba(_log(probabilities)))


def _of_truth(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the probability of the true class: (members, n)."""
    return np.maximum(probabilities[:, np.arange(len(labels)), labels], _LEAST)


def _likeliest_weights(of_truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of a mixture, none negative and with a sum of one, that make its likelihood greatest."""
    from scipy.optimize import minimize

    members = len(of_truth)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        mixed = weights @ of_truth
        return float(-np.log(mixed).mean()), -(of_truth / mixed).mean(axis=1)

    whole = {"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": lambda _: np.ones(members)}
    begin = np.full(members, 1 / members)
    found = minimize(
        loss, begin, jac=True, bounds=[(0, 1)] * members, constraints=whole, method="SLSQP", options={"ftol": 1e-12}
    )
    weights = np.maximum(np.asarray(found.x, np.float64), 0)
    scaled: NDArray[np.float64] = weights / weights.sum()
    return scaled


def _log(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    logs = np.log(np.maximum(probabilities, _LEAST))
    return np.concatenate(list(logs), axis=1)


def _to_one(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide rows by their sums; one that is nothing but zeros says nothing."""
    total = scores.sum(axis=1, keepdims=True)
    even = np.full_like(scores, 1 / scores.shape[1])
    return np.where(total > 0, scores / np.where(total > 0, total, 1), even)


def _highest(scores: NDArray[np.float64]) -> Combined:
    return Combined(labels=scores.argmax(axis=1), scores=scores)


def _fitted(found: Any) -> Any:
    if found is None:
        raise DataError("the rule was not fitted to validation images")
    return found
