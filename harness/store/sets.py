"""Measurement sets in the results database: what was measured without a run."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from uuid import uuid4

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, selectinload

from harness.results import MeasurementSet
from harness.store import shared
from harness.store.codec import pack_doubles
from harness.store.database import Database
from harness.store.models import MeasurementSetRow, SetMeasurementRow
from harness.store.rows import to_set
from harness.store.session import reading, refuse, writing

__all__ = ["Sets"]


class Sets:
    """Those of one database; :attr:`harness.store.Store.sets`.

    Every method raises :class:`~harness.errors.StoreError` where the database cannot be read or written.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, record: MeasurementSet) -> int:
        """Store a set with its measurements in one transaction, and return its id; it gets a uid and a time here."""
        (number,) = self.add_all([record])
        return number

    def add_all(self, records: Iterable[MeasurementSet]) -> list[int]:
        """Store several sets in one transaction, and return their ids."""
        with writing(self._database) as session:
            rows = [_to_row(session, record) for record in records]
            session.add_all(rows)
            session.flush()
            return [row.id for row in rows]

    def read(
        self,
        *,
        label: str | None = None,
        suite: str | None = None,
        commit: str | None = None,
        ids: Collection[int] | None = None,
        newest: int | None = None,
    ) -> list[MeasurementSet]:
        """Return sets with their measurements, in the order in which they were stored; all, or those so described.

        A commit is named by its beginning, too. ``newest`` limits them to so many.
        """
        query = select(MeasurementSetRow).order_by(MeasurementSetRow.id.desc()).limit(newest)
        for column, wanted in (
            (MeasurementSetRow.label, label),
            (MeasurementSetRow.suite, suite),
        ):
            if wanted is not None:
                query = query.where(column == wanted)
        if commit is not None:
            query = query.where(MeasurementSetRow.commit.startswith(commit, autoescape=True))
        if ids is not None:
            query = query.where(MeasurementSetRow.id.in_(ids))
        query = query.options(selectinload(MeasurementSetRow.environment), selectinload(MeasurementSetRow.measurements))
        with reading(self._database) as session:
            return [to_set(row) for row in session.scalars(query)][::-1]

    def remove(self, ids: Collection[int]) -> None:
        """Delete sets with their measurements.

        Raises:
            StoreError: also where one is missing; nothing is deleted then.
        """
        with writing(self._database) as session:
            known = set(session.scalars(select(MeasurementSetRow.id).where(MeasurementSetRow.id.in_(ids))))
            if missing := sorted(set(ids) - known):
                refuse(self._database, f"it has no measurement set {missing[0]}")
            session.execute(delete(MeasurementSetRow).where(MeasurementSetRow.id.in_(known)))
            shared.remove_unused(session)


def _to_row(session: Session, record: MeasurementSet) -> MeasurementSetRow:
    return MeasurementSetRow(
        uid=uuid4().hex,
        label=record.label,
        suite=record.suite,
        name=record.name,
        config=dict(record.config),
        plugins=[asdict(plugin) for plugin in record.plugins],
        environment_id=shared.environment_id(session, record.environment) if record.environment else None,
        weights=asdict(record.weights) if record.weights else None,
        status=record.status,
        message=record.message,
        commit=record.commit,
        created_at=datetime.now(UTC),
        measurements=[
            SetMeasurementRow(
                position=position,
                name=one.name,
                unit=one.unit,
                batch_size=one.batch_size,
                device=one.device,
                n=len(one.samples),
                samples=pack_doubles(one.samples),
                details=dict(one.details),
            )
            for position, one in enumerate(record.measurements)
        ],
    )
