"""`harness resume`."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import CheckpointEvery, Database, Jobs, Json, Latency, MemoryLimit, Timeout
from harness.cli.output import out, print_json, say
from harness.cli.sweep import execute

__all__ = ["resume"]


def resume(
    experiment: Annotated[
        str | None, typer.Option(help="Experiment to go on with. Default: the newest that has not completed.")
    ] = None,
    db: Database = "benchmark.db",
    timeout: Timeout = 1800.0,
    memory_limit: MemoryLimit = None,
    checkpoint_every: CheckpointEvery = 60.0,
    latency: Latency = True,
    jobs: Jobs = 1,
    as_json: Json = False,
) -> None:
    """Go on with what was interrupted, lost, failed or never begun, from the last checkpoint where there is one.

    Exit codes: those of `harness run`; 0 too where there is nothing to do.

    Examples:

      harness resume

      harness resume --experiment "my sweep" --db team.db
    """
    from harness.results import Selection
    from harness.store import open_store

    with open_store(db, create=False, write=True, say=say) as store:
        sweeps = store.unfinished_sweeps(experiment)
        if not sweeps:
            if as_json:
                print_json({"experiment": experiment, "runs": [], "ensembles": []})
            else:
                out.print("Nothing to go on with: every run has completed.")
            return
        # What only failed comes last: it may fail again, and must not stand in front of the others for ever.
        waiting = set(store.run_ids(Selection(where="status != failed and status != completed")))
        sweep, *others = sorted(sweeps, key=lambda sweep: waiting.isdisjoint(sweep.run_ids))
        say(f"Going on with {sweep.experiment.name!r}.")
        if names := list(dict.fromkeys(other.experiment.name for other in others)):
            say(f"Unfinished too, by --experiment: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
        execute(store, sweep, db, timeout, memory_limit, checkpoint_every, latency, jobs, as_json)
