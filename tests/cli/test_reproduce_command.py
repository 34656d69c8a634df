"""`harness reproduce`, as a user starts it: the same bits, where runs part, and what makes a comparison meaningless."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.analysis.replay import compare_runs, environment_changes
from harness.results import Environment, Run
from harness.store import open_store
from image_trees import encoded, grey, write_folder
from results_for_pages import add_run, dataset
from support import Harness

SMALL = ["--no-latency", "--set", "frozen.epochs=2", "--set", "finetune.epochs=1", "--weights", "random"]
PHANTOM = ["--data", "phantom", "--set", "data.train=32", "--set", "data.val=16", "--set", "data.test=24"]


@pytest.fixture
def then(tmp_path: Path) -> Iterator[Run]:
    with open_store(str(tmp_path / "pure.db")) as store:
        yield store.run(add_run(store, "e", "resnet18", data=dataset()))


def test_a_run_comes_out_the_same_and_a_changed_row_is_named(
    harness: Harness, test_plugins: Path, tmp_path: Path
) -> None:
    run = harness("run", "--plugins", "tiny", *PHANTOM, *SMALL, PYTHONPATH=str(test_plugins))
    assert run.returncode == 0, run.stderr
    done = harness("reproduce", "1", "--exact", PYTHONPATH=str(test_plugins))
    assert done.returncode == 0, done.stderr
    assert "bit-exact: run 2 against run 1" in done.stdout
    assert "differ by at most 0;" in done.stdout

    with sqlite3.connect(tmp_path / "benchmark.db") as database:
        database.execute(
            "UPDATE epochs SET val_loss = val_loss + 0.25 WHERE epoch = 2 AND stage_id = (SELECT id FROM stages WHERE "
            "run_id = 1 AND name = 'frozen')"
        )
    told = harness("reproduce", "1", "--exact", "--json", PYTHONPATH=str(test_plugins))
    assert told.returncode == 1, told.stderr
    found = json.loads(told.stdout)
    assert (found["verdict"], found["again"], found["environment"]) == ("within tolerance", 3, [])
    assert (found["first"]["stage"], found["first"]["epoch"], found["first"]["what"]) == ("frozen", 2, "val loss")

    with sqlite3.connect(tmp_path / "benchmark.db") as database:
        changed = database.execute("SELECT config FROM runs WHERE id = 1").fetchone()[0]
        other = json.dumps(json.loads(changed) | {"seed": 9})
        database.execute("UPDATE runs SET config = ?, seed = 9 WHERE id = 1", (other,))
    differs = harness("reproduce", "1", OMP_NUM_THREADS="1", PYTHONPATH=str(test_plugins))
    assert differs.returncode == 1, differs.stderr
    assert "different: run 4 against run 1" in differs.stdout
    assert "They part in stage frozen, epoch 1: train loss" in differs.stdout
    with open_store(str(tmp_path / "benchmark.db")) as store:
        made = store.run(1), store.run(4)
        assert made[1].experiment.name == f"reproductions of run {made[0].uid[:8]}"
        assert made[1].experiment not in made[0].experiments
        assert [plugin.name for plugin in made[1].plugins] == [plugin.name for plugin in made[0].plugins]


def test_a_label_that_was_changed_since_is_an_error(harness: Harness, test_plugins: Path, tmp_path: Path) -> None:
    names = [f"{split}/{kind}/{n}.jpeg" for split in ("train", "val", "test") for kind in "ab" for n in range(8)]
    photos = write_folder(tmp_path / "photos", {name: encoded(grey(seed)) for seed, name in enumerate(names)})
    run = harness("run", "--plugins", "tiny", "--data", f"imagefolder:{photos}", *SMALL, PYTHONPATH=str(test_plugins))
    assert run.returncode == 0, run.stderr
    shutil.move(photos / "train" / "a" / "0.jpeg", photos / "train" / "b" / "9.jpeg")
    done = harness("reproduce", "1", PYTHONPATH=str(test_plugins))
    assert done.returncode == 2, done.stdout
    assert "labels, patients or splits have changed since" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE runs SET status = 'failed'", "run 1 is failed: only one that completed"),
        ("""UPDATE runs SET config = '{"backbone": "tiny", "hue": 3}'""", "another idea of"),
        ("UPDATE runs SET config = replace(config, 'phantom', 'fantom')", "no dataset plugin is called 'fantom'"),
        ("DELETE FROM runs", "there is no run 1"),
    ],
)
def test_what_cannot_be_made_again_says_why(
    harness: Harness, test_plugins: Path, tmp_path: Path, change: str, message: str
) -> None:
    with open_store(str(tmp_path / "benchmark.db")) as store:
        add_run(store, "e", "tiny", data=dataset(name="phantom"))
    with sqlite3.connect(tmp_path / "benchmark.db") as database:
        database.execute("UPDATE runs SET config = replace(config, 'chest-xray', 'phantom')")
        database.execute(change)
    done = harness("reproduce", "1", PYTHONPATH=str(test_plugins))
    assert done.returncode == 2, done.stdout
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_equal_runs_are_equal_and_nan_equals_nan(then: Run) -> None:
    assert compare_runs(then, then, 0.0).verdict == "bit-exact"
    epoch = replace(then.stages[0].epochs[0], train_loss=float("nan"))
    stage = replace(then.stages[0], epochs=(epoch, *then.stages[0].epochs[1:]))
    diverged = replace(then, stages=(stage, *then.stages[1:]))
    assert compare_runs(diverged, diverged, 0.0).verdict == "bit-exact"
    first = compare_runs(then, diverged, 0.0).first
    assert first is not None
    assert (first.stage, first.epoch, first.what, first.now) == ("frozen", 1, "train loss", "nan")


def test_the_tolerance_is_of_probabilities_after_the_last_stage(then: Run) -> None:
    stage = then.stages[-1]
    moved = stage.predictions["test"].logits.copy()
    moved[5] += np.float32([0.02, -0.02])
    predictions = {**stage.predictions, "test": replace(stage.predictions["test"], logits=moved)}
    now = replace(then, stages=(*then.stages[:-1], replace(stage, predictions=predictions)))
    p = [1 / (1 + np.exp(one[5, 0] - one[5, 1])) for one in (stage.predictions["test"].logits, moved)]
    found = compare_runs(then, now, abs(p[0] - p[1]) + 1e-6)
    assert found.verdict == "within tolerance"
    assert found.farthest == pytest.approx(abs(p[0] - p[1]), rel=1e-4)
    assert found.first is not None
    assert (found.first.stage, found.first.epoch, found.first.what) == ("finetune", None, "predictions of test")
    assert compare_runs(then, now, abs(p[0] - p[1]) / 2).verdict == "different"


def test_fewer_epochs_or_stages_differ(then: Run) -> None:
    shorter = replace(then, stages=then.stages[:1])
    first = compare_runs(then, shorter, 0.01).first
    assert first is not None
    assert (first.stage, first.what, first.now) == ("finetune", "stage", "missing")
    cut = replace(then.stages[0], epochs=then.stages[0].epochs[:-1])
    first = compare_runs(then, replace(then, stages=(cut, *then.stages[1:])), 0.01).first
    assert first is not None
    assert (first.what, first.then, first.now) == ("epochs", "25", "24")


def test_what_is_another_machine() -> None:
    details = [
        {"threads": threads, "git": {"commit": commit}, "packages": {"numpy": numpy}}
        for threads, commit, numpy in ((2, "a", "2.0"), (4, "b", "2.1"))
    ]
    then = Environment("cpu", "CPU A", "3.11.9", "2.9.0", details[0])
    now = Environment("cpu", "CPU B", "3.11.9", "2.14.1", details[1])
    assert environment_changes(then, now) == [
        "device name: CPU A then, CPU B now", "torch: 2.9.0 then, 2.14.1 now", "threads: 2 then, 4 now",
        "numpy: 2.0 then, 2.1 now",
    ]  # fmt: skip
    assert environment_changes(then, then) == []
