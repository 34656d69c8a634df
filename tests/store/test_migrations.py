"""Databases of every release are brought up to date and keep every row."""

import math
import multiprocessing
import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, insert, inspect, select, text

from harness.errors import StoreError
from harness.results import Failure, Selection
from harness.store import open_store
from harness.store.database import connect
from harness.store.schema import HEAD, alembic_config

RELEASES = Path(__file__).parent / "releases"
REVISIONS = sorted(path.stem for path in RELEASES.glob("*.db"))


def rows(engine):
    """Read every table of a database as it is."""
    with engine.connect() as connection:
        metadata = MetaData()
        metadata.reflect(connection)
        return {
            table.name: [dict(row._mapping) for row in connection.execute(select(table))]
            for table in metadata.sorted_tables
        }


@pytest.fixture(params=REVISIONS)
def old(request, url):
    """A database as a release left it, and its rows."""
    source = RELEASES / f"{request.param}.db"
    if "://" not in url:
        shutil.copy(source, url)
        database = connect(url, create=False)
    else:
        database = connect(url, create=True)
        with database.engine.begin() as connection:
            command.upgrade(alembic_config(connection), request.param)
        given = connect(str(source), create=False)
        with database.engine.begin() as connection, given.engine.connect() as reader:
            metadata = MetaData()
            metadata.reflect(connection)
            for table in metadata.sorted_tables:
                if table.name != "alembic_version":
                    values = [dict(row._mapping) for row in reader.execute(select(table))]
                    if values:
                        connection.execute(insert(table), values)
                    if "id" in table.c:
                        connection.execute(
                            text(f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), {len(values) + 100})")
                        )
        given.engine.dispose()
    before = rows(database.engine)
    database.engine.dispose()
    return url, before


def test_every_release_is_kept_as_a_fixture():
    scripts = ScriptDirectory.from_config(alembic_config(None))
    revisions = {script.revision for script in scripts.walk_revisions()}
    assert scripts.get_current_head() == HEAD
    assert {*REVISIONS, HEAD} == revisions


def test_every_row_is_kept(old):
    url, before = old
    said = []
    with open_store(url, say=said.append) as store:
        runs = {run.id: run for run in store.runs(epochs=True)}
        everything = {run_id: store.run(run_id) for run_id in runs}
        ensembles = store.ensembles()
        after = rows(store.database.engine)
    kept = (
        "datasets",
        "dataset_splits",
        "splits",
        "environments",
        "epochs",
        "predictions",
        "measurements",
        "ensembles",
    )
    for name in (*kept, "ensemble_members"):
        there = before[name][0].keys()  # columns; others may be new
        assert [{key: row[key] for key in there} for row in after[name]] == before[name], name
    assert len(runs) == len(before["runs"]) >= 5
    for row in before["runs"]:
        run = runs[row["id"]]
        assert (run.uid, run.backbone, run.seed, run.config) == (
            row["uid"],
            row["backbone"],
            row["seed"],
            row["config"],
        )
    assert {run.status for run in runs.values()} == {"completed", "failed", "interrupted", "lost"}
    assert runs[3].failure == Failure("TrainingError", "diverged", "Traceback ...")
    assert math.isnan(runs[3].stages[0].epochs[0].train_loss)
    assert [run.experiment.name for run in everything.values()].count("table1") == 3
    assert runs[1].experiment.commands == ("harness run",)
    with open_store(url) as store:
        by_accuracy = Selection(where="accuracy is not null", sort="accuracy")
        assert [run.stages[-1].test_accuracy for run in store.runs(by_accuracy)] == sorted(
            (run.stages[-1].test_accuracy for run in runs.values() if run.status == "completed"), reverse=True
        )
        (sweep,) = store.unfinished_sweeps("table1")
        assert (sweep.run_ids, sweep.ensembles) == ((1, 2, 3), ("majority_vote",))
    assert [(record.method, record.correct) for record in ensembles] == [("majority_vote", 3)]
    audited = {row["fingerprint"] for row in before["datasets"] if row.get("passport")}
    assert {run.dataset.fingerprint for run in runs.values() if run.dataset.passport} == audited
    assert all(run.dataset.subtypes == {} for run in runs.values())
    assert "brought up to date" in said[0]


def test_a_copy_is_made_first(old):
    url, before = old
    said = []
    open_store(url, say=said.append).close()
    if "://" not in url:
        (copy,) = Path(url).parent.glob("*.bak")
        assert str(copy) in said[0]
        database = connect(str(copy), create=False)
        assert rows(database.engine) == before
    else:
        database = connect(url, create=False)
        (schema,) = [name for name in inspect(database.engine).get_schema_names() if name.startswith("harness_0")]
        assert schema in said[0]
        with database.engine.connect() as connection:
            kept = {name: len(connection.execute(text(f"SELECT * FROM {schema}.{name}")).all()) for name in before}
        assert kept == {name: len(values) for name, values in before.items()}
    database.engine.dispose()


def _open(url, together):
    together.wait()
    open_store(url).close()


def test_of_many_processes_one_upgrades(old):
    url, before = old
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(6)
    processes = [context.Process(target=_open, args=(url, together)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    with open_store(url) as store:
        assert len(store.runs()) == len(before["runs"])
        schemas = inspect(store.database.engine).get_schema_names()
    copies = [name for name in schemas if name.startswith("harness_0")] or list(Path(url).parent.glob("*.bak"))
    assert len(copies) == 1


def test_an_upgrade_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "old.db"
    shutil.copy(RELEASES / "0001.db", path)
    with sqlite3.connect(path) as connection:  # a table that the upgrade is about to make
        connection.execute("CREATE TABLE sweeps (id INTEGER)")
    with pytest.raises(StoreError, match="sweeps already exists"):
        open_store(str(path))
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (5,)
