"""Databases are merged without loss and without duplicates, whichever backend, and whenever the process is killed."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import MetaData, insert, select, text, update

from harness.errors import StoreError
from harness.results import Failure
from harness.store import merge as module
from harness.store import open_store
from harness.store.database import connect
from harness.store.merge import back_up, merge
from harness.store.models import AttemptRow, ExperimentRow
from harness.store.schema import alembic_config
from harness.store.snapshot import snapshot
from harness.store.upkeep import check
from store_fill import AUDITED, PASSPORT, add_run, add_vote, contents, dataset, go_on, multiply, rows

OLD = Path(__file__).parent / "releases" / "0001.db"
ODD = "=SUM(A1) '\"; DROP TABLE runs; -- \n\x00\x1b[31m../../etc/passwd 日本\udcff"
STORED_ODD = ODD.replace("\x00", "\\x00").replace("\udcff", "\\udcff")


def findings(store):
    return [finding.text for finding in check(store) if not finding.note]


def fill(store, tag):
    """Runs of an experiment that all databases have, and of their own; of what all have, and of their own."""
    ids = [add_run(store, "shared", f"net{i}", stages=["frozen"], tags=[tag], note=f"note {tag}") for i in range(2)]
    own = f"cuda:{tag}"
    add_run(store, f"only {tag}", "alexnet", data=dataset(tag), device=own, stages=["frozen"], status="failed")
    add_run(store, "shared", "googlenet", device=own, status="interrupted")
    add_run(store, "shared", "vit", status="planned")
    add_vote(store, ids)
    return ids


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Files filled once; to be copied."""
    paths = {}
    for tag in "ab":
        paths[tag] = str(tmp_path_factory.mktemp("filled") / f"{tag}.db")
        with open_store(paths[tag]) as store:
            fill(store, tag)
        back_up(paths[tag], Path(f"{paths[tag]}.copy"))  # one file alone
        paths[tag] += ".copy"
    return paths


@pytest.fixture
def one(tmp_path):
    return str(tmp_path / "one.db")


@pytest.fixture
def other(tmp_path):
    return str(tmp_path / "other.db")


def test_merging_unites_and_doing_it_again_changes_nothing(url, other, filled):
    with open_store(url) as store:
        fill(store, "c")
    shutil.copy(filled["a"], other)
    assert merge(other, [url]).new_runs == 5
    with open_store(url) as store, open_store(other) as more:
        add_run(store, "shared", "late")
        before = {uid: run for each in (store, more) for uid, run in contents(each)["runs"].items()}
    there = merge(url, [other])
    assert (there.new_runs, there.updated_runs, there.known_runs) == (5, 0, 5)
    assert (there.new_ensembles, there.known_ensembles, there.left_out, there.notes) == (1, 1, 0, [])
    back = merge(other, [url, filled["b"]])
    assert (back.new_runs, back.updated_runs, back.known_runs) == (6, 0, 10)
    assert merge(url, [other]).new_runs == 5
    with open_store(url) as store, open_store(other) as more:
        united = contents(store)
        assert united == contents(more)
        assert len(united["runs"]) == 16
        assert len(united["ensembles"]) == 3
        for uid, run in before.items():
            # what an experiment's commands are changes with the runs that it gains; everything else is as it was
            assert {**united["runs"][uid], "experiments": []} == {**run, "experiments": []}
        stored = rows(store)
        found = [len(stored[table]) for table in ("experiments", "datasets", "splits", "environments", "sweeps")]
        assert found == [4, 4, 5, 4, 16]
        assert findings(store) == findings(more) == []
    again = merge(url, [other, other])
    assert (again.new_runs, again.updated_runs, again.known_runs, again.new_ensembles) == (0, 0, 32, 0)
    with open_store(url) as store:
        assert rows(store) == stored


