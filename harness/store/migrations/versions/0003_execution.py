"""How each stage was computed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add what stages recorded so far do not say."""
    op.add_column("stages", sa.Column("execution", sa.JSON(none_as_null=True), nullable=True))
