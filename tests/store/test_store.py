"""What goes into the database comes out of it, on both databases."""

import dataclasses
import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

from harness.errors import StoreError
from harness.results import (
    DatasetRecord,
    EnsembleRecord,
    Environment,
    EpochResult,
    Failure,
    Measurement,
    Member,
    Note,
    PluginRecord,
    Prediction,
    Progress,
    RunSetup,
    SplitRecord,
    StageResult,
    StageStarted,
    WeightsRecord,
)
from harness.store import models

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
    )


def start(store, experiment="table1", backbone="resnet18", data=None, **more):
    given = {"schedule": "paper", "seed": 2**32 - 1, "config": {"b": [1, None, "ü"], "a": {}}, "config_hash": "c" * 64}
    return store.start_run(
        store.experiment(experiment, "harness run"),
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
    elif isinstance(left, tuple):
        assert len(left) == len(right)
        for pair in zip(left, right, strict=True):
            same(*pair)
    else:
        assert left == right or (isinstance(left, float) and math.isnan(left) and math.isnan(right))


def count(store, row):
    with Session(store._database.engine) as session:
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
    store.record(run_id, StageResult("frozen", 1, 1.0, 1.0, predictions))
    stage = store.run(run_id).stages[0]
    assert stage.val_accuracy == pytest.approx(2 / 3)
    assert (stage.test_images, stage.test_correct, stage.test_accuracy) == (4, 2, 0.5)
    assert stage.test_confusion == ((1, 0), (1, 1))
    assert stage.test_auc is None
    np.testing.assert_array_equal(stage.predictions["test"].logits, test)

    other = start(store)
    store.record(other, StageStarted("frozen", 0, 1, 1))
    store.record(other, StageResult("frozen", 1, 1.0, 1.0, (Prediction("test", np.nan_to_num(test, nan=0.5)),)))
    assert store.run(other).stages[0].test_auc == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (result(test=5), r"'test'.*\(5, 2\).*\(4, 2\)"),
        (result(classes=3), r"'val'.*\(3, 3\).*\(3, 2\)"),
        (StageResult("frozen", 1, 1, 1, (Prediction("train", np.zeros((1, 2), np.float32)),)), "'train'.*not stored"),
        (result("finetune"), "has not begun a stage 'finetune'"),
        (epoch("finetune"), "has not begun a stage 'finetune'"),
        (StageStarted("frozen", 1, 1, 1), "(?i)unique"),
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


def test_runs_are_filtered_newest_first_in_few_queries(store):
    ids = [start(store, f"e{i % 2}", "alexnet" if i < 3 else "resnet18") for i in range(6)]
    for run_id in ids:
        store.record(run_id, SETUP)
        for index, stage in ((1, "finetune"), (0, "frozen")):
            store.record(run_id, StageStarted(stage, index, 2, 1))
            store.record(run_id, epoch(stage))
    store.record(ids[0], result())
    store.finish_run(ids[0], "completed")
    statements = []
    event.listen(store._database.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    listed = store.runs()
    assert sum(text.startswith("SELECT") for text in statements) <= 6
    assert [run.id for run in listed] == ids[::-1]
    assert listed[-1].stages[0].test_images == 4
    assert listed[-1].stages[0].epochs == (epoch(),)
    assert not listed[-1].stages[0].predictions
    assert listed[0].dataset.splits == ()
    assert listed[0].dataset is listed[1].dataset
    assert [run.id for run in store.runs(experiment="e1")] == [ids[5], ids[3], ids[1]]
    assert [run.id for run in store.runs(experiment="e1", backbone="alexnet")] == [ids[1]]
    assert [run.id for run in store.runs(status="completed")] == [ids[0]]
    assert [run.id for run in store.runs(limit=2)] == [ids[5], ids[4]]
    assert store.runs(experiment="e2") == []


def test_an_experiment_is_found_again_and_keeps_its_last_command(store):
    first = store.experiment("table1", "harness run a")
    second = store.experiment("other", "harness run b")
    again = store.experiment("table1", "harness run c")
    assert (again.id, again.created_at, again.command) == (first.id, first.created_at, "harness run c")
    assert store.experiments() == [second, again]


def test_equal_content_is_stored_once(store):
    store.add_dataset(dataset("a" * 64))
    store.add_dataset(dataset("a" * 64))
    store.add_dataset(dataset("b" * 64))  # another train
    store.add_dataset(dataset("c" * 64, (("val", [0, 1, 1]), ("test", [0, 0, 1, 1]))))  # another test label
    for _ in range(2):
        store.record(start(store, data=dataset("a" * 64)), SETUP)
    assert [count(store, row) for row in (models.DatasetRow, models.SplitRow, models.EnvironmentRow)] == [3, 3, 1]
    run = store.run(start(store, data=dataset("c" * 64)))
    assert run.dataset.splits[1].labels.tolist() == [0, 0, 1, 1]


def ensemble(members, **more):
    labels, scores = np.array([1, 0, 1, 0]), np.array([[0.25, 0.75], [1, 0], [1 / 3, 2 / 3], [1, 0]])
    plugin = PluginRecord("ensemble", "majority_vote", "transfer-harness", "0.1.0")
    known = {"labels": labels, "scores": scores, "images": 4, "correct": 3, "auc": 0.75}
    return EnsembleRecord("majority_vote", "test", members, plugin, dataset(), **{**known, **more})


def test_an_ensemble_comes_back_as_it_went_in(store):
    ids = [start(store, backbone=name) for name in ("googlenet", "alexnet")]
    experiment = store.experiment("table1", "x")
    members = (Member(ids[1], "frozen", "alexnet"), Member(ids[0], "frozen", "googlenet"))
    first = store.add_ensemble(experiment, ensemble(members))
    second = store.add_ensemble(store.experiment("other", "x"), ensemble(members[::-1], auc=None))
    found = store.ensembles()
    assert [record.id for record in found] == [first, second]
    same(found[0], dataclasses.replace(ensemble(members), id=first, dataset=dataclasses.replace(dataset(), splits=())))
    assert (found[1].auc, found[1].accuracy) == (None, 0.75)
    assert [record.id for record in store.ensembles("other")] == [second]


def test_an_ensemble_that_does_not_fit_is_refused(store):
    experiment = store.experiment("table1", "x")
    with pytest.raises(StoreError, match="no run 9;"):
        store.add_ensemble(experiment, ensemble((Member(9, "frozen"),)))
    with pytest.raises(StoreError, match=r"scores \(4, 3\)"):
        store.add_ensemble(experiment, ensemble((), scores=np.zeros((4, 3))))
    assert store.ensembles() == []


def test_deleting_an_experiment_takes_everything_with_it(store):
    run_id = start(store)
    for stored in (SETUP, StageStarted("frozen", 0, 1, 1), epoch(), result(), *MEASUREMENTS):
        store.record(run_id, stored)
    store.add_ensemble(store.experiment("table1", "x"), ensemble((Member(run_id, "frozen"),)))
    with Session(store._database.writer) as session, session.begin():
        session.execute(models.ExperimentRow.__table__.delete())
    kept = {"DatasetRow": 1, "DatasetSplitRow": 2, "SplitRow": 2, "EnvironmentRow": 1}
    rows = [getattr(models, name) for name in models.__all__ if name != "Base"]
    assert {row.__name__: n for row in rows if (n := count(store, row))} == kept
    assert start(store) != run_id  # a number is never used again
