"""Runs side by side."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from harness.measure.gpus import Gpu, find_gpu, ready_ahead
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
        logits[jobs] = [run.stages[0].predictions["test"].logits for run in runs]
        times = sorted((run.started_at, run.finished_at) for run in runs)
        overlap = [later[0] < earlier[1] for earlier, later in pairwise(times)]
        assert overlap == [jobs == "3"] * 2
    for alone, beside in zip(logits["1"], logits["3"], strict=True):
        assert beside == pytest.approx(alone, abs=1e-4)  # fewer threads sum in another order


def test_what_has_too_little_memory_beside_others_is_tried_again_alone(
    harness: Harness, test_plugins: Path, tmp_path: Path
) -> None:
    arguments = ["run", "--plugins", "short_once,tiny,majority_vote", *SHORT]
    done = harness(*arguments, "--jobs", "2", PYTHONPATH=str(test_plugins), SHORT_ONCE=tmp_path / "mark")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("needs more memory than this machine has (too many at once)") == 1
    with open_store(str(tmp_path / "benchmark.db"), create=False) as store:
        runs = {run.backbone: store.run(run.id) for run in store.runs(Selection())}
    assert {name: (run.status, len(run.attempts)) for name, run in runs.items()} == {
        "short_once": ("completed", 2),
        "tiny": ("completed", 1),
    }
    assert runs["short_once"].attempts[1].started_at > runs["tiny"].finished_at
    assert runs["short_once"].stages[0].execution["jobs"] == 1


def test_what_had_too_little_memory_alone_is_not_tried_again(
    harness: Harness, test_plugins: Path, tmp_path: Path
) -> None:
    done = harness(
        "run", "--plugins", "short_once", *SHORT, "--jobs", "2",
        PYTHONPATH=str(test_plugins), SHORT_ONCE=tmp_path / "mark",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    with open_store(str(tmp_path / "benchmark.db"), create=False) as store:
        (run,) = store.runs(Selection())
    assert (run.status, len(run.attempts)) == ("failed", 1)


def test_interrupted_side_by_side_all_go_on(harness: Harness, test_plugins: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness", "run", "--plugins", "slow,tiny,majority_vote", *SHORT, "--jobs", "2"]
    command += ["--set", "frozen.epochs=150", "--experiment", "one"]
    env = {**os.environ, "PYTHONPATH": str(test_plugins), "HARNESS_HOME": str(tmp_path / "home")}
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "slow: frozen 2/150" in line:
                process.send_signal(signal.SIGTERM)  # an interrupt may be ignored where tests run
                break
        process.communicate(timeout=120)
    assert process.returncode == 130
    with open_store(str(tmp_path / "benchmark.db"), create=False) as store:
        assert {run.status for run in store.runs(Selection())} <= {"interrupted", "planned", "completed"}
    done = harness("resume", "--jobs", "2", PYTHONPATH=str(test_plugins))
    assert done.returncode == 0, done.stderr
    with open_store(str(tmp_path / "benchmark.db"), create=False) as store:
        assert [run.status for run in store.runs(Selection())] == ["completed"] * 2


@pytest.mark.parametrize(
    ("visible", "device", "found"),
    [
        (None, "auto", 80), (None, "cuda:1", 16), (None, "cuda:2", None), (None, "cpu", None), ("", "auto", None),
        ("1", "cuda", 16), ("1,0", "cuda:1", 80), ("GPU-b", "auto", 16), ("GPU-c", "auto", None),
    ],
)  # fmt: skip
def test_the_gpu_that_a_device_stands_for(
    visible: str | None, device: str, found: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no GPU here, so NVIDIA's library is a stand-in, of two GPUs."""
    gib = {"GPU-a": 80, "GPU-b": 16}

    def by_name(name: str) -> str:
        if name not in gib:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return name

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: list(gib)[index])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", by_name)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCudaComputeCapability", lambda name: (9, 0))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda name: SimpleNamespace(free=gib[name] * 2**30))
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_gpu(device) == (Gpu((9, 0), found * 2**30) if found else None)
    assert ready_ahead(device) == (2 if found else 0)


@pytest.mark.parametrize(("cores", "gib", "expected"), [(16, 80, 2), (4, 80, 1), (2, 80, 0), (16, 9, 1), (16, 7, 0)])
def test_who_gets_ready_has_cores_and_memory(
    cores: int, gib: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr("harness.measure.gpus.find_gpu", lambda _device: Gpu((9, 0), gib * 2**30))
    assert ready_ahead("auto") == expected
