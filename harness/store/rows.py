"""From rows to the types of :mod:`harness.results`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, cast

from harness.results import (
    DatasetRecord,
    EnsembleRecord,
    Environment,
    EpochResult,
    Experiment,
    Failure,
    Measurement,
    Member,
    PluginRecord,
    Prediction,
    Run,
    RunStatus,
    SplitRecord,
    StageRecord,
    WeightsRecord,
)
from harness.store.codec import unpack_doubles, unpack_labels, unpack_logits, unpack_strings
from harness.store.models import (
    DatasetRow,
    EnsembleRow,
    EnvironmentRow,
    EpochRow,
    ExperimentRow,
    MeasurementRow,
    PredictionRow,
    RunRow,
    StageRow,
)

__all__ = ["to_ensembles", "to_experiment", "to_runs"]


def to_experiment(row: ExperimentRow) -> Experiment:
    """Return an experiment."""
    return Experiment(row.id, row.name, row.command, row.created_at)


def to_runs(rows: Iterable[RunRow], *, everything: bool) -> Iterator[Run]:
    """Yield runs; what several share is converted once.

    Args:
        rows: with their experiment, dataset, environment, stages and epochs loaded.
        everything: also convert predictions, measurements and the images of splits, which are then loaded too.
    """
    experiment, environment = cache(to_experiment), cache(_environment)

    @cache
    def dataset(row: DatasetRow) -> DatasetRecord:
        return _dataset(row, _splits(row) if everything else ())

    for row in rows:
        yield Run(
            id=row.id,
            uid=row.uid,
            experiment=experiment(row.experiment),
            status=cast(RunStatus, row.status),
            backbone=row.backbone,
            schedule=row.schedule,
            seed=row.seed,
            config=row.config,
            config_hash=row.config_hash,
            plugins=tuple(PluginRecord(**plugin) for plugin in row.plugins),
            dataset=dataset(row.dataset),
            started_at=row.started_at,
            finished_at=row.finished_at,
            environment=environment(row.environment) if row.environment else None,
            weights=_weights(row),
            parameters=row.parameters,
            stages=tuple(_stage(stage, predictions=everything) for stage in row.stages),
            measurements=tuple(map(_measurement, row.measurements)) if everything else (),
            failure=_failure(row),
        )


def to_ensembles(rows: Iterable[EnsembleRow]) -> Iterator[EnsembleRecord]:
    """Yield ensembles from rows with their dataset and members loaded."""

    @cache
    def dataset(row: DatasetRow) -> DatasetRecord:
        return _dataset(row, ())

    for row in rows:
        yield EnsembleRecord(
            method=row.method,
            split=row.split,
            members=tuple(Member(member.run_id, member.stage, member.run.backbone) for member in row.members),
            plugin=PluginRecord(**row.plugin),
            dataset=dataset(row.dataset),
            labels=unpack_labels(row.labels),
            scores=unpack_doubles(row.scores).reshape(row.images, -1),
            images=row.images,
            correct=row.correct,
            auc=row.auc,
            id=row.id,
        )


def _environment(row: EnvironmentRow) -> Environment:
    return Environment(row.device, row.device_name, row.python, row.torch, row.details)


def _splits(row: DatasetRow) -> tuple[SplitRecord, ...]:
    return tuple(
        SplitRecord(
            link.name,
            unpack_strings(link.split.ids),
            unpack_strings(link.split.groups),
            unpack_labels(link.split.labels),
        )
        for link in row.splits
    )


def _dataset(row: DatasetRow, splits: tuple[SplitRecord, ...]) -> DatasetRecord:
    return DatasetRecord(
        row.name, row.fingerprint, tuple(row.classes), row.counts, row.synthetic, row.citation, row.licence, splits
    )


def _weights(row: RunRow) -> WeightsRecord | None:
    if row.weights_kind is None or row.weights_origin is None:
        return None
    kind: Any = row.weights_kind
    return WeightsRecord(kind, row.weights_origin, row.weights_sha256)


def _failure(row: RunRow) -> Failure | None:
    if row.failure_kind is None:
        return None
    return Failure(row.failure_kind, row.failure_message or "", row.failure_traceback or "")


def _stage(row: StageRow, *, predictions: bool) -> StageRecord:
    return StageRecord(
        name=row.name,
        index=row.index,
        planned_epochs=row.planned_epochs,
        trainable=row.trainable,
        epochs=tuple(_epoch(epoch, row.name) for epoch in row.epochs),
        tested_epoch=row.tested_epoch,
        seconds=row.seconds,
        images_per_second=row.images_per_second,
        test_images=row.test_images,
        test_correct=row.test_correct,
        val_accuracy=row.val_accuracy,
        test_auc=row.test_auc,
        test_confusion=None if row.test_confusion is None else tuple(tuple(line) for line in row.test_confusion),
        predictions={stored.split: _prediction(stored) for stored in row.predictions} if predictions else {},
    )


def _epoch(row: EpochRow, stage: str) -> EpochResult:
    return EpochResult(
        stage,
        row.epoch,
        row.lr,
        row.train_loss,
        row.train_accuracy,
        row.val_loss,
        row.val_accuracy,
        row.seconds,
        row.images_per_second,
    )


def _prediction(row: PredictionRow) -> Prediction:
    return Prediction(row.split, unpack_logits(row.logits, row.classes))


def _measurement(row: MeasurementRow) -> Measurement:
    return Measurement(row.name, row.unit, unpack_doubles(row.samples), row.device, row.batch_size, row.stage)
