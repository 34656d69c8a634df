"""Claims that one figure is above another, held against what several seeds gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.paired import holm
from harness.analysis.reproduction import ALPHA, Mean, Verdict, mean_and_deviation

__all__ = ["Difference", "Judged", "difference", "judge"]


@dataclass(frozen=True)
class Difference:
    """By how much one figure is above another, seed by seed, in shares of images.

    Args:
        n: seeds that have both.
        mean: of the differences, with their deviation; None without a seed.
        interval: 90 % of the mean, whose bounds are the one-sided 95 % ones; None where there is no spread.
        above: p of Student's one-sided test that the mean is above 0; None likewise.
        below: p that it is below 0.
    """

    n: int
    mean: Mean | None
    interval: tuple[float, float] | None
    above: float | None
    below: float | None


@dataclass(frozen=True)
class Judged:
    """A claim's verdict, and the adjusted p of its holding and of its being refuted; None where nothing was tested."""

    verdict: Verdict
    holds: float | None
    refuted: float | None


def difference(greater: Mapping[int, int], than: Mapping[int, int], images: int) -> Difference:
    """Compare two figures over the seeds that both have.

    What a seed draws (order, augmentation, a new head) is shared by the runs of one seed, so differences are taken
    within seeds. They are differences of whole images, because shares that should be equal may differ by rounding.

    Args:
        greater: images right by seed, of the figure that is said to be above.
        than: of the other one.
        images: test images, the same for all.
    """
    from scipy.stats import ttest_1samp

    seeds = sorted(greater.keys() & than.keys())
    if not seeds:
        return Difference(0, None, None, None, None)
    right = np.array([greater[seed] - than[seed] for seed in seeds])
    mean = mean_and_deviation(right / images)
    if (right == right[0]).all():
        return Difference(len(seeds), mean, None, None, None)
    above, below = (ttest_1samp(right, 0, alternative=side) for side in ("greater", "less"))
    low, high = ttest_1samp(right, 0).confidence_interval(1 - 2 * ALPHA)
    return Difference(
        len(seeds), mean, (float(low) / images, float(high) / images), float(above.pvalue), float(below.pvalue)
    )


def judge(claims: Sequence[Sequence[Difference]]) -> list[Judged]:
    """Decide each claim of a published table, from the differences that it says are all above 0.

    The rule, on seeds alone: a claim is ``reproduced`` where every one of its mean differences is above 0 by Student's
    one-sided test at 5 %, and ``not reproduced`` where one of them is below 0 by the same test. Everything else is
    ``undecided``: so are figures that are really equal, most of the time, however many seeds there are; and one seed,
    or several with the very same difference, decide nothing.

    That all of a claim's tests must succeed needs no adjustment: the largest p is the claim's (intersection-union test,
    Berger 1982, Technometrics 24:295). That there are several claims, of which any may succeed by chance, does, and so
    does it that one of many differences suffices to refute. So Holm's rule (1979, Scand J Stat 6:65) is applied twice:
    over the claims of the table for holding, and over all of its differences for refuting. At most one table in
    twenty has a claim that is wrongly called reproduced, and one in twenty one that is wrongly called not reproduced.

    The test images are the same for every seed: a verdict is about networks that are trained so and tested on these
    images. McNemar's test, which asks about other images, has no part in it.

    Returns:
        A verdict for each claim, in order.
    """
    holds = _adjusted([_largest([one.above for one in claim]) for claim in claims])
    below = iter(_adjusted([one.below for claim in claims for one in claim]))
    return [
        _judged(held, min((p for _ in claim if (p := next(below)) is not None), default=None))
        for claim, held in zip(claims, holds, strict=True)
    ]


def _judged(holds: float | None, refuted: float | None) -> Judged:
    verdict: Verdict = "undecided"
    if holds is not None and holds < ALPHA:
        verdict = "reproduced"
    elif refuted is not None and refuted < ALPHA:
        verdict = "not reproduced"
    return Judged(verdict, holds, refuted)


def _largest(p_values: Sequence[float | None]) -> float | None:
    """Return the largest; None where one is missing."""
    tested = [p for p in p_values if p is not None]
    return max(tested) if tested and len(tested) == len(p_values) else None


def _adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust by Holm those that there are."""
    adjusted = iter(holm([p for p in p_values if p is not None]).tolist())
    return [None if p is None else next(adjusted) for p in p_values]
