"""Databases full of runs of every kind, and what they hold in a form that two of them can be compared by."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from alembic.script import ScriptDirectory
from sqlalchemy import insert, select

from harness.analysis import metrics
from harness.config import RunConfig
from harness.results import (
    Baseline,
    DatasetRecord,
    EnsembleRecord,
    Environment,
    EpochResult,
    Failure,
    Measurement,
    Member,
    Overlap,
    Passport,
    Pictures,
    PlannedRun,
    PluginRecord,
    Prediction,
    Reason,
    RunSetup,
    RunStatus,
    SplitRecord,
    StageResult,
    StageStarted,
    WeightsRecord,
)
from harness.store import Store
from harness.store.models import Base
from harness.store.schema import alembic_config
from harness_plugins.schedules.paper import PAPER

SPLITS = {"val": 5, "test": 8}
STAGES = ("frozen", "finetune")
HEAD = ScriptDirectory.from_config(alembic_config(None)).get_current_head()
_NUMBERS = ("id", "run_id", "stage_id")
PASSPORT = Passport(  # as planning a run writes it
    verdict="leaky",
    reasons=(Reason("leaky", "2 of 5 validation images (40 %) é\udcff", ("val",)), Reason("suspect", "twice")),
    notes=("unknown",),
    patients={"train": 4, "val": 3, "test": 4},
    duplicate_groups=1,
    duplicate_files=2,
    conflicts=0,
    overlaps=(Overlap("train", "val", 1, 0, 2, 5),),
    majority=Baseline("most frequent class", "always NORMAL", {"train": 1.0, "test": 1 / 3}),
)
AUDITED = dataclasses.replace(  # as `harness data audit` writes it
    PASSPORT,
    baselines=(Baseline("file size", "NORMAL below 7.0 bytes, else PNEUMONIA", {"test": 0.5}, {"test": 1 / 3}),),
    pictures=Pictures(2, (224, 230), (200, 224), {"L": 3, "RGB": 4}),
)


def dataset(
    tag: str = "f", *, name: str = "chest-xray", prefix: str = "", passport: Passport | None = PASSPORT
) -> DatasetRecord:
    """Those of one tag share all images, and all share those of val."""
    splits = tuple(
        SplitRecord(
            split,
            tuple(f"{prefix}{tag if split == 'test' else ''}{split}/{i} é\udcff.png" for i in range(n)),
            tuple(f"person{i // 2}" for i in range(n)),
            np.arange(n, dtype=np.int64) % 2,
        )
        for split, n in SPLITS.items()
    )
    return DatasetRecord(
        name=name,
        fingerprint=(tag * 64)[:64],
        classes=("NORMAL", "PNEUMONIA"),
        counts={"train": {"NORMAL": 7}},
        synthetic=True,
        citation="Kermany",
        licence="CC BY 4.0",
        splits=splits,
        passport=passport,
    )


def setup(device: str = "cpu") -> RunSetup:
    environment = Environment(device, f"model of {device}", "3.11.7", "2.9.0", {"git": None, "threads": 2})
    return RunSetup(environment, WeightsRecord("pretrained", "torchvision", "f37072fd" * 8), 11_689_512)


def add_run(
    store: Store,
    experiment: str = "table1",
    backbone: str = "resnet18",
    *,
    seed: int = 0,
    data: DatasetRecord | None = None,
    device: str = "cpu",
    epochs: int = 2,
    stages: Sequence[str] = STAGES,
    status: RunStatus | None = "completed",
    tags: Collection[str] = (),
    note: str = "",
    failure: str = "words",
) -> int:
    """Store a run that had one attempt; one of the status None goes on, and is this process's."""
    data = data or dataset()
    config = RunConfig(backbone=backbone, schedule_name="paper", schedule=PAPER, dataset=data.name, seed=seed)
    plugin = PluginRecord("backbone", backbone, "transfer-harness", "0.1.0")
    planned = PlannedRun(backbone, "paper", seed, config.model_dump(mode="json"), config.hash, (plugin,), data)
    sweep = store.plan([planned], command=f"harness run {backbone}", experiment=experiment, repeat=True)
    (run_id,) = sweep.run_ids
    if status != "planned":
        assert store.begin(run_id)
        go_on(store, run_id, data, device=device, epochs=epochs, stages=stages)
        if status == "failed":
            store.record(run_id, Failure("RuntimeError", failure, f"Traceback\n  {failure}"))
        if status:
            store.finish_run(run_id, status)
    store.tag([run_id], add=tags)
    store.note(run_id, note)
    return run_id


