"""`harness db` as a user types it: what it prints, where, and with which exit code; and the files that it exports."""

import csv
import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pandas
import pytest
from sqlalchemy import func, select, text

from harness.cli import main
from harness.errors import ConfigError, StoreError
from harness.results import Measurement, MeasurementSet, Selection
from harness.store import open_store
from harness.store.export import FORMATS, TABLES, export
from harness.store.models import Base, PredictionRow
from harness.store.snapshot import table_of
from store_fill import HEAD, SPLITS, add_run, add_vote, dataset

OLD = Path(__file__).parent.parent / "store" / "releases" / "0001.db"
ODD = "=SUM(A1) '\"; DROP TABLE runs; -- \r\n\x00\x1b[31m../../etc/passwd 日本\udcff"
STORED_ODD = ODD.replace("\x00", "\\x00").replace("\udcff", "\\udcff")


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Two runs and their ensemble, one that failed and one with odd text everywhere; to be read, or copied."""
    path = tmp_path_factory.mktemp("filled") / "benchmark.db"
    with open_store(str(path)) as store:
        ids = [add_run(store, "table1", name, seed=i) for i, name in enumerate(("alexnet", "resnet18"))]
        add_vote(store, ids)
        add_run(store, "other", "vit", status="failed", stages=["frozen"], note="one\rline")
        store.tag(ids[:1], add=["-1", "a"])
        add_run(store, ODD, ODD, tags=[ODD], note=ODD, failure=ODD, status="failed", data=odd_dataset())
    return path


def odd_dataset():
    return dataset("z", name=ODD, prefix=ODD)


@pytest.fixture
def db(filled, tmp_path, monkeypatch):
    """A copy to work on."""
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    shutil.copy(filled, tmp_path / "benchmark.db")
    return tmp_path / "benchmark.db"


@pytest.fixture
def run(capsys):
    """Run a command in this process; return its exit code and what it printed on stdout and stderr."""

    def command(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["db", *map(str, arguments)])
        printed = capsys.readouterr()
        return caught.value.code or 0, printed.out, printed.err

    return command


# --- the commands -----------------------------------------------------------------------------------------------------


def test_the_commands_as_a_user_finds_them(harness, tmp_path):
    found = harness("db", "--help")
    assert found.returncode == 0
    for name in ("upgrade", "info", "check", "backup", "merge", "export", "gc"):
        assert name in found.stdout
    missing = harness("db", "check")
    assert (missing.returncode, missing.stdout) == (2, "")
    expected = "error: there is no results database benchmark.db; `harness run` and `harness bench` make one"
    assert missing.stderr.split() == expected.split()  # the line is wrapped
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["upgrade", "info", "check", "backup", "merge", "export", "gc"])
def test_each_command_has_help_with_an_example(run, name):
    code, printed, _ = run(name, "--help")
    assert code == 0
    assert f"harness db {name}" in printed
    assert "--json" in printed
    assert "--db" in printed


def test_upgrade(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(OLD, "old.db")
    code, printed, _ = run("upgrade", "--db", "old.db")
    assert code == 0
    assert f"revision 0001 to {HEAD}" in printed
    (copy,) = tmp_path.glob("old.db.0001-*.bak")
    assert f"kept in {copy.name}" in printed
    assert f"The schema is current: revision {HEAD}." in run("upgrade", "--db", "old.db")[1]
    printed = json.loads(run("upgrade", "--db", "old.db", "--json")[1])
    assert printed == {"from": HEAD, "to": HEAD, "message": ""}


def test_info(run, db):
    printed = json.loads(run("info", "--json")[1])
    assert printed["runs"] == {"completed": 2, "failed": 2}
    assert printed["bytes_per_prediction"] == 8.0
    assert printed["rows"]["predictions"] == 14
    assert printed["oldest_run"]["id"] == 1
    code, shown, _ = run("info")
    assert code == 0
    for words in (
        "2 completed, 2 failed",
        "journal mode wal",
        "8.0 bytes of logits each",
        "ensemble_members",
        f"revision {HEAD}",
    ):
        assert words in shown


def test_check(run, db):
    assert run("check") == (0, "Sound.\n", "")
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE runs SET config_hash = 'c' WHERE id = 1")
        connection.execute(
            "UPDATE stages SET test_correct = 99, name = ? WHERE run_id = 4 AND [index] = 1", [STORED_ODD]
        )
        connection.execute("UPDATE runs SET status = 'running' WHERE id = 3")
        connection.execute("UPDATE attempts SET process_started = 0")
    connection.close()
    code, printed, _ = run("check")
    lines = printed.splitlines()
    assert code == 1
    assert "broken run 1: its config has the hash" in lines[0]
    assert len([line for line in lines if line.startswith("broken")]) == 3
    assert "\x1b" not in printed
    assert "note run 3 was recorded as running" in lines[-2]
    assert lines[-1] == "3 findings."
    code, printed, _ = run("check", "--json")
    printed = json.loads(printed)
    assert (code, printed["sound"], len(printed["findings"]), len(printed["notes"])) == (1, False, 3, 1)
    db.write_bytes(b"no database" * 100)
    code, printed, error = run("check")
    assert (code, printed) == (2, "")
    assert (
        error == "error: results database benchmark.db: this file is no SQLite database; name another one with --db\n"
    )


def test_backup_and_merge(run, db, tmp_path):
    assert run("backup", "copy.db")[0] == 0
    code, printed, error = run("backup", "copy.db")
    assert (code, printed, error) == (2, "", "error: copy.db: it is there already; name a new file for the copy\n")
    with open_store("copy.db") as store:
        add_run(store, status=None)
    code, printed, error = run("merge", "copy.db", "--db", "team.db")
    assert (code, printed.splitlines()) == (
        0,
        ["Runs: 4 new, 0 updated, 0 already there. Ensembles: 1 new, 0 already there."],
    )
    assert error == "copy.db: run 5 is being executed, and left out; merge again when it has ended\n"
    printed = json.loads(run("merge", "benchmark.db", "copy.db", "--db", "team.db", "--json")[1])
    assert {key: value for key, value in printed.items() if key != "notes"} == {
        "new_runs": 0,
        "updated_runs": 0,
        "known_runs": 8,
        "new_ensembles": 0,
        "known_ensembles": 2,
        "new_sets": 0,
        "known_sets": 0,
        "left_out": 0,
    }
    code, printed, error = run("merge", db, "--db", "benchmark.db")
    assert (code, printed) == (2, "")
    assert error == f"error: results database {db}: it cannot be merged into itself; name another with --db\n"
    code, _, error = run("merge", "--db", "benchmark.db")
    assert (code, "SOURCE" in error) == (2, True)


def test_gc(run, db):
    with sqlite3.connect(db) as connection:
        connection.execute("INSERT INTO experiments VALUES (99, 'unused', '2026-01-01 00:00:00.000000')")
    connection.close()
    assert "Would remove 1 experiments; that frees about" in run("gc", "--dry-run")[1]
    printed = json.loads(run("gc", "--json")[1])
    assert (printed["rows"]["experiments"], printed["checkpoints"], printed["dry_run"]) == (1, 0, False)
    assert "Removed nothing;" in run("gc", "--all-checkpoints")[1]


# --- export -----------------------------------------------------------------------------------------------------------


def counts(path):
    """Count what a whole export holds, by queries of this test's own."""
    tables = {name: table for name, table in Base.metadata.tables.items() if name in TABLES and name != "predictions"}
    with open_store(str(path), create=False) as store, store.database.engine.connect() as connection:
        found = {name: connection.scalar(select(func.count()).select_from(table)) for name, table in tables.items()}
        for samples in ("measurements", "set_measurements"):
            found[samples] = connection.scalar(select(func.sum(tables[samples].c.n)))
        found["predictions"] = connection.scalar(select(func.sum(table_of(PredictionRow).c.n)))
    return found


