"""Opening a database: its schema, and one clear message for each that cannot be used."""

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from harness.errors import StoreError
from harness.results import DatasetRecord, EpochResult, Failure, StageStarted
from harness.store import open_store
from harness.store.database import connect
from harness.store.models import Base
from harness.store.schema import HEAD
from support import begin_run

DATASET = DatasetRecord("phantom", "f" * 64, ("a", "b"), {}, True, "", "")


def start(store):
    run_id = begin_run(store, "table1", backbone="alexnet", dataset=DATASET)
    store.record(run_id, StageStarted("frozen", 0, 1000, 1))
    return run_id


def execute(url, *statements):
    database = connect(url, create=True)
    with database.writer.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    database.engine.dispose()


def test_migrations_make_what_the_models_say(url):
    open_store(url).close()
    database = connect(url, create=False)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    database.engine.dispose()


def test_opening_again_changes_nothing(url):
    with open_store(url) as store:
        start(store)
    for create in (True, False):
        with open_store(url, create=create) as store:
            assert len(store.runs()) == 1


@pytest.mark.parametrize("create", [True, False])
def test_a_newer_schema_names_both_revisions_and_the_remedy(url, create):
    open_store(url).close()
    execute(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match=rf"revision 9999.*up to {HEAD}.*pip install --upgrade"):
        open_store(url, create=create)


def test_another_programs_database_is_left_alone(url):
    execute(url, "CREATE TABLE bookmarks (id integer)")
    with pytest.raises(StoreError, match="something else"):
        open_store(url)


def test_an_empty_database_is_filled_by_run_alone(url):
    execute(url)
    with pytest.raises(StoreError, match="harness run"):
        open_store(url, create=False)
    open_store(url).close()


def test_connections_are_set_up(tmp_path):
    with open_store(str(tmp_path / "b.db")) as store, store.database.engine.connect() as connection:
        pragmas = ("journal_mode", "busy_timeout", "foreign_keys", "synchronous")
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
    assert found == ["wal", 30_000, 1, 1]


def text_file(path):
    path.write_text("this is a text file, and longer than a header of SQLite " * 20)
    return path


def damaged(path):
    open_store(str(path)).close()
    content = bytearray(path.read_bytes())
    content[100 : len(content)] = b"\xff" * (len(content) - 100)
    path.write_bytes(content)
    return path


def folder(path):
    path.mkdir()
    return path


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (text_file, "is no SQLite database"),
        (damaged, "damaged"),
        (folder, "is a folder"),
        (lambda path: path.parent / "x\0y.db", "path alone"),
        (lambda path: path.parent / ("x" * 300), "cannot be reached: File name too long"),
        (lambda path: f"sqlite:///{path}?mode=ro", "path alone"),
        (lambda path: "sqlite://", "it is a file"),
        (lambda path: "mysql://me:secret@host/db", r"mysql://me:\*\*\*@host/db: only sqlite and postgresql"),
        (lambda path: "postgresql://me:secret@host:port/db", "cannot be read"),
        (lambda path: "nonsense://", "only sqlite and postgresql|cannot be read"),
    ],
)
def test_what_is_no_database_is_named(tmp_path, create, make, says):
    with pytest.raises(StoreError, match=says) as caught:
        open_store(str(make(tmp_path / "it.db")), create=create)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_made_by_run_alone(tmp_path):
    path = tmp_path / "none.db"
    with pytest.raises(StoreError, match=r"no results database .*none.db; `harness run` and `harness bench` make one"):
        open_store(str(path), create=False)
    assert not path.exists()
    with pytest.raises(StoreError, match="missing does not exist"):
        open_store(str(tmp_path / "missing" / "b.db"))


def test_odd_file_names_are_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a b%20#?é.db", "sub/../x.db"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        open_store(name).close()
        assert Path(name).exists()
    open_store(f"sqlite:///{tmp_path}/u.db").close()
    assert (tmp_path / "u.db").exists()


