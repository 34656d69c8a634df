"""The mean of the members' probabilities without the most extreme ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness import Combined, Ensemble

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TrimmedMean"]


class TrimmedMean(Ensemble):
    """For each class the fifth of the members that is highest and the fifth that is lowest do not count.

    Of fewer than five members it is the mean.
    """

    share = 0.2

    def combine(self, probabilities: NDArray[np.float64]) -> Combined:
        """Combine probabilities (members, n, classes)."""
        from scipy.stats import trim_mean

        scores = trim_mean(probabilities, self.share, axis=0)
        scores = scores / scores.sum(axis=1, keepdims=True)
        return Combined(labels=scores.argmax(axis=1), scores=scores)
