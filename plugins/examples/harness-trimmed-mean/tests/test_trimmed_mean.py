from __future__ import annotations

import numpy as np

from harness.testing.conformance import check_ensemble
from harness_trimmed_mean import TrimmedMean


def test_it_conforms() -> None:
    assert [result for result in check_ensemble(TrimmedMean()) if not result.passed] == []


def test_one_member_far_from_the_others_does_not_count() -> None:
    members = np.array([[[0.9, 0.1]]] * 4 + [[[0.0, 1.0]]])
    assert np.allclose(TrimmedMean().combine(members).scores[0], [0.9, 0.1])
    assert members.mean(axis=0)[0, 0] < 0.75


def test_of_few_members_it_is_the_mean() -> None:
    members = np.array([[[0.9, 0.1]], [[0.4, 0.6]], [[0.2, 0.8]]])
    assert np.allclose(TrimmedMean().combine(members).scores, members.mean(axis=0))
