"""Verdicts over timing samples."""

import numpy as np
import pytest

from harness.analysis.compare import compare, interval_of_median


def times(seed, median, n=200, spread=0.03):
    return median * np.exp(np.random.default_rng(seed).normal(0, spread, n))


@pytest.mark.parametrize(
    ("base", "head", "verdict"),
    [
        ([times(0, 1)], [times(1, 1)], "same"),
        ([times(0, 1)], [times(1, 1.1)], "slower"),
        ([times(0, 1)], [times(1, 0.9)], "faster"),
        ([times(0, 1, 10, 0.2)], [times(1, 1.05, 10, 0.2)], "undecided"),
        ([times(0, 1), times(2, 1)], [times(1, 1.1), times(3, 1.1)], "slower"),
        # two processes that differ as much as the sides do
        ([times(0, 1), times(2, 1.2)], [times(1, 1.1), times(3, 1.3)], "undecided"),
    ],
)
def test_verdicts(base, head, verdict):
    found = compare(base, head)
    assert found.verdict == verdict
    assert found.low <= found.ratio <= found.high
    assert found.ratio == pytest.approx(np.median(np.concatenate(head)) / np.median(np.concatenate(base)))


def test_the_margin_decides_what_is_the_same():
    base, head = [times(0, 1)], [times(1, 1.05)]
    assert compare(base, head).verdict == "slower"
    assert compare(base, head, margin=0.1).verdict == "same"


def test_the_interval_covers_the_truth_also_where_neighbours_resemble_each_other():
    draws = np.random.default_rng(0)

    def drifting():
        noise = np.zeros(200)
        for index in range(1, 200):
            noise[index] = 0.6 * noise[index - 1] + draws.normal(0, 0.02)
        return np.exp(noise)

    found = [compare([drifting()], [drifting()]) for _ in range(60)]
    covered = sum(one.low <= 1 <= one.high for one in found)
    assert covered >= 50, "of 60, where 57 are expected"


def test_few_samples_decide_nothing() -> None:
    few, many = [np.full(3, 1.0), np.full(4, 1.0)], [np.full(8, 2.0)]
    found = compare(few, many)
    assert (found.ratio, found.low, found.high, found.verdict) == (2.0, None, None, "undecided")
    assert interval_of_median(few) is None
    assert interval_of_median(many) == (2.0, 2.0)
