"""Claims over seeds: against scipy and statsmodels, verdicts, and how often they are wrong."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, t, ttest_rel
from statsmodels.stats.multitest import multipletests

from harness.analysis.contract import Difference, difference, judge
from interval_coverage import without_garbage

COUNTS = st.dictionaries(st.integers(0, 5), st.integers(400, 624), min_size=3, max_size=6)


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with without_garbage():
        yield


def of(*differences: int, images: int = 624) -> Difference:
    """The differences of so many seeds, in images right."""
    return difference(
        {seed: 500 + d for seed, d in enumerate(differences)}, dict.fromkeys(range(len(differences)), 500), images
    )


@settings(deadline=None)
@given(COUNTS, COUNTS)
def test_differences_are_paired_by_seed(first: dict[int, int], second: dict[int, int]) -> None:
    found = difference(first, second, 624)
    common = sorted(first.keys() & second.keys())
    assert found.n == len(common)
    if len({first[seed] - second[seed] for seed in common}) < 2:
        assert (found.interval, found.above, found.below) == (None, None, None)
        return
    right = [np.array([counts[seed] for seed in common]) for counts in (first, second)]
    for side, p in (("greater", found.above), ("less", found.below)):
        assert p == pytest.approx(ttest_rel(*right, alternative=side).pvalue)
    shares = (right[0] - right[1]) / 624
    half = t.isf(0.05, len(common) - 1) * shares.std(ddof=1) / np.sqrt(len(common))
    assert found.interval == pytest.approx((shares.mean() - half, shares.mean() + half))
    assert found.mean is not None
    assert (found.mean.mean, found.mean.deviation) == pytest.approx((shares.mean(), shares.std(ddof=1)))


UP, DOWN, EVEN = (14, 16, 15, 17, 13), (-14, -16, -15, -17, -13), (9, -8, 4, -7, 3)


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        ([UP], "reproduced"),
        ([UP, UP, UP], "reproduced"),
        ([DOWN], "not reproduced"),
        ([UP, UP, DOWN], "not reproduced"),  # one of them suffices
        ([EVEN], "undecided"),
        ([UP, EVEN], "undecided"),
        ([(15,)], "undecided"),  # one seed
        ([(-300,)], "undecided"),
        ([(15, 15, 15)], "undecided"),  # no spread
        ([UP, (15,)], "undecided"),
        ([DOWN, (15,)], "not reproduced"),
        ([UP, ()], "undecided"),  # no run
    ],
)
def test_verdicts(claim: list[tuple[int, ...]], verdict: str) -> None:
    (found,) = judge([[of(*differences) for differences in claim]])
    assert found.verdict == verdict


def test_equal_shares_have_no_spread_by_rounding() -> None:
    """532/624 - 516/624 and 540/624 - 524/624 differ in their last bits."""
    found = difference({0: 532, 1: 540, 2: 71}, {0: 516, 1: 524, 2: 55}, 624)
    assert (found.n, found.above) == (3, None)
    assert found.mean is not None
    assert found.mean.deviation == 0


def test_several_claims_are_adjusted_by_holm() -> None:
    """What one claim alone would be, it need not be among others."""
    weak = (9, 1, 6, 2, 4)
    claims = [[of(*weak)], [of(*weak), of(*UP)], [of(*EVEN)]]
    alone = of(*weak).above
    assert alone is not None
    assert 0.01 < alone < 0.025
    found = judge(claims)
    p = [max(one.above for one in claim if one.above is not None) for claim in claims]
    assert [one.holds for one in found] == pytest.approx(multipletests(p, method="holm")[1])
    below = multipletests([one.below for claim in claims for one in claim], method="holm")[1]
    assert [one.refuted for one in found] == pytest.approx([below[0], min(below[1:3]), below[3]])
    assert judge(claims[:1])[0].verdict == "reproduced"
    assert judge([claims[0]] * 5)[0].verdict == "undecided"


def test_nothing_is_judged_of_no_claims() -> None:
    assert judge([]) == []


def test_few_tables_have_a_wrong_verdict() -> None:
    """Four equal networks over five seeds: every claim about their order is neither so nor the opposite."""
    rng = np.random.default_rng(20240624)
    wrong, tables = np.zeros(2, int), 400
    for _ in range(tables):
        right = rng.binomial(624, 0.86, (4, 5))
        counts = [dict(enumerate(row.tolist())) for row in right]
        claims = [
            [difference(counts[0], counts[1], 624)],
            [difference(counts[2], counts[3], 624)],
            [difference(counts[0], counts[other], 624) for other in (1, 2, 3)],
        ]
        verdicts = [one.verdict for one in judge(claims)]
        wrong += ["reproduced" in verdicts, "not reproduced" in verdicts]
    for count in wrong:
        assert binomtest(int(count), tables, 0.05, alternative="greater").pvalue > 1e-3, wrong
