"""The bootstrap over groups: against closed forms and scipy; and the simulated coverage of all intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, norm

from harness.analysis.bootstrap import clustered_bootstrap, clustered_mean
from harness.analysis.metrics import auc
from harness.errors import DataError
from interval_coverage import SIMULATIONS, Simulation, without_garbage

GROUPS = [f"patient {number}" for number in np.repeat(np.arange(80), np.arange(80) % 8 + 1)]
DRAWS = np.random.default_rng(0)
RIGHT = DRAWS.random(len(GROUPS)) < 0.87


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), min_size=1, max_size=40), st.integers(0, 5))
def test_the_fast_way_is_the_general_one(images: list[tuple[str, bool]], seed: int) -> None:
    groups, right = [group for group, _ in images], np.array([outcome for _, outcome in images])
    fast = clustered_mean(right, groups, draws=50, seed=seed)
    general = clustered_bootstrap(lambda drawn: float(right[drawn].mean()), groups, draws=50, seed=seed)
    assert general.value == pytest.approx(fast.value)
    assert general.groups == fast.groups == len(set(groups))
    assert (general.interval is None) == (fast.interval is None) == (len(set(groups)) == 1)
    assert general.interval == pytest.approx(fast.interval)


def test_a_seed_repeats_its_draws() -> None:
    one, again, other = (clustered_mean(RIGHT, GROUPS, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one.interval != other.interval


def test_the_order_of_images_does_not_matter() -> None:
    order = np.random.default_rng(1).permutation(len(GROUPS))
    shuffled = clustered_mean(RIGHT[order], np.array(GROUPS)[order])
    assert shuffled.interval == pytest.approx(clustered_mean(RIGHT, GROUPS).interval)


def test_groups_of_one_image_give_scipys_interval() -> None:
    values = np.random.default_rng(2).random(400)
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=0).confidence_interval
    found = clustered_mean(values, range(400), draws=20_000)
    assert found.interval == pytest.approx((theirs.low, theirs.high), abs=0.002)


def test_identical_images_of_a_patient_count_once() -> None:
    """Eight copies of each image tell nothing new, and an interval that ignores patients does not see that."""
    values = np.random.default_rng(3).random(60) < 0.8
    once, copied = clustered_mean(values, range(60)), clustered_mean(np.repeat(values, 8), np.repeat(np.arange(60), 8))
    assert copied.interval == pytest.approx(once.interval)
    ignored = clustered_mean(np.repeat(values, 8), range(480))
    assert ignored.interval is not None
    assert once.interval is not None
    assert ignored.interval[1] - ignored.interval[0] < (once.interval[1] - once.interval[0]) / 2


def test_few_groups_widen_it_as_student_does() -> None:
    """A mean's bootstrap distribution is about normal, with the deviation s sqrt((g - 1) / g) / sqrt(g)."""
    values = norm.ppf((np.arange(12) + 0.5) / 12)
    found = clustered_mean(values, range(12), draws=40_000)
    from scipy.stats import t

    half = t.ppf(0.975, 11) * values.std(ddof=1) / math.sqrt(12)
    assert found.interval == pytest.approx((-half, half), rel=0.04)


def test_a_difference_is_a_figure_like_any_other() -> None:
    first, second = RIGHT, np.random.default_rng(4).random(len(GROUPS)) < 0.6
    lead = clustered_mean(first.astype(int) - second, GROUPS)
    assert lead.value == pytest.approx(first.mean() - second.mean())
    assert lead.interval is not None
    assert lead.interval[0] > 0
    none = clustered_mean(first.astype(int) - first, GROUPS)
    assert (none.value, none.interval) == (0, (0, 0))


def test_draws_without_a_figure() -> None:
    def area(labels: np.ndarray, scores: np.ndarray, groups: list[int]):
        probabilities = np.stack([1 - scores, scores], axis=1)
        return clustered_bootstrap(lambda drawn: auc(labels[drawn], probabilities[drawn]), groups, draws=200)

    scores = np.random.default_rng(5).random(40)
    balanced = area(np.arange(40) % 2, scores, list(range(40)))
    assert (balanced.undefined, balanced.groups) == (0, 40)
    assert balanced.value is not None
    assert balanced.interval is not None
    assert balanced.interval[0] < balanced.value < balanced.interval[1]
    rare = area((np.arange(40) == 3).astype(int), scores, list(range(40)))  # a third of the draws miss it
    assert rare.value is not None
    assert rare.interval is None
    assert 40 < rare.undefined < 110
    never = area(np.zeros(40, int), scores, list(range(40)))
    assert (never.value, never.interval, never.undefined) == (None, None, 200)


def test_it_needs_a_group_for_each_image() -> None:
    with pytest.raises(DataError, match=r"3 images and 2 groups"):
        clustered_mean([1, 0, 1], ["a", "b"])
    with pytest.raises(DataError, match=r"0 images"):
        clustered_bootstrap(lambda drawn: 0.0, [])


FEW = {
    "of_wilson": 2000,
    "of_patients": 150,
    "of_delong": 600,
    "of_mcnemar": 600,
    "of_seeds": 600,
    "of_bootstrapped_auc": 20,
}


@pytest.mark.parametrize("simulation", SIMULATIONS, ids=lambda one: one.__name__)
def test_intervals_hold_the_truth_as_often_as_they_say(simulation: Simulation) -> None:
    """benchmarks/interval_coverage.json has the same of many more simulations."""
    with without_garbage():
        rates = list(simulation(FEW[simulation.__name__], np.random.default_rng(0)))
    for rate in rates:
        assert rate.holds, f"{rate.name}: {rate.count} of {rate.simulations}, {rate.interval(0.999)}"
