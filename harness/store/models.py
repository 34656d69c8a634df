"""The tables. Rows stay inside this package: the store returns the types of :mod:`harness.results`.

The same models serve SQLite and PostgreSQL. A migration in ``migrations/versions`` accompanies every change here; a
test compares the two.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    LargeBinary,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

__all__ = [
    "AttemptRow",
    "Base",
    "DatasetRow",
    "DatasetSplitRow",
    "EnsembleMemberRow",
    "EnsembleRow",
    "EnvironmentRow",
    "EpochRow",
    "ExperimentRow",
    "MeasurementRow",
    "MeasurementSetRow",
    "PredictionRow",
    "RunRow",
    "SetMeasurementRow",
    "SplitRow",
    "StageRow",
    "SweepRow",
    "SweepRunRow",
    "TagRow",
]


class PlainText(TypeDecorator[str]):
    """Text that both databases take: NUL and lone surrogates, as odd file names hold, become backslash escapes."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        """Escape what PostgreSQL or UTF-8 cannot hold."""
        if value is None:
            return None
        return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


class UtcDateTime(TypeDecorator[datetime]):
    """A time in UTC. SQLite drops the zone, which is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Convert to UTC."""
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Return an aware time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Figure(TypeDecorator[float]):
    """A double; NaN is stored as NULL, which is all that SQLite offers, and filters alike on both databases."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, _dialect: Dialect) -> float | None:
        """Replace NaN by NULL."""
        return None if value is None or math.isnan(value) else float(value)


class KnownFigure(Figure):
    """A figure that every row has, so that NULL means NaN: the loss of a diverged run."""

    cache_ok = True

    def process_result_value(self, value: float | None, _dialect: Dialect) -> float:
        """Restore NaN."""
        return math.nan if value is None else value


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can drop them on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: PlainText,
        float: Figure,
        datetime: UtcDateTime,
        bytes: LargeBinary,
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
    }


class ExperimentRow(Base):
    """A named set of runs and ensembles: what its sweeps planned."""

    __tablename__ = "experiments"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]

    sweeps: Mapped[list[SweepRow]] = relationship(order_by="SweepRow.id", lazy="raise", viewonly=True)


class SweepRow(Base):
    """What one command planned: runs, in ``sweep_runs``, and the names of the ensembles over them.

    ``plan_hash`` is equal for commands that plan the same, so that the second goes on with what the first began.
    """

    __tablename__ = "sweeps"

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(unique=True)
    experiment_id: Mapped[int] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), index=True)
    command: Mapped[str]
    ensembles: Mapped[list[Any]]
    plan_hash: Mapped[str] = mapped_column(index=True)
    created_at: Mapped[datetime]

    experiment: Mapped[ExperimentRow] = relationship(lazy="raise", viewonly=True)


class SweepRunRow(Base):
    """A run in a sweep. A run is in several where a later command asked for what was there already."""

    __tablename__ = "sweep_runs"

    sweep_id: Mapped[int] = mapped_column(ForeignKey("sweeps.id", ondelete="CASCADE"), primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True, index=True)
    position: Mapped[int]


class EnvironmentRow(Base):
    """A machine and its software, stored once however many runs it made: ``sha256`` is of its canonical JSON."""

    __tablename__ = "environments"

    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(unique=True)
    device: Mapped[str]
    device_name: Mapped[str]
    python: Mapped[str]
    torch: Mapped[str]
    details: Mapped[dict[str, Any]]


class SplitRow(Base):
    """The images of a split, stored once: data sets that differ in train alone share it.

    ``sha256`` covers ids, groups and labels. ``ids`` and ``groups`` are JSON lists compressed with zlib, ``labels``
    little-endian int32 compressed with zlib.
    """

    __tablename__ = "splits"

    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(unique=True)
    n: Mapped[int]
    ids: Mapped[bytes]
    groups: Mapped[bytes]
    labels: Mapped[bytes]


class DatasetSplitRow(Base):
    """Which split a data set has under which name, in their order."""

    __tablename__ = "dataset_splits"

    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    split_id: Mapped[int] = mapped_column(ForeignKey("splits.id"), index=True)

    split: Mapped[SplitRow] = relationship(lazy="raise")


