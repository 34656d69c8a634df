"""The results database, on SQLite or PostgreSQL: :func:`open_store` opens it, :class:`Store` reads and writes it."""

from __future__ import annotations

from collections.abc import Callable

from harness.store.alive import HEARTBEAT_SECONDS
from harness.store.database import connect, explained, shown_url
from harness.store.schema import prepare
from harness.store.store import Store

__all__ = ["HEARTBEAT_SECONDS", "Store", "open_store", "shown_url"]


def open_store(
    url: str, *, create: bool = True, write: bool = False, say: Callable[[str], None] = lambda _text: None
) -> Store:
    """Open a results database, bringing its schema up to date.

    Args:
        url: a file, or an SQLAlchemy URL of SQLite or PostgreSQL.
        create: it is made where it is missing, and is to be written.
        write: it must be there, and is to be written. With neither it may be read-only.
        say: told where an older schema was brought up to date, and where the copy from before is.

    Raises:
        StoreError: it cannot be opened, its schema is newer than this version of harness, or it belongs to another
            program.
    """
    database = connect(url, create=create, write=write)
    try:
        with explained(database.name):
            prepare(database, create=create, say=say)
    except BaseException:
        database.engine.dispose()
        raise
    return Store(database)
