"""`harness sets`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Database, Json
from harness.cli.output import escape, out, print_json, say
from harness.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from harness.results import MeasurementSet

app = typer.Typer(help="List, show, import, export and delete what was measured without a run.", no_args_is_help=True)

_ROWS = 50


@app.command("list")
def list_sets(
    label: Annotated[str | None, typer.Option(help="Only sets of this label.")] = None,
    suite: Annotated[
        str | None, typer.Option(help="Only sets of this suite: bench, loadgen, gate, roofs or pytest-benchmark.")
    ] = None,
    commit: Annotated[str | None, typer.Option(help="Only sets of this commit; its beginning will do.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = _ROWS,
    db: Database = "benchmark.db",
    as_json: Json = False,
) -> None:
    """List measurement sets, the newest last.

    Examples:

      harness sets list --suite bench

      harness sets list --commit 3f2a91c --json
    """
    from harness.cli.measurements import set_json, sets_table
    from harness.store import open_store

    with open_store(db, create=False, say=say) as store:
        found = store.sets.read(label=label, suite=suite, commit=commit, newest=limit)
    if as_json:
        print_json([set_json(record, samples=False) for record in found])
    elif found:
        out.print(sets_table(found))
        if len(found) == limit:
            out.print(f"The newest {limit}; --limit shows more.", style="dim")
    else:
        out.print("No measurement set is like that." if label or suite or commit else "No measurement set yet.")


@app.command("show")
def show_set(
    number: Annotated[int, typer.Argument(metavar="SET", help="Number of the set, from `harness sets list`.")],
    db: Database = "benchmark.db",
    as_json: Json = False,
) -> None:
    """Show everything about one measurement set; --json has every sample.

    Example: harness sets show 3
    """
    from harness.analysis.roofs import SUITE, place_sets
    from harness.cli.measurements import set_facts, set_json
    from harness.store import open_store

    with open_store(db, create=False, say=say) as store:
        (record,) = _known([number], store.sets.read(ids=[number]))
        placed = place_sets([record], store.sets.read(suite=SUITE)).get(number)
    if as_json:
        print_json(set_json(record, placed))
    else:
        out.print(set_facts(record, placed))


@app.command("import")
def import_sets(
    file: Annotated[Path, typer.Argument(help="JSON of pytest-benchmark, with samples: of --benchmark-json.")],
    label: Annotated[str | None, typer.Option(help="Name to record under. Default: the commit that it names.")] = None,
    db: Database = "benchmark.db",
    as_json: Json = False,
) -> None:
    """Record what pytest-benchmark measured, a set a benchmark, under the commit that the file names.

    Give each process's file the same label: sets of the same name and label are processes of one side for `harness
    gate` and `harness compare`.

    Example: harness sets import benchmark.json --label main
    """
    from harness.exchange.pytest_benchmark import read_file
    from harness.store import open_store

    found = read_file(file, label)
    label = found[0].label
    with open_store(db, say=say) as store:
        known = {_identity(record): record.id for record in store.sets.read(label=label)}
        if (double := next((known[one] for one in map(_identity, found) if one in known), None)) is not None:
            raise ConfigError(f"{file}: recorded under {label!r} before, as set {double}; one process is not two")
        numbers = store.sets.add_all(found)
    if as_json:
        print_json({"label": label, "sets": numbers})
    else:
        out.print(escape(f"Recorded {len(found)} from {file} under {label!r}."), soft_wrap=True)


@app.command("export")
def export_sets(
    what: Annotated[str, typer.Argument(help="A label, set:N, run:N or commit:SHA.")],
    to: Annotated[
        str, typer.Option("--format", help="github-action-benchmark (customSmallerIsBetter), bencher or markdown.")
    ],
    file: Annotated[Path | None, typer.Option("--out", help="File to write. Default: print it.")] = None,
    db: Database = "benchmark.db",
) -> None:
    """Write times as other tools read them: medians with their 95 % interval.

    Examples:

      harness sets export main --format github-action-benchmark --out benchmark.json

      harness sets export main --format markdown >> "$GITHUB_STEP_SUMMARY"
    """
    from harness.comparison import find
    from harness.exchange.ci import FORMATS
    from harness.store import open_store

    if to not in FORMATS:
        raise ConfigError(f"--format {to}: no such format. {did_you_mean(to, FORMATS)}")
    with open_store(db, create=False, say=say) as store:
        text = FORMATS[to](find(store, what))
    if file is None:
        typer.echo(text)
        return
    try:
        file.write_text(f"{text.rstrip()}\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {file} cannot be written: {error.strerror}") from error


@app.command("rm")
def remove_sets(
    numbers: Annotated[list[int], typer.Argument(metavar="SET...", help="Numbers from `harness sets list`.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    db: Database = "benchmark.db",
) -> None:
    """Delete measurement sets for good, with their samples.

    Example: harness sets rm 3 4
    """
    from harness.store import open_store

    chosen = list(dict.fromkeys(numbers))
    with open_store(db, create=False, write=True, say=say) as store:
        found = _known(chosen, store.sets.read(ids=chosen))
        if not yes:
            names = ", ".join(f"{one.id} {one.name}" for one in found[:5]) + (", ..." if len(found) > 5 else "")
            typer.confirm(f"Delete {len(found)} for good ({names})?", abort=True, err=True)
        store.sets.remove(chosen)
    out.print(f"Deleted {len(found)}.")


def _identity(record: MeasurementSet) -> tuple[str, bytes]:
    """Return what no two processes have in common: name and times."""
    latency = record.measurement("latency")
    return record.name, latency.samples.tobytes() if latency else b""


def _known(numbers: list[int], found: list[MeasurementSet]) -> list[MeasurementSet]:
    """Let pass sets that are all there.

    Raises:
        ConfigError: one is missing.
    """
    missing = sorted(set(numbers) - {one.id for one in found})
    if missing:
        raise ConfigError(f"the database has no measurement set {missing[0]}; harness sets list shows what it has")
    return found
