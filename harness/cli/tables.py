"""Stored runs as a person or a program reads them: tables and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from rich.table import Table

from harness.cli.output import escape
from harness.results import EnsembleRecord, Run, StageRecord

__all__ = ["accuracy_table", "ensemble_json", "run_json"]


def accuracy_table(runs: Sequence[Run], ensembles: Sequence[EnsembleRecord], title: str) -> Table:
    """Table 1: test accuracy after each stage with its Wilson 95 % interval, and the ensembles below."""
    stages = list(dict.fromkeys(name for run in runs for name in _stage_names(run)))
    table = Table(title=f"Test accuracy, {escape(title)}", title_justify="left")
    table.add_column("run", justify="right")
    table.add_column("backbone", overflow="fold")
    table.add_column("weights")
    for stage in stages:
        table.add_column(f"after {escape(stage)}", justify="right")
    for run in sorted(runs, key=lambda run: run.id):
        weights = run.weights.kind if run.weights else str(run.config["weights"])
        cells = [_tested(run.stage(name)) for name in stages]
        if run.status != "completed" and cells:
            cells[-1] = f"[red]{run.status}[/]"
        table.add_row(str(run.id), escape(run.backbone), escape(weights), *cells)
    if ensembles:
        table.add_section()
    for method in dict.fromkeys(record.method for record in ensembles):
        of_method = [record for record in ensembles if record.method == method]
        by_stage = {record.members[0].stage: record for record in of_method}
        cells = [_accuracy(by_stage[s].correct, by_stage[s].images) if s in by_stage else "" for s in stages]
        members = len(of_method[0].members)
        table.add_row("", f"{escape(method)} of {members}", "", *cells)
    return table


def _stage_names(run: Run) -> list[str]:
    return [str(stage["name"]) for stage in run.config["schedule"]["stages"]]


def _tested(stage: StageRecord | None) -> str:
    if stage is None or stage.test_correct is None or not stage.test_images:
        return ""
    return _accuracy(stage.test_correct, stage.test_images)


def _accuracy(correct: int, images: int) -> str:
    from harness.analysis.metrics import wilson

    low, high = wilson(correct, images)
    return f"{correct / images:.2%}  {correct}/{images}\n[dim]{low * 100:.1f} to {high * 100:.1f}[/]"


def run_json(run: Run) -> dict[str, Any]:
    """Return a run as JSON, without predictions and samples."""
    return {
        "id": run.id,
        "uid": run.uid,
        "experiment": run.experiment.name,
        "status": run.status,
        "backbone": run.backbone,
        "schedule": run.schedule,
        "dataset": {
            "name": run.dataset.name,
            "fingerprint": run.dataset.fingerprint,
            "synthetic": run.dataset.synthetic,
            "counts": run.dataset.counts,
        },
        "seed": run.seed,
        "plugins": [vars(plugin) for plugin in run.plugins],
        "environment": vars(run.environment) if run.environment else None,
        "config": run.config,
        "config_hash": run.config_hash,
        "weights": vars(run.weights) if run.weights else None,
        "parameters": run.parameters,
        "started_at": run.started_at.isoformat(),
        "finished_at": run.finished_at.isoformat() if run.finished_at else None,
        "stages": [
            {
                "name": stage.name,
                "epochs": [vars(epoch) for epoch in stage.epochs],
                "tested_epoch": stage.tested_epoch,
                "seconds": stage.seconds,
                "images_per_second": stage.images_per_second,
                "val_accuracy": stage.val_accuracy,
                "test_images": stage.test_images,
                "test_correct": stage.test_correct,
                "test_accuracy": stage.test_accuracy,
                "test_auc": stage.test_auc,
                "test_confusion": stage.test_confusion,
            }
            for stage in run.stages
        ],
        "measurements": [
            {
                "name": measurement.name,
                "unit": measurement.unit,
                "batch_size": measurement.batch_size,
                "stage": measurement.stage,
                "n": len(measurement.samples),
                "median": median(measurement.samples.tolist()),
            }
            for measurement in run.measurements
        ],
        "failure": vars(run.failure) if run.failure else None,
    }


def ensemble_json(record: EnsembleRecord) -> dict[str, Any]:
    """Return an ensemble as JSON, without its decisions."""
    return {
        "id": record.id,
        "method": record.method,
        "split": record.split,
        "members": [vars(member) for member in record.members],
        "images": record.images,
        "correct": record.correct,
        "accuracy": record.accuracy,
        "auc": record.auc,
    }
