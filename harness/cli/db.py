"""`harness db`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.options import Database, Json
from harness.cli.output import bar, escape, out, print_json, readable_bytes, say
from harness.errors import ConfigError, did_you_mean

app = typer.Typer(help="Look after a results database: check, copy, merge, export, tidy.", no_args_is_help=True)


@app.command("upgrade")
def upgrade_database(db: Database = "benchmark.db", as_json: Json = False) -> None:
    """Bring the database's schema up to date. A copy from before is kept beside it.

    Every other command does so too when it meets an older schema.

    Example: harness db upgrade --db team.db
    """
    from harness.store.upkeep import upgrade

    upgraded = upgrade(db)
    if as_json:
        print_json({"from": upgraded.before, "to": upgraded.after, "message": upgraded.message})
    elif upgraded.before == upgraded.after:
        out.print(f"The schema is current: revision {escape(upgraded.after)}.")
    else:
        out.print(f"Schema: revision {escape(upgraded.before)} to {escape(upgraded.after)}")
        out.print(escape(upgraded.message), soft_wrap=True)


@app.command("info")
def show_info(db: Database = "benchmark.db", as_json: Json = False) -> None:
    """Show what the database holds, and how much room that takes.

    Example: harness db info
    """
    from rich.table import Table

    from harness.store import open_store
    from harness.store.upkeep import info

    with open_store(db, create=False, say=say) as store:
        found = info(store)
    if as_json:
        print_json(
            {**vars(found), "oldest_run": _end_json(found.oldest_run), "newest_run": _end_json(found.newest_run)}
        )
        return
    facts = Table(show_header=False, box=None)
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    of_prediction = found.bytes_per_prediction
    each = "" if of_prediction is None else f", {of_prediction:,.1f} bytes of logits each"
    rows = {
        "database": found.name,
        "engine": found.engine,
        "schema": f"revision {found.revision}",
        "size": readable_bytes(found.bytes),
        "runs": ", ".join(f"{n:,} {status}" for status, n in found.runs.items()) or "none",
        "oldest run": _end(found.oldest_run),
        "newest run": _end(found.newest_run),
        "predictions": f"{found.predictions:,} images{each}",
    }
    for name, value in rows.items():
        facts.add_row(name, escape(value))
    out.print(facts)
    table = Table()
    table.add_column("table")
    table.add_column("rows", justify="right")
    for name, n in found.rows.items():
        table.add_row(escape(name), f"{n:,}")
    out.print(table)


def _end(run: Mapping[str, Any] | None) -> str:
    return f"{run['id']}, created {run['created_at']:%Y-%m-%d %H:%M:%S} UTC" if run else "none"


def _end_json(run: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return {"id": run["id"], "created_at": run["created_at"].isoformat()} if run else None


@app.command("check")
def check_database(db: Database = "benchmark.db", as_json: Json = False) -> None:
    """Check that the file is whole and every row fits the others: sizes, labels, figures, hashes.

    Exit codes: 0 it is sound, 1 it is not, 2 it cannot be opened.

    Example: harness db check --db team.db
    """
    from harness.store import open_store
    from harness.store.upkeep import check

    with open_store(db, create=False, say=say) as store, bar("checking") as progress:
        found = list(check(store, expected_hash=_expected_hash, progress=progress))
    broken = [finding.text for finding in found if not finding.note]
    notes = [finding.text for finding in found if finding.note]
    if as_json:
        print_json({"sound": not broken, "findings": broken, "notes": notes})
    else:
        for text in broken:
            out.print(f"[bold red]broken[/] {_line(text)}", soft_wrap=True)
        for text in notes:
            out.print(f"[yellow]note[/] {_line(text)}", soft_wrap=True)
        out.print(f"{len(broken)} findings." if broken else "Sound.")
    if broken:
        raise typer.Exit(1)


def _line(text: str) -> str:
    return escape(" ".join(text.splitlines()))


def _expected_hash(config: Mapping[str, Any]) -> str | None:
    """Return the hash of a config as this version of harness writes it; None of one that another version wrote."""
    from pydantic import ValidationError

    from harness.config import RunConfig

    try:
        known = RunConfig.model_validate(config)
    except ValidationError:
        return None
    return known.hash if known.model_dump(mode="json") == config else None


@app.command("backup")
def back_up_database(
    target: Annotated[Path, typer.Argument(metavar="OUT", help="New SQLite file.")],
    db: Database = "benchmark.db",
    as_json: Json = False,
) -> None:
    """Copy the database, as it is now, to a new SQLite file. Runs may go on meanwhile.

    Examples:

      harness db backup monday.db

      harness db backup team.db --db postgresql://me@server/benchmark
    """
    from harness.store.merge import back_up

    with bar("copying") as progress:
        back_up(db, target, progress=progress)
    size = target.stat().st_size
    if as_json:
        print_json({"path": str(target.absolute()), "bytes": size})
    else:
        out.print(escape(f"{target}: {readable_bytes(size)}"), soft_wrap=True)


@app.command("merge")
def merge_databases(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Databases to copy from, files or URLs; left unchanged.")
    ],
    db: Database = "benchmark.db",
    as_json: Json = False,
) -> None:
    """Copy into --db what other databases hold and it does not. Merging again changes nothing.

    Of a run that both hold, the one that went further stays. Tags and sweeps of both are united.

    Examples:

      harness db merge laptop.db server.db --db team.db

      harness db merge benchmark.db --db postgresql://me@server/benchmark
    """
    from harness.store.merge import merge

    with bar("merging") as progress:
        merged = merge(db, sources, say=say, progress=progress)
    for note in merged.notes:
        say(note)
    if as_json:
        print_json(vars(merged))
        return
    out.print(
        f"Runs: {merged.new_runs} new, {merged.updated_runs} updated, {merged.known_runs} already there. "
        f"Ensembles: {merged.new_ensembles} new, {merged.known_ensembles} already there."
    )
    if merged.new_sets or merged.known_sets:
        out.print(f"Measurement sets: {merged.new_sets} new, {merged.known_sets} already there.")
    if merged.left_out:
        out.print(f"{merged.left_out} ensembles were left out with their runs.")


@app.command("export")
def export_database(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New or empty folder.")],
    format: Annotated[str, typer.Option(help="csv, parquet or jsonl.")] = "csv",
    where: Annotated[str, typer.Option(help="Only these runs; a filter as of `harness runs list`.")] = "",
    db: Database = "benchmark.db",
    as_json: Json = False,
) -> None:
    """Write runs, stages, epochs, predictions, measurements, attempts and ensembles to a file each.

    In CSV, text that a spreadsheet would take for a formula (it begins with = + - or @) gets a single quote before it.

    Examples:

      harness db export tables

      harness db export tables --format parquet --where "accuracy > 86%"
    """
    from harness.store import open_store
    from harness.store.export import FORMATS, export

    chosen = next((known for known in FORMATS if known == format), None)
    if chosen is None:
        raise ConfigError(f"--format {format}: no such format. {did_you_mean(format, FORMATS)}")
    if chosen == "parquet":
        from harness.cli.output import parquet_module

        parquet_module()
    with open_store(db, create=False, say=say) as store, bar("exporting") as progress:
        counts = export(store, folder, chosen, where=where, progress=progress)
    if as_json:
        files = {table: str((folder / f"{table}.{chosen}").absolute()) for table in counts}
        print_json({"files": files, "rows": counts})
        return
    for table, rows in counts.items():
        out.print(escape(f"{folder / table}.{chosen}: {rows:,} rows"), soft_wrap=True)


@app.command("gc")
def remove_garbage(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    all_checkpoints: Annotated[
        bool,
        typer.Option("--all-checkpoints", help="Also remove checkpoints of runs that this database does not know."),
    ] = False,
    db: Database = "benchmark.db",
    as_json: Json = False,
) -> None:
    """Remove what nobody needs: rows that nothing refers to, checkpoints of runs that completed, free space.

    Examples:

      harness db gc --dry-run

      harness db gc --all-checkpoints
    """
    from harness.store import open_store
    from harness.store.upkeep import collect_garbage

    with open_store(db, create=False, say=say) as store:
        removed = collect_garbage(store, all_checkpoints=all_checkpoints, dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, **vars(removed), "bytes": removed.bytes})
        return
    counts = {**removed.rows, "checkpoints": removed.checkpoints}
    what = ", ".join(f"{n:,} {name}" for name, n in counts.items() if n) or "nothing"
    if dry_run:
        out.print(f"Would remove {what}; that frees about {readable_bytes(removed.bytes)}.")
    else:
        out.print(f"Removed {what}; {readable_bytes(removed.bytes)} freed.")
