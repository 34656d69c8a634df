"""Thresholds by name, looks, and the rate of false alarms of a whole gate, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from harness.analysis.gate import estimate_rounds
from harness.gate import Gated, Rules, Thresholds, decide_in_looks, looks, overall

NOISE = 0.03  # of a process
GATES = 250


def test_the_first_pattern_that_matches_holds() -> None:
    thresholds = Thresholds(default=5, benchmarks={"t.py::x[8]": 1, "net * batch 1": 10, "net *": 2})
    for name, tolerated in {"net a batch 1": 0.1, "net a batch 8": 0.02, "other": 0.05, "t.py::x[8]": 0.01}.items():
        assert thresholds.of(name) == pytest.approx(tolerated), name
    assert thresholds.unused(["net a batch 8", "t.py::x[8]"]) == ["net * batch 1"]


@pytest.mark.parametrize("at", [[3], [3, 4], [3, 6], [3, 6, 12, 24], [3, 6, 12, 24, 30]])
def test_looks_double(at: list[int]) -> None:
    assert looks(at[-1]) == at


def test_the_worst_verdict_is_the_gates() -> None:
    one = {verdict: Gated("x", 0.05, verdict) for verdict in ("pass", "fail", "ambiguous")}
    assert overall([one["pass"], one["ambiguous"]]) == "ambiguous"
    assert overall([one["ambiguous"], one["fail"], one["pass"]]) == "fail"
    assert overall([one["pass"]]) == "pass"


def _gate(draws: np.random.Generator, slowdown: float, rules: Rules, benchmarks: int) -> list[str]:
    """Return a verdict a benchmark, of processes that lie apart as they do here."""

    def measure(_number: int, _look: int) -> tuple[list[float], ...]:
        return tuple(np.exp([shift + draws.normal(0, NOISE)]) for shift in (0, 0, np.log1p(slowdown)))

    tolerated = rules.thresholds.of("x")
    return [
        decide_in_looks(measure, estimate_rounds, tolerated, rules, benchmarks)[0].verdict for _ in range(benchmarks)
    ]


@pytest.mark.parametrize("benchmarks", [1, 3])
def test_a_gate_keeps_its_rate_over_all_its_looks_and_benchmarks(benchmarks: int) -> None:
    """At the threshold itself, where false alarms are likeliest. A rate of 10 % shows in fewer gates."""
    rules = Rules(Thresholds(default=5), false_alarms=0.1)
    draws = np.random.default_rng(0)
    failed = sum("fail" in _gate(draws, 0.05, rules, benchmarks) for _ in range(GATES))
    assert binomtest(failed, GATES).proportion_ci(0.999).low <= 0.1
    assert failed > 0


def test_a_slowdown_is_caught() -> None:
    rules = Rules(Thresholds(default=5))
    draws = np.random.default_rng(1)
    caught = sum(_gate(draws, 0.10, rules, 1) == ["fail"] for _ in range(GATES))
    assert caught / GATES > 0.5
    assert all(_gate(draws, -0.05, rules, 1) != ["fail"] for _ in range(GATES))