def test_a_current_database_is_opened_without_alembic(url):
    open_store(url).close()
    code = (
        f"import sys; from harness.store import open_store; open_store({url!r}).close(); "
        "assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_driver_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"psycopg is not installed; run: pip install 'psycopg\[binary\]'"):
        open_store("postgresql://me:secret@localhost/db")


def test_a_server_that_is_not_there_is_named_without_the_password(tmp_path):
    with pytest.raises(StoreError, match=r"postgresql\+psycopg://me:\*\*\*@/db: ") as caught:
        open_store(f"postgresql://me:secret@/db?host={tmp_path}&password=secret")
    assert "secret" not in str(caught.value)


@pytest.fixture
def locked(tmp_path):
    """A folder whose permissions a test may take away."""
    folder = tmp_path / "locked"
    folder.mkdir()
    yield folder
    folder.chmod(0o755)


def bound_by_permissions(script, *arguments):
    """Run Python, without root's power to write everywhere if it has that; return what it printed."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    if os.geteuid() == 0:
        powers = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}", *command]
        if not shutil.which("setpriv"):
            pytest.skip("root is bound by no permission, and setpriv is not there to change that")
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


OPEN = """
import sys
from harness.errors import StoreError
from harness.store import open_store
try:
    with open_store(sys.argv[1], create=sys.argv[2] == "create") as store:
        print(len(store.runs()), "runs")
        store.note(1, "x")
except StoreError as error:
    print(error)
"""


def test_a_read_only_database_is_read_and_not_written(locked):
    path = locked / "b.db"
    with open_store(str(path)) as store:
        start(store)
    path.chmod(0o444)
    locked.chmod(0o555)
    read = bound_by_permissions(OPEN, path, "read").splitlines()
    assert read[0] == "1 runs"
    assert "it is read-only; make the file and its folder writable" in read[1]
    assert "it is read-only" in bound_by_permissions(OPEN, path, "create")
    assert f"the folder {locked} is not writable" in bound_by_permissions(OPEN, locked / "new.db", "create")
    assert [entry.name for entry in locked.iterdir()] == ["b.db"]
    path.chmod(0o000)
    assert "is not readable" in bound_by_permissions(OPEN, path, "read")


def test_a_read_only_database_that_is_being_written_is_never_read_stale(locked):
    path = locked / "b.db"
    with open_store(str(path)) as store:
        start(store)
        start(store)  # both in the write-ahead log still
        for left in locked.iterdir():
            left.chmod(0o444)
        locked.chmod(0o555)
        assert bound_by_permissions(OPEN, path, "read").startswith("2 runs")


def test_an_empty_read_only_file_is_no_results_database(locked):
    path = locked / "b.db"
    path.touch(0o444)
    locked.chmod(0o555)
    assert "it is empty" in bound_by_permissions(OPEN, path, "read")


def fill(path):
    """Record epochs until the store refuses; return the message and how many were taken before."""
    with open_store(str(path)) as store:
        run_id = start(store)
        taken = 0
        with pytest.raises(StoreError) as caught:  # noqa: PT012
            for taken in range(100_000):
                store.record(run_id, EpochResult("frozen", taken + 1, *[0.1] * 7))
                store.record(run_id, Failure("x", "y" * 20_000 + str(taken)))
    return str(caught.value), taken


def test_a_full_disk_is_named_and_takes_nothing_recorded_before(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here: that takes root")
    try:
        message, taken = fill(disk / "b.db")
        shutil.copytree(disk, tmp_path / "copy")
    finally:
        subprocess.run(["umount", disk], check=True)
    assert "the disk is full" in message
    with open_store(str(tmp_path / "copy" / "b.db")) as store:
        assert len(store.runs(epochs=True)[0].stages[0].epochs) in (taken, taken + 1)


def test_a_write_that_fails_is_named_and_takes_nothing_recorded_before(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        message, taken = fill(tmp_path / "b.db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "reading or writing failed" in message
    with open_store(str(tmp_path / "b.db")) as store:
        assert len(store.runs(epochs=True)[0].stages[0].epochs) in (taken, taken + 1)


def test_a_locked_database_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.store.database._BUSY_SECONDS", 0.2)
    with open_store(str(tmp_path / "b.db")) as store:
        blocker = sqlite3.connect(tmp_path / "b.db", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="kept it locked"):
            start(store)
        blocker.close()
        assert start(store) == 1
