"""McNemar, Holm, ranks and the smallest difference: against statsmodels and published examples."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from statsmodels.stats.contingency_tables import mcnemar as theirs
from statsmodels.stats.multitest import multipletests

from harness.analysis.paired import holm, mcnemar, pairwise, ranks, smallest_difference
from harness.errors import DataError
from interval_coverage import without_garbage


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with without_garbage():
        yield


def predictions(both: int, only_first: int, only_second: int, neither: int):
    """Labels of a third class each, and two predictions with so many images right in common and alone."""
    kinds = np.repeat(np.arange(4), [both, only_first, only_second, neither])
    labels = np.arange(len(kinds)) % 3
    wrong = (labels + 1) % 3
    return labels, np.where(np.isin(kinds, (0, 1)), labels, wrong), np.where(np.isin(kinds, (0, 2)), labels, wrong)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"), [(0, 0, 1.0), (5, 5, 1.0), (10, 0, 2 / 2**10), (8, 2, 2 * 56 / 2**10)]
)
def test_mcnemar_is_exact(only_first: int, only_second: int, p: float) -> None:
    test = mcnemar(*predictions(7, only_first, only_second, 3))
    assert (test.only_first, test.only_second) == (only_first, only_second)
    assert test.p == pytest.approx(p)
    assert test.told_apart == (p < 0.05)


def test_mcnemar_as_published() -> None:
    """Complete response before and after consolidation (Cavo et al. 2012), chapter 8 of Fagerland, Lydersen and Laake,
    *Statistical Analysis of Contingency Tables*; the authors' R package contingencytables prints 0.052479.
    """
    assert mcnemar(*predictions(59, 6, 16, 80)).p == pytest.approx(0.052479, abs=5e-7)


@settings(deadline=None)
@given(st.tuples(*[st.integers(0, 60)] * 4))
def test_mcnemar_is_statsmodels_and_scipys(counts: tuple[int, int, int, int]) -> None:
    both, only_first, only_second, neither = counts
    found = mcnemar(*predictions(*counts))
    assert found.p == pytest.approx(theirs([[both, only_first], [only_second, neither]], exact=True).pvalue)
    if only_first + only_second:
        assert found.p == pytest.approx(binomtest(only_first, only_first + only_second).pvalue)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(-1, 2)] * 3), min_size=1, max_size=60), st.randoms())
def test_mcnemar_has_no_favourites(images: list[tuple[int, int, int]], chance) -> None:
    labels, first, second = np.array(images).T
    found, swapped = mcnemar(labels, first, second), mcnemar(labels, second, first)
    assert (swapped.only_first, swapped.only_second, swapped.p) == (found.only_second, found.only_first, found.p)
    chance.shuffle(images)
    assert mcnemar(*np.array(images).T) == found


def test_an_image_without_a_class_is_wrong() -> None:
    assert mcnemar([0, 1, 1], [-1, -1, 1], [0, 1, 1]).only_second == 2


def test_predictions_of_other_images_are_refused() -> None:
    with pytest.raises(DataError, match=r"Prediction 2 is of 1 images, and there are 3 labels"):
        mcnemar([0, 1, 1], [0, 1, 1], [0])


def test_holm_as_published() -> None:
    """The example of pingouin's documentation of its ``holm``; and by hand, in exact fractions, with a tie."""
    found = holm([0.50, 0.003, 0.32, 0.054, 0.0003])
    assert found.tolist() == pytest.approx([0.64, 0.012, 0.64, 0.162, 0.0015])
    assert holm([1 / 8, 1 / 16, 1 / 16, 1 / 2]).tolist() == [1 / 4, 1 / 4, 1 / 4, 1 / 2]
    assert holm([0.9, 0.8]).tolist() == [1, 1]
    assert holm([]).tolist() == []


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_is_the_step_down_rule(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert adjusted == pytest.approx(multipletests(p_values, method="holm")[1])
    order, running = np.argsort(p_values, kind="stable"), 0.0
    for step, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - step) * p_values[index]))
        assert adjusted[index] == pytest.approx(running)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_what_is_no_p_value_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="no p value"):
        holm([0.5, wrong])


def _right(n: int, *ranges: tuple[int, int]):
    """Predictions of images of class 1: right on those in the ranges."""
    found = np.zeros(n, int)
    for begin, end in ranges:
        found[begin:end] = 1
    return found


