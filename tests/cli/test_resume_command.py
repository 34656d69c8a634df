"""Interrupts, kills, and `harness resume`."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness.launch import kill_tree
from harness.results import Run
from harness.store import open_store
from support import Harness

SLOW = ["--plugins", "slow,tiny", "--data", "phantom", "--weights", "random", "--checkpoint-every", "0"]
SMALL = ["--set", "data.train=160", "--set", "data.val=16", "--set", "data.test=16"]
SHORT = ["--set", "frozen.epochs=8", "--set", "finetune.epochs=3", "--set", "frozen.batch_size=16"]
COMMAND = [*SLOW, *SMALL, *SHORT]

Start = Callable[..., subprocess.Popen[str]]


def _heed_signals() -> None:
    """Undo what a shell does to what it puts into the background, and nohup: a user's terminal does not."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def start(test_plugins: Path, tmp_path: Path) -> Iterator[Start]:
    """Start `harness run` and wait until it has recorded some epochs."""
    started = []

    def run(*arguments: str, epochs: int, into: str = "benchmark.db") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness", "run", *COMMAND, *arguments, "--db", into],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(test_plugins), "HARNESS_HOME": str(tmp_path / "home")},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_heed_signals,
        )
        started.append(process)
        deadline = time.monotonic() + 120
        while _epochs(tmp_path / into) < epochs:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            kill_tree(process.pid)
        process.wait()
        process.stderr.close()


