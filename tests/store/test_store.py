"""What goes into the database comes out of it, on both databases."""

import dataclasses
import math
import re
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

import store_fill
from harness.errors import RunTakenOverError, StoreError
from harness.results import (
    DatasetRecord,
    EnsembleRecord,
    Environment,
    EpochResult,
    Failure,
    Measurement,
    Member,
    Note,
    PlannedRun,
    PluginRecord,
    Prediction,
    Progress,
    RunSetup,
    Selection,
    SplitRecord,
    StageResult,
    StageStarted,
    WeightsRecord,
)
from harness.store import models, open_store
from harness.store.alive import this_worker
from harness.store.select import run_query
from store_fill import AUDITED, PASSPORT
from support import begin_run

PLUGINS = (
    PluginRecord("backbone", "resnet18", "transfer-harness", "0.1.0"),
    PluginRecord("schedule", "paper", "transfer-harness", "0.1.0"),
)
SETUP = RunSetup(
    Environment("cuda:0", "NVIDIA H100", "3.11.7", "2.9.0", {"git": None, "packages": {"numpy": "2.4"}, "threads": 2}),
    WeightsRecord("pretrained", "torchvision IMAGENET1K_V1", "f37072fd" * 8),
    11_689_512,
)
MEASUREMENTS = (
    Measurement("latency", "s", np.array([0.1, 1 / 3, 1e-300]), "NVIDIA H100", batch_size=32),
    Measurement("rss_peak", "B", np.array([2.0**40]), "NVIDIA H100", stage="frozen"),
)


def split(name, labels, prefix=""):
    ids = tuple(f"{prefix}{name}/{i} é\udcff.png" for i in range(len(labels)))
    return SplitRecord(name, ids, tuple(f"person{i // 2}" for i in range(len(labels))), np.array(labels, np.int64))


def dataset(fingerprint="f" * 64, splits=(("val", [0, 1, 1]), ("test", [1, 0, 1, 1]))):
    return DatasetRecord(
        name="chest-xray",
        fingerprint=fingerprint,
        classes=("NORMAL", "PNEUMONIA"),
        counts={"train": {"NORMAL": 7, "PNEUMONIA": 3}, "val": {"NORMAL": 1}, "test": {}},
        synthetic=True,
        citation="Kermany 2018",
        licence="CC BY 4.0",
        splits=tuple(split(name, labels) for name, labels in splits),
    )


def epoch(stage="frozen", number=1, **figures):
    known = {"lr": 0.01, "train_loss": 0.1 + 0.2, "train_accuracy": 1 / 3, "val_loss": 5e-324, "val_accuracy": 1.0}
    return EpochResult(stage, number, **{**known, "seconds": 1.5, "images_per_second": 812.25, **figures})


def result(stage="frozen", val=3, test=4, classes=2):
    rng = np.random.default_rng(0)
    predictions = [("val", val), ("test", test)]
    return StageResult(
        stage,
        1,
        12.5,
        800.125,
        tuple(Prediction(name, rng.normal(size=(n, classes)).astype(np.float32)) for name, n in predictions),
        "7" * 64,
        "8" * 64,
    )


def start(store, experiment="table1", backbone="resnet18", data=None, **more):
    given = {"schedule": "paper", "seed": 2**32 - 1, "config": {"b": [1, None, "ü"], "a": {}}, "config_hash": "c" * 64}
    return begin_run(
        store,
        experiment,
        backbone=backbone,
        plugins=PLUGINS,
        dataset=data or dataset(),
        **{**given, **more},
    )


def same(left, right):
    """Compare two results field by field, arrays by type and value, and NaN as equal to itself."""
    assert type(left) is type(right)
    if dataclasses.is_dataclass(left):
        for field in dataclasses.fields(left):
            same(getattr(left, field.name), getattr(right, field.name))
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            same(left[key], right[key])
    elif isinstance(left, tuple):
        assert len(left) == len(right)
        for pair in zip(left, right, strict=True):
            same(*pair)
    else:
        assert left == right or (isinstance(left, float) and math.isnan(left) and math.isnan(right))


def count(store, row):
    with Session(store.database.engine) as session:
        return session.scalar(select(func.count()).select_from(row))


