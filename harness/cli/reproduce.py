"""`harness reproduce`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import CheckpointEvery, Database, Json, MemoryLimit, Timeout
from harness.cli.output import err, escape, out, print_json, say
from harness.cli.sweep import carry_out, command
from harness.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from harness.results import Run

__all__ = ["reproduce"]


def reproduce(
    run_id: Annotated[int, typer.Argument(metavar="RUN", help="Number of a completed run, from `harness runs list`.")],
    tolerance: Annotated[
        float,
        typer.Option(min=0, max=1, help="How far probabilities of a test image may differ to be within tolerance."),
    ] = 0.01,
    exact: Annotated[bool, typer.Option("--exact", help="Take nothing but the same bits.")] = False,
    db: Database = "benchmark.db",
    timeout: Timeout = 1800.0,
    memory_limit: MemoryLimit = None,
    checkpoint_every: CheckpointEvery = 60.0,
    as_json: Json = False,
) -> None:
    """Make a stored run again from its row, and say whether it comes out the same: bit-exact, within tolerance or
    different, with the first epoch that differs.

    The repetition is recorded as a run of its own, in an experiment of its own; the same command goes on with
    one that was interrupted.

    Exit codes: 0 bit-exact or within tolerance (with --exact bit-exact alone), 1 different, 2 it could not be done, 130
    interrupted.

    Examples:

      harness reproduce 3

      harness reproduce 3 --exact --json
    """
    from harness.analysis.replay import compare_runs, environment_changes
    from harness.experiment import plan_again
    from harness.store import open_store

    with open_store(db, create=False, write=True, say=say) as store:
        then = store.run(run_id)
        if then.status != "completed":
            raise ConfigError(f"run {run_id} is {then.status}: only one that completed can be made again")
        planned = plan_again(then)
        name = f"reproductions of run {then.uid[:8]}"
        unfinished = store.unfinished_sweeps(name)
        sweep = unfinished[0] if unfinished else store.plan([planned], command=command(), experiment=name, repeat=True)
        outcome = carry_out(store, sweep, db, timeout, memory_limit, checkpoint_every, False, 1)
        (new_id,) = sweep.run_ids
        now = store.run(new_id)
    if outcome.interrupted:
        say(f"Interrupted. Go on with: {command()}")
        raise typer.Exit(130)
    if now.status != "completed":
        because = f": {now.failure.kind}: {now.failure.message}" if now.failure else ""
        raise ConfigError(f"the repetition, run {new_id}, is {now.status}{because}")
    _same_weights(then, now)
    changes = environment_changes(then.environment, now.environment) if then.environment and now.environment else []
    found = compare_runs(then, now, tolerance)
    if as_json:
        print_json({"run": run_id, "again": new_id, "environment": changes, **asdict(found)})
    else:
        if changes:
            out.print(
                escape(f"Of the machine and software is another than it was: {'; '.join(changes)}."), soft_wrap=True
            )
        out.print(f"[bold]{found.verdict}[/]: run {new_id} against run {run_id}.", highlight=False)
        if found.first:
            at = f"epoch {found.first.epoch}" if found.first.epoch else "at its end"
            out.print(
                escape(
                    f"They part in stage {found.first.stage}, {at}: {found.first.what} {found.first.then} then, "
                    f"{found.first.now} now."
                ),
                soft_wrap=True,
                highlight=False,
            )
        if found.farthest is not None:
            out.print(
                f"Probabilities of test images differ by at most {found.farthest:.2g}; {tolerance:g} is within "
                "tolerance.",
                soft_wrap=True,
                highlight=False,
            )
    if found.verdict == "different" or (exact and found.verdict != "bit-exact"):
        raise typer.Exit(1)


def _same_weights(then: Run, now: Run) -> None:
    was, found = (run.weights.sha256 if run.weights else None for run in (then, now))
    if was != found:
        err.print(f"The repetition is run {now.id}.")
        raise WeightsError(
            f"run {then.id} began from weights with the sha256 {was}, and those that are there now have {found}: what "
            "came of them cannot be compared"
        )
