"""What Alembic executes around every command; the connection comes from :mod:`harness.store.schema`."""

from __future__ import annotations

from alembic import context

from harness.store.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite changes a column by copying its table
)
with context.begin_transaction():
    context.run_migrations()
