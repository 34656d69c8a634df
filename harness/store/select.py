"""From a selection of runs to its query."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, literal, select

from harness.results import Selection
from harness.store.models import ExperimentRow, RunRow, SweepRow, SweepRunRow
from harness.store.where import compile_where, sort_column

__all__ = ["count_query", "run_query"]


def run_query(selection: Selection, lost: Collection[int]) -> Select[tuple[RunRow]]:
    """Return the query of the selected runs.

    Raises:
        ConfigError: the filter or the field to sort by cannot be used.
    """
    column = sort_column(selection.sort, _status(lost))
    order = column.desc() if selection.descending else column.asc()
    query = _filter(select(RunRow), selection, lost)
    query = query.order_by(order.nulls_last(), RunRow.id.desc())
    return query.limit(selection.limit).offset(selection.offset or None)


def count_query(selection: Selection, lost: Collection[int]) -> Select[tuple[int]]:
    """Return the query of how many runs a selection has on all its pages."""
    return _filter(select(func.count()).select_from(RunRow), selection, lost)


def _status(lost: Collection[int]) -> ColumnElement[str]:
    stored = RunRow.__table__.c.status
    return case((RunRow.id.in_(lost), literal("lost")), else_=stored) if lost else stored


def _filter(query: Select[Any], selection: Selection, lost: Collection[int]) -> Select[Any]:
    if selection.where.strip():
        query = query.where(compile_where(selection.where, _status(lost)))
    if selection.backbone is not None:
        query = query.where(RunRow.backbone == selection.backbone)
    if selection.status is not None:
        query = query.where(_status(lost) == selection.status)
    if selection.ids is not None:
        query = query.where(RunRow.id.in_(selection.ids))
    if selection.experiment is not None:
        planned = (
            select(SweepRunRow.run_id)
            .join(SweepRow, SweepRow.id == SweepRunRow.sweep_id)
            .join(ExperimentRow, ExperimentRow.id == SweepRow.experiment_id)
            .where(ExperimentRow.name == selection.experiment)
        )
        query = query.where(RunRow.id.in_(planned))
    return query
