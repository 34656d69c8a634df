"""Sessions of an open database, with errors in words for a person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from sqlalchemy.orm import Session

from harness.errors import ConfigError, StoreError
from harness.store.database import UNREADABLE, Database, explained

__all__ = ["reading", "refuse", "writing"]


@contextmanager
def writing(database: Database) -> Iterator[Session]:
    """Yield a session whose one transaction is committed at the end."""
    with explained(database.name), Session(database.writer) as session, session.begin():
        yield session


@contextmanager
def reading(database: Database) -> Iterator[Session]:
    """Yield a session to read with."""
    with explained(database.name), Session(database.engine) as session:
        try:
            yield session
        except ConfigError:  # of what to read
            raise
        except UNREADABLE as error:
            refuse(database, f"a stored value cannot be read ({error}); `harness db check` finds out more")


def refuse(database: Database, reason: str) -> NoReturn:
    """Raise a StoreError that names the database."""
    raise StoreError(f"results database {database.name}: {reason}")
