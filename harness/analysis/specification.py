"""Conclusions under every reading of a protocol (specification curves: Simonsohn, Simmons and Nelson 2020, Nature Human
Behaviour 4:1208).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.analysis.bootstrap import clustered_mean
from harness.errors import DataError

__all__ = ["Effect", "effect", "joint_test"]

DRAWS = 2000


@dataclass(frozen=True)
class Effect:
    """A difference in accuracy, as a share, with its interval; None where images are of a single patient."""

    value: float
    interval: tuple[float, float] | None

    @property
    def verdict(self) -> Literal["fall", "rise", "undecided"]:
        """What can be told from chance."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "undecided"
        return "rise" if self.value > 0 else "fall"


def effect(differences: ArrayLike, groups: Sequence[str]) -> Effect:
    """Return the mean difference under one reading, with its 95 % interval by the bootstrap over patients.

    Args:
        differences: (n,) of one right and another wrong: 1, -1 or 0 for each image; over several seeds their mean.
        groups: (n,), the patient of each image.
    """
    found = clustered_mean(differences, groups)
    return Effect(float(np.asarray(differences, np.float64).mean()), found.interval)


def joint_test(differences: ArrayLike, groups: Sequence[str]) -> float:
    """Test that there is no effect under any reading: return the two-sided p of the median over readings.

    Were there none, a patient's differences would as well have the other sign, in all readings at once, as these look
    at the same images. So signs are drawn anew for each patient, 2000 times, and p is the share of draws, with the data
    themselves for one, whose median is as far from zero (Simonsohn et al., by permutation).

    Args:
        differences: (readings, n), as of :func:`effect`.
        groups: (n,), the patient of each image.

    Raises:
        DataError: there are no readings or images, or not a group for each image.
    """
    values = np.asarray(differences, np.float64)
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    if values.ndim != 2 or not values.size or values.shape[1] != len(codes):
        raise DataError(f"Differences of shape {values.shape} should be (readings, images), of {len(codes)} images")
    sums: NDArray[np.float64] = np.stack([np.bincount(codes, row, len(names)) for row in values])
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (DRAWS, len(names)))
    drawn = np.abs(np.median(signs @ sums.T, axis=1))
    # sums of the same numbers in another order differ in their last digits
    extreme = drawn >= abs(float(np.median(sums.sum(axis=1)))) * (1 - 1e-9)
    return float((extreme.sum() + 1) / (DRAWS + 1))
