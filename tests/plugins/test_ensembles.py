"""Rules over stored predictions, beside what they are defined by."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

from harness import registry
from harness.analysis.ensemble import combine_runs
from harness.errors import DataError
from harness.store import open_store
from harness_plugins.ensembles.fitted import GreedySelection, MedianProbability, RankAverage, Stacking, WeightedMean
from harness_plugins.ensembles.voting import MeanProbability
from support import ROOT, Harness

DRAWS = np.random.default_rng(0)
LABELS = DRAWS.integers(0, 2, 400)


def _member(skill: float) -> np.ndarray:
    odds = skill * (2 * LABELS - 1) + DRAWS.normal(size=400)
    positive = 1 / (1 + np.exp(-odds))
    return np.stack([1 - positive, positive], axis=1)


MEMBERS = np.stack([_member(skill) for skill in (0.2, 1.0, 1.5)])


def test_the_median_is_the_median() -> None:
    found = MedianProbability().combine(MEMBERS)
    assert found.scores[:, 1] == pytest.approx(np.median(MEMBERS[:, :, 1], axis=0))  # of two classes they sum to one


def test_ranks_are_averaged_and_how_sure_a_member_is_does_not_matter() -> None:
    found = RankAverage().combine(MEMBERS)
    mean = rankdata(MEMBERS[:, :, 1], axis=1).mean(axis=0)
    assert (np.argsort(mean) == np.argsort(found.scores[:, 1])).mean() > 0.99  # but for ties
    surer = MEMBERS.copy()
    surer[0, :, 1] = MEMBERS[0, :, 1] ** 3
    surer[0, :, 0] = 1 - surer[0, :, 1]
    again = RankAverage().combine(surer)
    assert rankdata(again.scores[:, 1]) == pytest.approx(rankdata(found.scores[:, 1]), abs=1.0)


def test_weights_are_the_likeliest() -> None:
    fitted = WeightedMean().fit(MEMBERS, LABELS)
    of_truth = MEMBERS[:, np.arange(400), LABELS]

    def loss(free: np.ndarray) -> float:
        weights = np.exp(free) / np.exp(free).sum()
        return -float(np.log(weights @ of_truth).mean())

    best = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"maxiter": 10_000, "fatol": 1e-12})
    found = -float(np.log(fitted._weights @ of_truth).mean())
    assert found == pytest.approx(best.fun, abs=1e-6)
    assert fitted._weights.sum() == pytest.approx(1)
    assert fitted._weights[2] > fitted._weights[0]


def test_selection_is_greedy() -> None:
    """Each addition by hand."""
    of_truth = MEMBERS[:, np.arange(400), LABELS]
    chosen: list[int] = []
    best = np.inf
    while len(chosen) < GreedySelection.most:
        losses = [-np.log(of_truth[[*chosen, one]].mean(axis=0)).mean() for one in range(3)]
        if min(losses) >= best:
            break
        best = min(losses)
        chosen.append(int(np.argmin(losses)))
    fitted = GreedySelection().fit(MEMBERS, LABELS)
    assert fitted._weights == pytest.approx(np.bincount(chosen, minlength=3) / len(chosen))
    assert fitted.combine(MEMBERS).scores == pytest.approx(MEMBERS[chosen].mean(axis=0))


def test_stacking_is_scikit_learns_regression_on_log_probabilities() -> None:
    fitted = Stacking().fit(MEMBERS, LABELS)
    inputs = np.log(MEMBERS).transpose(1, 0, 2).reshape(400, 6)
    expected = LogisticRegression(tol=1e-8, max_iter=1000).fit(inputs, LABELS).predict_proba(inputs)
    assert fitted.combine(MEMBERS).scores == pytest.approx(expected, abs=1e-5)
    with pytest.raises(DataError, match="validation images of every class"):
        Stacking().fit(MEMBERS, np.zeros(400, np.int64))


def test_stacking_of_three_classes_is_scikit_learns_too() -> None:
    labels = np.arange(300) % 3
    raw = DRAWS.normal(size=(2, 300, 3)) + 1.5 * np.eye(3)[labels]
    members = np.exp(raw) / np.exp(raw).sum(axis=2, keepdims=True)
    inputs = np.log(members).transpose(1, 0, 2).reshape(300, 6)
    expected = LogisticRegression(tol=1e-8, max_iter=1000).fit(inputs, labels).predict_proba(inputs)
    assert Stacking().fit(members, labels).combine(members).scores == pytest.approx(expected, abs=1e-5)


def test_stacking_of_members_that_are_always_right_and_sure_has_an_end() -> None:
    right = np.repeat(np.eye(2)[LABELS][None], 4, axis=0)
    found = Stacking().fit(right, LABELS).combine(right)
    inputs = np.log(np.maximum(right, 1e-7)).transpose(1, 0, 2).reshape(400, 8)
    expected = LogisticRegression(solver="newton-cholesky", tol=1e-8).fit(inputs, LABELS).predict_proba(inputs)
    assert found.scores == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("rule", [WeightedMean, GreedySelection, Stacking])
def test_a_rule_that_was_not_fitted_says_so(rule: type) -> None:
    with pytest.raises(DataError, match="not fitted"):
        rule().combine(MEMBERS)


def test_the_same_members_are_one_ensemble_in_any_order(harness: Harness, tmp_path: Path) -> None:
    (tmp_path / "benchmark.db").write_bytes((ROOT / "benchmark.db.example").read_bytes())
    with open_store(str(tmp_path / "benchmark.db")) as store:
        before = len(store.ensembles("The paper on a GPU"))
    done = harness("ensemble", "--runs", "9,7,8", "--method", "majority_vote")
    assert done.returncode == 0, done.stderr
    with open_store(str(tmp_path / "benchmark.db")) as store:
        assert len(store.ensembles("The paper on a GPU")) == before


def test_who_diverged_cannot_vote(tmp_path: Path) -> None:
    database = tmp_path / "benchmark.db"
    database.write_bytes((ROOT / "benchmark.db.example").read_bytes())
    with open_store(str(database)) as store:
        runs = [store.run(run_id) for run_id in (7, 8)]
    runs[0].stages[1].predictions["test"].logits.setflags(write=True)
    runs[0].stages[1].predictions["test"].logits[3] = np.nan
    plugin = registry.find("ensemble", "mean_probability")
    with pytest.raises(DataError, match="run 7 diverged: its predictions of test are not finite"):
        combine_runs(MeanProbability(), plugin.record, [(run, "finetune") for run in runs])


def test_all_rules_on_stored_runs(harness: Harness, tmp_path: Path) -> None:
    """On the example database's runs on real X-rays; the vote is the one that was stored with them."""
    database = tmp_path / "benchmark.db"
    database.write_bytes((ROOT / "benchmark.db.example").read_bytes())
    done = harness("ensemble", "--runs", "7,8,9", "--json")
    assert done.returncode == 0, done.stderr
    found = {record["method"]: record for record in json.loads(done.stdout)}
    assert found.keys() >= {
        "majority_vote", "mean_probability", "median_probability", "rank_average", "weighted_mean", "greedy_selection",
        "stacking",
    }  # fmt: skip
    assert found["majority_vote"]["correct"] == 527
    assert all(record["images"] == 624 and record["auc"] > 0.8 for record in found.values())
    first = harness("ensemble", "--where", "id >= 7 and id <= 9", "--method", "stacking", "--stage", "frozen")
    assert first.returncode == 0, first.stderr
    assert "stacking" in first.stdout
    assert "3 members after frozen" in first.stdout
    assert harness("report", "--experiment", "The paper on a GPU").returncode == 0


