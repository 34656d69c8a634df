"""The results database: written event by event, each in a transaction of its own, and read as plain types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NoReturn
from uuid import uuid4

import numpy as np
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, load_only, selectinload
from sqlalchemy.orm.interfaces import ORMOption

from harness.errors import StoreError
from harness.results import (
    DatasetRecord,
    EnsembleRecord,
    Environment,
    EpochResult,
    Event,
    Experiment,
    Failure,
    Measurement,
    Note,
    PluginRecord,
    Prediction,
    Progress,
    Run,
    RunSetup,
    RunStatus,
    SplitRecord,
    StageResult,
    StageStarted,
)
from harness.store.codec import pack_doubles, pack_labels, pack_logits, pack_strings, sha256, unpack_labels
from harness.store.database import Database, explained
from harness.store.models import (
    Base,
    DatasetRow,
    DatasetSplitRow,
    EnsembleMemberRow,
    EnsembleRow,
    EnvironmentRow,
    EpochRow,
    ExperimentRow,
    MeasurementRow,
    PredictionRow,
    RunRow,
    SplitRow,
    StageRow,
)
from harness.store.rows import to_ensembles, to_experiment, to_runs

__all__ = ["Store"]

_LISTED = (
    selectinload(RunRow.experiment),
    selectinload(RunRow.dataset),
    selectinload(RunRow.environment),
    selectinload(RunRow.stages).selectinload(StageRow.epochs),
)


class Store:
    """An open results database; :func:`harness.store.open_store` makes one.

    Every method raises :class:`~harness.errors.StoreError` where the database cannot be read or written. What was
    recorded before an error is kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._database.engine.dispose()

    # --- writing ---------------------------------------------------------------------------------------------------

    def experiment(self, name: str, command: str) -> Experiment:
        """Return the experiment of that name, made where it is new; ``command`` replaces the one stored."""
        with self._write() as session:
            experiment_id = _add_once(
                session, ExperimentRow, "name", {"name": name, "command": command, "created_at": datetime.now(UTC)}
            )
            row = session.get_one(ExperimentRow, experiment_id)
            row.command = command
            return to_experiment(row)

    def add_dataset(self, record: DatasetRecord) -> None:
        """Store a data set, unless one with that fingerprint is there."""
        with self._write() as session:
            _dataset_id(session, record)

    def start_run(
        self,
        experiment: Experiment,
        *,
        backbone: str,
        schedule: str,
        seed: int,
        config: Mapping[str, Any],
        config_hash: str,
        plugins: Sequence[PluginRecord],
        dataset: DatasetRecord,
    ) -> int:
        """Store a run that begins now, with status ``running``, and return its id."""
        with self._write() as session:
            row = RunRow(
                uid=uuid4().hex,
                experiment_id=experiment.id,
                status="running",
                backbone=backbone,
                schedule=schedule,
                dataset_id=_dataset_id(session, dataset),
                seed=seed,
                config=dict(config),
                config_hash=config_hash,
                plugins=[asdict(plugin) for plugin in plugins],
                started_at=datetime.now(UTC),
            )
            session.add(row)
            session.flush()
            return row.id

    def record(self, run_id: int, event: Event) -> None:
        """Store what a run yielded; progress and notes are not kept.

        The end of a stage is judged here, against the labels of the run's data set.

        Raises:
            StoreError: also where predictions do not fit the images of their split.
        """
        if isinstance(event, Progress | Note):
            return
        with self._write() as session:
            row = self._run_row(session, run_id)
            match event:
                case RunSetup():
                    row.environment_id = _environment_id(session, event.environment)
                    row.weights_kind = event.weights.kind
                    row.weights_origin = event.weights.origin
                    row.weights_sha256 = event.weights.sha256
                    row.parameters = event.parameters
                case StageStarted():
                    session.add(
                        StageRow(
                            run_id=run_id,
                            name=event.stage,
                            index=event.index,
                            planned_epochs=event.epochs,
                            trainable=event.trainable,
                        )
                    )
                case EpochResult():
                    figures = asdict(event)
                    stage = self._stage_row(session, run_id, figures.pop("stage"))
                    session.add(EpochRow(stage_id=stage.id, **figures))
                case StageResult():
                    stage = self._stage_row(session, run_id, event.stage)
                    stage.tested_epoch = event.tested_epoch
                    stage.seconds = event.seconds
                    stage.images_per_second = event.images_per_second
                    for prediction in event.predictions:
                        self._add_prediction(session, row, stage, prediction)
                case Measurement():
                    session.add(
                        MeasurementRow(
                            run_id=run_id,
                            name=event.name,
                            unit=event.unit,
                            batch_size=event.batch_size,
                            stage=event.stage,
                            device=event.device,
                            n=len(event.samples),
                            samples=pack_doubles(event.samples),
                        )
                    )
                case Failure():
                    row.failure_kind = event.kind
                    row.failure_message = event.message
                    row.failure_traceback = event.traceback

    def finish_run(self, run_id: int, status: RunStatus) -> None:
        """Store how a run ended, and that it ended now."""
        with self._write() as session:
            row = self._run_row(session, run_id)
            row.status = status
            row.finished_at = datetime.now(UTC)

    def add_ensemble(self, experiment: Experiment, record: EnsembleRecord) -> int:
        """Store an ensemble's decisions, and return its id.

        Raises:
            StoreError: also where a member is no run of this database, or the decisions' shapes do not fit.
        """
        if record.labels.shape != (record.images,) or record.scores.shape != (
            record.images,
            len(record.dataset.classes),
        ):
            self._refuse(
                f"the ensemble {record.method} has labels {record.labels.shape} and scores {record.scores.shape} "
                f"for {record.images} images of {len(record.dataset.classes)} classes"
            )
        with self._write() as session:
            for member in record.members:
                self._run_row(session, member.run_id)
            row = EnsembleRow(
                uid=uuid4().hex,
                experiment_id=experiment.id,
                method=record.method,
                split=record.split,
                plugin=asdict(record.plugin),
                dataset_id=_dataset_id(session, record.dataset),
                images=record.images,
                correct=record.correct,
                auc=record.auc,
                labels=pack_labels(record.labels),
                scores=pack_doubles(record.scores),
                members=[
                    EnsembleMemberRow(position=position, run_id=member.run_id, stage=member.stage)
                    for position, member in enumerate(record.members)
                ],
            )
            session.add(row)
            session.flush()
            return row.id

    # --- reading ---------------------------------------------------------------------------------------------------

    def experiments(self) -> list[Experiment]:
        """Return the experiments, newest first."""
        newest = select(ExperimentRow).order_by(ExperimentRow.created_at.desc(), ExperimentRow.id.desc())
        with self._read() as session:
            return [to_experiment(row) for row in session.scalars(newest)]

    def runs(
        self,
        *,
        experiment: str | None = None,
        status: str | None = None,
        backbone: str | None = None,
        limit: int | None = None,
    ) -> list[Run]:
        """Return runs, newest first, with stages and epochs, without predictions, measurements and images.

        Args:
            experiment: only those of the experiment of that name.
            status: only those of that status.
            backbone: only those of that backbone.
            limit: at most so many.
        """
        query = select(RunRow).options(*_LISTED).order_by(RunRow.started_at.desc(), RunRow.id.desc()).limit(limit)
        if experiment is not None:
            query = query.join(RunRow.experiment).where(ExperimentRow.name == experiment)
        if status is not None:
            query = query.where(RunRow.status == status)
        if backbone is not None:
            query = query.where(RunRow.backbone == backbone)
        with self._read() as session:
            return list(to_runs(session.scalars(query), everything=False))

    def run(self, run_id: int) -> Run:
        """Return a run with everything: predictions, measurements, and the images of its data set's splits.

        Raises:
            StoreError: also where there is no such run.
        """
        with self._read() as session:
            row = self._run_row(
                session,
                run_id,
                *_LISTED,
                selectinload(RunRow.stages).selectinload(StageRow.predictions),
                selectinload(RunRow.measurements),
                selectinload(RunRow.dataset).selectinload(DatasetRow.splits).selectinload(DatasetSplitRow.split),
            )
            return next(to_runs([row], everything=True))

    def ensembles(self, experiment: str | None = None) -> list[EnsembleRecord]:
        """Return ensembles in the order in which they were stored, without the images of their data set.

        Args:
            experiment: only those of the experiment of that name.
        """
        query = select(EnsembleRow).order_by(EnsembleRow.id)
        if experiment is not None:
            named = select(ExperimentRow.id).where(ExperimentRow.name == experiment)
            query = query.where(EnsembleRow.experiment_id.in_(named))
        query = query.options(
            selectinload(EnsembleRow.dataset),
            selectinload(EnsembleRow.members)
            .selectinload(EnsembleMemberRow.run)
            .options(load_only(RunRow.id, RunRow.backbone)),
        )
        with self._read() as session:
            return list(to_ensembles(session.scalars(query)))

    # --- inside ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _write(self) -> Iterator[Session]:
        with explained(self._database.name), Session(self._database.writer) as session, session.begin():
            yield session

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with explained(self._database.name), Session(self._database.engine) as session:
            yield session

    def _refuse(self, reason: str) -> NoReturn:
        raise StoreError(f"results database {self._database.name}: {reason}")

    def _run_row(self, session: Session, run_id: int, *loaded: ORMOption) -> RunRow:
        row = session.get(RunRow, run_id, options=loaded) if 0 < run_id < 2**31 else None
        if row is None:
            self._refuse(f"there is no run {run_id}; `harness runs list` shows those it has")
        return row

    def _stage_row(self, session: Session, run_id: int, name: str) -> StageRow:
        row = session.scalars(select(StageRow).where(StageRow.run_id == run_id, StageRow.name == name)).one_or_none()
        if row is None:
            self._refuse(f"run {run_id} has not begun a stage {name!r}")
        return row

    def _add_prediction(self, session: Session, run: RunRow, stage: StageRow, prediction: Prediction) -> None:
        from harness.analysis import metrics

        split, logits = prediction.split, prediction.logits
        stored = session.scalars(
            select(SplitRow)
            .join(DatasetSplitRow, DatasetSplitRow.split_id == SplitRow.id)
            .where(DatasetSplitRow.dataset_id == run.dataset_id, DatasetSplitRow.name == split)
        ).one_or_none()
        if stored is None:
            self._refuse(f"run {run.id} predicted the split {split!r}, whose images are not stored with its data set")
        classes = len(session.get_one(DatasetRow, run.dataset_id).classes)
        if logits.shape != (stored.n, classes):
            self._refuse(
                f"run {run.id} predicted the split {split!r} with logits of shape {logits.shape}; "
                f"its images and classes are {(stored.n, classes)}"
            )
        session.add(
            PredictionRow(stage_id=stage.id, split=split, n=stored.n, classes=classes, logits=pack_logits(logits))
        )
        labels, predicted = unpack_labels(stored.labels), metrics.classify(logits)
        if split == "val":
            stage.val_accuracy = metrics.accuracy(labels, predicted)
        elif split == "test":
            stage.test_images = stored.n
            stage.test_correct = metrics.correct(labels, predicted)
            stage.test_auc = metrics.auc(labels, metrics.softmax(logits))
            stage.test_confusion = metrics.confusion(labels, predicted, classes).tolist()


