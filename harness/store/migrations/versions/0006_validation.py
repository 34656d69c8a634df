"""What is chosen on validation images, and the subtypes of a data set's images."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add what stages, ensembles and data sets recorded so far do not say."""
    op.add_column("stages", sa.Column("threshold", sa.Double(), nullable=True))
    op.add_column("stages", sa.Column("threshold_correct", sa.Integer(), nullable=True))
    op.add_column("stages", sa.Column("temperature", sa.Double(), nullable=True))
    op.add_column("ensembles", sa.Column("threshold", sa.Double(), nullable=True))
    op.add_column("ensembles", sa.Column("threshold_correct", sa.Integer(), nullable=True))
    op.add_column("datasets", sa.Column("subtypes", sa.JSON(none_as_null=True), nullable=True))
