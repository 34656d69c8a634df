"""From rows to the types of :mod:`harness.results`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import cache
from typing import Any, cast

from harness.results import (
    Attempt,
    DatasetRecord,
    EnsembleRecord,
    Environment,
    EpochResult,
    Experiment,
    Failure,
    Measurement,
    MeasurementSet,
    Member,
    PluginRecord,
    Prediction,
    Run,
    RunStatus,
    SetStatus,
    SplitRecord,
    StageRecord,
    WeightsRecord,
)
from harness.store.codec import to_passport, unpack_doubles, unpack_labels, unpack_logits, unpack_strings
from harness.store.models import (
    AttemptRow,
    DatasetRow,
    EnsembleRow,
    EnvironmentRow,
    EpochRow,
    ExperimentRow,
    MeasurementRow,
    MeasurementSetRow,
    PredictionRow,
    RunRow,
    StageRow,
)

__all__ = ["to_ensembles", "to_experiment", "to_runs", "to_set"]


def to_experiment(row: ExperimentRow) -> Experiment:
    """Return an experiment from a row with its sweeps loaded."""
    return Experiment(row.id, row.name, row.created_at, tuple(dict.fromkeys(sweep.command for sweep in row.sweeps)))


def to_runs(rows: Iterable[RunRow], lost: Collection[int], *, epochs: bool, everything: bool) -> Iterator[Run]:
    """Yield runs; what several share is converted once.

    Args:
        rows: with their sweeps and experiments, dataset, environment, stages, attempts and tags loaded.
        lost: ids of runs whose process is gone.
        epochs: also convert epochs, which are then loaded too.
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
            experiments=tuple(dict.fromkeys(experiment(sweep.experiment) for sweep in row.sweeps)),
            status="lost" if row.id in lost else cast(RunStatus, row.status),
            backbone=row.backbone,
            schedule=row.schedule,
            seed=row.seed,
            config=row.config,
            config_hash=row.config_hash,
            plugins=tuple(PluginRecord(**plugin) for plugin in row.plugins),
            dataset=dataset(row.dataset),
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            environment=environment(row.environment) if row.environment else None,
            weights=_weights(row),
            parameters=row.parameters,
            stages=tuple(_stage(stage, epochs=epochs, predictions=everything) for stage in row.stages),
            measurements=tuple(map(_measurement, row.measurements)) if everything else (),
            attempts=tuple(map(_attempt, row.attempts)),
            tags=tuple(tag.tag for tag in row.tags),
            note=row.note,
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
            threshold=row.threshold,
            threshold_correct=row.threshold_correct,
            id=row.id,
        )


def to_set(row: MeasurementSetRow) -> MeasurementSet:
    """Return a measurement set from a row with its environment and measurements loaded."""
    return MeasurementSet(
        label=row.label,
        suite=row.suite,
        name=row.name,
        config=row.config,
        environment=_environment(row.environment) if row.environment else None,
        measurements=tuple(
            Measurement(
                one.name, one.unit, unpack_doubles(one.samples), one.device, one.batch_size, details=one.details
            )
            for one in row.measurements
        ),
        plugins=tuple(PluginRecord(**plugin) for plugin in row.plugins),
        weights=WeightsRecord(**row.weights) if row.weights else None,
        status=cast(SetStatus, row.status),
        message=row.message,
        commit=row.commit,
        created_at=row.created_at,
        uid=row.uid,
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
        name=row.name,
        fingerprint=row.fingerprint,
        classes=tuple(row.classes),
        counts=row.counts,
        synthetic=row.synthetic,
        citation=row.citation,
        licence=row.licence,
        splits=splits,
        passport=to_passport(row.passport) if row.passport is not None else None,
        subtypes=row.subtypes or {},
    )


def _weights(row: RunRow) -> WeightsRecord | None:
    if row.weights_kind is None or row.weights_origin is None:
        return None
    kind: Any = row.weights_kind
    return WeightsRecord(kind, row.weights_origin, row.weights_sha256)


def _attempt(row: AttemptRow) -> Attempt:
    failure = None
    if row.failure_kind is not None:
        failure = Failure(row.failure_kind, row.failure_message or "", row.failure_traceback or "")
    return Attempt(
        number=row.number,
        host=row.host,
        pid=row.pid,
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
        ended_at=row.ended_at,
        outcome=cast(RunStatus | None, row.outcome),
        failure=failure,
    )


def _stage(row: StageRow, *, epochs: bool, predictions: bool) -> StageRecord:
    return StageRecord(
        name=row.name,
        index=row.index,
        planned_epochs=row.planned_epochs,
        trainable=row.trainable,
        epochs=tuple(_epoch(epoch, row.name) for epoch in row.epochs) if epochs else (),
        tested_epoch=row.tested_epoch,
        seconds=row.seconds,
        images_per_second=row.images_per_second,
        weights_sha256=row.weights_sha256,
        optimizer_sha256=row.optimizer_sha256,
        execution=row.execution or {},
        test_images=row.test_images,
        test_correct=row.test_correct,
        val_accuracy=row.val_accuracy,
        test_auc=row.test_auc,
        test_confusion=None if row.test_confusion is None else tuple(tuple(line) for line in row.test_confusion),
        threshold=row.threshold,
        threshold_correct=row.threshold_correct,
        temperature=row.temperature,
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
    samples, details = unpack_doubles(row.samples), row.details or {}
    return Measurement(row.name, row.unit, samples, row.device, row.batch_size, row.stage, details)
