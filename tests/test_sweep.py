"""Runs side by side."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from harness.results import Selection
from harness.store import open_store
from harness.sweep import _Turns
from support import Harness

SHORT = ["--data", "phantom", "--set", "data.train=32", "--set", "data.val=16", "--set", "data.test=24"]
SHORT += ["--weights", "random", "--stages", "frozen", "--set", "frozen.epochs=2"]


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_so_many_train_and_whoever_measures_is_alone(jobs: int) -> None:
    turns, lock = _Turns(jobs, lambda: False), threading.Lock()
    doing: dict[int, str] = {}
    seen: list[tuple[str, ...]] = []
    draws = random.Random(jobs)

    def run(number: int) -> None:
        with turns.of_run() as wait:
            for to in ("prepare", "train", "measure"):
                with lock:
                    doing.pop(number, None)  # it waits, which disturbs nobody
                wait(to, lambda: None)
                with lock:
                    doing[number] = to
                    seen.append(tuple(doing.values()))
                time.sleep(draws.random() / 200)
            with lock:
                doing.pop(number)

    with ThreadPoolExecutor(jobs + 2) as pool:
        list(pool.map(run, range(40)))
    together = [[work.count(to) for to in ("prepare", "train", "measure")] for work in seen]
    assert max(training for _, training, _ in together) == jobs
    assert any(preparing and training for preparing, training, _ in together)
    assert all(len(work) == 1 for work in seen if "measure" in work)
    assert sum("measure" in work for work in seen) == 40


def test_who_waits_for_a_turn_goes_on_when_all_is_to_stop() -> None:
    stop = threading.Event()
    turns, trained, beats = _Turns(1, stop.is_set), threading.Event(), threading.Event()

    def second() -> None:
        with turns.of_run() as wait:
            wait("prepare", lambda: None)
            wait("train", beats.set)
            trained.set()

    with turns.of_run() as wait:
        wait("prepare", lambda: None)
        wait("train", lambda: None)
        thread = threading.Thread(target=second)
        thread.start()
        assert beats.wait(10)  # it tells the database that it is alive
        assert not trained.is_set()
        stop.set()
        assert trained.wait(10)
    thread.join()


def test_runs_side_by_side_are_what_they_are_one_after_another(
    harness: Harness, test_plugins: Path, tmp_path: Path
) -> None:
    backbones = "tiny,tiny_two,tiny_three,majority_vote"
    logits = {}
    for jobs in ("1", "3"):
        done = harness(
            "run", "--plugins", backbones, *SHORT, "--jobs", jobs, "--experiment", jobs, "--repeat",
            PYTHONPATH=str(test_plugins),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("tiny_two: frozen 2/2: loss" in done.stderr) == (jobs == "3")
        with open_store(str(tmp_path / "benchmark.db"), create=False) as store:
            runs = [store.run(run.id) for run in store.runs(Selection(experiment=jobs))]
            assert len(store.ensembles(jobs)) == 1
        assert [run.status for run in runs] == ["completed"] * 3
        assert {stage.execution["jobs"] for run in runs for stage in run.stages} == {int(jobs)}
        logits[jobs] = {run.backbone: run.stages[0].predictions["test"].logits.tobytes() for run in runs}
        times = sorted((run.started_at, run.finished_at) for run in runs)
        overlap = [later[0] < earlier[1] for earlier, later in pairwise(times)]
        assert overlap == [jobs == "3"] * 2
    assert logits["1"] == logits["3"]


def test_what_has_too_little_memory_beside_others_is_tried_again_alone(
    harness: Harness, test_plugins: Path, tmp_path: Path
) -> None:
    done = harness(
        "run", "--plugins", "eats_memory,tiny", *SHORT, "--jobs", "2", "--memory-limit", "6",
        PYTHONPATH=str(test_plugins),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("needs more memory than the 6 GiB of --memory-limit") == 2
    with open_store(str(tmp_path / "benchmark.db"), create=False) as store:
        found = {run.backbone: (run.status, len(run.attempts)) for run in store.runs(Selection())}
    assert found == {"eats_memory": ("failed", 2), "tiny": ("completed", 1)}