class DatasetRow(Base):
    """A data set as it was used. ``passport`` is a :class:`harness.results.Passport` in JSON."""

    __tablename__ = "datasets"

    id: Mapped[int] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    classes: Mapped[list[Any]]
    counts: Mapped[dict[str, Any]]
    synthetic: Mapped[bool]
    citation: Mapped[str]
    licence: Mapped[str]
    passport: Mapped[dict[str, Any] | None]
    subtypes: Mapped[dict[str, Any] | None]

    splits: Mapped[list[DatasetSplitRow]] = relationship(order_by=DatasetSplitRow.position, lazy="raise")


class EpochRow(Base):
    """Figures of one epoch; NULL is NaN."""

    __tablename__ = "epochs"

    stage_id: Mapped[int] = mapped_column(ForeignKey("stages.id", ondelete="CASCADE"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    lr: Mapped[float] = mapped_column(KnownFigure, nullable=True)
    train_loss: Mapped[float] = mapped_column(KnownFigure, nullable=True)
    train_accuracy: Mapped[float] = mapped_column(KnownFigure, nullable=True)
    val_loss: Mapped[float] = mapped_column(KnownFigure, nullable=True)
    val_accuracy: Mapped[float] = mapped_column(KnownFigure, nullable=True)
    seconds: Mapped[float] = mapped_column(KnownFigure, nullable=True)
    images_per_second: Mapped[float] = mapped_column(KnownFigure, nullable=True)


class PredictionRow(Base):
    """Logits of one split at the end of a stage, as one blob: little-endian float32, row by row.

    A prediction takes 4 * classes bytes (8 for two classes; 624 of them 4,992), plus about 40 for each row here.
    Ids, groups and labels of the images are in :class:`SplitRow`, once for all runs.
    """

    __tablename__ = "predictions"

    stage_id: Mapped[int] = mapped_column(ForeignKey("stages.id", ondelete="CASCADE"), primary_key=True)
    split: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int]
    classes: Mapped[int]
    logits: Mapped[bytes]


class StageRow(Base):
    """A stage; what is not known while it runs is NULL."""

    __tablename__ = "stages"
    __table_args__ = (UniqueConstraint("run_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    name: Mapped[str]
    index: Mapped[int]
    planned_epochs: Mapped[int]
    trainable: Mapped[int] = mapped_column(BigInteger)
    tested_epoch: Mapped[int | None]
    seconds: Mapped[float | None]
    images_per_second: Mapped[float | None]
    weights_sha256: Mapped[str | None]
    optimizer_sha256: Mapped[str | None]
    execution: Mapped[dict[str, Any] | None]
    val_accuracy: Mapped[float | None]
    test_images: Mapped[int | None]
    test_correct: Mapped[int | None]
    test_auc: Mapped[float | None]
    test_confusion: Mapped[list[Any] | None]
    threshold: Mapped[float | None]
    threshold_correct: Mapped[int | None]
    temperature: Mapped[float | None]

    epochs: Mapped[list[EpochRow]] = relationship(order_by=EpochRow.epoch, lazy="raise")
    predictions: Mapped[list[PredictionRow]] = relationship(order_by=PredictionRow.split, lazy="raise")


class MeasurementRow(Base):
    """Raw samples of one quantity, as one blob of little-endian float64."""

    __tablename__ = "measurements"

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    unit: Mapped[str]
    batch_size: Mapped[int | None]
    stage: Mapped[str | None]
    device: Mapped[str]
    n: Mapped[int]
    samples: Mapped[bytes]
    details: Mapped[dict[str, Any] | None]


class SetMeasurementRow(Base):
    """Raw samples of one quantity of a measurement set, as those of a run in :class:`MeasurementRow`."""

    __tablename__ = "set_measurements"

    set_id: Mapped[int] = mapped_column(ForeignKey("measurement_sets.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    unit: Mapped[str]
    batch_size: Mapped[int | None]
    device: Mapped[str]
    n: Mapped[int]
    samples: Mapped[bytes]
    details: Mapped[dict[str, Any]]


class MeasurementSetRow(Base):
    """What was measured of one thing in one process, without a run. An id is never used again."""

    __tablename__ = "measurement_sets"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(unique=True)
    label: Mapped[str] = mapped_column(index=True)
    suite: Mapped[str]
    name: Mapped[str] = mapped_column(index=True)
    config: Mapped[dict[str, Any]]
    plugins: Mapped[list[Any]]
    environment_id: Mapped[int | None] = mapped_column(ForeignKey("environments.id"), index=True)
    weights: Mapped[dict[str, Any] | None]
    status: Mapped[str]
    message: Mapped[str]
    commit: Mapped[str | None] = mapped_column(index=True)
    created_at: Mapped[datetime]

    environment: Mapped[EnvironmentRow | None] = relationship(lazy="raise")
    measurements: Mapped[list[SetMeasurementRow]] = relationship(order_by=SetMeasurementRow.position, lazy="raise")


class TagRow(Base):
    """A word that somebody put on a run."""

    __tablename__ = "run_tags"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(primary_key=True, index=True)


class AttemptRow(Base):
    """One process's work on a run: the process, its last sign of life, and how it ended, which is NULL until then."""

    __tablename__ = "attempts"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    process_started: Mapped[float]
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    failure_kind: Mapped[str | None]
    failure_message: Mapped[str | None]
    failure_traceback: Mapped[str | None]


class RunRow(Base):
    """One backbone x schedule x dataset x seed, executed once, however many attempts it took.

    An id is never used again. ``attempt`` numbers the last attempt, 0 before the first. ``test_accuracy`` and
    ``test_auc`` repeat those of the last stage that was tested, for lists to sort and filter by.
    """

    __tablename__ = "runs"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(unique=True)
    status: Mapped[str] = mapped_column(index=True)
    attempt: Mapped[int]
    backbone: Mapped[str] = mapped_column(index=True)
    schedule: Mapped[str]
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), index=True)
    seed: Mapped[int] = mapped_column(BigInteger)
    config: Mapped[dict[str, Any]]
    config_hash: Mapped[str] = mapped_column(index=True)
    plugins: Mapped[list[Any]]
    created_at: Mapped[datetime] = mapped_column(index=True)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    environment_id: Mapped[int | None] = mapped_column(ForeignKey("environments.id"), index=True)
    weights_kind: Mapped[str | None]
    weights_origin: Mapped[str | None]
    weights_sha256: Mapped[str | None]
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    test_accuracy: Mapped[float | None] = mapped_column(index=True)
    test_auc: Mapped[float | None]
    note: Mapped[str]

    dataset: Mapped[DatasetRow] = relationship(lazy="raise")
    environment: Mapped[EnvironmentRow | None] = relationship(lazy="raise")
    stages: Mapped[list[StageRow]] = relationship(order_by=StageRow.index, lazy="raise")
    measurements: Mapped[list[MeasurementRow]] = relationship(order_by=MeasurementRow.id, lazy="raise")
    attempts: Mapped[list[AttemptRow]] = relationship(order_by=AttemptRow.number, lazy="raise", viewonly=True)
    tags: Mapped[list[TagRow]] = relationship(order_by=TagRow.tag, lazy="raise", viewonly=True)
    sweeps: Mapped[list[SweepRow]] = relationship(
        secondary="sweep_runs", order_by=SweepRow.id, lazy="raise", viewonly=True
    )


class EnsembleMemberRow(Base):
    """One voter of an ensemble."""

    __tablename__ = "ensemble_members"

    ensemble_id: Mapped[int] = mapped_column(ForeignKey("ensembles.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    stage: Mapped[str]

    run: Mapped[RunRow] = relationship(lazy="raise")


class EnsembleRow(Base):
    """An ensemble's decisions on one split.

    ``uid`` is a digest of experiment, method, split and members: the same ensemble made again replaces the first.
    ``labels`` is little-endian int32 compressed with zlib, ``scores`` little-endian float64 (images, classes).
    """

    __tablename__ = "ensembles"

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(unique=True)
    experiment_id: Mapped[int] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), index=True)
    method: Mapped[str]
    split: Mapped[str]
    plugin: Mapped[dict[str, Any]]
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), index=True)
    images: Mapped[int]
    correct: Mapped[int]
    auc: Mapped[float | None]
    labels: Mapped[bytes]
    scores: Mapped[bytes]
    threshold: Mapped[float | None]
    threshold_correct: Mapped[int | None]

    dataset: Mapped[DatasetRow] = relationship(lazy="raise")
    members: Mapped[list[EnsembleMemberRow]] = relationship(order_by=EnsembleMemberRow.position, lazy="raise")