def go_on(
    store: Store,
    run_id: int,
    data: DatasetRecord,
    *,
    device: str = "cpu",
    epochs: int = 2,
    stages: Sequence[str] = STAGES,
) -> None:
    """Store what a run yields."""
    rng = np.random.default_rng([run_id, epochs, *device.encode()])
    store.record(run_id, setup(device))
    for index, stage in enumerate(stages):
        store.record(run_id, StageStarted(stage, index, epochs, 1026))
        for epoch in range(1, epochs + 1):
            loss = math.nan if epoch == 2 else float(rng.random())
            store.record(run_id, EpochResult(stage, epoch, 0.01, loss, 1 / 3, float(rng.random()), 1.0, 1.5, 812.25))
        predictions = tuple(
            Prediction(split.name, rng.normal(size=(len(split.ids), 2)).astype(np.float32)) for split in data.splits
        )
        store.record(run_id, StageResult(stage, 1, 12.5, 800.125, predictions, "7" * 64, "8" * 64))
    store.record(run_id, Measurement("latency", "s", rng.random(7), device, batch_size=32))
    store.record(run_id, Measurement("rss_peak", "B", np.array([2.0**40]), device, stage="frozen"))


def add_vote(store: Store, run_ids: Sequence[int], stage: str = "frozen") -> int:
    """Store the ensemble of runs of one experiment."""
    runs = [store.run(run_id) for run_id in run_ids]
    labels = runs[0].dataset.splits[1].labels
    scores = np.mean([metrics.softmax(run.stage(stage).predictions["test"].logits) for run in runs], axis=0)
    decided = scores.argmax(axis=1)
    record = EnsembleRecord(
        "mean",
        "test",
        tuple(Member(run_id, stage) for run_id in run_ids),
        PluginRecord("ensemble", "mean", "transfer-harness", "0.1.0"),
        runs[0].dataset,
        decided,
        scores,
        len(labels),
        metrics.correct(labels, decided),
        metrics.auc(labels, scores),
    )
    return store.add_ensemble(runs[0].experiment, record)


def multiply(store: Store, times: int) -> None:
    """Store every run so many times more, under other uids and numbers."""
    tables = [table for table in Base.metadata.sorted_tables if {"run_id", "stage_id"} & {*table.c.keys()}]
    with store.database.writer.begin() as connection:
        for table in (Base.metadata.tables["runs"], *tables):
            if table.name == "ensemble_members":
                continue
            found = [dict(row) for row in connection.execute(select(table)).mappings()]
            for time in range(1, times + 1):
                more = [
                    {
                        name: f"{value}-{time}" if name == "uid" else value + 1000 * time if name in _NUMBERS else value
                        for name, value in row.items()
                    }
                    for row in found
                ]
                if more:
                    connection.execute(insert(table), more)


def contents(store: Store) -> dict[str, Any]:
    """Return everything that a database holds, by uid and without the numbers that it gave."""
    runs = {run.id: run.uid for run in store.runs()}
    return {
        "runs": {uid: _plain(store.run(run_id), runs) for run_id, uid in runs.items()},
        "ensembles": sorted((_plain(record, runs) for record in store.ensembles()), key=repr),
        "experiments": sorted((_plain(experiment, runs) for experiment in store.experiments()), key=repr),
    }


def _plain(value: Any, runs: dict[int, str]) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        fields.pop("id", None)
        if "run_id" in fields:
            fields["run_id"] = runs[fields["run_id"]]
        for name in ("experiments", "commands"):  # told in the order of numbers
            if name in fields:
                return {**_plain(fields, runs), name: sorted(_plain(fields[name], runs), key=repr)}
        return _plain(fields, runs)
    if isinstance(value, dict):
        return {key: _plain(item, runs) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, runs) for item in value]
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def rows(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table, numbers and all."""
    with store.database.engine.connect() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
            for table in Base.metadata.sorted_tables
        }
