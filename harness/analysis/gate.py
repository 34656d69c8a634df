"""Is the head slower, or less accurate, than the base by more than a threshold? Pure statistics, with stated error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Decision", "Estimate", "Verdict", "decide", "decide_accuracy", "estimate_apart", "estimate_rounds"]

Verdict = Literal["pass", "fail", "ambiguous"]
POWER = 0.95  # of the detectable slowdown


@dataclass(frozen=True)
class Estimate:
    """Logarithm of head's time over base's: its mean, standard error and degrees of freedom.

    ``noise`` is the standard deviation between processes of the same code, in the logarithm.
    """

    mean: float
    error: float
    freedom: float
    noise: float


@dataclass(frozen=True)
class Decision:
    """A verdict, and what it rests on.

    Args:
        change: head against base: time's ratio less 1, or accuracy's difference; worse is above 0.
        low: lower confidence bound of ``change``, wrong at most as often as the stated rate of false alarms.
        high: upper confidence bound likewise.
        detectable: a change that would have been failed in 95 % of cases; None of accuracy.
        noise: between processes of the same code, as a share of the time; None of accuracy.
        verdict: ``fail`` where ``low`` is above the threshold, ``pass`` where ``high`` is below it.
    """

    change: float
    low: float
    high: float
    detectable: float | None
    noise: float | None
    verdict: Verdict


def estimate_rounds(rounds: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]]) -> Estimate:
    """Estimate from rounds, in each of which two processes of base and one of head took turns.

    What all three share at a time, as the machine's speed then, cancels out. The two of base are an A/A pair: they
    tell how far processes of the same code lie apart. With the spread s of one process, head less the mean of base has
    the variance 3/2 s^2 and the A/A difference 2 s^2; both estimate s.

    Args:
        rounds: for each, medians of the turns of base, base and head, three arrays of the same length; at least two.
    """
    logs = [[np.log(np.asarray(times, np.float64)) for times in turns] for turns in rounds]
    noise = np.array([float(np.median(again - base)) for base, again, _ in logs])
    moved = np.array([float(np.median(head - (base + again) / 2)) for base, again, head in logs])
    n = len(moved)
    mean = float(moved.mean())
    freedom = 2 * n - 1
    variance = (float((noise**2).sum()) / 2 + float(((moved - mean) ** 2).sum()) / 1.5) / freedom
    return Estimate(mean, math.sqrt(1.5 * variance / n), freedom, math.sqrt(variance))


def estimate_apart(base: Sequence[float], head: Sequence[float]) -> Estimate:
    """Estimate from processes that were not measured in turns: the median time of each, at least two a side.

    By Welch: the two sides may differ in their noise.
    """
    logs = [np.log(np.asarray(side, np.float64)) for side in (base, head)]
    of_means = [float(side.var(ddof=1)) / len(side) for side in logs]
    error = math.sqrt(sum(of_means))
    freedom = (
        sum(of_means) ** 2 / sum(part**2 / (len(side) - 1) for part, side in zip(of_means, logs, strict=True))
        if error
        else float(len(base) + len(head) - 2)
    )
    return Estimate(float(logs[1].mean() - logs[0].mean()), error, freedom, float(logs[0].std(ddof=1)))


def decide(estimate: Estimate, threshold: float, alpha: float) -> Decision:
    """Decide on a slowdown.

    Args:
        estimate: of the logarithm of the ratio.
        threshold: the slowdown that is tolerated, as a share.
        alpha: how often at most a head within the threshold may fail, and one beyond it pass.
    """
    from scipy.stats import t

    reach = float(t.isf(alpha, estimate.freedom)) * estimate.error
    low, high = math.expm1(estimate.mean - reach), math.expm1(estimate.mean + reach)
    more = float(t.isf(1 - POWER, estimate.freedom)) * estimate.error
    detectable = math.expm1(math.log1p(threshold) + reach + more)
    return Decision(
        math.expm1(estimate.mean), low, high, detectable, math.expm1(estimate.noise), _verdict(low, high, threshold)
    )


def decide_accuracy(base: NDArray[np.bool_], head: NDArray[np.bool_], threshold: float, alpha: float) -> Decision:
    """Decide on a loss of accuracy, from which images each side classified rightly, in the same order.

    The bounds are Tango's score interval for the difference of paired proportions (1998, Statistics in Medicine
    17:891), which at a difference of 0 is McNemar's test.

    Args:
        base: (n,), of one run.
        head: (n,), of the other.
        threshold: the loss that is tolerated, as a share of images.
        alpha: as of :func:`decide`.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    n = len(base)
    lost, won = int((base & ~head).sum()), int((head & ~base).sum())
    z = float(norm.isf(alpha))

    def score(loss: float) -> float:
        b, c = 2 * n * loss - lost - won + (won - lost) * loss + 0.0, -won * loss * (1 - loss)
        q = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * q + loss * (1 - loss))
        return (lost - won - n * loss) / math.sqrt(variance) if variance > 0 else 0.0

    change = (lost - won) / n
    edge = 1 - 1e-9
    low = float(brentq(lambda loss: score(loss) - z, -edge, change)) if score(-edge) > z else -1.0
    high = float(brentq(lambda loss: score(loss) + z, change, edge)) if score(edge) < -z else 1.0
    return Decision(change, low, high, None, None, _verdict(low, high, threshold))


def _verdict(low: float, high: float, threshold: float) -> Verdict:
    if low > threshold:
        return "fail"
    return "pass" if high < threshold else "ambiguous"
