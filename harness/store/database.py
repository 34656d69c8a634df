"""From a path or URL to an SQLAlchemy engine: files checked, connections set up, errors put in words."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from harness.errors import StoreError

__all__ = ["UNREADABLE", "Database", "connect", "explained", "shown_url"]

# What reading a value raises that is none of its column's type: SQLite looks after no types.
UNREADABLE = (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, zlib.error)

_BUSY_SECONDS = 30
_WRITES = "harness_writes"

_REASONS = {
    "SQLITE_FULL": "the disk is full; free some space. What was recorded before is kept",
    "SQLITE_IOERR": "reading or writing failed ({error}); look at the disk's space and health",
    "SQLITE_NOTADB": "this file is no SQLite database; name another one with --db",
    "SQLITE_CORRUPT": "the file is damaged ({error}); go back to a copy of it",
    "SQLITE_READONLY": "it is read-only; make the file and its folder writable, or work on a copy",
    "SQLITE_CANTOPEN": "it cannot be opened; look at the permissions of the file and of its folder",
    "SQLITE_BUSY": f"another process has kept it locked for {_BUSY_SECONDS} seconds; wait for it to end, and try again",
}


@dataclass(frozen=True)
class Database:
    """An open database. ``name`` is fit for a message: a path, or a URL without its password and query. ``path`` is the
    file on SQLite, and None on PostgreSQL.

    On SQLite a transaction of ``writer`` takes the write lock as it begins: one that read first, and wanted to write
    later, would fail at once where another process had written in between, however long it was willing to wait.
    """

    name: str
    engine: Engine
    writer: Engine
    path: Path | None = None


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what the database driver raises into one message.

    Raises:
        StoreError: instead of an error of the driver.
    """
    try:
        yield
    except DBAPIError as error:
        raise StoreError(f"results database {name}: {_reason(error.orig)}") from error


def _reason(error: BaseException | None) -> str:
    text = " ".join(str(error).split())
    code = getattr(error, "sqlite_errorname", "")
    for prefix, reason in _REASONS.items():
        if code.startswith(prefix):
            return reason.format(error=text)
    return text


def connect(url: str, *, create: bool, write: bool = False) -> Database:
    """Prepare the engine of a path or URL; nothing is opened yet.

    Args:
        url: a file, or an SQLAlchemy URL of SQLite or PostgreSQL.
        create: it is to be written, and made where it is missing.
        write: it is to be written.

    Raises:
        StoreError: the URL, the file or the driver cannot be used.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(_sqlite_path(parsed), create=create, write=create or write)
    return _postgresql(parsed)


def _parse(url: str) -> URL:
    if "://" not in url:
        return URL.create("sqlite", database=url)
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        # The text is not repeated: it may hold a password, which only a URL that can be read can hide.
        raise StoreError(
            "the URL of the results database cannot be read; write a path, or "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE with special characters percent-encoded"
        ) from None
    if backend not in ("sqlite", "postgresql"):
        raise StoreError(f"results database {_shown(parsed)}: only sqlite and postgresql are supported")
    return parsed


def shown_url(url: str) -> str:
    """Return a path or URL as it may be shown: without password and query."""
    return _shown(_parse(url)) if "://" in url else url


def _shown(url: URL) -> str:
    return url.set(query={}).render_as_string(hide_password=True)


def _sqlite_path(url: URL) -> Path:
    path = url.database
    if not path or path == ":memory:" or path.startswith("file:") or "\0" in path or url.query:
        raise StoreError(f"results database {_shown(url)}: on SQLite it is a file; write its path alone")
    return Path(path)


def _sqlite(path: Path, *, create: bool, write: bool) -> Database:
    try:
        options = _open_options(path, create=create, write=write)
        uri = path.absolute().as_uri()
    except OSError as error:
        raise StoreError(f"results database {str(path)!r}: it cannot be reached: {error.strerror}") from error
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=uri, query={"uri": "true", **options}),
        connect_args={"timeout": _BUSY_SECONDS},
        json_serializer=_to_json,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not where the driver thinks fit
        if write:
            _use_wal(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITES) else "BEGIN")

    return Database(str(path), engine, writer=engine.execution_options(**{_WRITES: True}), path=path)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Set the journal's mode, for which SQLite itself does not wait where another process is doing the same."""
    give_up = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return


def _open_options(path: Path, *, create: bool, write: bool) -> dict[str, str]:
    """Say how SQLite is to open a file.

    A reader of a database in WAL mode makes files beside it. Where it may not, and no writer has left any, the file is
    opened as one that nobody changes meanwhile.
    """
    folder = path.parent
    if path.is_dir():
        raise StoreError(f"results database {path}: this is a folder; name a file in it")
    if not path.exists():
        if not create:
            raise StoreError(f"there is no results database {path}; `harness run` and `harness bench` make one")
        if not folder.is_dir():
            raise StoreError(f"results database {path}: the folder {folder} does not exist; create it")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StoreError(f"results database {path}: the folder {folder} is not writable; name another with --db")
        return {"mode": "rwc"}
    if not os.access(path, os.R_OK):
        raise StoreError(f"results database {path}: the file is not readable; look at its permissions")
    if os.access(path, os.W_OK) and os.access(folder, os.W_OK | os.X_OK):
        return {"mode": "rw"}
    if write:
        raise StoreError(f"results database {path}: {_REASONS['SQLITE_READONLY']}")
    left = any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal"))
    return {"mode": "ro"} if left else {"mode": "ro", "immutable": "1"}


def _postgresql(url: URL) -> Database:
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    name = _shown(url)
    try:
        engine = create_engine(url, pool_pre_ping=True, json_serializer=_to_json)
    except NoSuchModuleError:
        raise StoreError(f"results database {name}: there is no such driver; write postgresql+psycopg://") from None
    except ModuleNotFoundError as error:
        raise StoreError(
            f"results database {name}: the driver {error.name} is not installed; run: pip install 'psycopg[binary]'"
        ) from error
    # What one reads in several queries is of one moment, as it is on SQLite.
    return Database(name, engine.execution_options(isolation_level="REPEATABLE READ"), writer=engine)


_to_json = partial(json.dumps, allow_nan=False)
