"""A check finds whatever damage is planted, and nothing else; garbage goes, and nothing else; on both databases."""

import json
import re
import shutil
import sqlite3
import zlib
from pathlib import Path

import pytest
from sqlalchemy import select, text

from harness.errors import StoreError
from harness.paths import checkpoint_dir, checkpoints_dir
from harness.store import open_store
from harness.store.codec import pack_doubles, pack_labels, pack_strings
from harness.store.merge import back_up
from harness.store.models import DatasetRow, EnsembleRow, MeasurementRow, PredictionRow, RunRow, SplitRow, StageRow
from harness.store.snapshot import snapshot, table_of
from harness.store.upkeep import check, collect_garbage, info, upgrade
from store_fill import HEAD, STAGES, add_run, add_vote, contents, dataset, rows


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A sound file with two runs and their ensemble."""
    path = tmp_path_factory.mktemp("filled") / "a.db"
    with open_store(str(path)) as store:
        add_vote(store, [add_run(store), add_run(store, seed=1)])
    back_up(str(path), path.with_name("one file.db"))
    with sqlite3.connect(path.with_name("one file.db")) as connection:
        connection.execute("VACUUM")
    connection.close()
    return path.with_name("one file.db")


def found(store, **more):
    return [finding.text for finding in check(store, **more)]


def test_a_sound_database_has_no_findings(store):
    assert found(store) == []
    add_vote(store, [add_run(store), add_run(store, seed=1, data=dataset(prefix=""))])
    add_run(store, status="planned")
    add_run(store, status="failed", stages=["frozen"])
    add_run(store, status="interrupted", stages=[])
    add_run(store, status=None, data=dataset("z"))
    told = []
    assert found(store, progress=lambda done, total: told.append((done, total))) == []
    assert told[-1] == (3 + 6 + 14 + 1, 3 + 6 + 14 + 1), "splits, runs, predictions, ensembles"


# Which row is changed, how, and what is said of it. Each is changed and put back, one after another.
BYTES = r"run \d, stage 'frozen', split 'test': its logits take 63 bytes; 8 images of 2 classes take 64"
CORRECT = r"run \d, stage 'finetune', split 'test': its test_correct is (\d); its logits and labels give (?!\1)\d"
PLANTED = [
    (PredictionRow, lambda row: {"logits": row["logits"][:-1]}, BYTES),
    (PredictionRow, lambda row: {"logits": row["logits"] + b"\0" * 4}, "its logits take 68 bytes"),
    (PredictionRow, lambda row: {"n": 9}, "its logits take 64 bytes; 9 images of 2 classes take 72"),
    (PredictionRow, lambda row: {"n": 16, "classes": 1}, "it has 1 classes, and its data set has 2"),
    (PredictionRow, lambda row: {"split": "train"}, "its data set has no such split"),
    (PredictionRow, lambda row: {"split": "train"}, "it completed, and has no predictions of 'test' after 'frozen'"),
    (PredictionRow, lambda row: {"logits": row["logits"][4:] + row["logits"][:4]}, "its logits and labels give"),
    (StageRow, lambda row: {"test_correct": row["test_correct"] + 1}, CORRECT),
    (StageRow, lambda row: {"test_correct": row["test_correct"] + 1}, "and the stage 'finetune', tested last, has"),
    (StageRow, lambda row: {"test_images": 7}, "its test_images is 7; its logits and labels give 8"),
    (StageRow, lambda row: {"test_confusion": [1, 2]}, "stages 4: its test_confusion is not of the form"),
    (RunRow, lambda row: {"plugins": [{"kind": "a"}]}, "runs 2: its plugins is not of the form that it should be"),
    (EnsembleRow, lambda row: {"plugin": {}}, "ensembles 1: its plugin is not of the form that it should be"),
    (DatasetRow, lambda row: {"passport": {**row["passport"], "verdict": "good"}}, "datasets 1: its passport is"),
    (DatasetRow, lambda row: {"passport": {}}, "datasets 1: its passport is not of the form that it should be"),
    (StageRow, lambda row: {"test_auc": row["test_auc"] / 2}, "its test_auc is"),
    (StageRow, lambda row: {"threshold": 2.0}, "its threshold is 2.0; its logits and labels give"),
    (StageRow, lambda row: {"threshold_correct": 99}, "its threshold_correct is 99; its logits and labels give"),
    (EnsembleRow, lambda row: {"threshold": 0.5, "threshold_correct": 99}, "says that 99 images are right at its"),
    (DatasetRow, lambda row: {"subtypes": {"virus": 3}}, "datasets 1: its subtypes is not of the form"),
    (StageRow, lambda row: {"val_accuracy": None}, "split 'val': its val_accuracy is None"),
    (StageRow, lambda row: {"test_confusion": [[9, 0], [0, 0]]}, r"its test_confusion is \[\["),
    (RunRow, lambda row: {"test_accuracy": row["test_accuracy"] + 0.01}, r"run \d: its test accuracy is"),
    (RunRow, lambda row: {"test_auc": None}, r"run \d: its AUC is None"),
    (RunRow, lambda row: {"config_hash": "c" * 64}, "its config has the hash [0-9a-f]{64}, and 'c{64}' is"),
    (RunRow, lambda row: {"config": {**row["config"], "seed": 7}}, "its config has the hash"),
    (RunRow, lambda row: {"status": "done"}, "its status is 'done'"),
    (RunRow, lambda row: {"status": "failed"}, "its status is 'failed', which is not how its last attempt ended"),
    (RunRow, lambda row: {"attempt": 2}, "its last attempt, number 2, is not stored"),
    (MeasurementRow, lambda row: {"n": 3}, r"measurement 'rss_peak': its samples take 8 bytes; 3 of them take 24"),
    (SplitRow, lambda row: {"ids": pack_strings(("a",))}, r"split \d: it has 1 ids for \d images"),
    (SplitRow, lambda row: {"groups": zlib.compress(b"[")}, r"split \d: a stored value cannot be read"),
    (SplitRow, lambda row: {"groups": b"no zlib"}, r"split \d: a stored value cannot be read"),
    (SplitRow, lambda row: {"labels": pack_labels([0] * row["n"])}, "do not have its sha256"),
    (SplitRow, lambda row: {"labels": pack_labels([2] * row["n"])}, "it has labels up to 2, and data set 1 has 2"),
    (SplitRow, lambda row: {"n": 1}, r"it has \d labels for 1 images"),
    (EnsembleRow, lambda row: {"labels": pack_labels([1])}, r"ensemble 1 \('mean'\): it has 1 labels for 8 images"),
    (EnsembleRow, lambda row: {"scores": pack_doubles([1.0])}, "it has 1 scores for 8 images of 2 classes"),
    (EnsembleRow, lambda row: {"correct": row["correct"] - 1}, r"it says that \d images are right; its labels give"),
    (EnsembleRow, lambda row: {"split": "val"}, "it decided on 8 images, and the split 'val' has 5"),
    (EnsembleRow, lambda row: {"labels": b"no zlib"}, "a stored value cannot be read"),
]  # fmt: skip


def expected_hash(config):
    from harness.cli.db import _expected_hash

    return _expected_hash(config)


def test_each_planted_damage_is_found(store):
    add_vote(store, [add_run(store), add_run(store, seed=1)])
    assert found(store, expected_hash=expected_hash) == []
    for model, change, says in PLANTED:
        table = table_of(model)
        keys = list(table.primary_key)
        with store.database.writer.begin() as connection:
            newest = select(table).order_by(*(key.desc() for key in keys[:1]))
            last = [dict(row) for row in connection.execute(newest).mappings()]
            row = next(row for row in last if row.get("split", "test") == "test")
            if model is PredictionRow:  # the earlier stage, so that nothing else changes
                row = next(row for row in last[2:] if row["split"] == "test")
            here = [key == row[key.name] for key in keys]
            connection.execute(table.update().where(*here).values(change(row)))
        texts = found(store, expected_hash=expected_hash)
        assert any(re.search(says, line) for line in texts), (says, texts)
        assert not any("\n" in line for line in texts)
        with store.database.writer.begin() as connection:
            changed = {key.name: change(row).get(key.name, row[key.name]) for key in keys}
            connection.execute(table.update().where(*(key == changed[key.name] for key in keys)).values(row))
    assert found(store, expected_hash=expected_hash) == [], "it was put back each time"


def test_a_config_that_this_version_would_write_otherwise_is_passed_over(store):
    add_run(store)
    with store.database.writer.begin() as connection:
        table = table_of(RunRow)
        config = connection.scalars(select(table.c.config)).one()
        config.pop("deterministic")  # as before there was such an option
        connection.execute(table.update().values(config=config))
    assert found(store, expected_hash=expected_hash) == []


def test_a_completed_run_without_stages_or_predictions_is_found(store):
    add_run(store)
    run_id = add_run(store, stages=[])
    with store.database.writer.begin() as connection:
        connection.execute(text("DELETE FROM predictions WHERE split = 'val'"))
    assert found(store) == [
        *(f"run 1: it completed, and has no predictions of 'val' after {stage!r}" for stage in STAGES),
        f"run {run_id}: it completed, and has no stage",
    ]


def test_a_run_whose_process_is_gone_is_a_note(store):
    run_id = add_run(store, status=None)
    with store.database.writer.begin() as connection:
        connection.execute(text("UPDATE attempts SET process_started = 0"))
    (finding,) = check(store)
    assert finding.note
    assert f"run {run_id} was recorded as running, and its process is gone" in finding.text


# What PostgreSQL would not take.
ON_SQLITE = {
    "DELETE FROM sweep_runs WHERE run_id = 1": "run 1: it is of no sweep",
    "INSERT INTO epochs (stage_id, epoch) VALUES (99, 1)": "row 9 of epochs refers to a row of stages that is not",
    "UPDATE runs SET dataset_id = 99": r"row 1 of runs refers to a row of datasets that is not there",
    "UPDATE runs SET config = '{'": "a stored value cannot be read",
    "UPDATE runs SET attempt = 'two'": "row 2 of runs: attempt holds a value of the type text",
    "UPDATE runs SET created_at = 7": "row 1 of runs: created_at holds a value of the type integer",
    "UPDATE predictions SET n = 'many'": "row 1 of predictions: n holds a value of the type text",
    "UPDATE predictions SET logits = 'text'": "row 1 of predictions: logits holds a value of the type text",
    "UPDATE stages SET \"index\" = 'first'": "row 1 of stages: index holds a value of the type text",
    "UPDATE stages SET test_auc = x'00'": "row 1 of stages: test_auc holds a value of the type blob",
    "UPDATE datasets SET classes = '{}'": "datasets 1: its classes is not of the form that it should be",
    "UPDATE datasets SET classes = '[]'": "it has 2 classes, and its data set has 0",
    "UPDATE splits SET labels = 7": r"split 1: a stored value cannot be read",
    "UPDATE ensembles SET scores = 'x'": "a stored value cannot be read",
}


def test_damage_that_sqlite_lets_in_is_found(filled, tmp_path):
    path = tmp_path / "b.db"
    shutil.copy(filled, path)
    sound, damaged = sqlite3.connect(filled), sqlite3.connect(path, isolation_level=None)
    damaged.execute("PRAGMA foreign_keys = OFF")
    with open_store(str(path), create=False) as store:
        for statement, says in ON_SQLITE.items():
            damaged.execute(statement)
            texts = found(store)
            assert any(re.search(says, line) for line in texts), (statement, texts)
            assert not any("\n" in line for line in texts)
            sound.backup(damaged)
        assert found(store) == [], "it was put back each time"
    sound.close()
    damaged.close()


def test_damaged_pages_are_found(filled, tmp_path):
    """Whichever page is overwritten, which every third is: it is said, or the file does not open at all."""
    content = filled.read_bytes()
    size = int.from_bytes(content[16:18], "big")
    said = 0
    pages = range(1, len(content) // size, 3)
    for page in pages:
        path = tmp_path / "b.db"
        path.write_bytes(content[: page * size] + b"\xa5" * size + content[(page + 1) * size :])
        try:
            with open_store(str(path), create=False) as store:
                texts = found(store)
        except StoreError as error:
            assert "damaged" in str(error)  # noqa: PT017
            said += 1
            continue
        assert texts, f"page {page}"
        said += 1
    assert said == len(pages) > 10


def test_what_is_large_is_read_in_portions(store, monkeypatch):
    add_run(store)
    table = table_of(PredictionRow)
    with snapshot(store.database) as reader:
        assert [len(portion) for portion in reader.portions(select(table), table.c.logits)] == [4]
        monkeypatch.setattr("harness.store.snapshot._PORTION_BYTES", 2 * 8 * 8)
        assert [len(portion) for portion in reader.portions(select(table), table.c.logits)] == [2, 2]
        monkeypatch.setattr("harness.store.snapshot._PORTION_BYTES", 1)
        assert [len(portion) for portion in reader.portions(select(table), table.c.logits)] == [1] * 4
    assert found(store) == []


# --- info and upgrade -------------------------------------------------------------------------------------------------


def test_info_counts(store, url):
    empty = info(store)
    assert (empty.runs, empty.predictions, empty.bytes_per_prediction, empty.oldest_run) == ({}, 0, None, None)
    ids = [add_run(store), add_run(store, status="failed", stages=[]), add_run(store, status=None, stages=[])]
    with store.database.writer.begin() as connection:
        connection.execute(text(f"UPDATE attempts SET process_started = 0 WHERE run_id = {ids[2]}"))
    add_run(store, status="planned")
    full = info(store)
    assert full.runs == {"planned": 1, "completed": 1, "failed": 1, "lost": 1}
    assert (full.predictions, full.bytes_per_prediction) == (2 * (5 + 8), 8.0)
    assert full.rows == {table: len(found) for table, found in rows(store).items()}
    assert (full.oldest_run["id"], full.newest_run["id"]) == (ids[0], ids[2] + 1)
    assert full.oldest_run["created_at"] == store.run(ids[0]).created_at
    assert full.bytes > 8192
    assert full.revision == HEAD
    assert "secret" not in full.name
    assert full.engine.startswith("PostgreSQL 1" if "://" in url else "SQLite 3.")


def test_upgrade_says_what_it_did(tmp_path):
    path = tmp_path / "old.db"
    shutil.copy(Path(__file__).parent / "releases" / "0001.db", path)
    done = upgrade(str(path))
    assert (done.before, done.after) == ("0001", HEAD)
    (copy,) = tmp_path.glob("old.db.0001-*.bak")
    assert str(copy) in done.message
    again = upgrade(str(path))
    assert (again.before, again.after, again.message) == (HEAD, HEAD, "")
    with pytest.raises(StoreError, match="there is no results database"):
        upgrade(str(tmp_path / "none.db"))


# --- garbage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """Make checkpoints of runs."""
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))

    def make(*uids):
        for uid in uids:
            checkpoint_dir(uid).mkdir(parents=True)
            (checkpoint_dir(uid) / "state.json").write_bytes(b"x" * 1000)
        return sorted(checkpoint_dir(uid) for uid in uids)

    return make


def left():
    return sorted(checkpoints_dir().iterdir())


def test_garbage_goes_and_nothing_else(store, checkpoints, tmp_path):
    uids = [
        store.run(add_run(store, status=status, stages=[])).uid
        for status in ("completed", "failed", "interrupted", "planned", None)
    ]
    elsewhere = "uid of another database ../../../"
    checkpoints(*uids, elsewhere)
    (checkpoints_dir() / "notes.txt").touch()
    precious = tmp_path / "precious"
    precious.mkdir()
    (checkpoints_dir() / ("0" * 32)).symlink_to(precious)
    everything = left()
    kept = contents(store)
    with store.database.writer.begin() as connection:
        connection.execute(text("INSERT INTO experiments VALUES (99, 'unused', '2026-01-01 00:00:00.000000')"))
        connection.execute(
            text("INSERT INTO environments VALUES (99, 's', '', '', '', '', '{}'), (98, 'u', '', '', '', '', '{}')")
        )
    before = rows(store)
    dry = collect_garbage(store, dry_run=True)
    assert (rows(store), left()) == (before, everything)
    done = collect_garbage(store)
    assert dict(done.rows) == dict(dry.rows)
    assert dict(done.rows) == {"sweeps": 0, "experiments": 1, "datasets": 0, "environments": 2, "splits": 0}
    assert (done.checkpoints, done.checkpoint_bytes) == (dry.checkpoints, dry.checkpoint_bytes) == (1, 1000)
    assert left() == [entry for entry in everything if entry != checkpoint_dir(uids[0])]
    assert contents(store) == kept
    again = collect_garbage(store, all_checkpoints=True)
    assert (sum(again.rows.values()), again.checkpoints) == (0, 1)
    assert checkpoint_dir(elsewhere) not in left()
    assert len(left()) == 6
    assert precious.is_dir()
    assert collect_garbage(store).bytes < 100_000


def test_space_is_given_back_on_sqlite(tmp_path, checkpoints):
    path = tmp_path / "b.db"
    with open_store(str(path)) as store:
        run_id = add_run(store)
        with store.database.writer.begin() as connection:
            connection.execute(text("UPDATE measurements SET samples = zeroblob(8000000), n = 1000000"))
        store.delete_runs([run_id])
        dry = collect_garbage(store, dry_run=True)
        assert dry.database_bytes > 7_000_000
        assert path.stat().st_size > 7_000_000 or path.with_name("b.db-wal").stat().st_size > 7_000_000
        assert collect_garbage(store).bytes > 7_000_000
    assert path.stat().st_size < 1_000_000
    with open_store(str(path), create=False) as store:
        assert found(store) == []


def test_a_dry_run_leaves_the_file_as_it_is(filled, tmp_path, checkpoints):
    path = tmp_path / "b.db"
    shutil.copy(filled, path)
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO experiments VALUES (99, 'unused', '2026-01-01 00:00:00.000000')")
    connection.close()
    before = path.read_bytes()
    with open_store(str(path), create=False) as store:
        assert collect_garbage(store, dry_run=True).rows["experiments"] == 1
    assert path.read_bytes() == before
    assert json.dumps(sorted(entry.name for entry in tmp_path.iterdir())) == '["b.db"]'
