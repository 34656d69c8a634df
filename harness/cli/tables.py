"""Stored runs as a person or a program reads them: tables and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from harness.cli.output import escape, no_control
from harness.results import EnsembleRecord, Run, StageRecord

__all__ = [
    "LIST_COLUMNS",
    "accuracy_table",
    "detectable_words",
    "ensemble_json",
    "list_json",
    "list_table",
    "methods_table",
    "of_one_class",
    "run_json",
]

LIST_COLUMNS = (
    "id", "uid", "experiments", "status", "backbone", "weights", "schedule", "dataset", "synthetic", "seed",
    "precision", "device_name", "torch", "test_accuracy", "test_auc", "parameters", "created_at", "started_at",
    "finished_at", "tags", "note", "failure", "config_hash",
)  # fmt: skip


def accuracy_table(runs: Sequence[Run], ensembles: Sequence[EnsembleRecord], title: str) -> Table:
    """Table 1: test accuracy after each stage with its Wilson 95 % interval, and the ensembles below."""
    from harness.report.specification import choices

    stages = list(dict.fromkeys(name for run in runs for name in _stage_names(run)))
    table = Table(title=f"Test accuracy, {escape(title)}", title_justify="left")
    table.add_column("run", justify="right")
    table.add_column("backbone", overflow="fold")
    table.add_column("weights")
    several = len({run.seed for run in runs}) > 1
    if several:
        table.add_column("seed", justify="right")
    varied = choices(runs)
    if varied:
        table.add_column("what differs", overflow="fold")
    for stage in stages:
        table.add_column(f"after {escape(stage)}", justify="right")
    for run in sorted(runs, key=lambda run: run.id):
        weights = run.weights.kind if run.weights else str(run.config["weights"])
        cells = [_tested(run.stage(name)) for name in stages]
        if run.status != "completed" and "" in cells:
            cells[cells.index("")] = f"[red]{escape(run.status)}[/]"
        seed = [str(run.seed)] if several else []
        differs = ["\n".join(f"{choice.name}={choice.values[run.id]}" for choice in varied)] if varied else []
        table.add_row(str(run.id), escape(run.backbone), escape(weights), *seed, *map(escape, differs), *cells)
    if ensembles:
        table.add_section()
    seeds = {run.id: run.seed for run in runs}
    teams: dict[tuple[str, tuple[int, ...]], dict[str, EnsembleRecord]] = {}
    for record in ensembles:
        voters = tuple(member.run_id for member in record.members)
        teams.setdefault((record.method, voters), {})[record.members[0].stage] = record
    for (method, voters), by_stage in teams.items():
        cells = [_accuracy(by_stage[s].correct, by_stage[s].images) if s in by_stage else "" for s in stages]
        of = {seeds[voter] for voter in voters}
        seed = [str(of.pop()) if len(of) == 1 else "all"] if several else []
        of_members = ["of runs " + ", ".join(map(str, voters))] if varied else []
        table.add_row("", f"{escape(method)} of {len(voters)}", "", *seed, *of_members, *cells)
    return table


def methods_table(voters: Sequence[tuple[Run, str]], ensembles: Sequence[EnsembleRecord]) -> Table:
    """Members, each a run after a stage, and rules over them: test accuracy with its Wilson 95 % interval, and AUC."""
    stages = ", ".join(dict.fromkeys(stage for _, stage in voters))
    table = Table(title=f"Test images, {len(voters)} members after {escape(stages)}", title_justify="left")
    columns = (
        ("run", "right"), ("what", "left"), ("weights", "left"), ("accuracy", "right"),
        ("at validation's threshold", "right"), ("AUC", "right"),
    )  # fmt: skip
    for heading, side in columns:
        table.add_column(heading, justify=side, overflow="fold")  # type: ignore[arg-type]
    for run, stage in voters:
        found = run.stage(stage)
        auc = "" if found is None or found.test_auc is None else f"{found.test_auc:.4f}"
        weights = run.weights.kind if run.weights else ""
        name = run.backbone if stages == stage else f"{run.backbone} after {stage}"
        chosen = "" if found is None else _chosen(found.threshold_correct, found.test_images)
        table.add_row(str(run.id), escape(name), weights, _tested(found), chosen, auc)
    table.add_section()
    for record in sorted(ensembles, key=lambda record: record.method):
        auc = "" if record.auc is None else f"{record.auc:.4f}"
        chosen = _chosen(record.threshold_correct, record.images)
        table.add_row("", escape(record.method), "", _accuracy(record.correct, record.images), chosen, auc)
    return table


def detectable_words(decisions: Sequence[tuple[Any, Any]]) -> str:
    """Say which difference between two of several runs would have been found.

    Args:
        decisions: true and predicted labels (n,) of each.
    """
    from harness.analysis.paired import detectable
    from harness.report.text import found

    truth = decisions[0][0]
    if any(labels.tobytes() != truth.tobytes() for labels, _ in decisions):
        return "They were tested on different images, so they cannot be compared."
    return found(detectable(truth, [predicted for _, predicted in decisions]))


def of_one_class(runs: Sequence[Run]) -> list[str]:
    """Say which runs call every test image the same: what they are right in is the share of that class, and no more."""
    said = []
    for run in runs:
        last = _last_tested(run)
        if last is None or last.test_confusion is None:
            continue
        columns = [sum(column) for column in zip(*last.test_confusion, strict=True)]
        if sum(map(bool, columns)) == 1:
            said.append(f"{run.backbone} calls every test image {run.dataset.classes[columns.index(max(columns))]}")
    return said


def _stage_names(run: Run) -> list[str]:
    return [str(stage["name"]) for stage in run.config["schedule"]["stages"]]


def _tested(stage: StageRecord | None) -> str:
    if stage is None or stage.test_correct is None or not stage.test_images:
        return ""
    return _accuracy(stage.test_correct, stage.test_images)


def _chosen(correct: int | None, images: int | None) -> str:
    return _accuracy(correct, images) if correct is not None and images else ""


def _accuracy(correct: int, images: int) -> str:
    from harness.analysis.metrics import wilson

    low, high = wilson(correct, images)
    return f"{correct / images:.2%}  {correct}/{images}\n[dim]{low * 100:.1f} to {high * 100:.1f}[/]"


def list_json(run: Run) -> dict[str, Any]:
    """Return a run as one flat record, under :data:`LIST_COLUMNS`; accuracy and AUC are the last tested stage's."""
    last = _last_tested(run)
    return {
        "id": run.id,
        "uid": run.uid,
        "experiments": [experiment.name for experiment in run.experiments],
        "status": run.status,
        "backbone": run.backbone,
        "weights": run.weights.kind if run.weights else None,
        "schedule": run.schedule,
        "dataset": run.dataset.name,
        "synthetic": run.dataset.synthetic,
        "seed": run.seed,
        "precision": run.config.get("precision"),
        "device_name": run.environment.device_name if run.environment else None,
        "torch": run.environment.torch if run.environment else None,
        "test_accuracy": last.test_accuracy if last else None,
        "test_auc": last.test_auc if last else None,
        "parameters": run.parameters,
        "created_at": run.created_at.isoformat(),
        "started_at": run.started_at.isoformat() if run.started_at else None,
        "finished_at": run.finished_at.isoformat() if run.finished_at else None,
        "tags": list(run.tags),
        "note": run.note,
        "failure": f"{run.failure.kind}: {run.failure.message}" if run.failure else None,
        "config_hash": run.config_hash,
    }


