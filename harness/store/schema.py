"""The schema of an open database: made or brought up to date by the migrations that this package carries.

To add a migration, change the models, open a database of the old schema, and let Alembic write the draft::

    from alembic import command
    from harness.store import database, schema

    with database.connect("old.db", create=True).writer.begin() as connection:
        command.revision(schema.alembic_config(connection), "say what changes", autogenerate=True, rev_id="0006")

and put its revision into ``HEAD``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from harness.errors import StoreError
from harness.store.backup import back_up
from harness.store.database import Database

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["HEAD", "alembic_config", "prepare", "revision"]

HEAD = "0006"  # of the migrations: a database of that revision is opened without importing Alembic
_LOCK = 0x6861726E657373  # "harness": whoever migrates a PostgreSQL database holds this advisory lock


def alembic_config(connection: Connection) -> Config:
    """Return the configuration that an ``alembic.ini`` would hold, for one connection."""
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "harness.store:migrations")
    return config


def prepare(database: Database, *, create: bool, say: Callable[[str], None] = lambda _text: None) -> None:
    """Bring the schema up to date, or make it where ``create`` allows.

    Of several processes that start at once, one migrates and the others wait for it. Before an older schema is
    changed, a copy is made: beside an SQLite file, with the revision in its name; in a schema of its own on PostgreSQL.

    Raises:
        StoreError: the schema is newer than this version of harness, or the database is not one of harness.
    """
    with database.engine.connect() as connection:
        if revision(connection) == HEAD or _is_current(connection, database.name, create=create):
            return
    with database.writer.connect() as connection:
        said = _migrate(connection, database, create=create)
        connection.commit()
        connection.invalidate()  # its foreign keys are off
    if said:
        say(said)


def _migrate(connection: Connection, database: Database, *, create: bool) -> str:
    if database.path:
        # To change a table SQLite makes it anew and drops the old one, which would take what refers to its rows.
        connection.connection.execute("PRAGMA foreign_keys = OFF")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    if _is_current(connection, database.name, create=create):
        return ""
    found = revision(connection)
    copy = back_up(connection, database, found) if found else ""
    from alembic import command

    command.upgrade(alembic_config(connection), "head")
    if database.path and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
        raise StoreError(f"results database {database.name}: rows that refer to nothing: {broken[:3]}; nothing changed")
    return (
        f"results database {database.name}: brought up to date; as it was before it is kept in {copy}" if copy else ""
    )


def revision(connection: Connection) -> str:
    """Return the revision of an open database's schema; empty where it has none."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return ", ".join(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())


def _is_current(connection: Connection, name: str, *, create: bool) -> bool:
    # Tables before revision: another process may commit both in between, and tables alone would be somebody else's.
    tables = set(inspect(connection).get_table_names())
    found = revision(connection)
    if found == HEAD:
        return True
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(alembic_config(connection))
    if found and found not in {script.revision for script in scripts.walk_revisions()}:
        raise StoreError(
            f"results database {name}: its schema has revision {found}, and this harness knows "
            f"revisions up to {HEAD}; it was written by a newer version: pip install --upgrade transfer-harness"
        )
    if not found:
        if tables - {"alembic_version"}:
            raise StoreError(f"results database {name}: it holds tables of something else; name another with --db")
        if not create:
            raise StoreError(f"results database {name}: it is empty; `harness run` fills it")
    return False
