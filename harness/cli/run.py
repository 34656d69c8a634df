"""`harness run`."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from harness.cli.output import err, escape, out, print_json
from harness.errors import HarnessError

__all__ = ["run"]


def run(
    plugins: Annotated[
        str,
        typer.Option(
            help="Names of backbones, and of a schedule, ensembles and a data set where they are not the default, "
            "separated by commas; kind:name where a name means two."
        ),
    ] = "",
    data: Annotated[str | None, typer.Option(help="Data set, or imagefolder:FOLDER. Default: chest-xray.")] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="imagenet, random, or a file or folder of checkpoints; NAME=... for one backbone. Repeatable. "
            "Default: imagenet."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override an option, such as frozen.epochs=2 or data.split=grouped. Repeatable."),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="TOML file with the same options.")] = None,
    stages: Annotated[str | None, typer.Option(help="Stages to run, such as frozen. Default: all.")] = None,
    limit_train: Annotated[
        int | None, typer.Option(min=1, help="Train on this many images, classes in their proportions.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of every draw. Default: 0.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N. Default: auto.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16. Default: fp32.")] = None,
    experiment: Annotated[
        str | None, typer.Option(help="Name to record the runs under. Default: data set and time.")
    ] = None,
    db: Annotated[str, typer.Option(envvar="HARNESS_DB", help="Results database: a file or a URL.")] = "benchmark.db",
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train and evaluate backbones, and record everything.

    Exit codes: 0 all runs completed, 1 a run or ensemble failed, 2 it could not be started, 130 interrupted.

    Examples:

      harness run --plugins alexnet,googlenet,resnet18

      harness run --plugins resnet18,mean_probability,phantom --weights random --set frozen.epochs=2

      harness run --plugins efficientnet_lite0 --data imagefolder:./photos --stages frozen
    """
    from harness.cli.display import RunDisplay
    from harness.experiment import Request, make_plan, run_experiment
    from harness.store import open_store, shown_url

    plan = make_plan(
        Request(
            plugins=_names(plugins),
            data=data,
            weights=weights or (),
            settings=settings or (),
            recipe=recipe,
            stages=_names(stages) if stages is not None else None,
            limit_train=limit_train,
            seed=seed,
            device=device,
            precision=precision,
            experiment=experiment,
        )
    )
    with open_store(db) as store:
        with RunDisplay(err, len(plan.configs)) as display, _ended_like_an_interrupt():
            outcome = run_experiment(plan, store, _command(), display.show)
        runs = [store.run(run_id) for run_id in outcome.run_ids]
    name = outcome.experiment.name

    from harness.cli.tables import accuracy_table, ensemble_json, run_json

    for complaint in outcome.complaints:
        err.print(f"[bold red]failed:[/] {escape(complaint)}", soft_wrap=True)
    if as_json:
        print_json(
            {
                "experiment": name,
                "runs": [run_json(item) for item in runs],
                "ensembles": [ensemble_json(item) for item in outcome.ensembles],
            }
        )
    else:
        synthetic = ", synthetic images" if plan.dataset.synthetic else ""
        out.print(accuracy_table(runs, outcome.ensembles, f"{name} ({plan.dataset.name}{synthetic})"))
        out.print("Share and number of test images right; below, the Wilson 95 % interval in %.", style="dim")
        shown = "" if db == "benchmark.db" else f" --db {shlex.quote(shown_url(db))}"
        named = f" --experiment {shlex.quote(experiment)}" if experiment else ""
        out.print(escape(f"Next: harness report{shown}{named}    harness runs list{shown}{named}"), soft_wrap=True)
    if outcome.interrupted:
        err.print("[bold]Interrupted.[/] What had been recorded is kept. The same command starts the runs anew.")
        raise typer.Exit(130)
    if outcome.complaints or any(item.status != "completed" for item in runs):
        raise typer.Exit(1)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _command() -> str:
    """Return what was typed, with what a database URL hides left out."""
    from harness.store import shown_url

    def shown(word: str) -> str:
        option, equals, value = word.partition("=") if word.startswith("--db=") else ("", "", word)
        if "://" not in value:
            return word
        try:
            return f"{option}{equals}{shown_url(value)}"
        except HarnessError:
            return f"{option}{equals}URL"

    return shlex.join(["harness", *map(shown, sys.argv[1:])])


@contextmanager
def _ended_like_an_interrupt() -> Iterator[None]:
    """Turn what closes a terminal or cancels a job into an interrupt, so that no run is left as running."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    heeded = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
