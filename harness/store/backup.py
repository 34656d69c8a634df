"""Copies of a database, taken while others use it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from harness.errors import StoreError
from harness.store.database import Database

__all__ = ["back_up", "copy_sqlite"]


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy an SQLite database as it is at one moment, whoever writes to it meanwhile, and check the copy.

    Raises:
        StoreError: it cannot be read or written, or the copy is damaged, as the source is then.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        with closing(_open_to_read(source)) as reader, closing(sqlite3.connect(partial)) as writer:
            reader.backup(writer)
            writer.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
            (verdict,) = writer.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(f"results database {source}: the copy is damaged, so this file is too: {verdict}")
        partial.replace(target)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"results database {source}: it cannot be copied to {target}: {error}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _open_to_read(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    left = any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal"))
    if not left and not os.access(path.parent, os.W_OK):  # SQLite could not make the files of a reader beside it
        uri += "&immutable=1"
    return sqlite3.connect(uri, uri=True)


def back_up(connection: Connection, database: Database, revision: str) -> str:
    """Keep what a database holds before its schema changes, and return where.

    ``connection`` holds the write lock, and has written nothing.
    """
    now = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    if database.path:
        copy = database.path.with_name(f"{database.path.name}.{revision}-{now}.bak")
        copy_sqlite(database.path, copy)
        return str(copy)
    schema = f"harness_{revision}_{now}".lower()
    connection.execute(text(f"CREATE SCHEMA {schema}"))
    for table in inspect(connection).get_table_names():
        name = connection.dialect.identifier_preparer.quote(table)
        connection.execute(text(f"CREATE TABLE {schema}.{name} AS TABLE {name}"))
    return f"the schema {schema}"
