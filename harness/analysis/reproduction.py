"""A figure over seeds, and whether it reproduces one that was published."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import DataError

__all__ = ["ALPHA", "Equivalence", "Mean", "Verdict", "equivalence", "mean_and_deviation"]

Verdict = Literal["reproduced", "not reproduced", "undecided"]
ALPHA = 0.05


@dataclass(frozen=True)
class Mean:
    """The mean over ``n`` seeds, the standard deviation between them, and the 95 % interval of the mean.

    ``deviation`` is None with one seed. ``interval`` is None there too, and where all seeds gave the same: without
    spread there is nothing to tell by how far others would miss it.
    """

    n: int
    mean: float
    deviation: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Equivalence:
    """Figures of several seeds against a published one.

    Args:
        mean: over seeds.
        interval: its 90 % interval, which the verdict rests on; None where the seeds have no spread.
        p: of the two one-sided tests: below 0.05 where the verdict is ``reproduced``; None likewise.
        verdict: see :func:`equivalence`.
    """

    mean: float
    interval: tuple[float, float] | None
    p: float | None
    verdict: Verdict


def mean_and_deviation(samples: ArrayLike) -> Mean:
    """Summarise figures (n,), one a seed; the interval is Student's, for seeds whose figures are about normal.

    Raises:
        DataError: there is none, or one is not finite.
    """
    from scipy.stats import t

    values = _finite(samples)
    n, mean = len(values), float(values.mean())
    if n == 1:
        return Mean(n, mean, None, None)
    if _all_equal(values):
        return Mean(n, mean, 0.0, None)
    deviation = float(values.std(ddof=1))
    half = float(t.isf(0.025, n - 1)) * deviation / math.sqrt(n)
    return Mean(n, mean, deviation, (mean - half, mean + half))


def equivalence(samples: ArrayLike, reference: float, margin: float) -> Equivalence:
    """Decide whether the figures of several seeds are, in their mean, within ``margin`` of a published one.

    Two one-sided t tests at 5 % (Schuirmann 1987, J Pharmacokinet Biopharm 15:657; statsmodels' ``ttost_mean``), which
    say ``reproduced`` where the mean's 90 % interval lies between ``reference - margin`` and ``reference + margin``.
    Where it lies wholly beyond one of these, the verdict is ``not reproduced``; otherwise ``undecided``. Of means that
    differ from the reference by exactly the margin at most 5 % are called either. The published figure is taken as it
    stands, although it had a spread of its own. One seed, or several that gave the very same, decide nothing.

    Args:
        samples: figures (n,), one a seed.
        reference: the published figure.
        margin: above 0, in the unit of the figures: what is as good as equal.

    Raises:
        DataError: there is no sample, or one is not finite.
        ValueError: the margin is not above 0.
    """
    from statsmodels.stats.weightstats import DescrStatsW

    values = _finite(samples)
    if not margin > 0:
        raise ValueError(f"margin {margin}: it must be above 0")
    mean = float(values.mean())
    if _all_equal(values):
        return Equivalence(mean, None, None, "undecided")
    described, least, most = DescrStatsW(values), reference - margin, reference + margin
    low, high = (float(bound) for bound in described.tconfint_mean(alpha=2 * ALPHA))
    p = float(described.ttost_mean(least, most)[0])
    verdict: Verdict = "undecided"
    if p < ALPHA:
        verdict = "reproduced"
    elif low > most or high < least:
        verdict = "not reproduced"
    return Equivalence(mean, (low, high), p, verdict)


def _finite(samples: ArrayLike) -> NDArray[np.float64]:
    values = np.atleast_1d(np.asarray(samples, np.float64))
    if not values.size or not np.isfinite(values).all():
        raise DataError(f"Figures of seeds must be finite numbers, at least one; these are {values.tolist()}")
    return values


def _all_equal(values: NDArray[np.float64]) -> bool:
    """True where there is no spread, or one seed. Their standard deviation may be off 0 by rounding."""
    return bool((values == values[0]).all())
