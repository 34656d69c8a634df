"""`harness ensemble --search` on the example database's runs on real X-rays."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from harness.analysis.metrics import classify, wilson
from harness.analysis.paired import mcnemar
from harness.store import open_store
from harness.store.codec import pack_labels, unpack_labels
from support import ROOT, Harness

SEARCH = ("ensemble", "--search", "--runs", "7,8,9", "--json")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "benchmark.db"
    path.write_bytes((ROOT / "benchmark.db.example").read_bytes())
    return path


def _execute(database: Path, statement: str, *values: object) -> int:
    with closing(sqlite3.connect(database)) as connection, connection:
        return connection.execute(statement, values).rowcount


BEGIN_WITH = "UPDATE predictions SET logits = CAST(? || substr(logits, 5) AS BLOB)"
OF_RUN = "stage_id IN (SELECT id FROM stages WHERE run_id = ?)"


def test_test_images_have_no_say(harness: Harness, database: Path) -> None:
    """Their labels and what was predicted of them are drawn anew, and the ranking of all ensembles is the same."""
    before = json.loads(harness(*SEARCH).stdout)
    draws = np.random.default_rng(0)
    with closing(sqlite3.connect(database)) as connection, connection:
        rows = connection.execute("SELECT stage_id, n, classes FROM predictions WHERE split = 'test'").fetchall()
        for stage, n, classes in rows:
            logits = draws.normal(size=(n, classes)).astype("<f4").tobytes()
            connection.execute(
                "UPDATE predictions SET logits = ? WHERE stage_id = ? AND split = 'test'", (logits, stage)
            )
        of_test = "id IN (SELECT split_id FROM dataset_splits WHERE name = 'test')"
        for split, labels in connection.execute(f"SELECT id, labels FROM splits WHERE {of_test}").fetchall():
            opposite = pack_labels(1 - unpack_labels(labels))
            connection.execute("UPDATE splits SET labels = ? WHERE id = ?", (opposite, split))
    done = harness(*SEARCH)
    assert done.returncode == 0, done.stderr
    after = json.loads(done.stdout)
    assert after["candidates"] == before["candidates"]
    assert after["splits"]["val"] == before["splits"]["val"]
    assert after["chosen"]["members"] == before["chosen"]["members"]
    assert after["chosen"]["correct"] != before["chosen"]["correct"]
    assert after["splits"]["test"] != before["splits"]["test"]


def test_json_has_the_choice_and_what_test_images_say_of_it(harness: Harness, database: Path) -> None:
    found = json.loads(harness(*SEARCH).stdout)
    best, chosen = found["best"], found["chosen"]
    assert [(one["members"], one["rule"]) for one in best] == [
        (one["members"], one["rule"]) for one in found["candidates"][:10]
    ]
    assert best[0]["test"]["correct"] == chosen["correct"]
    assert chosen["interval"] == pytest.approx(wilson(chosen["correct"], 624))
    assert found["optimistic"].startswith("120 of 300 validation images")
    with open_store(str(database)) as store:
        stored = next(one for one in store.ensembles() if one.id == chosen["id"])
        members = [store.run(one["run_id"]) for one in chosen["members"]]
        runs = [store.run(one["run_id"]) for one in found["members"]]
    val, test = ({one.name: one.labels for one in members[0].dataset.splits}[split] for split in ("val", "test"))
    decided = {
        split: [classify(run.stage("finetune").predictions[split].logits) for run in members]
        for split in ("val", "test")
    }
    of_member = int(np.argmax([(one == val).sum() for one in decided["val"]]))
    expected = mcnemar(test, stored.labels, decided["test"][of_member])
    assert chosen["against"]["run_id"] == members[of_member].id
    assert (chosen["against"]["only_first"], chosen["against"]["only_second"]) == (
        expected.only_first, expected.only_second,
    )  # fmt: skip
    assert chosen["against"]["p"] == pytest.approx(expected.p)
    right = np.any([classify(run.stage("finetune").predictions["test"].logits) == test for run in runs], axis=0).sum()
    assert found["splits"]["test"]["oracle"]["correct"] == right
    assert found["splits"]["test"]["oracle"]["interval"] == pytest.approx(wilson(int(right), 624))
    assert [(one["first"], one["second"]) for one in found["splits"]["val"]["pairs"]] == [(0, 1), (0, 2), (1, 2)]


def test_the_table_marks_what_was_not_used(harness: Harness, database: Path) -> None:
    done = harness("ensemble", "--search", "--runs", "26,27,28", "--method", "mean_probability,majority_vote")
    assert done.returncode == 0, done.stderr
    assert "not used for the choice" in done.stdout
    assert "optimistic" not in done.stderr


@pytest.mark.parametrize("spoilt", ["val", "test"])
def test_a_leak_is_told_where_it_is_into_validation(harness: Harness, database: Path, spoilt: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        for fingerprint, text in connection.execute("SELECT fingerprint, passport FROM datasets").fetchall():
            passport = json.loads(text)
            for reason in passport["reasons"]:
                if reason["verdict"] == "leaky":
                    reason["spoils"] = [spoilt]
            changed = json.dumps(passport)
            connection.execute("UPDATE datasets SET passport = ? WHERE fingerprint = ?", (changed, fingerprint))
    done = harness("ensemble", "--search", "--runs", "7,8", "--method", "mean_probability")
    assert done.returncode == 0, done.stderr
    assert ("The choice is optimistic: 120 of 300" in done.stderr) == (spoilt == "val")


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ((), ["--runs", "7"], "an ensemble has two members or more; found 1"),
        ((), ["--runs", "9,10"], "runs 9 and 10 used different images"),
        (
            (),
            ["--where", "id <= 9 and id != 5 and id != 6", "--stage", "frozen,finetune"],
            "one search takes 50,000; name fewer members by --runs, or fewer rules by --method",
        ),
        (("UPDATE runs SET status = 'failed' WHERE id = ?", 8), ["--runs", "7,8"], "run 8 has not completed"),
        (
            (f"DELETE FROM predictions WHERE split = 'val' AND {OF_RUN}", 8),
            ["--runs", "7,8"],
            "run 8 has no predictions of val after finetune",
        ),
        (
            (
                f"{BEGIN_WITH} WHERE split = 'val' AND {OF_RUN}",
                np.float32("nan").tobytes(),
                8,
            ),
            ["--runs", "7,8"],
            "run 8 diverged: its predictions of val are not finite",
        ),
        (
            (
                f"{BEGIN_WITH} WHERE split = 'test' AND {OF_RUN}",
                np.float32("nan").tobytes(),
                8,
            ),
            ["--runs", "7,8"],
            "run 8 diverged: its predictions of test are not finite",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_one_message_and_nothing_is_stored(
    harness: Harness, database: Path, change: tuple[object, ...], arguments: list[str], message: str
) -> None:
    if change:
        assert _execute(database, str(change[0]), *change[1:])
    with open_store(str(database)) as store:
        before = [one.id for one in store.ensembles()]
    done = harness("ensemble", "--search", *arguments)
    assert done.returncode == 2, done.stdout
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    with open_store(str(database)) as store:
        assert [one.id for one in store.ensembles()] == before
