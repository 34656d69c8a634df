"""What is known of each data set's images."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add what data sets recorded so far do not say."""
    op.add_column("datasets", sa.Column("passport", sa.JSON(none_as_null=True), nullable=True))
