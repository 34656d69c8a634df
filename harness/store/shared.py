"""Rows that runs share: stored once, whoever needs them at the same time, and gone with the last that needed them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import delete, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from harness.results import DatasetRecord, Environment, SplitRecord
from harness.store.codec import pack_labels, pack_strings, sha256
from harness.store.models import (
    Base,
    DatasetRow,
    DatasetSplitRow,
    EnsembleRow,
    EnvironmentRow,
    ExperimentRow,
    MeasurementSetRow,
    RunRow,
    SplitRow,
    SweepRow,
    SweepRunRow,
)

__all__ = ["dataset_id", "environment_id", "experiment_id", "remove_unused"]


def experiment_id(session: Session, name: str) -> int:
    """Return the id of the experiment of that name, which is made where it is missing."""
    return _add_once(session, ExperimentRow, "name", {"name": name, "created_at": datetime.now(UTC)})


def environment_id(session: Session, environment: Environment) -> int:
    """Return the id of an environment, which is stored where it is missing."""
    values = asdict(environment)
    return _add_once(session, EnvironmentRow, "sha256", {"sha256": sha256(values), **values})


def dataset_id(session: Session, record: DatasetRecord) -> int:
    """Return the id of a data set, which is stored with its splits where it is missing.

    Its passport takes the place of one that says no more: of none, or of any where the images were looked at.
    """
    known = session.scalars(select(DatasetRow.id).where(DatasetRow.fingerprint == record.fingerprint)).one_or_none()
    if known is not None:
        _set_more(session, known, record)
        return known
    row_id = _add_once(
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
            dataset_id=row_id, name=split.name, position=position, split_id=_split_id(session, split)
        )
        session.merge(link)
    _set_more(session, row_id, record)
    return row_id


def _set_more(session: Session, row_id: int, record: DatasetRecord) -> None:
    query = update(DatasetRow).where(DatasetRow.id == row_id)
    if record.subtypes:
        session.execute(query.values(subtypes=dict(record.subtypes)))
    if record.passport is None:
        return
    if record.passport.baselines is None:
        query = query.where(DatasetRow.passport.is_(None))
    session.execute(query.values(passport=asdict(record.passport)))


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


def _add_once(session: Session, row: type[Base], key: str, values: Mapping[str, Any]) -> int:
    """Insert a row unless one with that key is there, whoever else does the same now; return its id."""
    dialect: Any = {"sqlite": sqlite, "postgresql": postgresql}[session.get_bind().dialect.name]
    session.execute(dialect.insert(row).values(**values).on_conflict_do_nothing(index_elements=[key]))
    table: Any = row
    row_id: int = session.scalars(select(table.id).where(getattr(table, key) == values[key])).one()
    return row_id


def remove_unused(session: Session) -> dict[str, int]:
    """Delete rows that nothing refers to any more; return how many of each table."""
    removed = {}
    for row, users in (
        (SweepRow, [SweepRunRow.sweep_id]),
        (ExperimentRow, [SweepRow.experiment_id]),
        (DatasetRow, [RunRow.dataset_id, EnsembleRow.dataset_id]),
        (EnvironmentRow, [RunRow.environment_id, MeasurementSetRow.environment_id]),
        (SplitRow, [DatasetSplitRow.split_id]),
    ):
        table: Any = row
        unused = [~exists().where(user == table.id) for user in users]
        done: Any = session.execute(delete(table).where(*unused))
        removed[row.__tablename__] = done.rowcount
    return removed