def read(folder, table, format):
    path = folder / f"{table}.{format}"
    if format == "csv":
        return pandas.read_csv(path, keep_default_na=False)
    return pandas.read_parquet(path) if format == "parquet" else pandas.read_json(path, lines=True, precise_float=True)


@pytest.mark.parametrize("format", FORMATS)
def test_everything_is_exported(run, filled, tmp_path, format):
    folder = tmp_path / "new" / "tables"
    filled = shutil.copy(filled, tmp_path / "filled.db")
    with open_store(str(filled)) as store:
        latency = Measurement("latency", "s", np.array([0.1, 0.2]), "a processor", 8, details={"flags": []})
        store.sets.add(MeasurementSet("before", "bench", "tiny", {"batch_size": 8}, measurements=(latency,)))
    code, printed, _ = run("export", folder, "--format", format, "--db", filled, "--json")
    assert code == 0
    printed = json.loads(printed)
    assert printed["rows"] == counts(filled)
    assert sorted(printed["files"].values()) == sorted(str(folder / f"{table}.{format}") for table in TABLES)
    tables = {table: read(folder, table, format) for table in TABLES}
    assert {table: len(rows) for table, rows in tables.items()} == printed["rows"]
    assert {table: tuple(rows.columns) for table, rows in tables.items()} == {
        table: tuple(columns) for table, columns in TABLES.items()
    }
    with open_store(str(filled), create=False) as store:
        stored = store.run(2)
    of_run = tables["predictions"].query("run_id == 2 and stage == 'finetune' and split == 'test'")
    logits = [list(map(float, value.split(";"))) if format == "csv" else list(value) for value in of_run["logits"]]
    expected = stored.stages[1].predictions["test"].logits
    assert np.array_equal(np.array(logits, np.float32), expected), "bit for bit"
    test = stored.dataset.splits[1]
    assert of_run["label"].tolist() == test.labels.tolist()
    assert of_run["group"].tolist() == list(test.groups)
    assert of_run["image"].tolist() == [image.replace("\udcff", "\\udcff") for image in test.ids]
    run_2 = tables["runs"].query("id == 2").iloc[0]
    assert (run_2["status"], run_2["uid"], run_2["backbone"]) == ("completed", stored.uid, "resnet18")
    assert run_2["test_accuracy"] == stored.stages[1].test_accuracy
    assert pandas.Timestamp(run_2["created_at"]) == stored.created_at
    assert (run_2["config"] if format == "jsonl" else json.loads(run_2["config"])) == stored.config
    losses = tables["epochs"].query("run_id == 2 and stage == 'frozen'")["train_loss"].tolist()
    assert float(losses[0]) == stored.stages[0].epochs[0].train_loss
    assert losses[1] in ("nan", "") or np.isnan(losses[1])
    samples = tables["measurements"].query("run_id == 2 and name == 'latency'")["sample"].tolist()
    assert samples == next(m for m in stored.measurements if m.name == "latency").samples.tolist()
    assert tables["ensemble_members"]["run_id"].tolist() == [1, 2]


