"""Runs with plausible figures that nobody measured, stored through the store's own events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from harness.analysis.metrics import softmax
from harness.results import (
    DatasetRecord,
    EnsembleRecord,
    Environment,
    EpochResult,
    Event,
    Experiment,
    Failure,
    Measurement,
    Member,
    PluginRecord,
    Prediction,
    RunSetup,
    RunStatus,
    SplitRecord,
    StageResult,
    StageStarted,
    WeightsRecord,
)
from harness.store import Store
from support import begin_run

CPU = "Test CPU @ 2.00GHz"


def dataset(*, name: str = "chest-xray", synthetic: bool = False, test: int = 624, tag: str = "a") -> DatasetRecord:
    sizes = {"val": 300, "test": test}
    labels = {split: (np.arange(n) % 8 < 5).astype(np.int64) for split, n in sizes.items()}
    splits = tuple(
        SplitRecord(
            split,
            tuple(f"{tag}/{split}/{i}.png" for i in range(n)),
            tuple(f"p{i // 2}" for i in range(n)),
            labels[split],
        )
        for split, n in sizes.items()
    )
    counts = {"train": {"NORMAL": 1241, "PNEUMONIA": 3675}} | {
        split: {"NORMAL": int((labels[split] == 0).sum()), "PNEUMONIA": int(labels[split].sum())} for split in sizes
    }
    return DatasetRecord(
        name=name,
        fingerprint=(tag * 64)[:64],
        classes=("NORMAL", "PNEUMONIA"),
        counts=counts,
        synthetic=synthetic,
        citation="Kermany, Zhang, Goldbaum (2018), doi 10.17632/rscbjbr9sj.2",
        licence="CC BY 4.0",
        splits=splits,
    )


def config(
    backbone: str, *, weights: str, data: DatasetRecord, frozen: int, finetune: int, seed: int
) -> dict[str, Any]:
    stage = {
        "batch_size": 32,
        "optimizer": {"kind": "sgd", "momentum": 0.9, "weight_decay": 0.0},
        "batch_norm": "train",
        "dropout": True,
        "checkpoint": "best",
    }
    cyclic = {"kind": "cyclic", "base": 0.01, "max": 0.1, "step_size_up": 2000}
    return {
        "backbone": backbone,
        "weights": weights,
        "schedule_name": "paper",
        "schedule": {
            "description": "",
            "transform": {"crop": "random-resized", "crop_scale": [0.08, 1.0], "flip": True},
            "stages": [
                {"name": "frozen", "epochs": frozen, "trainable": "head", "lr": cyclic, **stage},
                {"name": "finetune", "epochs": finetune, "trainable": "all", "lr": {"kind": "constant", "base": 1e-5}}
                | stage,
            ],
        },
        "dataset": data.name,
        "data": {"split": "paper"},
        "limit_train": None,
        "seed": seed,
        "device": "auto",
        "precision": "fp32",
    }


def logits(split: SplitRecord, accuracy: float, seed: int) -> np.ndarray:
    """Logits of a classifier that is right on that share of images, to within one."""
    draws = np.random.default_rng(seed)
    n = len(split.labels)
    hard = 0.7 * np.random.default_rng(7).random(n) + 0.3 * draws.random(n)
    right = np.argsort(np.argsort(hard)) < round(accuracy * n)
    margin = np.abs(draws.normal(1.5, 1.0, n)) + 0.05
    side = np.where(right, 1.0, -0.6) * margin * np.where(split.labels == 1, 1.0, -1.0)
    return np.stack([-side / 2, side / 2], axis=1).astype(np.float32)


def stage_events(
    name: str, index: int, epochs: int, planned: int, data: DatasetRecord, accuracy: float, seed: int, speed: float
) -> list[Event]:
    draws = np.random.default_rng([seed, index])
    events: list[Event] = [StageStarted(name, index, planned, 1026 if index == 0 else 11_177_538)]
    best, top = 1, 0.0
    for epoch in range(1, epochs + 1):
        reach = 1 - np.exp(-(epoch + 12 * index) / 4)
        train = 0.75 + (accuracy + 0.05 - 0.75) * reach + draws.normal(0, 0.004)
        val = 0.74 + (accuracy + 0.08 - 0.74) * reach + draws.normal(0, 0.012)
        if val > top:
            best, top = epoch, val
        figures = (0.62 - 0.42 * reach + draws.normal(0, 0.01), train, 0.60 - 0.42 * reach + draws.normal(0, 0.03), val)
        events.append(EpochResult(name, epoch, 0.01, *map(float, figures), 4916 / speed + 2, speed))
    if epochs == planned:
        predictions = tuple(
            Prediction(split.name, logits(split, accuracy + (0.06 if split.name == "val" else 0), seed + index))
            for split in data.splits
        )
        how = {"training": "whole network", "because": "BatchNorm follows the batches"}
        if index == 0:
            how = {
                "training": "head on features", "features_computed": 4916 * epochs + 300, "features_taken": 624,
                "features_taken_seconds": 8.1,
            }  # fmt: skip
        how |= {"batch_size": 64, "fused": True, "images": "page cache", "images_bytes": 5840 * 224 * 224}
        seconds = epochs * (4916 / speed + 2)
        events.append(StageResult(name, best, seconds, speed, predictions, "7" * 64, "8" * 64, how))
        events.append(Measurement("rss_peak", "B", np.array([(1.1 + 0.6 * index) * 2**30]), CPU, stage=name))
    return events


def add_run(
    store: Store,
    experiment: str,
    backbone: str,
    *,
    command: str = "harness run",
    data: DatasetRecord,
    accuracies: Sequence[float] = (0.86, 0.84),
    weights: str = "imagenet",
    frozen: int = 25,
    finetune: int = 10,
    seed: int = 0,
    latency: float = 0.02,
    parameters: int = 11_177_538,
    stop_after: int | None = None,
    status: RunStatus | None = "completed",
    failure: Failure | None = None,
) -> int:
    """Store a run, up to ``stop_after`` epochs of its first stage where that is given."""
    draws = np.random.default_rng([seed, len(backbone)])
    run_id = begin_run(
        store,
        experiment,
        command=command,
        backbone=backbone,
        schedule="paper",
        seed=seed,
        config=config(backbone, weights=weights, data=data, frozen=frozen, finetune=finetune, seed=seed),
        config_hash="c" * 64,
        plugins=[
            PluginRecord("backbone", backbone, "transfer-harness", "0.1.0"),
            PluginRecord("schedule", "paper", "transfer-harness", "0.1.0"),
            PluginRecord("dataset", data.name, "transfer-harness", "0.1.0"),
        ],
        dataset=data,
    )
    details: Mapping[str, Any] = {
        "platform": "Linux-test",
        "cpu": CPU,
        "cpu_count": 2,
        "threads": 2,
        "memory_bytes": 8 * 2**30,
        "git": {"commit": "0" * 40, "dirty": False},
        "packages": {"numpy": "2.0.0", "torch": "2.9.0"},
    }
    record = (
        WeightsRecord("random", "drawn at random by the architecture's own rule", None)
        if weights == "random"
        else WeightsRecord("pretrained", f"torchvision {backbone} IMAGENET1K_V1", "5" * 64)
    )
    events: list[Event] = []
    if stop_after is None or stop_after > 0:
        events.append(RunSetup(Environment("cpu", CPU, "3.11.9", "2.9.0+cpu", details), record, parameters))
    if stop_after is not None and stop_after > 0:
        events += stage_events("frozen", 0, stop_after, frozen, data, accuracies[0], seed, 4 / latency)
    elif stop_after is None:
        events += stage_events("frozen", 0, frozen, frozen, data, accuracies[0], seed, 4 / latency)
        if finetune:
            events += stage_events("finetune", 1, finetune, finetune, data, accuracies[1], seed + 1, 1 / latency)
        for batch_size, factor in ((1, 1.0), (32, 22.0)):
            samples = latency * factor * (1 + np.abs(draws.standard_t(3, 100)) * 0.03)
            events.append(Measurement("latency", "s", samples, CPU, batch_size=batch_size))
    if failure:
        events.append(failure)
    for event in events:
        store.record(run_id, event)
    if status is not None:
        store.finish_run(run_id, status)
    return run_id


def add_vote(store: Store, experiment: Experiment, run_ids: Sequence[int], stage: str) -> EnsembleRecord:
    """Store the majority vote of runs, computed here from their stored logits."""
    runs = [store.run(run_id) for run_id in run_ids]
    labels = next(split.labels for split in runs[0].dataset.splits if split.name == "test")
    probabilities = np.stack([softmax(run.stage(stage).predictions["test"].logits) for run in runs])  # type: ignore[union-attr]
    votes = probabilities.argmax(axis=2)
    decided = (votes.mean(axis=0) > 0.5).astype(np.int64)
    record = EnsembleRecord(
        method="majority_vote",
        split="test",
        members=tuple(Member(run.id, stage, run.backbone) for run in runs),
        plugin=PluginRecord("ensemble", "majority_vote", "transfer-harness", "0.1.0"),
        dataset=runs[0].dataset,
        labels=decided,
        scores=probabilities.mean(axis=0),
        images=len(labels),
        correct=int((decided == labels).sum()),
        auc=0.95,
    )
    store.add_ensemble(experiment, record)
    return record


def table_one(store: Store) -> Experiment:
    """Store an experiment with everything in it: pretrained and random runs, a failed, a running one, and the vote."""
    data = dataset()
    experiment = "Table 1 on chest X-rays"
    add = partial(add_run, command="harness run --plugins alexnet,googlenet,efficientnet_lite0 --data chest-xray")
    ids = [
        add(
            store, experiment, "alexnet", data=data, accuracies=(0.8526, 0.8269), latency=0.011, parameters=57_012_034
        ),
        add(
            store, experiment, "googlenet", data=data, accuracies=(0.74, 0.70), weights="random", latency=0.034,
            seed=3, parameters=5_601_954,
        ),
        add(
            store, experiment, "efficientnet_lite0", data=data, accuracies=(0.872, 0.899), frozen=12, finetune=5,
            latency=0.021, seed=6, parameters=3_373_570,
        ),
    ]  # fmt: skip
    for stage in ("frozen", "finetune"):
        add_vote(store, store.run(ids[0]).experiment, ids, stage)
    add(
        store,
        experiment,
        "inception_v3",
        data=data,
        stop_after=4,
        status="failed",
        failure=Failure(
            "RuntimeError",
            "The size of tensor a (299) must match the size of tensor b (224) at non-singleton dimension 3",
            'Traceback (most recent call last):\n  File "harness/engine/run.py", line 40\nRuntimeError: sizes',
        ),
    )
    add(store, experiment, "densenet121", data=data, stop_after=7, status=None)
    return store.run(ids[0]).experiment
