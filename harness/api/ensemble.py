"""Ensembles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import float64, int64
    from numpy.typing import NDArray

__all__ = ["Combined", "Ensemble"]


@dataclass(frozen=True)
class Combined:
    """What an ensemble says: a label (n,) for each image, and scores (n, classes) whose rows sum to one."""

    labels: NDArray[int64]
    scores: NDArray[float64]


class Ensemble(ABC):
    """A rule that combines the stored predictions of several runs."""

    def fit(self, probabilities: NDArray[float64], labels: NDArray[int64]) -> Ensemble:
        """Return the rule fitted to validation images; this one where there is nothing to fit.

        Args:
            probabilities: of the members, (members, n, classes).
            labels: true ones, (n,).
        """
        del probabilities, labels
        return self

    @abstractmethod
    def combine(self, probabilities: NDArray[float64]) -> Combined:
        """Combine the members' probabilities, shaped (members, n, classes), of images that it was not fitted to."""
