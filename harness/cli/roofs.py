"""`harness roofs`."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import Database, Json, Timeout
from harness.cli.output import err, escape, out, print_json, say
from harness.cli.sweep import stop_when_told

__all__ = ["roofs"]


def roofs(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    error: Annotated[
        float, typer.Option(min=0.01, max=50, help="Per cent that a median may be off (95 %) when sampling ends.")
    ] = 1.0,
    longest: Annotated[float, typer.Option(min=0.1, help="Seconds of sampling at most, for each roof.")] = 10.0,
    db: Database = "benchmark.db",
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Measure what this machine can do at most, once: matrix products, copies, launches and decoding.

    Whatever is measured on it, before or after, then shows which share of its roof it reaches, and what holds it there.
    Takes about a minute. Do it again when torch, or the machine, has changed: the newest holds.

    Exit codes: 0 done, 2 it could not be done, 130 interrupted.

    Examples:

      harness roofs

      harness roofs --device cpu --db team.db
    """
    from harness.bench import Conditions
    from harness.cli.measurements import roofs_table, set_json
    from harness.errors import Stopped
    from harness.launch import Limits
    from harness.measure.rule import Rule
    from harness.results import Event, Note, Progress
    from harness.roofs import measure_roofs
    from harness.store import open_store

    with (
        open_store(db, say=say) as store,
        stop_when_told("the same command", "now") as stopping,
        err.status("roofs") as status,
    ):

        def watch(event: Event) -> None:
            match event:
                case Progress():
                    status.update(f"{event.phase} ({event.done + 1}/{event.total})")
                case Note():
                    say(event.text)
                case _:
                    pass

        try:
            found = measure_roofs(
                device, store, Conditions(Rule(error / 100, longest), Limits(timeout), stopping), watch
            )
        except Stopped:
            err.print("[bold]Interrupted,[/] nothing was recorded.")
            raise typer.Exit(130) from None
    if as_json:
        print_json(set_json(found))
    else:
        name = found.environment.device_name if found.environment else device
        out.print(roofs_table(found, f"Roofs of {escape(name)}"))
