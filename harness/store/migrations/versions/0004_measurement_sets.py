"""Measurements without runs; how samples were taken."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    """Make tables for measurement sets, and room for what measurements recorded so far do not say."""
    op.add_column("measurements", sa.Column("details", JSON, nullable=True))
    op.create_table(
        "measurement_sets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("suite", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("config", JSON, nullable=False),
        sa.Column("plugins", JSON, nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=True),
        sa.Column("weights", JSON, nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("commit", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environments.id"], op.f("fk_measurement_sets_environment_id_environments")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measurement_sets")),
        sa.UniqueConstraint("uid", name=op.f("uq_measurement_sets_uid")),
        sqlite_autoincrement=True,
    )
    for column in ("label", "name", "environment_id", "commit"):
        op.create_index(op.f(f"ix_measurement_sets_{column}"), "measurement_sets", [column])
    op.create_table(
        "set_measurements",
        sa.Column("set_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("batch_size", sa.Integer(), nullable=True),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("samples", sa.LargeBinary(), nullable=False),
        sa.Column("details", JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["set_id"],
            ["measurement_sets.id"],
            op.f("fk_set_measurements_set_id_measurement_sets"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("set_id", "position", name=op.f("pk_set_measurements")),
    )
