"""Two sets of timing samples: is one slower than the other?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Comparison", "Verdict", "compare", "interval_of_median"]

Verdict = Literal["same", "faster", "slower", "undecided"]
RESAMPLES = 2000
LEVEL = 0.95
LEAST = 8  # samples on a side: of fewer, the least and the greatest hold the median less often than that


@dataclass(frozen=True)
class Comparison:
    """Head against base: medians, head's over base's with its 95 % interval, and what that says.

    ``low`` and ``high`` are None where a side has too few samples for an interval.
    """

    base: float
    head: float
    ratio: float
    low: float | None
    high: float | None
    verdict: Verdict


def compare(
    base: Sequence[NDArray[np.float64]], head: Sequence[NDArray[np.float64]], margin: float = 0.02
) -> Comparison:
    """Compare times.

    The interval is a bootstrap's (percentiles). Samples of one process resemble their neighbours, so blocks of
    consecutive ones are drawn, n^(1/3) long (Hall, Horowitz and Jing 1995, Biometrika 82:561), and where there are
    several processes on a side, processes first. From one process a side nothing is known of how processes differ.

    Args:
        base: samples, an array for each process.
        head: likewise.
        margin: a ratio of 1 give or take so much counts as the same.

    Returns:
        ``same`` where the whole interval is within the margin, ``faster`` or ``slower`` where none of it is,
        ``undecided`` otherwise.
    """
    of_base, of_head = (float(np.median(np.concatenate(side))) for side in (base, head))
    if min(sum(map(len, side)) for side in (base, head)) < LEAST:
        return Comparison(of_base, of_head, of_head / of_base, None, None, "undecided")
    draws = np.random.default_rng(0)
    ratios = _medians(head, draws) / _medians(base, draws)
    tail = (1 - LEVEL) / 2
    low, high = (float(bound) for bound in np.quantile(ratios, (tail, 1 - tail)))
    verdict: Verdict = "undecided"
    if low > 1 + margin:
        verdict = "slower"
    elif high < 1 - margin:
        verdict = "faster"
    elif low >= 1 - margin and high <= 1 + margin:
        verdict = "same"
    return Comparison(of_base, of_head, of_head / of_base, low, high, verdict)


def interval_of_median(processes: Sequence[NDArray[np.float64]]) -> tuple[float, float] | None:
    """Return the 95 % interval of the median of times, from one process or several, by the same bootstrap.

    None where there are too few samples.
    """
    if sum(map(len, processes)) < LEAST:
        return None
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(_medians(processes, np.random.default_rng(0)), (tail, 1 - tail))
    return float(low), float(high)


def _medians(processes: Sequence[NDArray[np.float64]], draws: np.random.Generator) -> NDArray[np.float64]:
    """Return the median of each resample."""
    found = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        chosen = draws.integers(len(processes), size=len(processes))
        found[index] = np.median(np.concatenate([_blocks(processes[number], draws) for number in chosen]))
    return found


def _blocks(samples: NDArray[np.float64], draws: np.random.Generator) -> NDArray[np.float64]:
    """Return as many samples, in blocks of consecutive ones; after the last comes the first."""
    n = len(samples)
    length = max(1, round(n ** (1 / 3)))
    begins = draws.integers(n, size=-(-n // length))
    drawn: NDArray[np.float64] = samples[(begins[:, None] + np.arange(length)).ravel()[:n] % n]
    return drawn
