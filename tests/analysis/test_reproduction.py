"""Figures over seeds: against scipy and statsmodels, and verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from statsmodels.stats.weightstats import DescrStatsW

from harness.analysis.reproduction import equivalence, mean_and_deviation
from harness.errors import DataError

SEEDS = st.lists(st.integers(400, 624), min_size=2, max_size=10).filter(lambda found: len(set(found)) > 1)


@settings(deadline=None)
@given(SEEDS)
def test_the_interval_of_the_mean_is_scipys(right: list[int]) -> None:
    samples = np.array(right) / 624
    found = mean_and_deviation(samples)
    theirs = ttest_1samp(samples, 0.8).confidence_interval(0.95)
    assert (found.n, found.mean) == (len(right), pytest.approx(samples.mean()))
    assert found.deviation == pytest.approx(samples.std(ddof=1))
    assert found.interval == pytest.approx((theirs.low, theirs.high))


@settings(deadline=None)
@given(SEEDS, st.floats(0.7, 1), st.floats(0.001, 0.2))
def test_equivalence_is_two_one_sided_tests(right: list[int], reference: float, margin: float) -> None:
    samples = np.array(right) / 624
    found = equivalence(samples, reference, margin)
    above = ttest_1samp(samples, reference - margin, alternative="greater").pvalue
    below = ttest_1samp(samples, reference + margin, alternative="less").pvalue
    assert found.p == pytest.approx(max(above, below), abs=1e-12)
    assert found.p == pytest.approx(float(DescrStatsW(samples).ttost_mean(reference - margin, reference + margin)[0]))
    assert (found.verdict == "reproduced") == (max(above, below) < 0.05)
    beyond = min(
        ttest_1samp(samples, reference + margin, alternative="greater").pvalue,
        ttest_1samp(samples, reference - margin, alternative="less").pvalue,
    )
    assert (found.verdict == "not reproduced") == (beyond < 0.05)


@pytest.mark.parametrize(
    ("samples", "verdict"),
    [
        ([0.860, 0.862, 0.861], "reproduced"),
        ([0.880, 0.882, 0.881], "not reproduced"),
        ([0.840, 0.842, 0.841], "not reproduced"),
        ([0.860, 0.890, 0.840], "undecided"),  # too far apart
        ([0.868, 0.872, 0.870], "undecided"),  # at the edge
        ([0.862], "undecided"),
        ([0.862, 0.862, 0.862], "undecided"),
        ([0.1, 0.1, 0.1], "undecided"),
    ],
)
def test_verdicts(samples: list[float], verdict: str) -> None:
    found = equivalence(samples, 0.862, 0.008)
    assert found.verdict == verdict
    assert (found.interval is None) == (found.p is None) == (len(set(samples)) == 1)


def test_without_spread_there_is_no_interval() -> None:
    one, alike = mean_and_deviation([0.9]), mean_and_deviation([0.1, 0.1, 0.1])
    assert (one.n, one.mean, one.deviation, one.interval) == (1, 0.9, None, None)
    assert (alike.n, alike.mean, alike.deviation, alike.interval) == (3, pytest.approx(0.1), 0.0, None)


@pytest.mark.parametrize("samples", [[], [0.9, math.nan]])
def test_figures_must_be_finite(samples: list[float]) -> None:
    with pytest.raises(DataError, match="finite"):
        mean_and_deviation(samples)
    with pytest.raises(DataError, match="finite"):
        equivalence(samples, 0.9, 0.01)


@pytest.mark.parametrize("margin", [0.0, -0.1, math.nan])
def test_a_margin_is_above_0(margin: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        equivalence([0.8, 0.9], 0.9, margin)