def test_a_run_comes_back_as_it_went_in(store):
    before = datetime.now(UTC)
    run_id = start(store)
    running = store.run(run_id)
    assert (running.status, running.finished_at, running.environment, running.stages) == ("running", None, None, ())
    assert before - timedelta(seconds=1) <= running.started_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert running.started_at.utcoffset() == timedelta(0)

    epochs = [epoch(number=1), epoch(number=2, train_loss=math.nan, val_loss=math.inf)]
    events = [SETUP, Note("unstored"), Progress("train", 1, 2), StageStarted("frozen", 0, 25, 1026)]
    for stored in [*events, *epochs, result(), *MEASUREMENTS, StageStarted("finetune", 1, 10, 11_177_538)]:
        store.record(run_id, stored)
    store.finish_run(run_id, "completed")

    run = store.run(run_id)
    assert (run.id, run.status, run.backbone, run.schedule, run.seed) == (
        run_id,
        "completed",
        "resnet18",
        "paper",
        2**32 - 1,
    )
    assert run.config == {"b": [1, None, "ü"], "a": {}}
    assert list(run.config) == ["b", "a"]
    assert (run.config_hash, run.plugins, run.parameters) == ("c" * 64, PLUGINS, SETUP.parameters)
    assert (run.environment, run.weights, run.failure) == (SETUP.environment, SETUP.weights, None)
    assert run.finished_at >= run.started_at
    assert len(run.uid) == 32
    same(run.dataset, dataset())
    same(run.measurements, MEASUREMENTS)
    frozen, finetune = run.stages
    same(frozen.epochs, tuple(epochs))
    assert (frozen.name, frozen.index, frozen.planned_epochs, frozen.trainable) == ("frozen", 0, 25, 1026)
    assert (frozen.tested_epoch, frozen.seconds, frozen.images_per_second) == (1, 12.5, 800.125)
    for prediction in result().predictions:
        same(frozen.predictions[prediction.split], prediction)
    assert (finetune.epochs, finetune.tested_epoch, finetune.test_auc, finetune.test_confusion) == (
        (),
        None,
        None,
        None,
    )