def test_there_and_back_through_the_other_backend_is_equal(postgres, other, filled, tmp_path):
    import psycopg

    with psycopg.connect(postgres.format(database="postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE there_and_back")
    server = postgres.format(database="there_and_back")
    shutil.copy(filled["a"], other)
    with open_store(other) as store:
        add_run(store, ODD, ODD, tags=[ODD], note=ODD, failure=ODD, status="failed", data=dataset("z", name=ODD))
        expected = contents(store)
        assert any(STORED_ODD in run["tags"] for run in expected["runs"].values())
    with open_store(server) as store:
        store.delete_runs([add_run(store, "shared", status="failed")])  # so that numbers differ
    merge(server, [other])
    merge(str(tmp_path / "back.db"), [server])
    back_up(server, tmp_path / "copy.db")
    with open_store(server) as store, open_store(str(tmp_path / "back.db")) as back:
        assert contents(store) == contents(back) == expected
        numbers = {run.id: run.uid for run in store.runs()}
        assert findings(store) == findings(back) == []
    with open_store(str(tmp_path / "copy.db"), create=False) as copy:
        assert contents(copy) == expected
        assert {run.id: run.uid for run in copy.runs()} == numbers, "a copy keeps the numbers"
        assert 1 not in numbers
    assert not list(tmp_path.glob(".*")), "nothing is left beside it"


def test_small_batches_and_portions_give_the_same(url, other, filled, monkeypatch):
    merge(url, [filled["a"], filled["b"]])
    with open_store(url) as store:
        expected = contents(store)
    monkeypatch.setattr(module, "_BATCH", 2)
    monkeypatch.setattr(module, "_BATCH_BYTES", 1)
    monkeypatch.setattr("harness.store.snapshot._PORTION_BYTES", 1)
    monkeypatch.setattr("harness.store.snapshot._PORTION", 3)
    merge(other, [url])
    with open_store(other) as store:
        assert contents(store) == expected
        assert findings(store) == []


def test_an_experiment_began_when_the_first_of_both_did(one, other):
    for place, year in ((one, 2025), (other, 2024)):
        with open_store(place) as store:
            add_run(store, "shared")
            with store.database.writer.begin() as connection:
                connection.execute(update(ExperimentRow).values(created_at=datetime(year, 1, 1, tzinfo=UTC)))
    merge(one, [other])
    merge(other, [one])
    for place in (one, other):
        with open_store(place) as store:
            assert [found.created_at.year for found in store.experiments()] == [2024]


# --- the same run in both ---------------------------------------------------------------------------------------------

STATES = [
    # what it is here, what it is there: (status, attempts, epochs); whether that of there is taken
    (("failed", 1, 1), ("completed", 2, 3), True),
    (("failed", 5, 9), ("completed", 1, 1), True),
    (("completed", 1, 1), ("completed", 2, 3), False),
    (("completed", 1, 1), ("failed", 4, 4), False),
    (("interrupted", 1, 2), ("interrupted", 2, 1), True),
    (("interrupted", 2, 1), ("failed", 1, 3), False),
    (("interrupted", 1, 1), ("interrupted", 1, 2), True),
    (("interrupted", 1, 2), ("interrupted", 1, 2), False),
    (("planned", 0, 0), ("failed", 1, 0), True),
    (("failed", 1, 0), ("planned", 0, 0), False),
]


def advance(store, run_id, state):
    status, attempts, epochs = state
    for attempt in range(1, attempts + 1):
        assert store.begin(run_id)
        if attempt == attempts:
            go_on(store, run_id, dataset(), epochs=epochs, stages=["frozen"])
        store.record(run_id, Failure("E", f"attempt {attempt} of {state}"))
        store.finish_run(run_id, status if attempt == attempts else "failed")


def test_the_run_that_went_further_stays(url, other):
    states = STATES[::3] if "://" in url else STATES
    with open_store(url) as store:
        add_run(store, "first", "zfnet", stages=[])
        ids = [add_run(store, "first", status="planned", tags=["both"]) for _ in states]
    merge(other, [url])
    with open_store(url) as store, open_store(other) as more:
        for run_id, (here, there, _) in zip(ids, states, strict=True):
            uid = store.run(run_id).uid
            (its_id,) = (run.id for run in more.runs() if run.uid == uid)
            for each, number, state, name in ((store, run_id, here, "here"), (more, its_id, there, "there")):
                advance(each, number, state)
                each.tag([number], add=[f"tag {name}"])
                each.note(number, f"note {name}")
        mine, theirs = contents(store)["runs"], contents(more)["runs"]
        numbers = {run.id: run.uid for run in store.runs()}
        merged = merge(url, [other])
        taken = sum(state[-1] for state in states)
        assert (merged.new_runs, merged.updated_runs, merged.known_runs) == (0, taken, len(states) + 1 - taken)
        assert {run.id: run.uid for run in store.runs()} == numbers, "every run keeps its number"
        found = contents(store)["runs"]
        for run_id, state in zip(ids, states, strict=True):
            uid = numbers[run_id]
            expected = (theirs if state[-1] else mine)[uid]
            united = {"tags": ["both", "tag here", "tag there"], "note": "note here"}
            assert found[uid] == {**expected, **united}, state
        stored = rows(store)
        assert merge(url, [other]).updated_runs == 0
        assert rows(store) == stored
        store.note(ids[0], "")
        merge(url, [other])
        assert store.run(ids[0]).note == "note there", "an empty note is filled"
        assert [text for text in findings(store) if "has no stage" not in text] == []


def test_a_run_that_goes_on_is_left_alone_there_and_here(url, other):
    with open_store(url) as store, open_store(other) as more:
        running = add_run(store, status=None)
        finished = add_run(store, "second")
        merged = merge(other, [url])
        assert (merged.new_runs, len(merged.notes)) == (1, 1)
        assert f"run {running} is being executed" in merged.notes[0]
        store.finish_run(running, "interrupted")
        assert merge(other, [url]).new_runs == 1
        uids = {run.uid: run.id for run in more.runs()}
        assert set(uids) == {store.run(run_id).uid for run_id in (running, finished)}

        assert store.begin(running)
        here = contents(store)
        there = uids[store.run(running).uid]
        for _ in range(3):
            more.begin(there)
            more.finish_run(there, "completed")
        merged = merge(url, [other])
        assert (merged.updated_runs, len(merged.notes)) == (0, 1)
        assert f"run {running} here" in merged.notes[0]
        assert contents(store) == here
        store.finish_run(running, "failed")
        assert merge(url, [other]).updated_runs == 1
        assert store.run(running).status == "completed"


def test_a_run_whose_process_is_gone_is_copied_and_stays_lost(one, other):
    with open_store(one) as store:
        run_id = add_run(store, status=None)
        with store.database.writer.begin() as connection:
            silent = {"host": "elsewhere", "heartbeat_at": datetime.now(UTC) - timedelta(hours=1)}
            connection.execute(update(AttemptRow).values(silent))
        assert store.run(run_id).status == "lost"
    assert merge(other, [one]).new_runs == 1
    with open_store(other) as store:
        assert [run.status for run in store.runs()] == ["lost"]


def test_a_run_that_another_command_takes_up_is_in_both_experiments(one, other):
    with open_store(one) as store:
        add_run(store, "first")
    merge(other, [one])
    with open_store(other) as store:
        (run,) = store.runs()
        with store.database.writer.begin() as connection:
            connection.execute(text("INSERT INTO experiments VALUES (9, 'second', '2026-01-01 00:00:00.000000')"))
            connection.execute(
                text("INSERT INTO sweeps VALUES (9, 'u', 9, 'harness run', '[]', 'h', '2026-01-01 00:00:00.000000')")
            )
            connection.execute(text(f"INSERT INTO sweep_runs VALUES (9, {run.id}, 0)"))
    assert merge(one, [other]).known_runs == 1
    with open_store(one) as store:
        assert {found.name for found in store.runs()[0].experiments} == {"first", "second"}


# --- what cannot be merged --------------------------------------------------------------------------------------------


def test_a_database_is_not_merged_into_itself(url, tmp_path):
    with open_store(url) as store:
        add_run(store)
        before = rows(store)
    names = [url]
    if "://" in url:
        names.append(url.replace("postgres:secret@", "postgres:other@"))
    else:
        (tmp_path / "link.db").symlink_to(url)
        names += [str(tmp_path / "link.db"), f"sqlite:///{url}"]
    for name in names:
        with pytest.raises(StoreError, match="cannot be merged into itself") as caught:
            merge(url, [name])
        assert "secret" not in str(caught.value)
    with open_store(url) as store:
        assert rows(store) == before


def test_a_source_that_cannot_be_used_makes_no_target(url, tmp_path):
    with pytest.raises(StoreError, match="there is no results database"):
        merge(str(tmp_path / "new.db"), [str(tmp_path / "none.db")])
    open_store(url).close()
    database = connect(url, create=True)
    with database.writer.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.engine.dispose()
    with pytest.raises(StoreError, match=r"revision 9999.*pip install --upgrade"):
        merge(str(tmp_path / "new.db"), [url])
    assert not (tmp_path / "new.db").exists()


def unbound(path, *statements):
    """Change a file as no harness would: without looking after what refers to what."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        for statement in statements:
            connection.execute(statement)
    connection.close()


DAMAGE = {
    "UPDATE runs SET dataset_id = 99": "row of runs refers to one that is not there",
    "UPDATE sweeps SET experiment_id = 99": "row of sweeps refers to one that is not there",
    "DELETE FROM splits": "row of dataset_splits refers to one that is not there",
    "UPDATE runs SET seed = 'many'": "runs.seed holds 'many'",
    "UPDATE runs SET plugins = '[{}]'": r"runs.plugins holds '\[\{\}\]', which does not belong there",
    'UPDATE datasets SET passport = \'{"verdict": "good"}\'': r"datasets.passport holds .*does not belong there",
    "UPDATE runs SET config = '{'": "a stored value cannot be read",
    "UPDATE runs SET config = '{\"a\": NaN}'": "a stored value cannot be copied",
    "UPDATE predictions SET logits = 'text'": "predictions.logits holds|cannot be read",
    "UPDATE runs SET created_at = 'yesterday'": "a stored value cannot be read",
}


def test_a_source_that_does_not_fit_together_is_refused_and_leaves_the_target_sound(url, other, filled):
    with open_store(url) as store:
        add_run(store, data=dataset("c"))
        before = rows(store)
        for statement, says in DAMAGE.items():
            if "://" in url and "NaN" not in statement:
                continue  # which is found before anything is written, wherever to
            shutil.copy(filled["a"], other)
            unbound(other, statement)
            with pytest.raises(StoreError, match=says) as caught:
                merge(url, [other])
            assert "other.db" in str(caught.value)
            assert "\n" not in str(caught.value)
            assert rows(store) == before


def test_a_passport_that_says_more_is_taken_over(url, other):
    def passports(path):
        with open_store(path) as store:
            return {run.dataset.fingerprint[0]: run.dataset.passport for run in store.runs()}

    for path, known in (
        (url, {"a": None, "b": PASSPORT, "c": AUDITED, "d": None}),
        (other, {"a": PASSPORT, "b": AUDITED, "c": PASSPORT, "d": None}),
    ):
        with open_store(path) as store:
            for tag, passport in known.items():
                add_run(store, data=dataset(tag, passport=passport), stages=[])
    merge(url, [other])
    assert passports(url) == {"a": PASSPORT, "b": AUDITED, "c": AUDITED, "d": None}
    merge(other, [url])
    assert passports(other) == passports(url)
    with open_store(other) as store:  # of runs that both have already
        store.add_dataset(dataset("d", passport=AUDITED))
    assert merge(url, [other]).new_runs == 0
    assert passports(url)["d"] == AUDITED


def test_other_images_under_the_same_fingerprint_are_refused(one, other):
    with open_store(one) as store:
        add_run(store)
        before = rows(store)
    with open_store(other) as store:
        add_run(store, data=dataset(prefix="other"))
    with pytest.raises(StoreError, match=r"the split '(val|test)' .*other images than that of the same fingerprint"):
        merge(one, [other])
    with open_store(one) as store:
        assert rows(store) == before


# --- older schemas ----------------------------------------------------------------------------------------------------


@contextmanager
def old_on_postgres(postgres):
    """The same old rows on PostgreSQL."""
    import psycopg

    with psycopg.connect(postgres.format(database="postgres"), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS old")
        connection.execute("CREATE DATABASE old")
    database, given = connect(postgres.format(database="old"), create=True), connect(str(OLD), create=False)
    with database.writer.begin() as connection, snapshot(given) as reader:
        command.upgrade(alembic_config(connection), "0001")
        tables = MetaData()
        tables.reflect(connection)
        for table in tables.sorted_tables:
            if table.name != "alembic_version":
                values = reader.all(select(table))
                connection.execute(insert(table), values)
        connection.execute(text("ALTER DATABASE old SET timezone TO 'Asia/Tokyo'"))
    database.engine.dispose()
    try:
        yield postgres.format(database="old"), database
    finally:
        database.engine.dispose()
        given.engine.dispose()


def test_a_source_of_an_older_schema_is_left_as_it_is(one, tmp_path):
    (tmp_path / "old").mkdir()
    old = tmp_path / "old" / "old.db"
    shutil.copy(OLD, old)
    for new in (5, 0):
        assert merge(one, [str(old)]).new_runs == new
    assert old.read_bytes() == OLD.read_bytes()
    assert list(old.parent.iterdir()) == [old]
    with open_store(one) as store:
        assert findings(store) == []
        once = rows(store)
    open_store(str(old)).close()  # brought up to date for good, its sweeps have names of their own
    assert merge(one, [str(old)]).known_runs == 5
    with open_store(one) as store, open_store(str(old)) as source:
        assert rows(store) == once
        assert contents(store) == contents(source)


def test_an_older_postgresql_is_left_as_it_is(postgres, tmp_path):
    with old_on_postgres(postgres) as (server, database):
        merge(str(tmp_path / "a.db"), [server])
        back_up(server, tmp_path / "b.db")
        with database.engine.connect() as connection:
            assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "0001"
            assert connection.scalar(text("SELECT count(*) FROM information_schema.schemata")) <= 4, "no copy"
        module._copy_older(database, tmp_path / "rows.db", "0001")
    with sqlite3.connect(tmp_path / "rows.db") as copied, sqlite3.connect(OLD) as original:
        for (table,) in original.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            both = [sorted(each.execute(f"SELECT * FROM {table}"), key=repr) for each in (copied, original)]
            assert both[0] == both[1], table
    copied.close()
    original.close()
    merge(str(tmp_path / "c.db"), [str(OLD)])
    with (
        open_store(str(tmp_path / "a.db")) as a,
        open_store(str(tmp_path / "b.db")) as b,
        open_store(str(tmp_path / "c.db")) as c,
    ):
        assert contents(a) == contents(b) == contents(c)
        assert findings(a) == []


READ_ONLY = """
import sys
from harness.store.merge import merge
print(merge(sys.argv[1], [sys.argv[2]]).new_runs)
"""


def test_a_read_only_source_of_an_older_schema_is_merged(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    with sqlite3.connect(OLD) as source, sqlite3.connect(locked / "old.db") as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode = WAL")
    source.close()
    target.close()
    (locked / "old.db").chmod(0o444)
    locked.chmod(0o555)
    python = [sys.executable, "-c", READ_ONLY, str(tmp_path / "new.db"), str(locked / "old.db")]
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root is bound by no permission, and setpriv is not there to change that")
        python = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", *python]
    try:
        done = subprocess.run(python, capture_output=True, text=True)
        assert done.stdout == "5\n", done.stderr
        assert [entry.name for entry in locked.iterdir()] == ["old.db"]
    finally:
        locked.chmod(0o755)


# --- while others write, and when it is killed ------------------------------------------------------------------------

MERGE = """
import sys
from harness.store import merge
merge._BATCH = 2
merge.merge(sys.argv[1], [sys.argv[2]], progress=lambda done, total: print(done, total, flush=True))
"""


def test_a_merge_that_is_killed_leaves_a_sound_database_and_is_completed_by_another(url, other, filled):
    shutil.copy(filled["a"], other)
    with open_store(other) as store:
        multiply(store, 4)
        expected = contents(store)
    chance = random.Random(time.time_ns())
    seen = []
    moments = (chance.randrange(5, 9),) if "://" in url else (chance.randrange(1, 4), chance.randrange(5, 9))
    for batch in moments:
        with subprocess.Popen([sys.executable, "-c", MERGE, url, other], stdout=subprocess.PIPE, text=True) as process:
            for number, _line in enumerate(process.stdout):
                if number == batch:
                    time.sleep(chance.random() * 0.03)
                    process.kill()
                    break
        assert process.returncode == -9, "it ended before it could be killed"
        with open_store(url) as store:
            assert findings(store) == []
            seen.append(store.count())
    assert 0 < seen[0] <= seen[-1] <= len(expected["runs"])
    merge(url, [other])
    with open_store(url) as store:
        assert contents(store) == expected, "a run is whole or not there: those that are there are not copied again"
        assert findings(store) == []


WRITE = """
import sys
from harness.results import EpochResult, StageStarted
from harness.store import open_store
with open_store(sys.argv[1]) as store:
    assert store.begin(int(sys.argv[2]))
    print("ready", flush=True)
    for epoch in range(10_000):
        store.record(int(sys.argv[2]), EpochResult("frozen", epoch + 3, *[0.5] * 7))
"""


def test_a_backup_is_whole_while_another_process_writes(url, tmp_path):
    with open_store(url) as store:
        add_run(store)
        run_id = add_run(store, status="interrupted", stages=["frozen"])

        def epochs(opened):
            return len(opened.run(run_id).stages[0].epochs)

        with subprocess.Popen([sys.executable, "-c", WRITE, url, str(run_id)], stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            taken = []
            for number in range(2):
                before = epochs(store)
                back_up(url, tmp_path / f"{number}.bak")
                after = epochs(store)
                with open_store(str(tmp_path / f"{number}.bak"), create=False) as copy:
                    taken.append(epochs(copy))
                    assert before <= taken[-1] <= after
                    assert findings(copy) == []
                    assert len(copy.runs()) == 2
            assert writer.poll() is None, "it wrote all along"
            writer.kill()
    assert taken[0] < taken[-1]
    assert sorted(entry.name for entry in tmp_path.iterdir() if "bak" in entry.name) == ["0.bak", "1.bak"]


def test_a_backup_takes_the_place_of_nothing(url, tmp_path):
    with open_store(url) as store:
        add_run(store)
    (tmp_path / "there").write_text("precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, says in (("there", "there already"), ("dangling", "there already"), ("none/x.db", "does not exist")):
        with pytest.raises(StoreError, match=says):
            back_up(url, tmp_path / name)
    assert (tmp_path / "there").read_text() == "precious"
    (tmp_path / "other").touch()
    with pytest.raises(StoreError, match="it is empty"):
        back_up(str(tmp_path / "other"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
