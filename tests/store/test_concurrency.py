"""Several processes open one database for the first time at once, and then write to it."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.report.render import render_report
from harness.store import open_store
from harness.store.database import connect

PROCESSES = 6
EPOCHS = 20

WORKER = """
import sys
import numpy as np
from harness.results import (
    DatasetRecord, Environment, EpochResult, PlannedRun, Prediction, RunSetup, SplitRecord, StageResult, StageStarted,
    WeightsRecord,
)
from harness.store import open_store
worker, epochs, *urls = sys.argv[1:]
labels = np.zeros(100, np.int64)
ids = tuple(map(str, range(100)))
splits = tuple(SplitRecord(name, ids, ids, labels) for name in ("val", "test"))
data = DatasetRecord("d", "f" * 64, ("a", "b"), {}, True, "", "", splits)
logits = np.eye(2, dtype=np.float32)[labels]
setup = RunSetup(Environment("cpu", "cpu", "3", "2", {}), WeightsRecord("random", "", None), 1)
print("ready", flush=True)
sys.stdin.readline()
for number, url in enumerate(urls):
    with open_store(url) as store:
        planned = PlannedRun(worker, "paper", number, {"schedule": {"stages": []}}, f"{worker} {number}", (), data)
        name = "table1" if urls.count(url) == 1 else f"experiment {number}"
        (run,) = store.plan([planned], command=worker, experiment=name).run_ids
        assert store.begin(run)
        store.record(run, setup)
        store.record(run, StageStarted("frozen", 0, int(epochs), 1))
        for epoch in range(int(epochs) if url == urls[-1] else 1):
            store.record(run, EpochResult("frozen", epoch + 1, *[float(worker)] * 7))
        predictions = tuple(Prediction(split, logits) for split in ("val", "test"))
        store.record(run, StageResult("frozen", 1, 1.0, 1.0, predictions, "7", "8"))
        store.finish_run(run, "completed")
"""


def together(*urls):
    """Run workers that begin with the first database at the same moment."""
    command = [sys.executable, "-c", WORKER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen([*command, str(i), str(EPOCHS), *urls], **pipes) for i in range(PROCESSES)]
    for worker in workers:
        worker.stdout.readline()
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    errors = [worker.communicate()[1] for worker in workers]
    assert errors == [""] * PROCESSES


@pytest.mark.timeout(120)
def test_processes_share_a_fresh_database(url, tmp_path):
    fresh = [str(tmp_path / f"fresh{i}.db") for i in range(10)] if "://" not in url else []
    together(*fresh, url)
    for path in [*fresh, url]:
        with open_store(path, create=False) as store:
            runs = store.runs(epochs=True)
            assert sorted(int(run.backbone) for run in runs) == list(range(PROCESSES))
            assert {run.status for run in runs} == {"completed"}
            assert len({run.uid for run in runs}) == PROCESSES
            assert len(store.experiments()) == 1
            assert len({id(run.dataset) for run in runs}) == len({id(run.environment) for run in runs}) == 1
            planned = EPOCHS if path == url else 1
            for run in runs:
                assert [epoch.lr for epoch in run.stages[0].epochs] == [float(run.backbone)] * planned
                assert run.stages[0].test_correct == 100


def test_connections_that_set_up_the_journal_at_once_wait_for_each_other(tmp_path):
    """Without waiting, one or the other fails for about one file in ten."""

    def connected(path, together):
        database = connect(path, create=True)
        together.wait()
        with database.engine.connect() as connection:
            connection.exec_driver_sql("SELECT * FROM sqlite_master")
        database.engine.dispose()

    with ThreadPoolExecutor(8) as pool:
        for number in range(200):
            together = threading.Barrier(8)
            list(pool.map(connected, [str(tmp_path / f"{number}.db")] * 8, [together] * 8))


@pytest.mark.slow
def test_sixteen_processes_write_a_thousand_runs_while_reports_are_made(url, tmp_path):
    processes, of_each = 16, 63
    open_store(url).close()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(number), "2", *[url] * of_each], **pipes)
        for number in range(processes)
    ]
    for worker in workers:
        worker.stdout.readline()
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    reports = 0
    with open_store(url, create=False) as store:
        while any(worker.poll() is None for worker in workers):
            if store.count():
                render_report(store, tmp_path / "report")
                reports += 1
    assert [worker.communicate()[1] for worker in workers] == [""] * processes
    assert reports > 1
    with open_store(url, create=False) as store:
        runs = store.runs(epochs=True)
        assert len(runs) == len({run.uid for run in runs}) == processes * of_each
        assert {run.status for run in runs} == {"completed"}
        for run in runs:
            assert [epoch.lr for epoch in run.stages[0].epochs] == [float(run.backbone)] * 2
            assert run.stages[0].test_correct == 100
        assert len(store.experiments()) == of_each
    print(f"{len(runs)} runs, {reports} reports meanwhile")
