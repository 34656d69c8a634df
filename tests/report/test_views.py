from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from harness.report.answer import answer
from harness.report.paper import Deviation, deviations, load_paper
from harness.report.parts import confusion, curves, latencies
from harness.report.render import render_report
from harness.report.text import bytes_, duration, millis, p_value, percent
from harness.report.views import experiment_view, run_view
from harness.results import Failure, Run
from harness.store import Store, open_store
from results_for_pages import add_run, add_vote, dataset


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(str(tmp_path / "benchmark.db")) as opened:
        yield opened


def _runs(store: Store, *accuracies: float) -> list[Run]:
    experiment = "e"
    ids = [
        add_run(store, experiment, f"net{number}", data=dataset(), accuracies=(accuracy, accuracy - 0.1), seed=number)
        for number, accuracy in enumerate(accuracies)
    ]
    return [store.run(run_id) for run_id in ids]


def test_equals_are_not_told_apart_and_unequals_are(store: Store) -> None:
    close = answer(_runs(store, 0.86, 0.858), [])
    assert "net0 was right on 86.06 % of 624" in close.lead.replace("\N{NO-BREAK SPACE}", " ")
    assert "cannot be told apart from net1" in close.lead
    assert "better than net1 by more than chance" in answer(_runs(store, 0.9, 0.75), []).lead


def test_a_network_no_better_than_the_commonest_class_is_called_that(store: Store) -> None:
    assert any("no network here is clearly better" in detail for detail in answer(_runs(store, 0.63), []).details)
    assert not any("no network here" in detail for detail in answer(_runs(store, 0.86), []).details)


def test_runs_on_different_test_images_get_no_common_answer(store: Store) -> None:
    experiment = "e"
    ids = [add_run(store, experiment, tag, data=dataset(tag=tag)) for tag in ("a", "b")]
    runs = [store.run(run_id) for run_id in ids]
    view = experiment_view(runs[0].experiment, runs, [])
    assert "no common answer" in view.answer.lead
    assert view.several_datasets
    assert view.baseline is None


def test_an_ensemble_is_compared_with_its_best_member(store: Store) -> None:
    runs = _runs(store, 0.84, 0.86, 0.85)
    vote = add_vote(store, runs[0].experiment, [run.id for run in runs], "frozen")
    best = max(run.stage("frozen").test_correct for run in runs)  # type: ignore[union-attr, type-var]
    said = " ".join(answer(runs, [vote]).details)
    assert f"{abs(vote.correct - best)} image" in said
    assert "its best member, net1" in said


def test_a_departure_from_the_paper_is_named_with_its_runs(store: Store) -> None:
    experiment = "e"
    ids = [add_run(store, experiment, "alexnet", data=dataset(), frozen=epochs) for epochs in (25, 2)]
    found = deviations(load_paper(), [store.run(run_id) for run_id in ids])
    assert found == (
        Deviation("frozen.epochs", "2", "25", (ids[1],)),
        Deviation("val images", "300", "316", ()),
    )


def test_the_papers_columns_appear_only_beside_its_networks_or_images(store: Store) -> None:
    experiment = "e"
    run = store.run(add_run(store, experiment, "vit", data=dataset(name="flowers")))
    assert experiment_view(run.experiment, [run], []).paper is None
    assert experiment_view(run.experiment, [replace(run, backbone="alexnet")], []).paper is not None


def test_epochs_that_are_not_finite_leave_a_gap(store: Store) -> None:
    (run,) = _runs(store, 0.86)
    stage = run.stages[0]
    epochs = (replace(stage.epochs[0], val_loss=float("nan"), train_loss=float("inf")), *stage.epochs[1:])
    drawn = curves(replace(run, stages=(replace(stage, epochs=epochs), *run.stages[1:])))
    assert drawn is not None
    assert (drawn.points[0].val_loss, drawn.points[0].train_loss) == (None, None)
    assert [point.epoch for point in drawn.points] == list(range(1, 36))
    assert [span.tested for span in drawn.spans] == [stage.tested_epoch, 25 + run.stages[1].tested_epoch]  # type: ignore[operator]


def test_many_classes_are_shown_by_their_errors(store: Store) -> None:
    (run,) = _runs(store, 0.86)
    matrix = np.diag(np.full(12, 50))
    matrix[3, 7], matrix[0, 1] = 9, 4
    stage = replace(run.stages[0], test_confusion=tuple(map(tuple, matrix.tolist())))
    found = confusion(replace(run, dataset=replace(run.dataset, classes=tuple("abcdefghijkl"))), stage)
    assert found is not None
    assert found.rows == ()
    assert found.worst == (("d", "h", 9), ("a", "b", 4))


def test_latency_is_summarised_from_every_sample(store: Store) -> None:
    (run,) = _runs(store, 0.86)
    samples = next(m.samples for m in run.measurements if m.name == "latency" and m.batch_size == 1)
    found = latencies(run)[0]
    assert (found.n, found.batch_size) == (100, 1)
    assert found.median == np.median(samples)
    assert found.p95 == np.quantile(samples, 0.95)
    assert found.low is not None
    assert found.high is not None
    # the interval by order statistics: of 100 samples, the 40th to the 61st
    assert (found.low, found.high) == pytest.approx((np.sort(samples)[39], np.sort(samples)[60]))


def test_a_run_that_failed_at_once_has_a_page(store: Store) -> None:
    experiment = "e"
    failed = add_run(
        store,
        experiment,
        "x",
        data=dataset(),
        weights="random",
        stop_after=0,
        status="failed",
        failure=Failure("E", "m"),
    )
    view = run_view(store.run(failed))
    assert view.headline == "No stage of this run has been tested."
    assert view.ref.badge.kind == "random", "what was asked for, as no weights were drawn yet"
    assert "1 failed" in experiment_view(experiment, [store.run(failed)], []).answer.lead


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.8654), "86.54 %"),
        (percent(float("nan")), "not finite"),
        (millis(0.0123456), "12.3 ms"),
        (millis(0.2), "200 ms"),
        (millis(0.000456), "0.456 ms"),
        (bytes_(1.5 * 2**30), "1.50 GiB"),
        (bytes_(300 * 2**20), "300 MiB"),
        (duration(4.2), "4.2 s"),
        (duration(59.97), "1 min 00 s"),
        (duration(timedelta(hours=1, minutes=2).total_seconds()), "1 h 02 min"),
        (p_value(0.0004), "p < 0.001"),
        (p_value(0.36), "p = 0.36"),
    ],
)
def test_numbers_as_people_read_them(text: str, expected: str) -> None:
    assert text.replace("\N{NO-BREAK SPACE}", " ") == expected


def test_thirty_runs_take_seconds(store: Store, tmp_path: Path) -> None:
    experiment = "many"
    for seed in range(30):
        add_run(store, experiment, f"net{seed % 10}", data=dataset(), seed=seed, frozen=5, finetune=3)
    begin = time.perf_counter()
    index = render_report(store, tmp_path / "pages")
    assert time.perf_counter() - begin < 30
    assert index.stat().st_size < 1_500_000
    assert len(list((index.parent / "runs").iterdir())) == 30