def list_table(runs: Sequence[Run], width: int) -> Table:
    """One line a run, as far as columns fit into ``width``: no value is cut, and the caption names what is left out."""
    rows = [_list_row(run) for run in runs]
    table = Table(box=None, padding=(0, 1, 0, 0))
    right = ("run", "accuracy", "AUC")
    shown = [heading for heading in rows[0] if any(row[heading] for row in rows)]
    for least in ("experiment", "tags", "seed", "created (UTC)", "after"):
        needed = sum(max(cell_len(row[heading]) for row in [{heading: heading}, *rows]) + 1 for heading in shown)
        if least in shown and needed > width:
            shown.remove(least)
    if left_out := [heading for heading in rows[0] if heading not in shown and any(row[heading] for row in rows)]:
        table.caption = f"too narrow for: {', '.join(left_out)}"
        table.caption_justify = "left"
    for heading in shown:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for run, row in zip(runs, rows, strict=True):
        unfinished = "red" if run.status != "completed" else ""
        table.add_row(*(Text(row[heading], style=unfinished if heading == "status" else "") for heading in shown))
    return table


def _list_row(run: Run) -> dict[str, str]:
    last = _last_tested(run)
    row = {
        "run": str(run.id),
        "experiment": run.experiment.name,
        "data": f"{run.dataset.name}, synthetic" if run.dataset.synthetic else run.dataset.name,
        "backbone": run.backbone,
        "weights": run.weights.kind if run.weights else str(run.config.get("weights", "")),
        "seed": str(run.seed),
        "status": run.status,
        "accuracy": f"{last.test_accuracy:.2%}" if last else "",
        "AUC": f"{last.test_auc:.3f}" if last and last.test_auc is not None else "",
        "after": last.name if last else "",
        "created (UTC)": f"{run.created_at:%Y-%m-%d %H:%M}",
        "tags": ", ".join(run.tags),
    }
    return {heading: no_control(value) for heading, value in row.items()}


