"""`harness spec-curve`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from harness.cli.options import CheckpointEvery, Database, Jobs, Json, MemoryLimit, Timeout, words
from harness.cli.output import escape, out, print_json, say
from harness.cli.sweep import asked_for, carry_out, command, end

if TYPE_CHECKING:
    from harness.report.specification import Mean, Specification

__all__ = ["spec_curve"]


def spec_curve(
    recipe: Annotated[str, typer.Argument(help="A recipe with [readings]: table1, or a TOML file.")],
    readings: Annotated[
        int, typer.Option(min=4, help="How many: a power of two, balanced over all choices; or as many as there are.")
    ] = 32,
    plugins: Annotated[str, typer.Option(help="Other backbones, ensembles or data than the recipe's.")] = "",
    data: Annotated[str | None, typer.Option(help="Another data set.")] = None,
    weights: Annotated[list[str] | None, typer.Option(help="As of `harness run`.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Set an option in every reading, such as finetune.epochs=2.")
    ] = None,
    limit_train: Annotated[int | None, typer.Option(min=1, help="Train on this many images.")] = None,
    seed: Annotated[str | None, typer.Option(help="Seeds, 0,1,2: a run of each under each reading.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16, or tf32 on a GPU.")] = None,
    experiment: Annotated[str | None, typer.Option(help="Default: the recipe's, with -readings after it.")] = None,
    db: Database = "benchmark.db",
    timeout: Timeout = 1800.0,
    memory_limit: MemoryLimit = None,
    checkpoint_every: CheckpointEvery = 60.0,
    jobs: Jobs = 1,
    as_json: Json = False,
) -> None:
    """Run a recipe under many readings of what it leaves open, and say which conclusions hold under how many.

    Each reading is a run of each backbone. The same command again, or `harness resume`, goes on with what did not
    complete, and a larger --readings adds to it. The curve stands in the experiment's report.

    Exit codes: those of `harness run`.

    Examples:

      harness spec-curve table1

      harness spec-curve table1 --plugins efficientnet_lite0 --readings 16 --set finetune.epochs=2 --precision bf16
    """
    from harness.cli.run import parse_seeds
    from harness.experiment import Request, make_plan, plan_sweep
    from harness.report.specification import specification
    from harness.store import open_store

    plan = make_plan(
        Request(
            plugins=words(plugins),
            data=data,
            weights=weights or (),
            settings=settings or (),
            recipe=recipe,
            readings=readings,
            limit_train=limit_train,
            seeds=parse_seeds(seed),
            device=device,
            precision=precision,
            experiment=experiment,
        )
    )
    with open_store(db, say=say) as store:
        sweep = plan_sweep(plan, store, command())
        outcome = carry_out(store, sweep, db, timeout, memory_limit, checkpoint_every, False, jobs)
        runs = [store.run(run_id) for run_id in outcome.run_ids]
        found = specification(runs, outcome.ensembles)
    if as_json:
        print_json({"experiment": outcome.experiment.name, "specification": asdict(found) if found else None})
    elif found:
        _show(found)
        shown, named = asked_for(db, outcome.experiment.name)
        out.print(escape(f"Next: harness report{shown}{named}"), soft_wrap=True)
    else:
        out.print("No curve: fewer than four readings completed, or their test images differ.")
    end(outcome, runs, db)


def _show(found: Specification) -> None:
    """Print each conclusion with the mean effect of each choice, the strongest first."""
    for conclusion in found.conclusions:
        table = Table(title=escape(conclusion.title), title_justify="left")
        for heading, side in (("choice", "left"), ("value", "left"), ("readings", "right"), ("mean, points", "right")):
            table.add_column(heading, justify=side, overflow="fold")  # type: ignore[arg-type]
        by_choice = [list(of_choice) for _, of_choice in groupby(conclusion.means, key=lambda mean: mean.choice)]
        for of_choice in sorted(by_choice, key=lambda means: -_spread(means)):
            for mean in of_choice:
                name = escape(mean.choice) if mean is of_choice[0] else ""
                table.add_row(name, escape(mean.value), str(mean.readings), f"{100 * mean.mean:+.2f}")
        out.print(table)
        out.print(escape(conclusion.summary), soft_wrap=True)


def _spread(means: Sequence[Mean]) -> float:
    values = [mean.mean for mean in means]
    return max(values) - min(values)
