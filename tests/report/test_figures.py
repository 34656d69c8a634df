"""Figures of merit, means over seeds, pairs and ranks on the pages equal what scikit-learn and scipy say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest, t
from sklearn import metrics

from harness.report.leaderboard import leaderboard_view
from harness.report.merit import merit
from harness.report.pairs import pairs
from harness.report.render import render_report
from harness.report.seeds import over_seeds
from harness.results import Run, Selection
from harness.store import Store, open_store
from results_for_pages import add_run, add_vote, dataset

DATA = replace(dataset(), subtypes={"first ten": "p0", "ones": "p1"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(str(tmp_path / "benchmark.db")) as opened:
        yield opened


def _add(store: Store, backbone: str, accuracy: float, seed: int = 0) -> Run:
    run = add_run(store, "e", backbone, data=DATA, accuracies=(accuracy, accuracy + 0.02), seed=seed)
    return store.run(run)


def _truth(run: Run, name: str = "test") -> np.ndarray:
    return next(split.labels for split in run.dataset.splits if split.name == name)


def _logits(run: Run, stage: str = "finetune", split: str = "test") -> np.ndarray:
    return run.stage(stage).predictions[split].logits.astype(float)  # type: ignore[union-attr]


def test_figures_of_merit_are_scikit_learns(store: Store) -> None:
    run = _add(store, "resnet18", 0.86)
    found = merit(run, run.stages[-1])
    assert found is not None
    rows = {row.name: row for row in found.rows}
    labels, p = _truth(run), softmax(_logits(run), axis=1)
    predicted = p.argmax(axis=1)

    def percent(value: float) -> str:
        return f"{100 * value:.2f}\N{NO-BREAK SPACE}%"

    expected = {
        "balanced accuracy": percent(metrics.balanced_accuracy_score(labels, predicted)),
        "sensitivity": percent(metrics.recall_score(labels, predicted)),
        "specificity": percent(metrics.recall_score(labels, predicted, pos_label=0)),
        "F1": percent(metrics.f1_score(labels, predicted)),
        "average precision": f"{metrics.average_precision_score(labels, p[:, 1]):.3f}",
        "log loss": f"{metrics.log_loss(labels, p):.3f}",
        "Brier score": f"{metrics.brier_score_loss(labels, p[:, 1]):.3f}",
    }
    assert {name: rows[name].plain for name in expected} == expected
    assert rows["AUC"].plain.startswith(f"{metrics.roc_auc_score(labels, p[:, 1]):.3f} (")
    assert rows["accuracy"].plain.startswith(percent(metrics.accuracy_score(labels, predicted)))
    precision, recall, f1, images = metrics.precision_recall_fscore_support(labels, predicted)
    for number, row in enumerate(found.classes):
        values = (percent(recall[number]), percent(precision[number]), percent(f1[number]))
        assert (row.recall, row.precision, row.f1) == values
        assert row.images == images[number]


def test_the_threshold_and_temperature_are_validations_and_change_no_ranking(store: Store) -> None:
    run = _add(store, "resnet18", 0.8)
    stage = run.stages[-1]
    assert stage.threshold is not None
    assert stage.temperature is not None
    val, p_val = _truth(run, "val"), softmax(_logits(run, split="val"), axis=1)[:, 1]
    false, true, _ = metrics.roc_curve(val, p_val)
    assert np.isclose(
        (p_val >= stage.threshold)[val == 1].mean() + (p_val < stage.threshold)[val == 0].mean() - 1,
        (true - false).max(),
    )
    labels, p = _truth(run), softmax(_logits(run), axis=1)[:, 1]
    assert stage.threshold_correct == int(((p >= stage.threshold) == (labels == 1)).sum())
    cooled = softmax(_logits(run) / stage.temperature, axis=1)
    rows = {row.name: row for row in merit(run, stage).rows}  # type: ignore[union-attr]
    assert rows["log loss"].chosen == f"{metrics.log_loss(labels, cooled):.3f}"
    assert rows["AUC"].chosen == ""
    for near in (0.9, 1.1):
        around = softmax(_logits(run, split="val") / (stage.temperature * near), axis=1)
        best = softmax(_logits(run, split="val") / stage.temperature, axis=1)
        assert metrics.log_loss(val, best) <= metrics.log_loss(val, around)


def test_subtypes_are_the_groups_that_begin_so(store: Store) -> None:
    run = _add(store, "resnet18", 0.86)
    found = merit(run, run.stages[-1])
    assert found is not None
    groups = np.array(next(split.groups for split in run.dataset.splits if split.name == "test"))
    ones = np.char.startswith(groups, "p1")
    row = next(row for row in found.subtypes if row.name == "ones")
    right = (_logits(run).argmax(axis=1) == _truth(run))[ones]
    assert (row.recall.correct, row.recall.images) == (int(right.sum()), int(ones.sum()))


def test_seeds_are_summarised(store: Store) -> None:
    runs = [_add(store, name, 0.8 + seed / 50, seed) for seed in range(3) for name in ("resnet18", "alexnet")]
    votes = [
        add_vote(store, runs[0].experiment, [one.id, two.id], "frozen")
        for one, two in zip(runs[::2], runs[1::2], strict=True)
    ]
    found = {row.name: row for row in over_seeds(runs, votes)}
    assert list(found) == ["resnet18", "alexnet", "majority_vote of resnet18, alexnet"]
    frozen = found["resnet18"].cells[0]
    values = [run.stage("frozen").test_accuracy for run in runs if run.backbone == "resnet18"]  # type: ignore[union-attr]
    assert frozen.accuracy.mean == pytest.approx(np.mean(values))
    assert frozen.accuracy.deviation == pytest.approx(np.std(values, ddof=1))
    low, high = frozen.accuracy.interval or (0, 0)
    assert (low, high) == pytest.approx(t.interval(0.95, 2, np.mean(values), np.std(values, ddof=1) / np.sqrt(3)))
    vote = found["majority_vote of resnet18, alexnet"].cells[0]
    assert vote.accuracy.mean == pytest.approx(np.mean([record.accuracy for record in votes]))
    assert over_seeds(runs[:2], votes[:1]) == ()


def test_pairs_are_compared_image_by_image(store: Store) -> None:
    runs = [_add(store, name, accuracy) for name, accuracy in (("a", 0.80), ("b", 0.90), ("c", 0.81))]
    found = pairs(runs)
    assert found is not None
    assert [(pair.first[0], pair.second[0]) for pair in found.pairs] == [("b", "c"), ("b", "a"), ("c", "a")]
    right = {run.backbone: _logits(run).argmax(axis=1) == _truth(run) for run in runs}
    p_values = []
    for pair in found.pairs:
        one, other = right[pair.first[0]], right[pair.second[0]]
        assert pair.difference == pytest.approx(one.mean() - other.mean())
        assert pair.interval is not None
        assert pair.interval[0] < pair.difference < pair.interval[1]
        p_values.append(binomtest(int((one & ~other).sum()), int((one != other).sum())).pvalue)
    adjusted = np.minimum(1, np.maximum.accumulate(np.sort(p_values) * [3, 2, 1]))
    assert sorted(pair.p for pair in found.pairs) == pytest.approx(adjusted)
    assert pairs([*runs, *(_add(store, name, 0.8) for name in "defghi")]) is None
    assert pairs(runs[:1]) is None


def test_runs_that_cannot_be_told_apart_share_a_rank(store: Store) -> None:
    for name, accuracy in (("a", 0.90), ("b", 0.895), ("c", 0.75)):
        _add(store, name, accuracy)
    leaders = store.runs(Selection(where="accuracy is not null", sort="accuracy"))
    board = leaderboard_view(leaders, 3, (), store.decisions([run.id for run in leaders])).boards[0]
    assert [(row.backbone, row.rank) for row in board.rows] == [("a", 1), ("b", 1), ("c", 3)]
    assert board.detectable is not None
    assert 0.01 < board.detectable < 0.1


def test_the_pages_show_all_of_it_as_text(store: Store, tmp_path: Path) -> None:
    hostile = "<b>net</b>"
    for seed in range(2):
        _add(store, hostile, 0.85, seed)
        _add(store, "resnet18", 0.8, seed)
    page = render_report(store, tmp_path / "pages").read_text(encoding="utf-8")
    for heading in ("Over seeds", "Image by image"):
        assert heading in page
    assert "would be found four times in five" in page
    of_run = (tmp_path / "pages" / "runs" / "1.html").read_text(encoding="utf-8")
    assert "Figures of merit" in of_run
    assert hostile not in page + of_run + (tmp_path / "pages" / "leaderboard.html").read_text(encoding="utf-8")