def _last_tested(run: Run) -> StageRecord | None:
    return next((stage for stage in reversed(run.stages) if stage.test_accuracy is not None), None)


def run_json(run: Run) -> dict[str, Any]:
    """Return a run as JSON, without predictions and samples."""
    return {
        "id": run.id,
        "uid": run.uid,
        "experiments": [experiment.name for experiment in run.experiments],
        "status": run.status,
        "backbone": run.backbone,
        "schedule": run.schedule,
        "dataset": {
            "name": run.dataset.name,
            "fingerprint": run.dataset.fingerprint,
            "synthetic": run.dataset.synthetic,
            "counts": run.dataset.counts,
            "passport": asdict(run.dataset.passport) if run.dataset.passport else None,
        },
        "seed": run.seed,
        "plugins": [vars(plugin) for plugin in run.plugins],
        "environment": vars(run.environment) if run.environment else None,
        "config": run.config,
        "config_hash": run.config_hash,
        "weights": vars(run.weights) if run.weights else None,
        "parameters": run.parameters,
        "tags": run.tags,
        "note": run.note,
        "created_at": run.created_at.isoformat(),
        "started_at": run.started_at.isoformat() if run.started_at else None,
        "finished_at": run.finished_at.isoformat() if run.finished_at else None,
        "stages": [
            {
                "name": stage.name,
                "epochs": [vars(epoch) for epoch in stage.epochs],
                "tested_epoch": stage.tested_epoch,
                "seconds": stage.seconds,
                "images_per_second": stage.images_per_second,
                "weights_sha256": stage.weights_sha256,
                "optimizer_sha256": stage.optimizer_sha256,
                "execution": dict(stage.execution),
                "val_accuracy": stage.val_accuracy,
                "test_images": stage.test_images,
                "test_correct": stage.test_correct,
                "test_accuracy": stage.test_accuracy,
                "test_auc": stage.test_auc,
                "test_confusion": stage.test_confusion,
                "threshold": stage.threshold,
                "threshold_correct": stage.threshold_correct,
                "temperature": stage.temperature,
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
        "attempts": [
            {
                "number": attempt.number,
                "host": attempt.host,
                "started_at": attempt.started_at.isoformat(),
                "ended_at": attempt.ended_at.isoformat() if attempt.ended_at else None,
                "outcome": attempt.outcome,
                "failure": vars(attempt.failure) if attempt.failure else None,
            }
            for attempt in run.attempts
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
        "threshold": record.threshold,
        "threshold_correct": record.threshold_correct,
    }