def test_runs_that_cannot_be_told_apart_share_a_rank() -> None:
    labels = np.ones(600, int)
    best, near, third, worst = (_right(600, (0, end)) for end in (560, 557, 500, 300))
    assert ranks(labels, [worst, near, third, best]) == [4, 1, 3, 1]
    assert ranks(labels, [best, best]) == [1, 1]
    assert ranks(labels, [best]) == [1]
    assert ranks(labels, []) == []


def test_ranks_where_telling_apart_is_not_transitive() -> None:
    """8 images fewer are beyond chance where errors are nested, and 5 are not: only first and third are apart."""
    labels = np.ones(600, int)
    first, second, third = (_right(600, (0, end)) for end in (560, 555, 550))
    apart = pairwise(labels, [first, second, third]) < 0.05
    assert apart.tolist() == [[False, False, True], [False, False, False], [True, False, False]]
    assert ranks(labels, [first, second, third]) == [1, 1, 2]


def test_ranks_need_not_follow_accuracy() -> None:
    """The second errs where the first errs, and on 12 more; the third, a little worse, errs on others."""
    labels = np.ones(600, int)
    first, second, third = _right(600, (0, 500)), _right(600, (0, 488)), _right(600, (113, 600))
    assert second.sum() > third.sum()
    assert ranks(labels, [first, second, third]) == [1, 2, 1]


def test_pairs_are_adjusted_together() -> None:
    labels, first, second = predictions(500, 20, 5, 75)
    single = mcnemar(labels, first, second).p
    adjusted = pairwise(labels, [first, second, first])
    assert adjusted[0, 1] == adjusted[1, 0] == pytest.approx(3 * single)
    assert adjusted[0, 2] == 1
    assert np.diag(adjusted).tolist() == [1, 1, 1]


def test_the_smallest_difference_as_published() -> None:
    """Connor's formula gives 23 pairs for discordant shares of 0.45 and 0.05 and a power of 80 % (the example of
    open-powersamplesize, *Compare Paired Proportions: McNemar's Z-test*, which cites page 209 of his paper).
    """
    with_22, with_23 = (smallest_difference(n, 0.5) for n in (22, 23))
    assert with_22 is not None
    assert with_23 is not None
    assert with_23 <= 0.4 < with_22


@settings(deadline=None)
@given(st.integers(30, 5000), st.floats(0.01, 1), st.floats(0.01, 0.2), st.floats(0.5, 0.95))
def test_the_smallest_difference_solves_the_formula(n: int, share: float, alpha: float, power: float) -> None:
    from scipy.stats import norm

    d = smallest_difference(n, share, alpha, power)
    greatest = share if d is None else d  # where one alone errs
    rest = norm.ppf(power) * math.sqrt(share - greatest**2)
    needed = (norm.isf(alpha / 2) * math.sqrt(share) + rest) ** 2 / greatest**2
    assert needed == pytest.approx(n) if d is not None else needed > n


def test_the_exact_test_has_about_the_power_that_the_formula_says() -> None:
    """Summed over all tables, of 624 images."""
    n, share = 624, 0.1
    d = smallest_difference(n, share)
    assert d is not None
    power = 0.0
    for discordant in range(1, 130):
        k = np.arange(discordant + 1)
        told = 2 * binom.cdf(np.minimum(k, discordant - k), discordant, 0.5) < 0.05
        power += binom.pmf(discordant, n, share) * binom.pmf(k, discordant, (share + d) / 2 / share)[told].sum()
    assert 0.75 < power < 0.80


def test_too_few_images_find_nothing() -> None:
    assert smallest_difference(3, 0.5) is None
    assert smallest_difference(624, 0.001) is None
    assert smallest_difference(624, 0.0) is None
    with pytest.raises(ValueError, match="out of range"):
        smallest_difference(624, 1.5)


def test_importing_it_is_cheap() -> None:
    modules = ["paired", "roc", "bootstrap", "reproduction", "figures", "validation"]
    imports = ", ".join(f"harness.analysis.{name}" for name in modules)
    script = f"import sys, {imports}; assert not {{'torch', 'sklearn', 'scipy', 'statsmodels'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
