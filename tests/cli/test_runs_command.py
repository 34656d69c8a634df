"""`harness runs` on a database of stored results."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from pyarrow import parquet

from harness.paths import checkpoint_dir
from harness.store import open_store
from results_for_pages import add_run, dataset, table_one
from support import Harness


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "benchmark.db"
    with open_store(str(path)) as store:
        table_one(store)
        store.tag([1, 2], add=["good"])
        store.note(1, '=HYPERLINK("evil")')
    return path


def test_list_filters_sorts_and_pages(harness: Harness, database: Path) -> None:
    def ids(*arguments: str) -> list[int]:
        done = harness("runs", "list", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return [run["id"] for run in json.loads(done.stdout)]

    assert ids() == [5, 4, 3, 2, 1]
    assert ids("--where", "weights = random or status = failed") == [4, 2]
    assert ids("--where", "accuracy > 80% and tag = good") == [1]
    assert ids("--sort", "accuracy")[:2] == [3, 1]
    assert ids("--sort", "accuracy", "--ascending")[:2] == [2, 1]
    assert ids("--limit", "2", "--page", "2") == [3, 2]
    table = harness("runs", "list", "--limit", "2", COLUMNS="80")
    assert "Page 1 of 3, 5 runs in all" in table.stdout
    assert "densenet121" in table.stdout
    assert all(len(line) <= 80 for line in table.stdout.splitlines())
    assert "too narrow for: experiment" in table.stdout
    assert "too narrow" not in harness("runs", "list", COLUMNS="200").stdout
    assert "There is no page 9: 5 runs make 3." in harness("runs", "list", "--limit", "2", "--page", "9").stdout
    assert "No run is like that." in harness("runs", "list", "--where", "seed = 99").stdout
    assert harness("runs", "list", "--json", "--csv").returncode == 2
    for wrong, says in ((["--where", "accuracy >"], "--where"), (["--sort", "colour"], "--sort")):
        refused = harness("runs", "list", *wrong)
        assert refused.returncode == 2
        assert says in refused.stderr
        assert "Traceback" not in refused.stderr


def test_csv_and_parquet_hold_the_same(harness: Harness, database: Path, tmp_path: Path) -> None:
    text = harness("runs", "list", "--csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert harness("runs", "list", "--parquet", "runs.parquet").returncode == 0
    table = parquet.read_table(tmp_path / "runs.parquet").to_pylist()
    assert [int(row["id"]) for row in rows] == [row["id"] for row in table] == [5, 4, 3, 2, 1]
    for row, other in zip(rows, table, strict=True):
        assert row["backbone"] == other["backbone"]
        assert (float(row["test_accuracy"]) if row["test_accuracy"] else None) == other["test_accuracy"]
    assert rows[-1]["note"].startswith("'="), "no formula for a spreadsheet"
    assert table[-1]["note"] == '=HYPERLINK("evil")'


def test_tag_note_and_rm(harness: Harness, database: Path, tmp_path: Path) -> None:
    assert harness("runs", "tag", "3", "--add", "best", "--remove", "none").returncode == 0
    assert harness("runs", "tag", "--where", "tag = good", "--remove", "good").stdout.strip() == "2 runs"
    assert harness("runs", "note", "3", "the room was hot").returncode == 0
    shown = json.loads(harness("runs", "show", "3", "--json").stdout)
    assert (shown["tags"], shown["note"]) == (["best"], "the room was hot")
    assert harness("runs", "tag", "3").returncode == 2
    assert "there is no run 77" in harness("runs", "tag", "77", "--add", "x").stderr

    unasked = harness("runs", "rm", "1")
    assert unasked.returncode == 1
    assert "Delete 1 run (1) for good" in unasked.stderr
    assert "say which runs" in harness("runs", "rm", "--yes").stderr
    removed = harness("runs", "rm", "1", "--yes")
    assert removed.stdout.strip() == "Deleted 1 run and 2 ensembles."
    with open_store(str(database)) as store:
        assert [run.id for run in store.runs()] == [5, 4, 3, 2]
        assert store.ensembles() == []


def test_rm_takes_the_checkpoint_of_the_run_and_no_other_path(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    outside = tmp_path / "home" / "precious"
    outside.mkdir(parents=True)
    with open_store(str(tmp_path / "benchmark.db")) as store:
        add_run(store, "e", "alexnet", data=dataset(), stop_after=1, status="interrupted")
        with store.database.writer.begin() as connection:
            connection.exec_driver_sql("UPDATE runs SET uid = '../../precious'")
    checkpoint = checkpoint_dir("../../precious")
    checkpoint.mkdir(parents=True)
    assert harness("runs", "rm", "1", "--yes").returncode == 0
    assert not checkpoint.exists()
    assert outside.is_dir()


def test_hostile_text_does_not_reach_the_terminal_as_commands(harness: Harness, tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[31m[red]net[/red]"
    with open_store(str(tmp_path / "benchmark.db")) as store:
        add_run(store, evil, evil, data=dataset(name=evil))
        store.tag([1], add=[evil])
        store.note(1, evil)
    for command in (["list"], ["show", "1"]):
        done = harness("runs", *command)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert "\x07" not in done.stdout
        assert r"\x1b]0;owned" in done.stdout


def test_what_cannot_be_is_one_message(harness: Harness, database: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.db"
    shutil.copy(database, damaged)
    with closing(sqlite3.connect(damaged)) as connection, connection:
        connection.execute("UPDATE runs SET plugins = '{', seed = 'a\x1b[31mb' WHERE id = 1")
    for command, says in (
        (("rm", "1", "--yes", "--db", "typo.db"), "there is no results database typo.db"),
        (("tag", "1", "--add", "x", "--db", "typo.db"), "there is no results database typo.db"),
        (("note", "1", "x", "--db", "typo.db"), "there is no results database typo.db"),
        (("list", "--page", "9" * 20), "--page"),
        (("list", "--db", "postgresql+foo://host/name"), "there is no such driver"),
        (("list", "--db", "damaged.db"), "a stored value cannot be read"),
    ):
        refused = harness("runs", *command)
        assert refused.returncode == 2, command
        assert says in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not (tmp_path / "typo.db").exists()
    with closing(sqlite3.connect(damaged)) as connection, connection:
        connection.execute("UPDATE runs SET plugins = '[]' WHERE id = 1")
    listed = harness("runs", "list", "--db", "damaged.db")
    assert "\x1b" not in listed.stdout + listed.stderr