def test_the_search_never_asks_test_images(harness: Harness, tmp_path: Path) -> None:
    database = tmp_path / "benchmark.db"
    database.write_bytes((ROOT / "benchmark.db.example").read_bytes())
    search = ("ensemble", "--search", "--runs", "7,8,9", "--json")
    done = harness(*search)
    assert done.returncode == 0, done.stderr
    assert "The choice is optimistic: 120 of 300 validation images" in " ".join(done.stderr.split())
    before = json.loads(done.stdout)
    assert len(before["candidates"]) == 4 * len(registry.plugins("ensemble"))
    with open_store(str(database)) as store:
        chosen = next(one for one in store.ensembles() if one.id == before["chosen"]["id"])
    assert chosen.correct == before["chosen"]["correct"]
    with sqlite3.connect(database) as connection:  # test predictions of all runs become the opposite
        for stage, logits in connection.execute("SELECT stage_id, logits FROM predictions WHERE split = 'test'"):
            opposite = np.ascontiguousarray(-np.frombuffer(logits, "<f4"))
            connection.execute(
                "UPDATE predictions SET logits = ? WHERE split = 'test' AND stage_id = ?", (opposite.tobytes(), stage)
            )
    after = json.loads(harness(*search).stdout)
    assert after["candidates"] == before["candidates"]
    assert after["chosen"]["members"] == before["chosen"]["members"]
    assert after["chosen"]["correct"] != before["chosen"]["correct"]
    shown = harness("ensemble", "--search", "--runs", "7,8,9", "--method", "majority_vote,mean_probability")
    for words in ("The best of 8 ensembles", "Errors in common", "At least one member is right", "had no say in it"):
        assert words in " ".join(shown.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the members"),
        (["--runs", "7,8", "--where", "id > 1"], "not by both"),
        (["--runs", "7"], "two members or more; found 1"),
        (["--runs", "7,x"], "say numbers"),
        (["--runs", "7,99"], "99"),
        (["--runs", "7,8", "--stage", "third"], "the members share frozen, finetune"),
        (["--runs", "7,8", "--method", "nope"], "no ensemble plugin is called 'nope'"),
        (["--runs", "7,8", "--experiment", "nope"], "there is none."),
    ],
)
def test_bad_input_is_one_message(harness: Harness, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "benchmark.db").write_bytes((ROOT / "benchmark.db.example").read_bytes())
    done = harness("ensemble", *arguments)
    assert done.returncode == 2, done.stdout
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
