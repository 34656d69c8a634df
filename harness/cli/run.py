"""`harness run`."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import Annotated

import typer

from harness.cli.options import CheckpointEvery, Database, Jobs, Json, Latency, MemoryLimit, Timeout, words
from harness.cli.output import say
from harness.cli.sweep import command, execute
from harness.errors import ConfigError

__all__ = ["parse_seeds", "run"]


def run(
    plugins: Annotated[
        str,
        typer.Option(
            help="Names of backbones (timm:NAME and torchvision:NAME for those of these libraries), and of a schedule, "
            "ensembles and a data set where they are not the default, "
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
    recipe: Annotated[
        str | None, typer.Option(help="TOML file with the same options, or a name of `harness recipes`.")
    ] = None,
    stages: Annotated[str | None, typer.Option(help="Stages to run, such as frozen. Default: all.")] = None,
    limit_train: Annotated[
        int | None, typer.Option(min=1, help="Train on this many images, classes in their proportions.")
    ] = None,
    seed: Annotated[
        str | None, typer.Option(help="Seed of every draw, or several, 0,1,2: a run of each. Default: 0.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N. Default: auto.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16, or tf32 on a GPU. Default: fp32; on a GPU that has it, bf16.")
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Repeat bit for bit on a GPU too, which is slower there.")
    ] = False,
    experiment: Annotated[
        str | None, typer.Option(help="Name to record the runs under. Default: data set and time.")
    ] = None,
    db: Database = "benchmark.db",
    repeat: Annotated[bool, typer.Option("--repeat", help="Run again what the database holds already.")] = False,
    timeout: Timeout = 1800.0,
    memory_limit: MemoryLimit = None,
    checkpoint_every: CheckpointEvery = 60.0,
    latency: Latency = True,
    jobs: Jobs = 1,
    as_json: Json = False,
) -> None:
    """Train and evaluate backbones, and record everything.

    The same command again, or `harness resume`, goes on with what did not complete.

    Exit codes: 0 all runs completed, 1 a run or ensemble failed, 2 it could not be started, 130 interrupted.

    Examples:

      harness run --plugins alexnet,googlenet,resnet18

      harness run --plugins resnet18,mean_probability,phantom --weights random --set frozen.epochs=2

      harness run --plugins resnet18 --seed 0,1,2,3,4

      harness run --plugins efficientnet_lite0 --data imagefolder:./photos --stages frozen
    """
    from harness.config import Task
    from harness.launch import Child
    from harness.measure.gpus import ready_ahead

    named = words(plugins)
    ready = ready_ahead(device or "auto")
    with ExitStack() as stack:
        # They load torch while this process plans.
        number = min(jobs + ready, len(named)) if ready else 1
        children = [stack.enter_context(closing(Child(Task.work))) for _ in range(max(number, 1))]
        from harness.experiment import Request, make_plan, plan_sweep
        from harness.store import open_store

        plan = make_plan(
            Request(
                plugins=named,
                data=data,
                weights=weights or (),
                settings=settings or (),
                recipe=recipe,
                stages=words(stages) if stages is not None else None,
                limit_train=limit_train,
                seeds=parse_seeds(seed),
                device=device,
                precision=precision,
                deterministic=deterministic,
                experiment=experiment,
            )
        )
        for child in children[len(plan.runs) :]:
            child.close()
        del children[len(plan.runs) :]
        with open_store(db, say=say) as store:
            sweep = plan_sweep(plan, store, command(), repeat=repeat)
            execute(
                store,
                sweep,
                db,
                timeout,
                memory_limit,
                checkpoint_every,
                latency,
                jobs,
                as_json,
                children[: len(plan.runs)],
            )


def parse_seeds(text: str | None) -> list[int]:
    """Return the seeds of ``--seed``."""
    named = words(text or "")
    if not all(name.isdecimal() for name in named):
        raise ConfigError(f"--seed {text}: say a number, or several, such as 0,1,2")
    return list(map(int, named))
