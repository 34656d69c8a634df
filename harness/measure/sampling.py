"""Samples of how long something takes: after a warm-up, until their median is known or the time is over."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from harness.measure.clock import Stopwatch, now
from harness.measure.rule import Rule

__all__ = ["Samples", "error_of_median", "sample"]

_Z = 1.96  # two-sided 95 % of a normal distribution
_WINDOW = 5  # samples that are compared with as many before them


@dataclass(frozen=True)
class Samples:
    """What was measured.

    Args:
        seconds: of each sample, in their order.
        warm_up: how many calls came before them.
        stable: whether these had become as fast as they would.
        stopped: why no more were taken.
        error: half the width of the median's 95 % interval, as a share of the median; None of fewer than eight samples.
    """

    seconds: NDArray[np.float64]
    warm_up: int
    stable: bool
    stopped: Literal["converged", "time"]
    error: float | None


def sample(
    call: Callable[[], object],
    device: torch.device,
    rule: Rule,
    between: Callable[[], None] = lambda: None,
) -> Samples:
    """Time a call.

    Args:
        call: what is timed. Its work on the device is part of it.
        device: where it works.
        rule: when to stop.
        between: called before each sample, and not timed.
    """
    stopwatch = Stopwatch(device)
    first: list[float] = []
    begin = now()
    while not (stable := _is_stable(first)) and (len(first) < 2 or now() - begin < rule.warm_up):
        first.append(stopwatch.time(call))
    seconds: list[float] = []
    begin = now()
    while len(seconds) < rule.least or (error_of_median(seconds) > rule.error and now() - begin < rule.longest):
        between()
        seconds.append(stopwatch.time(call))
    error = error_of_median(seconds)
    stopped: Literal["converged", "time"] = "converged" if error <= rule.error else "time"
    known = error if math.isfinite(error) else None
    return Samples(np.array(seconds), len(first), stable, stopped, known)


def error_of_median(seconds: list[float]) -> float:
    """Return half the width of the median's 95 % interval between two order statistics, as a share of the median."""
    ordered = sorted(seconds)
    n = len(ordered)
    reach = _Z / 2 * math.sqrt(n)  # fewer than eight samples have no such interval
    low, high = math.floor(n / 2 - reach), math.ceil(n / 2 + reach)
    if low < 0 or high >= n:
        return math.inf
    return (ordered[high] - ordered[low]) / 2 / float(np.median(ordered))


def _is_stable(seconds: list[float]) -> bool:
    """Tell whether the last calls were no faster than those before them."""
    if len(seconds) < 2 * _WINDOW:
        return False
    before, last = np.median(seconds[-2 * _WINDOW : -_WINDOW]), np.median(seconds[-_WINDOW:])
    return bool(last > 0.98 * before)