def test_odd_text_stays_text(run, filled, tmp_path):
    for format in FORMATS:
        assert run("export", tmp_path / format, "--format", format, "--db", filled)[0] == 0
        expected = f"'{STORED_ODD}" if format == "csv" else STORED_ODD
        row = read(tmp_path / format, "runs", format).query("id == 4").iloc[0]
        assert [row["backbone"], row["note"], row["dataset"]] == [expected] * 3
        assert list(row["tags"]) == [expected] if format != "csv" else row["tags"] == expected
        assert list(row["experiments"]) == [expected] if format != "csv" else row["experiments"] == expected
        assert read(tmp_path / format, "runs", format).query("id == 3").iloc[0]["note"] == "one\rline"
        attempt = read(tmp_path / format, "attempts", format).query("run_id == 4").iloc[0]
        assert attempt["failure_message"] == expected
        image = read(tmp_path / format, "predictions", format).query("run_id == 4").iloc[0]["image"]
        assert image.startswith(expected)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(FORMATS), "no name is used as a path"


def test_no_cell_is_a_formula(run, filled, tmp_path):
    run("export", tmp_path / "out", "--db", filled)
    begun = set()
    for table, columns in TABLES.items():
        with (tmp_path / "out" / f"{table}.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, kind in columns.items():
                    if kind in ("text", "texts", "json"):
                        assert not row[name].startswith(("=", "+", "-", "@", "\t", "\r")), (table, name)
                        begun.add(row[name][:2])
                    elif kind in ("integer", "number") and row[name]:
                        float(row[name])
    assert {"'=", "'-"} <= begun
    logits = pandas.read_csv(tmp_path / "out" / "predictions.csv")["logits"]
    assert logits.str.startswith("-").any(), "a number keeps its sign"


def test_a_filter_chooses_runs_and_ensembles_whose_members_are_chosen(run, filled, tmp_path):
    def rows(name, where):
        return json.loads(run("export", tmp_path / name, "--where", where, "--db", filled, "--json")[1])["rows"]

    one = rows("one", "backbone = resnet18")
    assert (one["runs"], one["stages"], one["ensembles"], one["ensemble_members"]) == (1, 2, 0, 0)
    assert one["predictions"] == 2 * sum(SPLITS.values())
    both = rows("both", "status = completed")
    assert (both["runs"], both["ensembles"], both["ensemble_members"]) == (2, 1, 2)
    assert set(rows("none", "id = 99").values()) == {0}
    assert len(read(tmp_path / "none", "runs", "csv")) == 0
    code, _, error = run("export", tmp_path / "bad", "--where", "backbon = 1", "--db", filled)
    assert code == 2
    assert "backbon" in error
    assert not (tmp_path / "bad").exists()


def test_a_folder_that_holds_something_is_left_alone(run, db, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "runs.csv").write_text("precious")
    (tmp_path / "file").write_text("precious")
    assert run("export", "full")[2] == "error: full: this folder is not empty; name a new one\n"
    assert run("export", "file")[2] == "error: file: this is a file; name a new folder\n"
    assert "it cannot be made" in run("export", "file/below")[2]
    assert (tmp_path / "full" / "runs.csv").read_text() == "precious"
    assert (tmp_path / "file").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    assert run("export", "empty")[0] == 0
    assert "no such format. Did you mean parquet?" in run("export", "x", "--format", "parquett")[2]


def test_parquet_without_pyarrow_names_the_command(run, db, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    code, _, error = run("export", "x", "--format", "parquet")
    assert code == 2
    assert "pip install pyarrow" in error
    assert not Path("x").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_that_fails_leaves_no_file(filled, tmp_path, monkeypatch, format):
    def fail(done, total):
        if done:
            raise OSError(28, "No space left on device")

    with open_store(str(filled), create=False) as store:
        with pytest.raises(StoreError, match="it cannot be written: No space left on device"):
            export(store, tmp_path / "out", format, progress=fail)
        assert list((tmp_path / "out").iterdir()) == []
        with pytest.raises(ConfigError):
            export(store, tmp_path / "out", format, where="nonsense")


def test_small_portions_give_the_same(filled, tmp_path, monkeypatch):
    with open_store(str(filled), create=False) as store:
        for format in FORMATS:
            export(store, tmp_path / f"whole {format}", format)
        monkeypatch.setattr("harness.store.export._BATCH", 1)
        monkeypatch.setattr("harness.store.export._ROWS", 3)
        monkeypatch.setattr("harness.store.snapshot._PORTION", 2)
        for format in FORMATS:
            export(store, tmp_path / f"parts {format}", format)
            for table in TABLES:
                whole, parts = (read(tmp_path / f"{name} {format}", table, format) for name in ("whole", "parts"))
                pandas.testing.assert_frame_equal(whole, parts)


def test_an_export_while_runs_go_on_says_which(tmp_path):
    with open_store(str(tmp_path / "b.db")) as store:
        ids = [add_run(store, status=None, stages=["frozen"]) for _ in range(2)]
        with store.database.writer.begin() as connection:
            connection.execute(text(f"UPDATE attempts SET process_started = 0 WHERE run_id = {ids[1]}"))
        export(store, tmp_path / "out", "jsonl")
        assert store.run_ids(Selection(status="lost")) == ids[1:]
    assert read(tmp_path / "out", "runs", "jsonl")["status"].tolist() == ["running", "lost"]
