"""Sweeps, attempts and tags; figures to list runs by; digests of a stage's end."""

from __future__ import annotations

import json
from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TIME = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True)
FAILURE = ("failure_kind", "failure_message", "failure_traceback")


def upgrade() -> None:
    """Make an experiment's runs a sweep, and each run's end an attempt."""
    _make_tables()
    _move_rows()
    with op.batch_alter_table("experiments") as batch:
        batch.drop_column("command")
    op.drop_index(op.f("ix_runs_experiment_id"), "runs")
    op.drop_index(op.f("ix_runs_started_at"), "runs")
    with op.batch_alter_table("runs", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.drop_constraint(op.f("fk_runs_experiment_id_experiments"), type_="foreignkey")
        for column in ("experiment_id", *FAILURE):
            batch.drop_column(column)
        for column in ("attempt", "created_at", "note"):
            batch.alter_column(column, nullable=False)
        batch.alter_column("started_at", nullable=True)
    op.create_index(op.f("ix_runs_created_at"), "runs", ["created_at"])
    op.create_index(op.f("ix_runs_test_accuracy"), "runs", ["test_accuracy"])


def _make_tables() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("ensembles", JSON, nullable=False),
        sa.Column("plan_hash", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], op.f("fk_sweeps_experiment_id_experiments"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
        sa.UniqueConstraint("uid", name=op.f("uq_sweeps_uid")),
    )
    op.create_index(op.f("ix_sweeps_experiment_id"), "sweeps", ["experiment_id"])
    op.create_index(op.f("ix_sweeps_plan_hash"), "sweeps", ["plan_hash"])
    op.create_table(
        "sweep_runs",
        sa.Column("sweep_id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], op.f("fk_sweep_runs_sweep_id_sweeps"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], op.f("fk_sweep_runs_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sweep_id", "run_id", name=op.f("pk_sweep_runs")),
    )
    op.create_index(op.f("ix_sweep_runs_run_id"), "sweep_runs", ["run_id"])
    op.create_table(
        "attempts",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("process_started", sa.Double(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("heartbeat_at", TIME, nullable=False),
        sa.Column("ended_at", TIME),
        sa.Column("outcome", sa.Text()),
        *(sa.Column(name, sa.Text()) for name in FAILURE),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], op.f("fk_attempts_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "number", name=op.f("pk_attempts")),
    )
    op.create_table(
        "run_tags",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], op.f("fk_run_tags_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "tag", name=op.f("pk_run_tags")),
    )
    op.create_index(op.f("ix_run_tags_tag"), "run_tags", ["tag"])
    for column in (
        sa.Column("attempt", sa.Integer()),
        sa.Column("created_at", TIME),
        sa.Column("note", sa.Text()),
        sa.Column("test_accuracy", sa.Double()),
        sa.Column("test_auc", sa.Double()),
    ):
        op.add_column("runs", column)
    for name in ("weights_sha256", "optimizer_sha256"):
        op.add_column("stages", sa.Column(name, sa.Text()))


def _move_rows() -> None:
    connection = op.get_bind()
    for experiment_id, command, created_at in connection.execute(
        sa.text("SELECT id, command, created_at FROM experiments ORDER BY id")
    ).all():
        methods = connection.scalars(
            sa.text("SELECT DISTINCT method FROM ensembles WHERE experiment_id = :id ORDER BY method"),
            {"id": experiment_id},
        ).all()
        connection.execute(
            sa.text(
                "INSERT INTO sweeps (id, uid, experiment_id, command, ensembles, plan_hash, created_at) "
                "VALUES (:id, :uid, :id, :command, :ensembles, '', :created_at)"
            ),
            {
                "id": experiment_id,
                "uid": uuid4().hex,
                "command": command,
                "ensembles": json.dumps(list(methods)),
                "created_at": created_at,
            },
        )
    if connection.dialect.name == "postgresql":  # the ids above were given, not drawn
        op.execute("SELECT setval('sweeps_id_seq', (SELECT max(id) FROM sweeps)) WHERE EXISTS (SELECT 1 FROM sweeps)")
    op.execute("INSERT INTO sweep_runs (sweep_id, run_id, position) SELECT experiment_id, id, id FROM runs")
    op.execute(
        "INSERT INTO attempts (run_id, number, host, pid, process_started, started_at, heartbeat_at, ended_at, "
        "outcome, failure_kind, failure_message, failure_traceback) "
        "SELECT id, 1, '', 0, 0, started_at, coalesce(finished_at, started_at), finished_at, "
        "CASE WHEN status = 'running' THEN NULL ELSE status END, failure_kind, failure_message, failure_traceback "
        "FROM runs"
    )
    last = (
        "FROM stages WHERE stages.run_id = runs.id AND stages.test_images > 0 "
        'AND stages.test_correct IS NOT NULL ORDER BY stages."index" DESC LIMIT 1'
    )
    op.execute(
        f"UPDATE runs SET attempt = 1, note = '', created_at = started_at, test_auc = (SELECT test_auc {last}), "  # noqa: S608
        f"test_accuracy = (SELECT test_correct * 1.0 / test_images {last})"
    )
