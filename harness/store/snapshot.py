"""Reading much of a database: as it is at one moment, and in portions that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import JSON, Column, ColumnElement, Connection, Select, Table, TypeDecorator, func

from harness.errors import StoreError
from harness.store.codec import to_passport
from harness.store.database import UNREADABLE, Database, explained
from harness.store.models import Base

__all__ = ["Snapshot", "has_shape", "snapshot", "table_of", "types_of"]

Values = dict[str, Any]

_PORTION = 1000  # rows
_PORTION_BYTES = 16 * 2**20


def table_of(row: type[Base]) -> Table:
    """Return the table of a model: without objects, copying rows takes a tenth of the time."""
    return cast(Table, row.__table__)


def types_of(column: Column[Any]) -> tuple[type, ...]:
    """Return what a column's values are in Python; SQLite takes any value for any column."""
    kind: Any = column.type
    while isinstance(kind, TypeDecorator):
        kind = kind.impl
    types = (
        (dict, list) if isinstance(kind, JSON) else (float, int) if kind.python_type is float else (kind.python_type,)
    )
    return (*types, type(None)) if column.nullable else types


def has_shape(column: Column[Any], value: Any) -> bool:
    """Tell whether JSON is of the form that the rest of harness takes it to be."""
    shape = _SHAPES.get((column.table.name, column.name))
    return value is None or shape is None or shape(value)


def _is_plugin(value: Any) -> bool:
    fields = {"kind", "name", "distribution", "version"}
    return isinstance(value, dict) and value.keys() == fields and _are(str, value.values())


def _is_passport(value: Any) -> bool:
    try:
        to_passport(value)
    except ValueError:
        return False
    return True


def _are(kind: type, values: Any) -> bool:
    return all(type(value) is kind for value in values)


_SHAPES: Mapping[tuple[str, str], Callable[[Any], bool]] = {
    ("datasets", "classes"): lambda value: isinstance(value, list) and _are(str, value),
    ("datasets", "counts"): lambda value: (
        isinstance(value, dict)
        and _are(dict, value.values())
        and all(_are(int, of_split.values()) for of_split in value.values())
    ),
    ("datasets", "passport"): _is_passport,
    ("datasets", "subtypes"): lambda value: isinstance(value, dict) and _are(str, value.values()),
    ("ensembles", "plugin"): _is_plugin,
    ("environments", "details"): lambda value: isinstance(value, dict),
    ("measurement_sets", "config"): lambda value: isinstance(value, dict),
    ("measurement_sets", "plugins"): lambda value: isinstance(value, list) and all(map(_is_plugin, value)),
    ("measurement_sets", "weights"): lambda value: (
        isinstance(value, dict) and value.keys() == {"kind", "origin", "sha256"}
    ),
    ("measurements", "details"): lambda value: isinstance(value, dict),
    ("set_measurements", "details"): lambda value: isinstance(value, dict),
    ("runs", "config"): lambda value: isinstance(value, dict),
    ("runs", "plugins"): lambda value: isinstance(value, list) and all(map(_is_plugin, value)),
    ("stages", "test_confusion"): lambda value: (
        isinstance(value, list) and _are(list, value) and all(_are(int, line) for line in value)
    ),
    ("sweeps", "ensembles"): lambda value: isinstance(value, list) and _are(str, value),
}


@dataclass(frozen=True)
class Snapshot:
    """A database as it is at one moment, whoever writes to it meanwhile."""

    name: str
    connection: Connection

    def portions(self, query: Select[Any], blob: ColumnElement[Any] | None = None) -> Iterator[list[Values]]:
        """Yield the rows of a query in lists that fit into memory.

        Args:
            query: whose columns have distinct names.
            blob: its largest column, where that may be large.

        Raises:
            StoreError: also where a value is none of its column's type, which SQLite does not look after.
        """
        with explained(self.name):
            rows = _PORTION
            if blob is not None:
                largest = self.connection.scalar(query.with_only_columns(func.max(func.length(blob))).order_by(None))
                rows = max(1, min(_PORTION, _PORTION_BYTES // max(1, largest or 0)))
            try:
                found = self.connection.execute(query, execution_options={"yield_per": rows})
                for portion in found.mappings().partitions():
                    yield [dict(row) for row in portion]
            except UNREADABLE as error:
                raise StoreError(f"results database {self.name}: a stored value cannot be read: {error}") from error

    def all(self, query: Select[Any]) -> list[Values]:
        """Return the rows of a query that are few."""
        return [row for portion in self.portions(query) for row in portion]


@contextmanager
def snapshot(database: Database) -> Iterator[Snapshot]:
    """Begin to read a database as it is now."""
    options: Any = {} if database.path else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with explained(database.name):
        connection = database.engine.connect()
    with connection:
        with explained(database.name):
            connection.execution_options(**options).begin()
        yield Snapshot(database.name, connection)
