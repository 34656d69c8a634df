"""`harness runs`."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from harness.cli.output import escape, out, print_json
from harness.errors import ConfigError, did_you_mean

app = typer.Typer(help="List and show recorded runs.", no_args_is_help=True)

Database = Annotated[str, typer.Option("--db", envvar="HARNESS_DB", help="Results database: a file or a URL.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_runs(
    experiment: Annotated[str | None, typer.Option(help="Only runs of this experiment.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Only runs of this backbone.")] = None,
    status: Annotated[str | None, typer.Option(help="running, completed, failed or interrupted.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many, the newest.")] = 50,
    db: Database = "benchmark.db",
    as_json: Json = False,
) -> None:
    """List recorded runs, the newest first.

    Example: harness runs list --backbone resnet18 --status completed
    """
    from itertools import groupby

    from rich.table import Table

    from harness.cli.tables import run_json
    from harness.results import RunStatus
    from harness.store import open_store

    if status is not None and status not in get_args(RunStatus):
        raise ConfigError(f"--status {status}: no such status. {did_you_mean(status, get_args(RunStatus))}")
    with open_store(db, create=False) as store:
        runs = store.runs(experiment=experiment, backbone=backbone, status=status, limit=limit)
    if as_json:
        print_json([run_json(run) for run in runs])
        return
    for experiment_name, of_experiment in groupby(runs, key=lambda run: run.experiment.name):
        table = Table(title=escape(experiment_name), title_justify="left")
        table.add_column("run", justify="right")
        for heading in ("backbone", "weights", "seed", "status", "test accuracy"):
            table.add_column(heading)
        for run in of_experiment:
            tested = [stage for stage in run.stages if stage.test_accuracy is not None]
            table.add_row(
                str(run.id),
                escape(run.backbone),
                run.weights.kind if run.weights else "",
                str(run.seed),
                run.status if run.status == "completed" else f"[red]{run.status}[/]",
                escape("\n".join(f"{stage.name} {stage.test_accuracy:.2%}" for stage in tested)),
            )
        out.print(table)
    if len(runs) == limit:
        out.print(f"The newest {limit}; --limit shows more.", style="dim")


@app.command("show")
def show_run(
    run_id: Annotated[int, typer.Argument(metavar="RUN", help="Number of the run, from `harness runs list`.")],
    db: Database = "benchmark.db",
    as_json: Json = False,
) -> None:
    """Show everything about one run.

    Example: harness runs show 3
    """
    from rich.table import Table

    from harness.cli.tables import run_json
    from harness.store import open_store

    with open_store(db, create=False) as store:
        run = store.run(run_id)
    if as_json:
        print_json(run_json(run))
        return
    facts = Table(show_header=False, box=None)
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    synthetic = ", synthetic" if run.dataset.synthetic else ""
    rows = {
        "run": f"{run.id} ({run.uid})",
        "experiment": run.experiment.name,
        "status": run.status,
        "backbone": run.backbone,
        "schedule": run.schedule,
        "data set": f"{run.dataset.name}{synthetic}, fingerprint {run.dataset.fingerprint[:16]}",
        "seed": str(run.seed),
        "config": f"hash {run.config_hash[:16]} (--json shows it)",
        "began": f"{run.started_at:%Y-%m-%d %H:%M:%S} UTC",
        "ended": f"{run.finished_at:%Y-%m-%d %H:%M:%S} UTC" if run.finished_at else "",
        "plugins": ", ".join(f"{p.kind} {p.name} ({p.distribution} {p.version})" for p in run.plugins),
    }
    if run.weights:
        rows["weights"] = f"{run.weights.kind}: {run.weights.origin} {run.weights.sha256 or ''}"
    if run.environment:
        rows["device"] = f"{run.environment.device} ({run.environment.device_name}), torch {run.environment.torch}"
    if run.parameters:
        rows["parameters"] = f"{run.parameters:,}"
    for measurement in run.measurements:
        rows[_measured(measurement.name, measurement.batch_size, measurement.stage)] = _figures(
            measurement.samples.tolist(), measurement.unit
        )
    if run.failure:
        rows["failure"] = f"{run.failure.kind}: {run.failure.message}\n{run.failure.traceback}".rstrip()
    for name, value in rows.items():
        facts.add_row(name, escape(value))
    out.print(facts)
    for stage in run.stages:
        table = Table(title=escape(_headline(stage.name, stage.test_correct, stage.test_images, stage.test_auc)))
        for heading in ("epoch", "rate", "train loss", "train accuracy", "val loss", "val accuracy", "images/s"):
            table.add_column(heading, justify="right")
        for epoch in stage.epochs:
            table.add_row(
                f"{epoch.epoch}{' *' if epoch.epoch == stage.tested_epoch else ''}",
                f"{epoch.lr:.3g}",
                f"{epoch.train_loss:.4f}",
                f"{epoch.train_accuracy:.2%}",
                f"{epoch.val_loss:.4f}",
                f"{epoch.val_accuracy:.2%}",
                f"{epoch.images_per_second:.1f}",
            )
        out.print(table)
    if any(stage.tested_epoch for stage in run.stages):
        out.print("* the epoch that was tested", style="dim")


def _headline(stage: str, correct: int | None, images: int | None, auc: float | None) -> str:
    if correct is None or not images:
        return f"{stage}: not tested"
    from harness.analysis.metrics import wilson

    low, high = wilson(correct, images)
    text = f"{stage}: test accuracy {correct / images:.2%} ({low:.1%} to {high:.1%}), {correct} of {images} images"
    return text if auc is None else f"{text}, AUC {auc:.4f}"


def _measured(name: str, batch_size: int | None, stage: str | None) -> str:
    of = f", batch {batch_size}" if batch_size else f", {stage}" if stage else ""
    return f"{name.replace('_', ' ')}{of}"


def _figures(samples: list[float], unit: str) -> str:
    from statistics import median

    scale, shown = {"s": (1e3, "ms"), "B": (2**-20, "MiB")}.get(unit, (1.0, unit))
    if len(samples) == 1:
        return f"{samples[0] * scale:.1f} {shown}"
    return (
        f"median {median(samples) * scale:.2f} {shown}, least {min(samples) * scale:.2f}, "
        f"most {max(samples) * scale:.2f} (n = {len(samples)})"
    )
