"""How the results database behaves as it grows: seconds and peak memory of commands on 1,000 to 100,000 runs.

    python benchmarks/database_size.py --runs 1000 10000 100000 --folder /tmp/sizes

Every run has 10 epochs and 624 test predictions of two classes; 100 runs make an experiment. Each command is a process
of its own, started ``--repeat`` times; the median is shown, and `harness --help` beside it as what a start costs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import numpy as np
from sqlalchemy import func, insert, select, text

from harness.analysis import metrics
from harness.config import RunConfig
from harness.results import DatasetRecord, Environment, PlannedRun, RunSetup, SplitRecord, WeightsRecord
from harness.store import open_store
from harness.store.codec import pack_logits
from harness.store.models import (
    AttemptRow,
    EpochRow,
    ExperimentRow,
    PredictionRow,
    RunRow,
    StageRow,
    SweepRow,
    SweepRunRow,
)
from harness_plugins.schedules.paper import PAPER

IMAGES, EPOCHS, OF_EXPERIMENT = 624, 10, 100
BACKBONES = ("alexnet", "googlenet", "resnet18", "densenet121", "inception_v3")
CHUNK = 1000


def fill(url: str, runs: int) -> None:
    """Store that many runs."""
    draws = np.random.default_rng(0)
    labels = (draws.random(IMAGES) < 0.625).astype(np.int64)
    ids = tuple(f"test/{number:04}.jpeg" for number in range(IMAGES))
    split = SplitRecord("test", ids, ids, labels)
    counts = {"test": {"NORMAL": int((labels == 0).sum()), "PNEUMONIA": int((labels == 1).sum())}}
    data = DatasetRecord("generated", "f" * 64, ("NORMAL", "PNEUMONIA"), counts, True, "", "", (split,))
    with open_store(url) as store:
        # one run the usual way leaves the data set and the environment that the others share
        (first,) = store.plan([PlannedRun("seed", "paper", 0, {}, "0", (), data)], command="fill").run_ids
        store.begin(first)
        store.record(first, RunSetup(Environment("cpu", "CPU", "3", "2", {}), WeightsRecord("random", "", None), 1))
        store.finish_run(first, "failed")
        for begin in range(0, runs, CHUNK):
            with store.database.writer.begin() as connection:
                for row, values in rows(begin, min(begin + CHUNK, runs), draws, labels, store.run(first).id).items():
                    connection.execute(insert(row), values)
        with store.database.writer.begin() as connection:
            connection.execute(text("ANALYZE"))


def rows(begin: int, end: int, draws: np.random.Generator, labels: np.ndarray, offset: int) -> dict[type, list[dict]]:
    """Return the rows of the runs ``begin`` to ``end``, by table."""
    made: dict[type, list[dict]] = {
        row: [] for row in (ExperimentRow, SweepRow, RunRow, SweepRunRow, AttemptRow, StageRow, EpochRow, PredictionRow)
    }
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(begin, end):
        when = start + timedelta(minutes=number)
        key = 2 + offset + number
        group = 2 + number // OF_EXPERIMENT
        if number % OF_EXPERIMENT == 0:
            made[ExperimentRow].append({"id": group, "name": f"experiment {group}", "created_at": when})
            made[SweepRow].append(
                {"id": group, "uid": f"s{group}", "experiment_id": group, "command": "harness run", "ensembles": [],
                 "plan_hash": f"p{group}", "created_at": when}
            )  # fmt: skip
        backbone = BACKBONES[number % len(BACKBONES)]
        config = RunConfig(
            backbone=backbone, weights="random", schedule_name="paper", schedule=PAPER, dataset="generated", seed=number
        )
        logits = draws.normal(size=(IMAGES, 2)).astype(np.float32)
        logits[:, 1] += 3 * (labels - 0.5)
        predicted = metrics.classify(logits)
        correct = metrics.correct(labels, predicted)
        auc = 0.9 + 0.0001 * (number % 500)
        made[RunRow].append(
            {"id": key, "uid": UUID(int=number).hex, "status": "failed" if number % 20 == 0 else "completed",
             "attempt": 1, "backbone": backbone, "schedule": "paper", "dataset_id": 1, "seed": number,
             "config": config.model_dump(mode="json"), "config_hash": config.hash, "plugins": [], "created_at": when,
             "started_at": when, "finished_at": when, "environment_id": 1, "weights_kind": "random",
             "weights_origin": "", "weights_sha256": None, "parameters": 11_000_000 + number,
             "test_accuracy": correct / IMAGES, "test_auc": auc, "note": ""}
        )  # fmt: skip
        made[SweepRunRow].append({"sweep_id": group, "run_id": key, "position": number})
        made[AttemptRow].append(
            {"run_id": key, "number": 1, "host": "h", "pid": 1, "process_started": 0.0, "started_at": when,
             "heartbeat_at": when, "ended_at": when, "outcome": "completed"}
        )  # fmt: skip
        made[StageRow].append(
            {"id": key, "run_id": key, "name": "frozen", "index": 0, "planned_epochs": EPOCHS, "trainable": 1026,
             "tested_epoch": EPOCHS, "seconds": 60.0, "images_per_second": 800.0, "val_accuracy": 0.9,
             "test_images": IMAGES, "test_correct": correct, "test_auc": auc,
             "test_confusion": metrics.confusion(labels, predicted, 2).tolist()}
        )  # fmt: skip
        made[EpochRow] += [
            {"stage_id": key, "epoch": epoch, "lr": 0.01, "train_loss": 1 / epoch, "train_accuracy": 0.8,
             "val_loss": 1.1 / epoch, "val_accuracy": 0.8, "seconds": 6.0, "images_per_second": 800.0}
            for epoch in range(1, EPOCHS + 1)
        ]  # fmt: skip
        made[PredictionRow].append(
            {"stage_id": key, "split": "test", "n": IMAGES, "classes": 2, "logits": pack_logits(logits)}
        )
    return {row: values for row, values in made.items() if values}


COMMANDS = {
    "start (harness --help)": ["--help"],
    "list, newest 50": ["runs", "list"],
    "list, best 50": ["runs", "list", "--sort", "accuracy"],
    "list, page 10": ["runs", "list", "--page", "10"],
    "filter": ["runs", "list", "--where", "backbone = resnet18 and accuracy > 0.86"],
    "filter, rare": ["runs", "list", "--where", "accuracy > 0.97 or (seed < 50 and status = failed)"],
    "show one": ["runs", "show", "500"],
    "report of one experiment, leaderboard": ["report", "--out", "OUT", "--experiment", "experiment 5"],
    "list all as CSV": ["runs", "list", "--csv"],
}


# A process begins with its parent's peak: so a small one stands between.
_MEASURED = """
import resource, subprocess, sys, time
begin = time.perf_counter()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(code, time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


def measure(arguments: list[str], database: Path, repeat: int) -> tuple[float, float]:
    """Return the median of the seconds, and the peak resident set in MiB, of a command."""
    seconds, peaks = [], []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as out:
            words = [out if word == "OUT" else word for word in arguments]
            given = [] if arguments == ["--help"] else ["--db", str(database)]
            command = [sys.executable, "-S", "-c", _MEASURED, sys.executable, "-m", "harness", *words, *given]
            code, took, peak = subprocess.check_output(command, text=True).split()
            if code != "0":
                raise SystemExit(f"{words} ended with exit code {code}")
            seconds.append(float(took))
            peaks.append(float(peak))
    return statistics.median(seconds), max(peaks)


def leaderboard(database: Path, repeat: int) -> float:
    """Return the median of the seconds that the leaderboard's query and page take, in an open process."""
    from harness.report.leaderboard import LEADERS, leaderboard_view
    from harness.report.render import _render
    from harness.results import Selection

    seconds = []
    with open_store(str(database), create=False) as store:
        for _ in range(repeat):
            begin = time.perf_counter()
            leaders = store.runs(Selection(where="accuracy is not null", sort="accuracy", limit=LEADERS))
            _render("leaderboard.html.j2", view=leaderboard_view(leaders, store.count(), ()))
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def figures(sizes: list[int], folder: Path, repeat: int) -> Iterator[dict[str, object]]:
    """Yield one record for each size."""
    for runs in sizes:
        database = folder / f"{runs}.db"
        begin = time.perf_counter()
        if not database.exists():
            fill(str(database), runs)
        filled = time.perf_counter() - begin
        with open_store(str(database), create=False) as store, store.database.engine.connect() as connection:
            stored = connection.execute(select(func.sum(func.length(PredictionRow.logits)), func.sum(PredictionRow.n)))
            size, predictions = stored.one()
        yield {
            "runs": runs,
            "fill seconds": filled,
            "MiB": database.stat().st_size / 2**20,
            "bytes a prediction": size / predictions,
            "leaderboard page seconds": leaderboard(database, repeat),
            "commands": {name: measure(words, database, repeat) for name, words in COMMANDS.items()},
        }


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/harness-sizes"))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    found = list(figures(given.runs, given.folder, given.repeat))
    if given.json:
        print(json.dumps(found, indent=2))
        return
    print("| | " + " | ".join(f"{record['runs']:,} runs" for record in found) + " |")
    print("|---|" + "---|" * len(found))
    for name in ("MiB", "bytes a prediction", "leaderboard page seconds"):
        print(f"| {name} | " + " | ".join(f"{record[name]:.2f}" for record in found) + " |")
    for name in COMMANDS:
        cells = [record["commands"][name] for record in found]  # type: ignore[index]
        print(f"| {name} | " + " | ".join(f"{seconds:.2f} s, {peak:.0f} MiB" for seconds, peak in cells) + " |")


if __name__ == "__main__":
    main()
