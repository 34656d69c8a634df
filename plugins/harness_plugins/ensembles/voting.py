"""Votes over the members' predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.api import Combined, Ensemble

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MajorityVote", "MeanProbability"]


class MajorityVote(Ensemble):
    """Each member votes for its most probable class; the class with most votes wins.

    A tie goes to the tied class with the highest mean probability. Scores are shares of the votes.
    """

    def combine(self, probabilities: NDArray[np.float64]) -> Combined:
        """Combine probabilities (members, n, classes)."""
        classes = probabilities.shape[2]
        votes = np.eye(classes)[probabilities.argmax(axis=2)].sum(axis=0)
        tied = votes == votes.max(axis=1, keepdims=True)
        labels = np.where(tied, probabilities.mean(axis=0), -1.0).argmax(axis=1)
        return Combined(labels=labels, scores=votes / len(probabilities))


class MeanProbability(Ensemble):
    """The class with the highest mean probability over the members wins."""

    def combine(self, probabilities: NDArray[np.float64]) -> Combined:
        """Combine probabilities (members, n, classes)."""
        mean = probabilities.mean(axis=0)
        return Combined(labels=mean.argmax(axis=1), scores=mean)
