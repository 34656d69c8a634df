"""`harness runs`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from harness.cli.options import Database, Json
from harness.cli.output import escape, out, print_json, say, scale
from harness.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from harness.report.merit import Merit
    from harness.results import Selection
    from harness.store import Store

app = typer.Typer(help="List, show, tag and delete recorded runs.", no_args_is_help=True)

RunIds = Annotated[list[int] | None, typer.Argument(metavar="RUN...", help="Numbers from `harness runs list`.")]
Where = Annotated[
    str,
    typer.Option(
        help="Filter, such as 'backbone = resnet18 and accuracy > 86%'. Fields: id, uid, backbone, schedule, dataset, "
        "fingerprint, experiment, status, seed, weights, precision, device, device_name, torch, tag, note, accuracy, "
        "auc, parameters, created, started, finished, hash, failure, config.KEY. Signs: = != < <= > >= ~ (contains), "
        "in (...), is null, and, or, not, parentheses."
    ),
]
TABLE_ROWS, CHUNK_ROWS = 50, 500
_MOST = 10**9


@app.command("list")
def list_runs(
    where: Where = "",
    experiment: Annotated[str | None, typer.Option(help="Only runs of this experiment.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Only runs of this backbone.")] = None,
    status: Annotated[
        str | None, typer.Option(help="planned, running, completed, failed, interrupted or lost.")
    ] = None,
    sort: Annotated[str, typer.Option(help="Field to sort by, the highest first: accuracy, auc, created ...")] = (
        "created"
    ),
    ascending: Annotated[bool, typer.Option("--ascending", help="The lowest first.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, max=_MOST, help=f"At most so many. Default: {TABLE_ROWS} in a table, else all.")
    ] = None,
    page: Annotated[int, typer.Option(min=1, max=_MOST, help="Which page of --limit runs.")] = 1,
    db: Database = "benchmark.db",
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    parquet: Annotated[Path | None, typer.Option(help="Write a Parquet file instead.")] = None,
) -> None:
    """List recorded runs with the accuracy and AUC on their test images, the newest first.

    Examples:

      harness runs list --backbone resnet18 --status completed

      harness runs list --where "accuracy > 86% and not tag = draft" --sort accuracy --limit 10

      harness runs list --where "created >= 2026-11-01" --csv > runs.csv
    """
    from harness.cli.tables import list_table
    from harness.results import RunStatus, Selection
    from harness.store import open_store

    if status is not None and status not in get_args(RunStatus):
        raise ConfigError(f"--status {status}: no such status. {did_you_mean(status, get_args(RunStatus))}")
    if sum(map(bool, (as_json, as_csv, parquet))) > 1:
        raise ConfigError("say one of --json, --csv and --parquet")
    in_table = not (as_json or as_csv or parquet)
    rows = limit or (TABLE_ROWS if in_table else None)
    selection = Selection(
        where=where,
        experiment=experiment,
        backbone=backbone,
        status=status,
        sort=sort,
        descending=not ascending,
        limit=rows,
        offset=(page - 1) * (rows or 0),
    )
    with open_store(db, create=False, say=say) as store:
        if as_json:
            print_json(list(_records(store, selection)))
        elif as_csv:
            _print_csv(_records(store, selection))
        elif parquet:
            _write_parquet(_records(store, selection), parquet)
        else:
            runs, total = store.runs(selection), store.count(selection)
            if runs:
                out.print(list_table(runs, out.width))
            pages = -(-total // (rows or 1))
            if not total:
                out.print("No run is like that." if where or experiment or backbone or status else "No run yet.")
            elif not runs:
                out.print(f"There is no page {page}: {total} runs make {pages}.")
            elif len(runs) < total:
                out.print(f"Page {page} of {pages}, {total} runs in all; --page shows others.", style="dim")


def _records(store: Store, selection: Selection) -> Iterator[dict[str, Any]]:
    """Yield the selected runs in order, some at a time."""
    from harness.cli.tables import list_json
    from harness.results import Selection

    run_ids = store.run_ids(selection)
    for begin in range(0, len(run_ids), CHUNK_ROWS):
        ids = tuple(run_ids[begin : begin + CHUNK_ROWS])
        found = {run.id: run for run in store.runs(Selection(ids=ids))}
        yield from (list_json(found[run_id]) for run_id in ids if run_id in found)


def _print_csv(records: Iterator[dict[str, Any]]) -> None:
    import csv
    import sys

    from harness.cli.output import no_control
    from harness.cli.tables import LIST_COLUMNS
    from harness.store.export import csv_text

    writer = csv.DictWriter(sys.stdout, LIST_COLUMNS, lineterminator="\n")
    writer.writeheader()
    clean = no_control if sys.stdout.isatty() else str  # a file gets what is stored
    for record in records:
        texts = {key: ";".join(value) if isinstance(value, list) else value for key, value in record.items()}
        cells = {key: clean(csv_text(value)) if isinstance(value, str) else value for key, value in texts.items()}
        writer.writerow(cells)


def _write_parquet(records: Iterator[dict[str, Any]], path: Path) -> None:
    from harness.cli.output import parquet_module
    from harness.cli.tables import LIST_COLUMNS

    pyarrow, parquet = parquet_module()
    rows = list(records)
    columns = {name: [row[name] for row in rows] for name in LIST_COLUMNS}
    try:
        parquet.write_table(pyarrow.table(columns), path)
    except OSError as error:
        raise ConfigError(f"--parquet {path}: it cannot be written: {error}") from error


@app.command("tag")
def tag_runs(
    run_ids: RunIds = None,
    add: Annotated[list[str] | None, typer.Option(help="Word to put on the runs. Repeatable.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Word to take off them. Repeatable.")] = None,
    where: Where = "",
    db: Database = "benchmark.db",
) -> None:
    """Put words on runs, to find them by, and take words off them.

    Examples:

      harness runs tag 3 4 --add baseline

      harness runs tag --where "accuracy > 90%" --add good --remove draft
    """
    from harness.store import open_store

    if not (add or remove):
        raise ConfigError("say which words: --add WORD or --remove WORD")
    with open_store(db, create=False, write=True, say=say) as store:
        chosen = _chosen(store, run_ids, where)
        store.tag(chosen, add=add or (), remove=remove or ())
    out.print(_runs(len(chosen)))


@app.command("note")
def note_run(
    run_id: Annotated[int, typer.Argument(metavar="RUN", help="Number of the run, from `harness runs list`.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The note; empty removes it.")],
    db: Database = "benchmark.db",
) -> None:
    """Write a note on a run, in place of the one before.

    Example: harness runs note 3 "the room was hot"
    """
    from harness.store import open_store

    with open_store(db, create=False, write=True, say=say) as store:
        store.note(run_id, text)


@app.command("rm")
def remove_runs(
    run_ids: RunIds = None,
    where: Where = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    db: Database = "benchmark.db",
) -> None:
    """Delete runs for good, with everything that hangs on them: stages, predictions, samples, ensembles, checkpoints.

    Examples:

      harness runs rm 3 4

      harness runs rm --where "status = failed and created < 2026-11-01" --yes
    """
    import shutil

    from harness.paths import checkpoint_dir
    from harness.results import Selection
    from harness.store import open_store

    with open_store(db, create=False, write=True, say=say) as store:
        chosen = _chosen(store, run_ids, where)
        if not yes and chosen:
            typer.confirm(
                f"Delete {_runs(len(chosen))} ({_numbers(chosen)}) for good, with their ensembles?",
                abort=True,
                err=True,
            )
        uids = [run.uid for run in store.runs(Selection(ids=tuple(chosen)))]
        ensembles = store.delete_runs(chosen)
    for uid in uids:
        shutil.rmtree(checkpoint_dir(uid), ignore_errors=True)
    out.print(f"Deleted {_runs(len(chosen))} and {ensembles} ensemble{'' if ensembles == 1 else 's'}.")


def _chosen(store: Any, run_ids: list[int] | None, where: str) -> list[int]:
    from harness.results import Selection

    if bool(run_ids) == bool(where):
        raise ConfigError("say which runs: their numbers, or --where FILTER")
    return list(dict.fromkeys(run_ids)) if run_ids else store.run_ids(Selection(where=where))


def _runs(n: int) -> str:
    return f"{n} run" if n == 1 else f"{n} runs"


def _numbers(run_ids: list[int]) -> str:
    return ", ".join(map(str, run_ids[:10])) + (", ..." if len(run_ids) > 10 else "")


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

    from harness.analysis.roofs import SUITE, place_run
    from harness.cli.measurements import placed_words
    from harness.cli.tables import run_json
    from harness.report.merit import merit
    from harness.report.text import audited, execution
    from harness.store import open_store

    with open_store(db, create=False, say=say) as store:
        run = store.run(run_id)
        placed = place_run(run, store.sets.read(suite=SUITE))
    if as_json:
        roofs = {size: asdict(one) for size, one in placed.items()}
        merits = [asdict(found) for stage in run.stages if (found := merit(run, stage))]
        print_json(run_json(run) | {"roofs": roofs, "figures": merits})
        return
    facts = Table(show_header=False, box=None)
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    synthetic = ", synthetic" if run.dataset.synthetic else ""
    rows = {
        "run": f"{run.id} ({run.uid})",
        "experiment": ", ".join(experiment.name for experiment in run.experiments),
        "status": run.status,
        "backbone": run.backbone,
        "schedule": run.schedule,
        "data set": f"{run.dataset.name}{synthetic}, fingerprint {run.dataset.fingerprint[:16]}",
        "audit": ": ".join(audited(run.dataset.passport)),
        "seed": str(run.seed),
        "config": f"hash {run.config_hash[:16]} (--json shows it)",
        "began": f"{run.started_at:%Y-%m-%d %H:%M:%S} UTC" if run.started_at else "not yet",
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
    for size, one in placed.items():
        rows[f"of the roof, batch {size}"] = placed_words(one)
    if run.tags:
        rows["tags"] = ", ".join(run.tags)
    if run.note:
        rows["note"] = run.note
    for attempt in run.attempts if len(run.attempts) > 1 or run.status != "completed" else ():
        ended = f", {attempt.outcome} at {attempt.ended_at:%Y-%m-%d %H:%M:%S} UTC" if attempt.ended_at else ""
        host = attempt.host.partition(" ")[0] or "an unknown machine"  # what follows tells boots and containers apart
        text = f"from {attempt.started_at:%Y-%m-%d %H:%M:%S} UTC on {host}{ended}"
        if attempt.failure:
            text += f"\n{attempt.failure.kind}: {attempt.failure.message}\n{attempt.failure.traceback}".rstrip()
        rows[f"attempt {attempt.number}"] = text
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
        if stage.execution:
            out.print(escape(execution(stage.execution)), style="dim")
        if found := merit(run, stage):
            _show_figures(found)
    if any(stage.tested_epoch for stage in run.stages):
        out.print("* the epoch that was tested", style="dim")


def _show_figures(found: Merit) -> None:
    from rich.table import Table

    table = Table(title=escape(f"{found.stage}: figures of merit on the test images"))
    for heading in ("", "as trained", "as chosen on validation"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in found.rows:
        table.add_row(row.name, row.plain, row.chosen)
    out.print(table)
    if found.chosen:
        out.print(escape(f"Chosen: {found.chosen}."), style="dim")
    for kind in found.subtypes:
        recall = kind.recall
        out.print(
            escape(f"{kind.name}: {recall.value:.2%} recognised ({recall.low:.1%} to {recall.high:.1%})"), style="dim"
        )


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

    factor, shown = scale(unit)
    if len(samples) == 1:
        return f"{samples[0] * factor:.{0 if unit == '1' else 1}f} {shown}"
    return (
        f"median {median(samples) * factor:.2f} {shown}, least {min(samples) * factor:.2f}, "
        f"most {max(samples) * factor:.2f} (n = {len(samples)})"
    )
