from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test

from harness.analysis.specification import effect, joint_test
from harness.errors import DataError


def _draw(
    draws: np.random.Generator, shift: float, readings: int = 8, patients: int = 60
) -> tuple[np.ndarray, list[str]]:
    """Differences of several readings that resemble each other, of patients with one to four images."""
    sizes = draws.integers(1, 5, patients)
    groups = [f"p{patient}" for patient, size in enumerate(sizes) for _ in range(size)]
    common = np.repeat(draws.normal(0, 0.4, patients), sizes)
    raw = common + draws.normal(shift, 0.5, (readings, len(groups)))
    return np.clip(np.round(raw), -1, 1), groups


def test_of_one_reading_it_is_the_paired_permutation_test_of_patients() -> None:
    values, groups = _draw(np.random.default_rng(1), 0.12, readings=1)
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], values[0])
    reference = permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=20_000, rng=1)
    assert joint_test(values, groups) == pytest.approx(reference.pvalue, abs=0.02)


def test_it_finds_nothing_where_there_is_nothing_one_time_in_twenty() -> None:
    draws = np.random.default_rng(2)
    found = [joint_test(*_draw(draws, 0.0)) < 0.05 for _ in range(300)]
    assert binomtest(sum(found), 300, 0.05).pvalue > 0.001


def test_it_finds_what_most_readings_show() -> None:
    assert joint_test(*_draw(np.random.default_rng(3), 0.3)) < 0.01
    assert joint_test(np.zeros((5, 9)), list("aabbccdde")) == 1.0


def test_effects_and_their_verdicts() -> None:
    groups = [str(n // 2) for n in range(200)]
    lower = effect([-1.0] * 60 + [0.0] * 140, groups)
    assert lower.value == pytest.approx(-0.3)
    assert lower.verdict == "fall"
    assert effect([1.0] * 60 + [0.0] * 140, groups).verdict == "rise"
    assert effect([1.0, -1.0] * 100, groups).verdict == "undecided"
    assert effect([1.0, 1.0], ["a", "a"]).interval is None


def test_shapes_are_checked() -> None:
    with pytest.raises(DataError, match=r"should be \(readings, images\), of 2 images"):
        joint_test(np.zeros((2, 3)), ["a", "b"])