def test_the_end_of_a_stage_is_judged_against_the_labels(store):
    run_id = start(store)
    store.record(run_id, StageStarted("frozen", 0, 1, 1))
    val = np.array([[1, 0], [0, 1], [1, 0]], np.float32)  # labels 0 1 1: two of three
    test = np.array([[0, 3], [2, 0], [1, 0], [np.nan, 0]], np.float32)  # labels 1 0 1 1; NaN is no class
    predictions = (Prediction("val", val), Prediction("test", test))
    store.record(run_id, StageResult("frozen", 1, 1.0, 1.0, predictions, "7", "8"))
    stage = store.run(run_id).stages[0]
    assert stage.val_accuracy == pytest.approx(2 / 3)
    assert (stage.test_images, stage.test_correct, stage.test_accuracy) == (4, 2, 0.5)
    assert stage.test_confusion == ((1, 0), (1, 1))
    assert stage.test_auc is None
    np.testing.assert_array_equal(stage.predictions["test"].logits, test)

    other = start(store)
    store.record(other, StageStarted("frozen", 0, 1, 1))
    store.record(
        other, StageResult("frozen", 1, 1.0, 1.0, (Prediction("test", np.nan_to_num(test, nan=0.5)),), "7", "8")
    )
    assert store.run(other).stages[0].test_auc == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (result(test=5), r"'test'.*\(5, 2\).*\(4, 2\)"),
        (result(classes=3), r"'val'.*\(3, 3\).*\(3, 2\)"),
        (
            StageResult("frozen", 1, 1, 1, (Prediction("train", np.zeros((1, 2), np.float32)),), "7", "8"),
            "'train'.*not stored",
        ),
        (result("finetune"), "has not begun a stage 'finetune'"),
        (epoch("finetune"), "has not begun a stage 'finetune'"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_trace(store, bad, says):
    run_id = start(store)
    store.record(run_id, StageStarted("frozen", 0, 1, 1))
    before = store.run(run_id)
    with pytest.raises(StoreError, match=says):
        store.record(run_id, bad)
    same(store.run(run_id), before)


def test_a_failure_keeps_its_words_even_odd_ones(store):
    run_id = start(store)
    store.record(run_id, Failure("CUDAError", "no \0 kernel for \udcff.png", "Traceback\n  é 放"))
    store.finish_run(run_id, "failed")
    run = store.run(run_id)
    assert run.status == "failed"
    assert run.failure == Failure("CUDAError", r"no \x00 kernel for \udcff.png", "Traceback\n  é 放")


@pytest.mark.parametrize("run_id", [0, -1, 77, 10**30])
def test_an_unknown_run_is_named(store, run_id):
    for attempt in (
        lambda: store.run(run_id),
        lambda: store.finish_run(run_id, "failed"),
        lambda: store.record(run_id, SETUP),
    ):
        with pytest.raises(StoreError, match=f"no run {run_id};"):
            attempt()


def test_runs_are_listed_newest_first_in_few_queries(store):
    ids = [start(store, f"e{i % 2}", "alexnet" if i < 3 else "resnet18") for i in range(6)]
    for run_id in ids:
        store.record(run_id, SETUP)
        for index, stage in ((1, "finetune"), (0, "frozen")):
            store.record(run_id, StageStarted(stage, index, 2, 1))
            store.record(run_id, epoch(stage))
    store.record(ids[0], result())
    store.finish_run(ids[0], "completed")
    statements = []
    event.listen(store.database.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    listed = store.runs(epochs=True)
    assert sum(text.startswith("SELECT") for text in statements) <= 12
    assert [run.id for run in listed] == ids[::-1]
    assert listed[-1].stages[0].test_images == 4
    assert listed[-1].stages[0].epochs == (epoch(),)
    assert not listed[-1].stages[0].predictions
    assert listed[0].dataset.splits == ()
    assert listed[0].dataset is listed[1].dataset
    assert store.runs()[-1].stages[0].epochs == ()

    def chosen(**selection):
        runs = store.runs(Selection(**selection))
        assert store.count(Selection(**{**selection, "limit": None, "offset": 0})) >= len(runs)
        assert store.run_ids(Selection(**selection)) == [run.id for run in runs]
        return [run.id for run in runs]

    assert chosen(experiment="e1") == [ids[5], ids[3], ids[1]]
    assert chosen(experiment="e1", backbone="alexnet") == [ids[1]]
    assert chosen(status="completed") == [ids[0]]
    assert chosen(limit=2) == [ids[5], ids[4]]
    assert chosen(limit=2, offset=1) == [ids[4], ids[3]]
    assert chosen(where="accuracy >= 0 and backbone = alexnet") == [ids[0]]
    assert chosen(sort="accuracy")[0] == ids[0], "runs without a figure come last"
    assert chosen(sort="accuracy", descending=False)[0] == ids[0]
    assert chosen(ids=(ids[2], ids[4])) == [ids[4], ids[2]]
    assert chosen(experiment="e2") == []


@pytest.mark.parametrize(
    ("selection", "index"),
    [
        (Selection(limit=50), "ix_runs_created_at"),
        (Selection(sort="accuracy", limit=50), "ix_runs_test_accuracy"),
        (Selection(where="accuracy > 0.9", sort="accuracy", limit=50), "ix_runs_test_accuracy"),
        (Selection(status="failed"), "ix_runs_status"),
        (Selection(backbone="resnet18"), "ix_runs_backbone"),
        (Selection(where="hash = abc"), "ix_runs_config_hash"),
        (Selection(experiment="table1"), "ix_sweeps_experiment_id"),
        (Selection(where="tag = good"), "ix_run_tags|pk_run_tags|sqlite_autoindex_run_tags"),
    ],
)
def test_lists_use_indexes(tmp_path, selection, index):
    with open_store(str(tmp_path / "b.db")) as store, store.database.engine.connect() as connection:
        query = run_query(selection, frozenset()).compile(connection, compile_kwargs={"literal_binds": True})
        plan = "\n".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}"))
    assert re.search(index, plan), plan
    if selection.limit:
        assert "TEMP B-TREE" not in plan, f"nothing is sorted: {plan}"


# --- plans and attempts -----------------------------------------------------------------------------------------------


def planned(name, seed=0, images=None):
    images = images or dataset()
    return PlannedRun(name, "paper", seed, {"backbone": name}, f"{name}{seed}", PLUGINS, images)


def test_the_same_plan_is_the_same_sweep_and_another_shares_its_runs(store):
    first = store.plan([planned("a"), planned("b")], command="one", ensembles=["vote"])
    again = store.plan([planned("a"), planned("b")], command="one", ensembles=["vote"])
    assert again.experiment == first.experiment
    assert again.run_ids == first.run_ids

    wider = store.plan([planned("a"), planned("c")], command="two", experiment="wider")
    assert wider.run_ids[0] == first.run_ids[0]
    assert [e.name for e in store.run(wider.run_ids[0]).experiments] == [first.experiment.name, "wider"]
    assert store.run(wider.run_ids[1]).experiment.commands == ("two",)

    elsewhere = store.plan([planned("a", images=dataset("a" * 64))], command="three")
    assert elsewhere.run_ids[0] not in (*first.run_ids, *wider.run_ids), "other images make another run"
    anew = store.plan([planned("a"), planned("b")], command="one", ensembles=["vote"], repeat=True)
    assert not set(anew.run_ids) & set(first.run_ids)


def test_a_repetition_that_stopped_is_gone_on_with_and_not_mixed_with_what_it_repeats(store):
    both = [planned("a"), planned("b")]
    first = store.plan(both, command="one", experiment="x")
    for run_id in first.run_ids:
        assert store.begin(run_id)
        store.finish_run(run_id, "completed")
    anew = store.plan(both, command="one", experiment="x", repeat=True)
    again = store.plan(both, command="one", experiment="x")
    assert again.run_ids == anew.run_ids
    assert [sweep.run_ids for sweep in store.unfinished_sweeps("x")] == [anew.run_ids]
    store.delete_runs(anew.run_ids[1:])
    assert store.plan(both, command="one", experiment="x").run_ids == (anew.run_ids[0], first.run_ids[1])


def test_a_run_is_done_once_by_one_process(store):
    (run_id,) = store.plan([planned("a")], command="x").run_ids
    assert store.run(run_id).status == "planned"
    assert store.begin(run_id)
    assert not store.begin(run_id), "this very process is at it"
    store.record(run_id, Failure("died", "words"))
    store.finish_run(run_id, "failed")
    assert store.run(run_id).failure.message == "words"
    assert store.begin(run_id)
    store.finish_run(run_id, "completed")
    assert not store.begin(run_id)
    run = store.run(run_id)
    assert run.failure is None
    assert [(attempt.number, attempt.outcome) for attempt in run.attempts] == [(1, "failed"), (2, "completed")]
    assert run.attempts[0].failure.message == "words", "what went wrong is kept"
    assert store.unfinished_sweeps() == []


def test_unfinished_sweeps_keep_their_order_and_ensembles(store):
    store.plan([planned("a")], command="x", experiment="old")
    newer = store.plan([planned("c"), planned("b")], command="y", ensembles=["vote"], experiment="new")
    found = store.unfinished_sweeps()
    assert [sweep.experiment.name for sweep in found] == ["new", "old"]
    assert (found[0].run_ids, found[0].ensembles) == (newer.run_ids, ("vote",))
    assert [sweep.experiment.name for sweep in store.unfinished_sweeps("old")] == ["old"]


def attempt_of(store, run_id, **values):
    with Session(store.database.writer) as session, session.begin():
        row = session.get(models.AttemptRow, (run_id, 1))
        for name, value in values.items():
            setattr(row, name, value)


def test_a_run_whose_process_is_gone_is_lost_and_can_be_taken_up(store):
    run_id = start(store)
    ended = subprocess.Popen(["true"])
    ended.wait()
    attempt_of(store, run_id, pid=ended.pid)
    assert store.run(run_id).status == "lost"
    assert store.run_ids(Selection(status="lost")) == store.run_ids(Selection(where="status = lost")) == [run_id]
    assert store.run_ids(Selection(status="running")) == []
    assert store.begin(run_id)
    assert [attempt.outcome for attempt in store.run(run_id).attempts] == ["lost", None]
    assert store.run(run_id).status == "running"


def test_another_process_of_the_same_number_is_not_the_runs(store):
    run_id = start(store)
    attempt_of(store, run_id, process_started=this_worker().started - 100)
    assert store.run(run_id).status == "lost"


def test_on_another_machine_silence_tells(store):
    run_id = start(store)
    attempt_of(store, run_id, host="elsewhere")
    assert store.run(run_id).status == "running"
    attempt_of(store, run_id, heartbeat_at=datetime.now(UTC) - timedelta(minutes=10))
    assert store.run(run_id).status == "lost"
    attempt_of(store, run_id, heartbeat_at=datetime.now(UTC))
    assert store.run(run_id).status == "running"


def test_a_process_whose_run_was_taken_over_writes_no_more(store):
    run_id = start(store)
    for stored in (SETUP, StageStarted("frozen", 0, 2, 1), epoch()):
        store.record(run_id, stored)
    attempt_of(store, run_id, host="elsewhere with silence", heartbeat_at=datetime.now(UTC) - timedelta(minutes=10))
    assert store.begin(run_id)
    with Session(store.database.writer) as session, session.begin():
        session.get(models.AttemptRow, (run_id, 2)).host = "elsewhere"
    for write in (
        lambda: store.heartbeat(run_id),
        lambda: store.record(run_id, epoch(train_loss=7.0)),
        lambda: store.record(run_id, Failure("E", "of the first")),
        lambda: store.finish_run(run_id, "failed"),
    ):
        with pytest.raises(RunTakenOverError, match="on 'elsewhere' has taken over run"):
            write()
    run = store.run(run_id)
    assert run.status == "running"
    assert run.failure is None
    assert run.stages[0].epochs[0].train_loss == epoch().train_loss


def test_a_run_that_was_removed_meanwhile_does_not_begin(store):
    (run_id,) = store.plan([planned("a")], command="x").run_ids
    store.delete_runs([run_id])
    assert not store.begin(run_id)


def test_the_figures_of_a_run_are_those_of_its_last_tested_stage(store):
    run_id = start(store)
    store.record(run_id, SETUP)

    def test(stage, index, right):
        logits = np.array([[0, 1], [1, 0], [0, 1], [0, 1]], np.float32)  # all right, then some turned round
        logits[right:] = logits[right:, ::-1]
        predictions = (Prediction("val", np.zeros((3, 2), np.float32)), Prediction("test", logits))
        store.record(run_id, StageStarted(stage, index, 1, 1))
        store.record(run_id, StageResult(stage, 1, 1.0, 1.0, predictions, "7", "8"))

    def accuracy():
        (run_id_of,) = store.run_ids(Selection(where=f"accuracy = {store.run(run_id).stages[-1].test_accuracy}"))
        assert run_id_of == run_id
        return store.run(run_id).stages[-1].test_accuracy

    test("frozen", 0, 4)
    assert accuracy() == 1.0
    test("finetune", 1, 3)
    assert accuracy() == 0.75
    test("frozen", 0, 2)  # the run begins anew
    assert accuracy() == 0.75
    elsewhere = dataclasses.replace(SETUP, environment=dataclasses.replace(SETUP.environment, torch="3.0"))
    store.record(run_id, elsewhere)
    assert store.run_ids(Selection(where="accuracy is null")) == [run_id]


def test_what_is_recorded_twice_is_there_once(store):
    run_id = start(store)
    for _ in range(2):
        for stored in (SETUP, StageStarted("frozen", 0, 2, 1), epoch(), epoch(number=2), result(), *MEASUREMENTS):
            store.record(run_id, stored)
    store.record(run_id, epoch(train_loss=7.0))
    run = store.run(run_id)
    assert len(run.stages) == 1
    assert [found.train_loss for found in run.stages[0].epochs] == [7.0, epoch().train_loss]
    same(run.measurements, MEASUREMENTS)


def test_stages_of_another_machine_go_unless_the_run_was_resumed(store):
    run_id = start(store)
    for stored in (SETUP, StageStarted("frozen", 0, 2, 1), epoch()):
        store.record(run_id, stored)
    elsewhere = dataclasses.replace(SETUP, environment=dataclasses.replace(SETUP.environment, torch="3.0"))
    store.record(run_id, dataclasses.replace(elsewhere, resumed=True))
    assert store.run(run_id).environment.torch == "2.9.0"
    assert store.run(run_id).stages
    store.record(run_id, elsewhere)
    assert store.run(run_id).environment.torch == "3.0"
    assert store.run(run_id).stages == ()


# --- care -------------------------------------------------------------------------------------------------------------


def test_tags_and_notes(store):
    ids = [start(store), start(store)]
    store.tag(ids, add=["good", "draft"])
    store.tag(ids[:1], add=["good"], remove=["draft"])
    store.note(ids[0], "a note")
    assert [store.run(run_id).tags for run_id in ids] == [("good",), ("draft", "good")]
    assert store.run_ids(Selection(where="tag = draft")) == ids[1:]
    assert store.run(ids[0]).note == "a note"


def test_deleting_runs_takes_what_hangs_on_them_and_nothing_else(store):
    ids = [start(store), start(store), start(store, "other", data=dataset("a" * 64, (("val", [1]), ("test", [0, 1]))))]
    for run_id in ids[:2]:
        for stored in (SETUP, StageStarted("frozen", 0, 1, 1), epoch(), result(), *MEASUREMENTS):
            store.record(run_id, stored)
    table1 = store.run(ids[0]).experiment
    store.add_ensemble(table1, ensemble((Member(ids[0], "frozen"), Member(ids[1], "frozen"))))
    store.tag(ids, add=["t"])
    with pytest.raises(StoreError, match=f"run {ids[0]} is running"):
        store.delete_runs(ids[:1])
    for run_id in ids:
        store.finish_run(run_id, "completed")
    kept = store.run(ids[1])
    assert store.delete_runs([ids[0], ids[2]]) == 1
    same(store.run(ids[1]), kept)
    assert store.ensembles() == []
    assert [found.name for found in store.experiments()] == ["table1"]
    assert [count(store, row) for row in (models.DatasetRow, models.SplitRow, models.StageRow)] == [1, 2, 1]
    store.delete_runs(ids[1:2])
    rows = [getattr(models, name) for name in models.__all__ if name.endswith("Row")]
    assert {row.__name__: n for row in rows if (n := count(store, row))} == {}
    assert start(store) not in ids, "a number is never used again"


def test_equal_content_is_stored_once(store):
    for _ in range(2):
        store.record(start(store, data=dataset("a" * 64)), SETUP)
    start(store, data=dataset("b" * 64))  # another train
    run_id = start(store, data=dataset("c" * 64, (("val", [0, 1, 1]), ("test", [0, 0, 1, 1]))))  # another test label
    assert [count(store, row) for row in (models.DatasetRow, models.SplitRow, models.EnvironmentRow)] == [3, 3, 1]
    assert store.run(run_id).dataset.splits[1].labels.tolist() == [0, 0, 1, 1]


def test_a_passport_gives_way_to_one_that_says_more(store):
    known = store_fill.dataset("a", passport=None)
    run_id = start(store, data=known)
    assert store.run(run_id).dataset.passport is None
    for given, kept in (
        (PASSPORT, PASSPORT),
        (None, PASSPORT),
        (AUDITED, AUDITED),
        (replace(PASSPORT, verdict="clean"), AUDITED),
        (replace(AUDITED, verdict="clean"), replace(AUDITED, verdict="clean")),
    ):
        store.add_dataset(replace(known, passport=given))
        assert store.run(run_id).dataset.passport == kept
    assert store.runs()[0].dataset.passport == replace(AUDITED, verdict="clean")
    store.add_dataset(store_fill.dataset("b", passport=AUDITED))  # before any run
    assert store.run(start(store, data=store_fill.dataset("b"))).dataset.passport == AUDITED


def ensemble(members, **more):
    labels, scores = np.array([1, 0, 1, 0]), np.array([[0.25, 0.75], [1, 0], [1 / 3, 2 / 3], [1, 0]])
    plugin = PluginRecord("ensemble", "majority_vote", "transfer-harness", "0.1.0")
    known = {"labels": labels, "scores": scores, "images": 4, "correct": 3, "auc": 0.75}
    return EnsembleRecord("majority_vote", "test", members, plugin, dataset(), **{**known, **more})


def test_an_ensemble_comes_back_as_it_went_in(store):
    ids = [start(store, backbone=name) for name in ("googlenet", "alexnet")]
    experiment, other = store.run(ids[0]).experiment, store.run(start(store, "other")).experiment
    members = (Member(ids[1], "frozen", "alexnet"), Member(ids[0], "frozen", "googlenet"))
    first = store.add_ensemble(experiment, ensemble(members))
    second = store.add_ensemble(other, ensemble(members[::-1], auc=None))
    found = store.ensembles()
    assert [record.id for record in found] == [first, second]
    same(found[0], dataclasses.replace(ensemble(members), id=first, dataset=dataclasses.replace(dataset(), splits=())))
    assert (found[1].auc, found[1].accuracy) == (None, 0.75)
    assert [record.id for record in store.ensembles("other")] == [second]
    third = store.add_ensemble(experiment, ensemble(members, correct=2))
    assert [(record.id, record.correct) for record in store.ensembles("table1")] == [(third, 2)], "made again"


def test_an_ensemble_that_does_not_fit_is_refused(store):
    experiment = store.run(start(store)).experiment
    with pytest.raises(StoreError, match="no run 9;"):
        store.add_ensemble(experiment, ensemble((Member(9, "frozen"),)))
    with pytest.raises(StoreError, match=r"scores \(4, 3\)"):
        store.add_ensemble(experiment, ensemble((), scores=np.zeros((4, 3))))
    assert store.ensembles() == []
