"""The results database: written event by event, each in a transaction of its own, and read as plain types."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, datetime
from types import TracebackType
from typing import NoReturn
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session, load_only, selectinload
from sqlalchemy.orm.interfaces import ORMOption

from harness.errors import RunTakenOverError
from harness.results import (
    DatasetRecord,
    EnsembleRecord,
    EpochResult,
    Event,
    Experiment,
    Failure,
    Measurement,
    Note,
    PlannedRun,
    Prediction,
    Progress,
    Run,
    RunSetup,
    RunStatus,
    Selection,
    StageResult,
    StageStarted,
    Sweep,
)
from harness.store import shared
from harness.store.alive import Worker, is_gone, this_worker
from harness.store.codec import pack_doubles, pack_labels, pack_logits, sha256, unpack_labels, unpack_logits
from harness.store.database import Database
from harness.store.models import (
    AttemptRow,
    DatasetRow,
    DatasetSplitRow,
    EnsembleMemberRow,
    EnsembleRow,
    EpochRow,
    ExperimentRow,
    MeasurementRow,
    PredictionRow,
    RunRow,
    SplitRow,
    StageRow,
    SweepRow,
    SweepRunRow,
    TagRow,
    UtcDateTime,
)
from harness.store.rows import to_ensembles, to_experiment, to_runs
from harness.store.select import count_query, run_query
from harness.store.session import reading, refuse, writing
from harness.store.sets import Sets

__all__ = ["Store"]

EVERY_RUN = Selection()

_LISTED = (
    selectinload(RunRow.sweeps).selectinload(SweepRow.experiment).selectinload(ExperimentRow.sweeps),
    selectinload(RunRow.dataset),
    selectinload(RunRow.environment),
    selectinload(RunRow.stages),
    selectinload(RunRow.attempts),
    selectinload(RunRow.tags),
)
_EPOCHS = selectinload(RunRow.stages).selectinload(StageRow.epochs)


class Store:
    """An open results database; :func:`harness.store.open_store` makes one.

    Every method raises :class:`~harness.errors.StoreError` where the database cannot be read or written. What was
    recorded before an error is kept. ``sets`` holds what was measured without runs; ``database`` is for the other
    modules of this package.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.sets = Sets(database)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self.database.engine.dispose()

    # --- writing ---------------------------------------------------------------------------------------------------

    def plan(
        self,
        runs: Sequence[PlannedRun],
        *,
        command: str,
        ensembles: Sequence[str] = (),
        experiment: str | None = None,
        repeat: bool = False,
    ) -> Sweep:
        """Store what a command is about to do, and find what of it is there already.

        A run of the same config on the same data set is taken up again in whatever state it is, one that completed
        before any other. The same plan made again is the same sweep.

        Args:
            runs: at least one, in the order in which they are to be executed.
            command: what the user typed, without passwords.
            ensembles: names of the ensembles over these runs.
            experiment: its name; by default that of an earlier equal plan, or else the data set and the time.
            repeat: make every run anew.
        """
        datasets = {run.dataset.fingerprint: run.dataset for run in runs}
        plan_hash = sha256([[run.config_hash for run in runs], *datasets, list(ensembles)])
        with self._write() as session:
            if session.get_bind().dialect.name == "postgresql":  # on SQLite the write lock keeps others from planning
                session.execute(text("LOCK TABLE sweeps IN SHARE ROW EXCLUSIVE MODE"))
            sweep = None if repeat else self._equal_sweep(session, plan_hash, experiment)
            if sweep is None:
                name = experiment or f"{runs[0].dataset.name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
                sweep = SweepRow(
                    uid=uuid4().hex,
                    experiment_id=shared.experiment_id(session, name),
                    command=command,
                    ensembles=list(ensembles),
                    plan_hash=plan_hash,
                    created_at=datetime.now(UTC),
                )
                session.add(sweep)
                session.flush()
            dataset_ids = {name: shared.dataset_id(session, dataset) for name, dataset in datasets.items()}
            planned = select(SweepRunRow.position, SweepRunRow.run_id).where(SweepRunRow.sweep_id == sweep.id)
            known: dict[int, int] = {row.position: row.run_id for row in session.execute(planned)}
            run_ids = []
            for position, run in enumerate(runs):
                dataset_id = dataset_ids[run.dataset.fingerprint]
                run_id = known.get(position)
                if run_id is None and not repeat:
                    run_id = _same_run(session, run.config_hash, dataset_id)
                if run_id is None:
                    run_id = _add_run(session, run, dataset_id)
                session.merge(SweepRunRow(sweep_id=sweep.id, run_id=run_id, position=position))
                run_ids.append(run_id)
            session.flush()
            loaded = session.get_one(
                ExperimentRow,
                sweep.experiment_id,
                options=[selectinload(ExperimentRow.sweeps)],
                populate_existing=True,
            )
            return Sweep(to_experiment(loaded), tuple(run_ids), tuple(ensembles))

    def begin(self, run_id: int) -> bool:
        """Begin an attempt at a run in the name of this process.

        Returns:
            False where it is done, another process is at it, or it was removed.
        """
        now = datetime.now(UTC)
        with self._write() as session:
            row = session.get(RunRow, run_id, with_for_update=True)
            if row is None or row.status == "completed":
                return False
            if row.status == "running":
                if run_id not in _lost(session):
                    return False
                before = session.get_one(AttemptRow, (run_id, row.attempt))
                before.outcome, before.ended_at = "lost", before.heartbeat_at
            row.attempt += 1
            row.status = "running"
            row.started_at = row.started_at or now
            row.finished_at = None
            worker = this_worker()
            session.add(
                AttemptRow(
                    run_id=run_id,
                    number=row.attempt,
                    host=worker.host,
                    pid=worker.pid,
                    process_started=worker.started,
                    started_at=now,
                    heartbeat_at=_now(session),
                )
            )
            return True

    def heartbeat(self, run_id: int) -> None:
        """Store that this process, which executes a run, is alive.

        Raises:
            RunTakenOverError: another process has taken this one for gone, and executes the run.
        """
        with self._write() as session:
            self._attempt_row(session, run_id).heartbeat_at = _now(session)

    def record(self, run_id: int, event: Event) -> None:
        """Store what a run yielded; progress and notes are not kept.

        What a run yields again, as one that goes on from a checkpoint may, replaces what it yielded before. The end of
        a stage is judged here, against the labels of the run's data set.

        Raises:
            RunTakenOverError: another process has taken this one for gone, and executes the run.
            StoreError: also where predictions do not fit the images of their split.
        """
        if isinstance(event, Progress | Note):
            return
        with self._write() as session:
            row, attempt = self._run_row(session, run_id), self._attempt_row(session, run_id)
            match event:
                case RunSetup(resumed=True):
                    pass
                case RunSetup():
                    self._set_up(session, row, event)
                case StageStarted():
                    stage = self._stage_row(session, run_id, event.stage, missing=True)
                    stage.index = event.index
                    stage.planned_epochs = event.epochs
                    stage.trainable = event.trainable
                case EpochResult():
                    figures = asdict(event)
                    stage = self._stage_row(session, run_id, figures.pop("stage"))
                    session.merge(EpochRow(stage_id=stage.id, **figures))
                case StageResult():
                    stage = self._stage_row(session, run_id, event.stage)
                    stage.tested_epoch = event.tested_epoch
                    stage.seconds = event.seconds
                    stage.images_per_second = event.images_per_second
                    stage.weights_sha256 = event.weights_sha256
                    stage.optimizer_sha256 = event.optimizer_sha256
                    stage.execution = dict(event.execution)
                    labels = {
                        prediction.split: self._add_prediction(session, row, stage, prediction)
                        for prediction in event.predictions
                    }
                    _choose_on_validation(stage, labels, {one.split: one.logits for one in event.predictions})
                    session.flush()
                    last = _last_tested(session, run_id)
                    row.test_accuracy, row.test_auc = last or (None, None)
                case Measurement():
                    _replace_measurement(session, run_id, event)
                case Failure():
                    attempt.failure_kind = event.kind
                    attempt.failure_message = event.message
                    attempt.failure_traceback = event.traceback

    def finish_run(self, run_id: int, status: RunStatus) -> None:
        """Store how this attempt at a run ended, and that it ended now.

        Raises:
            RunTakenOverError: another process has taken this one for gone, and executes the run.
        """
        with self._write() as session:
            row = self._run_row(session, run_id)
            attempt = self._attempt_row(session, run_id)
            row.status = attempt.outcome = status
            row.finished_at = attempt.ended_at = datetime.now(UTC)

    def tag(self, run_ids: Collection[int], *, add: Collection[str] = (), remove: Collection[str] = ()) -> None:
        """Put words on runs, and take words off them."""
        with self._write() as session:
            for run_id in run_ids:
                self._run_row(session, run_id)
                for tag in add:
                    session.merge(TagRow(run_id=run_id, tag=tag))
                session.execute(delete(TagRow).where(TagRow.run_id == run_id, TagRow.tag.in_(remove)))

    def note(self, run_id: int, text: str) -> None:
        """Set a run's note."""
        with self._write() as session:
            self._run_row(session, run_id).note = text

    def delete_runs(self, run_ids: Collection[int]) -> int:
        """Delete runs with everything that hangs on them; return how many ensembles that took.

        What they alone used goes too: data sets, environments, sweeps and experiments.

        Raises:
            StoreError: also where a run is missing, or goes on; nothing is deleted then.
        """
        with self._write() as session:
            rows = [self._run_row(session, run_id, with_for_update=True) for run_id in run_ids]
            running = {row.id for row in rows if row.status == "running"}
            if alive := sorted(running - _lost(session)):
                self._refuse(f"run {alive[0]} is running; stop it first")
            of_runs = select(EnsembleMemberRow.ensemble_id).where(EnsembleMemberRow.run_id.in_(run_ids))
            ensembles = set(session.scalars(of_runs))
            session.execute(delete(EnsembleRow).where(EnsembleRow.id.in_(ensembles)))
            session.execute(delete(RunRow).where(RunRow.id.in_(run_ids)))
            shared.remove_unused(session)
            return len(ensembles)

    def add_dataset(self, record: DatasetRecord) -> None:
        """Store a data set, or what its passport says of one that is there.

        It goes, as all that no run uses, when something is deleted.
        """
        with self._write() as session:
            shared.dataset_id(session, record)

    def add_ensemble(self, experiment: Experiment, record: EnsembleRecord) -> int:
        """Store an ensemble's decisions, in place of those of the same ensemble made before, and return its id.

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
            members = [(self._run_row(session, member.run_id).uid, member.stage) for member in record.members]
            uid = sha256([experiment.name, record.method, record.split, record.dataset.fingerprint, members])
            session.execute(delete(EnsembleRow).where(EnsembleRow.uid == uid))
            row = EnsembleRow(
                uid=uid,
                experiment_id=experiment.id,
                method=record.method,
                split=record.split,
                plugin=asdict(record.plugin),
                dataset_id=shared.dataset_id(session, record.dataset),
                images=record.images,
                correct=record.correct,
                auc=record.auc,
                threshold=record.threshold,
                threshold_correct=record.threshold_correct,
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
            return [to_experiment(row) for row in session.scalars(newest.options(selectinload(ExperimentRow.sweeps)))]

    def experiments_with_runs(self) -> frozenset[int]:
        """Return the ids of the experiments that have a run."""
        with self._read() as session:
            joined = select(SweepRow.experiment_id).join(SweepRunRow, SweepRunRow.sweep_id == SweepRow.id)
            return frozenset(session.scalars(joined.distinct()))

    def unfinished_sweeps(self, experiment: str | None = None) -> list[Sweep]:
        """Return sweeps of which a run has not completed, newest first; of one experiment alone where it is named."""
        unfinished = (
            select(SweepRunRow.sweep_id)
            .join(RunRow, RunRow.id == SweepRunRow.run_id)
            .where(RunRow.status.in_(["planned", "running", "failed", "interrupted"]))
        )
        query = (
            select(SweepRow)
            .join(SweepRow.experiment)
            .where(SweepRow.id.in_(unfinished))
            .order_by(SweepRow.created_at.desc(), SweepRow.id.desc())
            .options(selectinload(SweepRow.experiment).selectinload(ExperimentRow.sweeps))
        )
        if experiment is not None:
            query = query.where(ExperimentRow.name == experiment)
        with self._read() as session:
            return [
                Sweep(
                    to_experiment(sweep.experiment),
                    tuple(
                        session.scalars(
                            select(SweepRunRow.run_id)
                            .where(SweepRunRow.sweep_id == sweep.id)
                            .order_by(SweepRunRow.position, SweepRunRow.run_id)
                        )
                    ),
                    tuple(sweep.ensembles),
                )
                for sweep in session.scalars(query)
            ]

    def runs(self, selection: Selection = EVERY_RUN, *, epochs: bool = False) -> list[Run]:
        """Return runs with their stages, without predictions, measurements and images.

        Args:
            selection: which, and in which order.
            epochs: with the figures of each epoch.

        Raises:
            ConfigError: the selection's filter or order cannot be used.
        """
        with self._read() as session:
            lost = _lost(session)
            query = run_query(selection, lost).options(*_LISTED, *([_EPOCHS] if epochs else []))
            return list(to_runs(session.scalars(query), lost, epochs=epochs, everything=False))

    def run_ids(self, selection: Selection) -> list[int]:
        """Return the ids of the selected runs, in order."""
        with self._read() as session:
            return list(session.scalars(run_query(selection, _lost(session)).with_only_columns(RunRow.id)))

    def count(self, selection: Selection = EVERY_RUN) -> int:
        """Count the selected runs on all pages."""
        with self._read() as session:
            return session.scalar(count_query(selection, _lost(session))) or 0

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
                _EPOCHS,
                selectinload(RunRow.stages).selectinload(StageRow.predictions),
                selectinload(RunRow.measurements),
                selectinload(RunRow.dataset).selectinload(DatasetRow.splits).selectinload(DatasetSplitRow.split),
            )
            return next(to_runs([row], _lost(session), epochs=True, everything=True))

    def decisions(self, run_ids: Collection[int]) -> dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Return true and predicted labels of the test images, (n,) each, of runs after their last tested stage."""
        from harness.analysis import metrics

        query = (
            select(StageRow.run_id, PredictionRow.logits, PredictionRow.classes, DatasetSplitRow.split_id)
            .join(PredictionRow, PredictionRow.stage_id == StageRow.id)
            .join(RunRow, RunRow.id == StageRow.run_id)
            .join(
                DatasetSplitRow,
                (DatasetSplitRow.dataset_id == RunRow.dataset_id) & (DatasetSplitRow.name == PredictionRow.split),
            )
            .where(StageRow.run_id.in_(run_ids), PredictionRow.split == "test")
            .order_by(StageRow.index)
        )
        with self._read() as session:
            last = {row.run_id: row for row in session.execute(query)}
            splits = select(SplitRow.id, SplitRow.labels).where(
                SplitRow.id.in_({row.split_id for row in last.values()})
            )
            labels = {row.id: unpack_labels(row.labels) for row in session.execute(splits)}
        return {
            run_id: (labels[row.split_id], metrics.classify(unpack_logits(row.logits, row.classes)))
            for run_id, row in last.items()
        }

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

    def _write(self) -> AbstractContextManager[Session]:
        return writing(self.database)

    def _read(self) -> AbstractContextManager[Session]:
        return reading(self.database)

    def _refuse(self, reason: str) -> NoReturn:
        refuse(self.database, reason)

    def _run_row(self, session: Session, run_id: int, *loaded: ORMOption, with_for_update: bool = False) -> RunRow:
        possible = 0 < run_id < 2**31
        row = session.get(RunRow, run_id, options=loaded, with_for_update=with_for_update) if possible else None
        if row is None:
            self._refuse(f"there is no run {run_id}; `harness runs list` shows those it has")
        return row

    def _stage_row(self, session: Session, run_id: int, name: str, *, missing: bool = False) -> StageRow:
        row = session.scalars(select(StageRow).where(StageRow.run_id == run_id, StageRow.name == name)).one_or_none()
        if row is None:
            if not missing:
                self._refuse(f"run {run_id} has not begun a stage {name!r}")
            row = StageRow(run_id=run_id, name=name)
            session.add(row)
        return row

    def _attempt_row(self, session: Session, run_id: int) -> AttemptRow:
        """Return the attempt that this process makes."""
        row = session.get(AttemptRow, (run_id, self._run_row(session, run_id).attempt))
        if row is None:
            self._refuse(f"run {run_id} has not begun")
        worker = Worker(row.host, row.pid, row.process_started)
        if worker != this_worker():
            raise RunTakenOverError(
                f"results database {self.database.name}: process {row.pid} on {row.host.partition(' ')[0]!r} has taken "
                f"over run {run_id}, as nothing was heard of this one"
            )
        return row

    def _set_up(self, session: Session, row: RunRow, event: RunSetup) -> None:
        environment_id = shared.environment_id(session, event.environment)
        if row.environment_id not in (None, environment_id):  # its stages belong to another machine
            session.execute(delete(StageRow).where(StageRow.run_id == row.id))
            session.execute(delete(MeasurementRow).where(MeasurementRow.run_id == row.id))
            row.test_accuracy = row.test_auc = None
        row.environment_id = environment_id
        row.weights_kind = event.weights.kind
        row.weights_origin = event.weights.origin
        row.weights_sha256 = event.weights.sha256
        row.parameters = event.parameters

    @staticmethod
    def _equal_sweep(session: Session, plan_hash: str, experiment: str | None) -> SweepRow | None:
        query = select(SweepRow).where(SweepRow.plan_hash == plan_hash).order_by(SweepRow.id.desc()).limit(1)
        if experiment is not None:
            query = query.join(SweepRow.experiment).where(ExperimentRow.name == experiment)
        return session.scalars(query).one_or_none()

    def _add_prediction(
        self, session: Session, run: RunRow, stage: StageRow, prediction: Prediction
    ) -> NDArray[np.int64]:
        """Store a prediction with its figures, and return the labels of its images."""
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
        session.merge(
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
        return labels


def _choose_on_validation(
    stage: StageRow, labels: Mapping[str, NDArray[np.int64]], logits: Mapping[str, NDArray[np.float32]]
) -> None:
    from harness.analysis import metrics, validation

    stage.threshold = stage.threshold_correct = stage.temperature = None
    if "val" not in labels:
        return
    stage.temperature = validation.temperature(labels["val"], logits["val"])
    if logits["val"].shape[1] == 2:
        stage.threshold = validation.threshold_on_validation(labels["val"], metrics.softmax(logits["val"])[:, 1])
    if stage.threshold is not None and "test" in labels:
        at_threshold = validation.classify_at(metrics.softmax(logits["test"])[:, 1], stage.threshold)
        stage.threshold_correct = metrics.correct(labels["test"], at_threshold)


def _now(session: Session) -> datetime:
    """Tell the time: the server's, where machines share one, as their clocks may differ."""
    if session.get_bind().dialect.name == "postgresql":
        return session.scalars(select(func.clock_timestamp(type_=UtcDateTime))).one()
    return datetime.now(UTC)


def _lost(session: Session) -> frozenset[int]:
    """Return the runs that are stored as running, and whose process is gone."""
    running = (
        select(AttemptRow)
        .join(RunRow, (RunRow.id == AttemptRow.run_id) & (RunRow.attempt == AttemptRow.number))
        .where(RunRow.status == "running")
    )
    attempts = session.scalars(running).all()
    now = _now(session) if attempts else None
    return frozenset(
        row.run_id
        for row in attempts
        if now and is_gone(Worker(row.host, row.pid, row.process_started), now - row.heartbeat_at)
    )


def _same_run(session: Session, config_hash: str, dataset_id: int) -> int | None:
    same = select(RunRow.id).where(RunRow.config_hash == config_hash, RunRow.dataset_id == dataset_id)
    best = same.order_by((RunRow.status == "completed").desc(), RunRow.id.desc()).limit(1)
    return session.scalars(best).one_or_none()


def _last_tested(session: Session, run_id: int) -> tuple[float, float | None] | None:
    """Return accuracy and AUC of the last stage of a run that was tested."""
    tested = select(StageRow).where(StageRow.run_id == run_id, StageRow.test_correct.is_not(None))
    row = session.scalars(tested.order_by(StageRow.index.desc()).limit(1)).one_or_none()
    if row is None or row.test_correct is None or not row.test_images:
        return None
    return row.test_correct / row.test_images, row.test_auc


def _replace_measurement(session: Session, run_id: int, measurement: Measurement) -> None:
    session.execute(
        delete(MeasurementRow).where(
            MeasurementRow.run_id == run_id,
            MeasurementRow.name == measurement.name,
            MeasurementRow.batch_size.is_not_distinct_from(measurement.batch_size),
            MeasurementRow.stage.is_not_distinct_from(measurement.stage),
        )
    )
    session.add(
        MeasurementRow(
            run_id=run_id,
            name=measurement.name,
            unit=measurement.unit,
            batch_size=measurement.batch_size,
            stage=measurement.stage,
            device=measurement.device,
            n=len(measurement.samples),
            samples=pack_doubles(measurement.samples),
            details=dict(measurement.details),
        )
    )


def _add_run(session: Session, run: PlannedRun, dataset_id: int) -> int:
    row = RunRow(
        uid=uuid4().hex,
        status="planned",
        attempt=0,
        backbone=run.backbone,
        schedule=run.schedule,
        dataset_id=dataset_id,
        seed=run.seed,
        config=dict(run.config),
        config_hash=run.config_hash,
        plugins=[asdict(plugin) for plugin in run.plugins],
        created_at=datetime.now(UTC),
        note="",
    )
    session.add(row)
    session.flush()
    return row.id
