"""The schema of an open database: made or brought up to date by the migrations that this package carries.

To add a migration, change the models, open a database of the old schema, and let Alembic write the draft::

    from alembic import command
    from harness.store import database, schema

    with database.connect("old.db", create=True).writer.begin() as connection:
        command.revision(schema.alembic_config(connection), "say what changes", autogenerate=True, rev_id="0002")
"""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from harness.errors import StoreError
from harness.store.database import Database

__all__ = ["alembic_config", "prepare"]

_LOCK = 0x6861726E657373  # "harness": whoever migrates a PostgreSQL database holds this advisory lock


def alembic_config(connection: Connection) -> Config:
    """Return the configuration that an ``alembic.ini`` would hold, for one connection."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "harness.store:migrations")
    return config


def prepare(database: Database, *, create: bool) -> None:
    """Bring the schema up to date, or make it where ``create`` allows.

    Of several processes that start at once, one migrates and the others wait for it.

    Raises:
        StoreError: the schema is newer than this version of harness, or the database is not one of harness.
    """
    with database.engine.connect() as connection:
        if _is_current(connection, database.name, create=create):
            return
    with database.writer.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        if not _is_current(connection, database.name, create=create):
            command.upgrade(alembic_config(connection), "head")


def _is_current(connection: Connection, name: str, *, create: bool) -> bool:
    # Tables before revision: another process may commit both in between, and tables alone would be somebody else's.
    tables = set(inspect(connection).get_table_names())
    found = MigrationContext.configure(connection).get_current_heads()
    scripts = ScriptDirectory.from_config(alembic_config(connection))
    head = scripts.get_current_head()
    if found == (head,):
        return True
    known = {script.revision for script in scripts.walk_revisions()}
    if unknown := set(found) - known:
        raise StoreError(
            f"results database {name}: its schema has revision {', '.join(sorted(unknown))}, and this harness knows "
            f"revisions up to {head}; it was written by a newer version: pip install --upgrade transfer-harness"
        )
    if not found:
        if tables - {"alembic_version"}:
            raise StoreError(f"results database {name}: it holds tables of something else; name another with --db")
        if not create:
            raise StoreError(f"results database {name}: it is empty; `harness run` fills it")
    return False