def _epochs(database: Path) -> int:
    if not database.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return int(connection.execute("select count(*) from epochs").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def _runs(database: Path) -> list[Run]:
    with open_store(str(database), create=False) as store:
        return [store.run(run.id) for run in reversed(store.runs())]


def _end(runs: list[Run]) -> list[tuple[object, ...]]:
    """What must be equal however often a sweep was interrupted."""
    return [
        (
            run.backbone,
            stage.name,
            stage.weights_sha256,
            stage.optimizer_sha256,
            [(epoch.epoch, epoch.lr, epoch.train_loss, epoch.val_loss) for epoch in stage.epochs],
            {name: prediction.logits.tobytes() for name, prediction in stage.predictions.items()},
        )
        for run in runs
        for stage in run.stages
    ]


def _checkpoints(home: Path) -> list[Path]:
    return list((home / "data" / "checkpoints").glob("*/*"))


@pytest.mark.slow
def test_interrupted_killed_and_resumed_it_ends_as_if_nothing_had_happened(
    start: Start, harness: Harness, test_plugins: Path, tmp_path: Path
) -> None:
    undisturbed = harness("run", *COMMAND, "--db", "reference.db", PYTHONPATH=test_plugins)
    assert undisturbed.returncode == 0, undisturbed.stderr
    reference = _end(_runs(tmp_path / "reference.db"))
    assert len(reference) == 4
    assert all(weights and optimizer for _, _, weights, optimizer, _, _ in reference)
    database = tmp_path / "benchmark.db"

    # an interrupt in the first stage writes a checkpoint and says how to go on
    process = start(epochs=2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "0 of 2 runs completed" in said
    assert "Traceback" not in said
    first, second = _runs(database)
    assert (first.status, second.status) == ("interrupted", "planned")
    assert f"harness resume --experiment '{first.experiment.name}'" in said
    assert _checkpoints(tmp_path / "home")
    recorded = len(first.stages[0].epochs)

    # a kill of everything, later on: the run is lost, and nothing recorded is
    process = start(epochs=recorded + 2)
    kill_tree(process.pid)
    _, said = process.communicate()
    assert f"goes on from its checkpoint: frozen, {recorded} of 8 epochs done" in said
    first, _ = _runs(database)
    assert first.status == "lost"
    assert len(first.stages[0].epochs) >= recorded + 2
    listed = harness("runs", "list", "--status", "lost", "--json")
    assert [run["id"] for run in json.loads(listed.stdout)] == [first.id]

    # the same command goes on; killed in the second stage
    process = start(epochs=9)
    kill_tree(process.pid)
    process.wait()

    resumed = harness("resume", PYTHONPATH=test_plugins)
    assert resumed.returncode == 0, resumed.stderr
    assert "goes on from its checkpoint: finetune" in resumed.stderr
    runs = _runs(database)
    assert _end(runs) == reference
    assert [attempt.outcome for attempt in runs[0].attempts] == ["interrupted", "lost", "lost", "completed"]
    assert _checkpoints(tmp_path / "home") == [], "a run that is done needs none"
    with open_store(str(database), create=False) as store:
        assert len(store.experiments()) == 1
        assert len(store.ensembles()) == 2

    nothing = harness("resume")
    assert nothing.returncode == 0
    assert "every run has completed" in nothing.stdout
    again = harness("run", *COMMAND, PYTHONPATH=test_plugins)
    assert again.returncode == 0
    assert again.stderr.count("recorded already, as run") == 2
    assert len(_runs(database)) == 2
    anew = harness("run", *COMMAND, "--repeat", "--json", PYTHONPATH=test_plugins)
    assert [run["id"] for run in json.loads(anew.stdout)["runs"]] == [3, 4]
    assert _end(_runs(database)[2:]) == reference


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_the_whole_job_is_an_interrupt(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    process = start("--set", "frozen.epochs=1000", epochs=1)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Go on with: harness resume" in said
    assert _runs(tmp_path / "benchmark.db")[0].status == "interrupted"
    assert _checkpoints(tmp_path / "home"), "a batch system's signal reaches every process"
    with open_store(str(tmp_path / "benchmark.db"), create=False) as store:
        assert store.ensembles() == []


def test_weights_that_changed_meanwhile_are_not_mixed_with_those_before(
    start: Start, harness: Harness, test_plugins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(test_plugins))
    faults = importlib.import_module("harness_test_plugins.faults")
    path = tmp_path / "weights.safetensors"
    only = ["--plugins", "slow", "--weights", f"slow={path}", "--stages", "frozen"]
    shas = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        save_file(faults.Slow().architecture(auxiliary=False).state_dict(), path)
        shas.append(hashlib.sha256(path.read_bytes()).hexdigest())
        if seed == 1:
            process = start(*only, epochs=2)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=120)
    resumed = harness("resume", PYTHONPATH=test_plugins)
    assert resumed.returncode == 0, resumed.stderr
    assert "of other software, weights or another device, so the run begins anew" in resumed.stderr
    (run,) = _runs(tmp_path / "benchmark.db")
    assert run.weights.sha256 == shas[1]
    path.write_bytes(b"something else")
    again = harness("run", *COMMAND, *only, PYTHONPATH=test_plugins)
    assert "recorded already, from other weights than are there now, as run 1" in again.stderr


def test_an_interrupt_while_images_are_tested_loses_nothing(start: Start, harness: Harness, test_plugins: Path) -> None:
    """The stage ends, and the checkpoint is written in the next."""
    many = ["--set", "data.test=600", "--set", "frozen.epochs=2", "--checkpoint-every", "3600"]
    process = start(*many, epochs=2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    resumed = harness("resume", PYTHONPATH=test_plugins)
    assert resumed.returncode == 0, resumed.stderr
    assert "goes on from its checkpoint: finetune, 0 of 3 epochs done" in resumed.stderr


def test_a_second_interrupt_leaves_at_once(start: Start, tmp_path: Path) -> None:
    process = start("--set", "frozen.epochs=1000", epochs=1)
    blocker = sqlite3.connect(tmp_path / "benchmark.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")  # so that the first cannot end anything
    recorded = _epochs(tmp_path / "benchmark.db")
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert time.monotonic() - begin < 5
    blocker.close()
    assert process.returncode == 130
    assert "Left at once" in said
    (run, _) = _runs(tmp_path / "benchmark.db")
    assert run.status == "lost"
    assert len(run.stages[0].epochs) >= recorded


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here: that takes root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.slow
def test_a_full_disk_and_a_locked_database_end_a_sweep_that_can_be_resumed(
    start: Start, harness: Harness, test_plugins: Path, tmp_path: Path, small_disk: Path
) -> None:
    assert harness("run", *COMMAND, "--db", "reference.db", PYTHONPATH=test_plugins).returncode == 0
    database = small_disk / "benchmark.db"

    process = start(epochs=2, into="disk/benchmark.db")
    _fill(small_disk / "filler")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "the disk is full; free some space" in said
    assert "Traceback" not in said
    (small_disk / "filler").unlink()
    assert harness("db", "check", "--db", database).returncode == 0
    (run, _) = _runs(database)
    assert run.status == "lost"
    recorded = len(run.stages[0].epochs)
    assert recorded >= 2

    process = start(epochs=recorded + 2, into="disk/benchmark.db")
    blocker = sqlite3.connect(database, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    _, said = process.communicate(timeout=90)
    blocker.close()
    assert process.returncode == 2
    assert "another process has kept it locked for 30 seconds" in said
    assert harness("db", "check", "--db", database).returncode == 0

    assert harness("resume", "--db", database, PYTHONPATH=test_plugins).returncode == 0
    assert _end(_runs(database)) == _end(_runs(tmp_path / "reference.db"))


@pytest.mark.slow
def test_verify_resume_kills_and_compares(harness: Harness, test_plugins: Path, tmp_path: Path) -> None:
    options = ["--plugins", "slow", *SLOW[2:], *SMALL, *SHORT]
    done = harness("verify-resume", "--kills", "2", *options, "--json", PYTHONPATH=test_plugins, timeout=500)
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["same"] is True
    assert len(verdict["kills"]) == 2
    assert [digest["stage"] for digest in verdict["reference"]] == ["frozen", "finetune"]
    assert not (tmp_path / "benchmark.db").exists()
    refused = harness("verify-resume", "--db", "mine.db")
    assert refused.returncode == 2
    assert "--db: not here" in refused.stderr
