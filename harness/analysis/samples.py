"""Raw samples in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Summary", "summarize"]

PERCENTILES = (50, 75, 90, 95, 99)


@dataclass(frozen=True)
class Summary:
    """Of samples: how many, their median with its 95 % interval between two of them, and percentiles.

    ``low`` and ``high`` are None where there are too few samples for such an interval.
    """

    n: int
    median: float
    low: float | None
    high: float | None
    percentiles: dict[int, float]


def summarize(samples: ArrayLike) -> Summary:
    """Summarise samples, of which there is at least one.

    The interval is exact and needs no assumption on their distribution (``scipy.stats.quantile_test``), but that they
    are independent.
    """
    from scipy.stats import quantile_test

    values = np.asarray(samples, np.float64)
    interval = quantile_test(values).confidence_interval(0.95)
    low, high = (None if np.isnan(bound) else float(bound) for bound in interval)
    found = dict(zip(PERCENTILES, np.percentile(values, PERCENTILES).tolist(), strict=True))
    return Summary(len(values), float(np.median(values)), low, high, found)
