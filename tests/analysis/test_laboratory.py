from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from harness.analysis.laboratory import Diversity, candidates, diversity, oracle, score
from harness.api import Combined, Ensemble
from harness.errors import DataError, PluginError
from harness_plugins.ensembles.fitted import RankAverage, Stacking, WeightedMean
from harness_plugins.ensembles.voting import MajorityVote, MeanProbability

RULES = {"mean": MeanProbability(), "weighted": WeightedMean(), "stacking": Stacking(), "vote": MajorityVote()}


def _members(n: int, skills: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    draws = np.random.default_rng(seed)
    labels = (draws.random(n) < 0.6).astype(np.int64)
    odds = np.stack([skill * (2 * labels - 1) + draws.normal(0, 1, n) for skill in skills])
    positive = 1 / (1 + np.exp(-odds))
    return np.stack([1 - positive, positive], axis=2), labels, [str(image // 2) for image in range(n)]


def test_every_subset_by_every_rule_is_scored_and_the_skilled_win() -> None:
    probabilities, labels, groups = _members(200, [1.5, 0.1, 1.5, 0.1])
    done: list[tuple[int, int]] = []
    found = score(probabilities, labels, groups, RULES, lambda *progress: done.append(progress))
    assert len(found) == candidates(4, 4) == 44
    assert len({(one.members, one.rule) for one in found}) == 44
    assert done[-1] == (44, 44)
    assert [one.brier for one in found] == sorted(one.brier for one in found)
    assert {0, 2} <= set(found[0].members)
    mean = next(one for one in found if (one.members, one.rule) == ((0, 2), "mean"))
    expected = ((probabilities[[0, 2]].mean(axis=0) - np.eye(2)[labels]) ** 2).sum(axis=1).mean()
    assert mean.brier == pytest.approx(expected)


def test_a_rule_that_only_remembers_gains_nothing() -> None:
    """Members that know nothing cannot be weighted into knowing: scored on what it was fitted to, it would gain."""
    probabilities, labels, groups = _members(60, [0.0] * 6)
    found = {(one.members, one.rule): one.brier for one in score(probabilities, labels, groups, RULES)}
    everyone = tuple(range(6))
    fitted = Stacking().fit(probabilities, labels).combine(probabilities).scores
    remembered = ((fitted - np.eye(2)[labels]) ** 2).sum(axis=1).mean()
    assert found[everyone, "stacking"] > remembered + 0.02


def test_of_equals_the_fewer_and_then_the_first_win() -> None:
    probabilities, labels, groups = _members(50, [1.0])
    found = score(np.concatenate([probabilities] * 3), labels, groups, {"mean": MeanProbability()})
    assert [one.members for one in found] == [(0, 1), (0, 2), (1, 2), (0, 1, 2)]


def test_one_patient_cannot_be_divided() -> None:
    probabilities, labels, _ = _members(50, [1.0, 1.0])
    with pytest.raises(DataError, match="of a single patient"):
        score(probabilities, labels, ["p"] * 50, RULES)
    assert score(probabilities, labels, ["p"] * 50, {"mean": MeanProbability()})


def test_diversity_is_that_of_the_book() -> None:
    """Both right 60, both wrong 10, one alone 20, the other alone 10."""
    labels = np.ones(100, np.int64)
    one = np.repeat([1, 0, 1, 0], [60, 10, 20, 10])
    other = np.repeat([1, 0, 0, 1], [60, 10, 20, 10])
    assert diversity(labels, [one, other]) == [
        Diversity(0, 1, overlap=10 / 40, q=(60 * 10 - 20 * 10) / (60 * 10 + 20 * 10), disagreement=0.3)
    ]
    assert oracle(labels, [one, other]) == 90
    perfect = diversity(labels, [labels, labels])[0]
    assert (perfect.overlap, perfect.q, perfect.disagreement) == (None, None, 0.0)


def test_all_rules_are_scored_on_the_same_fifths() -> None:
    """One that ranks images would rank them all, where a fitted one is asked for a fifth at a time."""
    probabilities, labels, groups = _members(100, [1.0, 0.5])
    rules = {"ranks": RankAverage(), "stacking": Stacking()}
    found = {one.rule: one.brier for one in score(probabilities, labels, groups, rules)}
    expected = {name: np.empty((100, 2)) for name in rules}
    folds = list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(labels, labels, groups))
    for fit, held in folds:
        patients = np.asarray(groups)
        assert not set(patients[fit]) & set(patients[held])
        for name, rule in rules.items():
            fitted = rule.fit(probabilities[:, fit], labels[fit])
            expected[name][held] = fitted.combine(probabilities[:, held]).scores
    for name in rules:
        assert found[name] == pytest.approx(((expected[name] - np.eye(2)[labels]) ** 2).sum(axis=1).mean())
    alone = score(probabilities, labels, groups, {"ranks": RankAverage()})[0].brier
    assert alone != pytest.approx(found["ranks"], abs=1e-9)


class _Broken(Ensemble):
    def combine(self, probabilities: np.ndarray) -> Combined:
        raise KeyError("weights")


class _Undefined(Ensemble):
    def combine(self, probabilities: np.ndarray) -> Combined:
        n, classes = probabilities.shape[1:]
        return Combined(np.zeros(n, np.int64), np.full((n, classes), np.nan))


@pytest.mark.parametrize(
    ("rule", "message"),
    [(_Broken(), "the rule mine failed: KeyError"), (_Undefined(), "mine gave a score that is not")],
)
def test_a_rule_that_fails_is_named(rule: Ensemble, message: str) -> None:
    probabilities, labels, groups = _members(20, [1.0, 1.0])
    with pytest.raises(PluginError, match=f"{message}.*--method"):
        score(probabilities, labels, groups, {"mean": MeanProbability(), "mine": rule})
