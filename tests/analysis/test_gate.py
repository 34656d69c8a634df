"""The gate's statistics: how often they are wrong, on noise that is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from harness.analysis.gate import decide, decide_accuracy, estimate_apart, estimate_rounds

GATES = 2000
ALPHA = 0.01


def _rounds(draws: np.random.Generator, noise: float, slowdown: float, n: int, *, heavy: bool = False):
    """Processes of three, whose machine drifts by a third from round to round."""
    rounds = []
    for _ in range(n):
        drift = draws.normal(0, 0.3)
        own = draws.standard_t(3, 3) / math.sqrt(3) if heavy else draws.normal(0, 1, 3)
        turns = drift + noise * own[:, None] + draws.normal(0, 0.1, 8) + draws.normal(0, 0.005, (3, 8))
        turns[2] += math.log1p(slowdown)
        rounds.append(tuple(np.exp(turns)))
    return rounds


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("n", [3, 12])
def test_at_the_threshold_itself_both_errors_keep_their_rate(n: int, heavy: bool) -> None:
    draws = np.random.default_rng(0)
    verdicts = [
        decide(estimate_rounds(_rounds(draws, 0.02, 0.05, n, heavy=heavy)), 0.05, ALPHA).verdict for _ in range(GATES)
    ]
    for wrong in ("fail", "pass"):
        rate = binomtest(verdicts.count(wrong), GATES)
        assert rate.proportion_ci(0.999).low <= ALPHA, (wrong, verdicts.count(wrong))
        assert rate.k > 0, "a rate that is never used up says that the bounds are too wide"


def test_noise_and_change_are_found() -> None:
    found = estimate_rounds(_rounds(np.random.default_rng(1), 0.02, 0.1, 400))
    assert math.expm1(found.mean) == pytest.approx(0.1, abs=0.005)
    assert found.noise == pytest.approx(0.02, rel=0.15)
    assert found.error == pytest.approx(0.02 * math.sqrt(1.5 / 400), rel=0.15)


def test_what_is_called_detectable_is_detected_19_times_in_20() -> None:
    draws = np.random.default_rng(2)
    decisions = [decide(estimate_rounds(_rounds(draws, 0.02, 0.0, 12)), 0.05, ALPHA) for _ in range(200)]
    slowdown = float(np.median([one.detectable for one in decisions]))
    caught = [decide(estimate_rounds(_rounds(draws, 0.02, slowdown, 12)), 0.05, ALPHA).verdict for _ in range(1000)]
    assert caught.count("fail") == pytest.approx(950, abs=40)


def test_sides_apart_are_compared_as_welch_does() -> None:
    from scipy.stats import ttest_ind

    draws = np.random.default_rng(3)
    base, head = np.exp(draws.normal(0, 0.02, 5)), np.exp(draws.normal(0.1, 0.05, 8))
    found = decide(estimate_apart(base, head), 0.05, ALPHA)
    welch = ttest_ind(np.log(head), np.log(base), equal_var=False).confidence_interval(1 - 2 * ALPHA)
    assert (found.low, found.high) == pytest.approx((math.expm1(welch.low), math.expm1(welch.high)))
    same = estimate_apart([1.0, 1.0], [1.0, 1.0])
    assert (same.error, decide(same, 0.05, ALPHA).verdict) == (0, "pass")


def _right(both: int, lost: int, won: int, neither: int):
    base = np.repeat([True, True, False, False], [both, lost, won, neither])
    head = np.repeat([True, False, True, False], [both, lost, won, neither])
    return base, head


def test_accuracy_at_no_difference_is_mcnemar() -> None:
    """Where the bound is 0, the score is McNemar's (lost - won) / sqrt(lost + won)."""
    from scipy.stats import norm

    lost, won = 30, 12
    alpha = float(norm.sf((lost - won) / math.sqrt(lost + won)))
    found = decide_accuracy(*_right(500, lost, won, 80), 0.0, alpha)
    assert found.low == pytest.approx(0, abs=1e-9)
    assert found.change == pytest.approx((lost - won) / 622)


def test_accuracy_as_published() -> None:
    """Airway hyper-responsiveness (Bentur et al. 2009) in Fagerland, Lydersen and Laake (2014, Statistics in Medicine
    33:2850): Tango's interval for 1, 1, 7 and 12 pairs is -0.517 to -0.026.
    """
    found = decide_accuracy(*_right(1, 1, 7, 12), 0.0, 0.025)
    assert (found.low, found.high) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(("lost", "won", "verdict"), [(0, 0, "pass"), (60, 5, "fail"), (12, 5, "ambiguous")])
def test_verdicts_on_accuracy(lost: int, won: int, verdict: str) -> None:
    assert decide_accuracy(*_right(400, lost, won, 200 - lost - won), 0.02, ALPHA).verdict == verdict


def test_accuracy_keeps_its_rate() -> None:
    draws = np.random.default_rng(4)
    wrong = 0
    for _ in range(GATES):
        kinds = draws.multinomial(624, [0.80, 0.06, 0.04, 0.10])  # a loss of 2 points, which is the threshold
        wrong += decide_accuracy(*_right(*kinds), 0.02, ALPHA).verdict == "fail"
    assert binomtest(wrong, GATES).proportion_ci(0.999).low <= ALPHA
    assert wrong > 0