def _add_once(session: Session, row: type[Base], key: str, values: Mapping[str, Any]) -> int:
    """Insert a row unless one with that key is there, whoever else does the same now; return its id."""
    dialect: Any = {"sqlite": sqlite, "postgresql": postgresql}[session.get_bind().dialect.name]
    session.execute(dialect.insert(row).values(**values).on_conflict_do_nothing(index_elements=[key]))
    table: Any = row
    row_id: int = session.scalars(select(table.id).where(getattr(table, key) == values[key])).one()
    return row_id


def _environment_id(session: Session, environment: Environment) -> int:
    values = asdict(environment)
    return _add_once(session, EnvironmentRow, "sha256", {"sha256": sha256(values), **values})


def _dataset_id(session: Session, record: DatasetRecord) -> int:
    known = session.scalars(select(DatasetRow.id).where(DatasetRow.fingerprint == record.fingerprint)).one_or_none()
    if known is not None:
        return known
    dataset_id = _add_once(
        session,
        DatasetRow,
        "fingerprint",
        {
            "fingerprint": record.fingerprint,
            "name": record.name,
            "classes": list(record.classes),
            "counts": {split: dict(counts) for split, counts in record.counts.items()},
            "synthetic": record.synthetic,
            "citation": record.citation,
            "licence": record.licence,
        },
    )
    for position, split in enumerate(record.splits):
        link = DatasetSplitRow(
            dataset_id=dataset_id, name=split.name, position=position, split_id=_split_id(session, split)
        )
        session.merge(link)
    return dataset_id


def _split_id(session: Session, split: SplitRecord) -> int:
    content = {"ids": split.ids, "groups": split.groups, "labels": np.asarray(split.labels).tolist()}
    values = {
        "sha256": sha256(content),
        "n": len(split.ids),
        "ids": pack_strings(split.ids),
        "groups": pack_strings(split.groups),
        "labels": pack_labels(split.labels),
    }
    return _add_once(session, SplitRow, "sha256", values)
