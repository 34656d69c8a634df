"""`harness bench`."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import Annotated

import typer

from harness.cli.options import Database, Json, MemoryLimit, Timeout
from harness.cli.output import err, escape, out, print_json, say
from harness.cli.sweep import stop_when_told
from harness.errors import Stopped

__all__ = ["bench"]


def bench(
    plugins: Annotated[str, typer.Option(help="Names of backbones, separated by commas.")] = "",
    batch_sizes: Annotated[str, typer.Option(help="Images at a time.")] = "1,32",
    precision: Annotated[str, typer.Option(help="fp32, bf16, or both.")] = "fp32",
    modes: Annotated[str, typer.Option(help="inference, train (a step on all layers), or both.")] = "inference",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="random, which cost what trained ones do, or as of `harness run`. NAME=... for one backbone. "
            "Repeatable. Default: random."
        ),
    ] = None,
    error: Annotated[
        float, typer.Option(min=0.01, max=50, help="Per cent that the median may be off (95 %) when sampling ends.")
    ] = 1.0,
    longest: Annotated[float, typer.Option(min=0.1, help="Seconds of sampling at most.")] = 10.0,
    label: Annotated[
        str | None,
        typer.Option(help="Name to record under; with one that is there, goes on. Default: the time."),
    ] = None,
    db: Database = "benchmark.db",
    timeout: Timeout = 600.0,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
) -> None:
    """Measure backbones without training them: time, memory, work and energy.

    Each is measured in a process of its own, on random images that are on the device already. Every sample is kept.

    Exit codes: 0 all were measured, 1 one was not, 2 it could not be started, 130 interrupted.

    Examples:

      harness bench --plugins alexnet,googlenet,resnet18

      harness bench --plugins resnet18 --batch-sizes 1,8,32,128 --precision fp32,bf16 --modes inference,train
    """
    from harness.bench import Conditions, Request, make_configs, measure_all
    from harness.cli.display import BenchDisplay
    from harness.cli.measurements import bench_table, set_json
    from harness.launch import Limits
    from harness.measure.rule import Rule
    from harness.store import open_store

    configs = make_configs(
        Request(
            plugins=_words(plugins),
            weights=weights or (),
            modes=_words(modes),
            precisions=_words(precision),
            batch_sizes=_words(batch_sizes),
            device=device,
        )
    )
    label = label or f"bench {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    memory = int(memory_limit * 2**30) if memory_limit else None
    found = []
    interrupted = False
    go_on = f"the same command with --label {shlex.quote(label)}"
    with (
        open_store(db, say=say) as store,
        stop_when_told(go_on, "now") as stopping,
        BenchDisplay(err, configs) as display,
    ):
        conditions = Conditions(Rule(error / 100, longest), Limits(timeout, memory), stopping)
        try:
            for record in measure_all(configs, store, label, conditions, display.show):
                found.append(record)
                display.done(record)
        except Stopped:
            interrupted = True
    if as_json:
        print_json({"label": label, "sets": [set_json(record) for record in found]})
    elif found:
        out.print(bench_table(found, label))
    if interrupted:
        err.print(
            f"[bold]Interrupted,[/] {len(found)} of {len(configs)} measured and kept. Go on with {escape(go_on)}.",
            soft_wrap=True,
        )
        raise typer.Exit(130)
    if any(record.status != "completed" for record in found):
        raise typer.Exit(1)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
