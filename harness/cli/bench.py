"""`harness bench`."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import Annotated

import typer

from harness.cli.options import Database, Json, MemoryLimit, Timeout, words
from harness.cli.output import err, escape, out, print_json, say
from harness.cli.sweep import stop_when_told
from harness.errors import Stopped

__all__ = ["bench"]


def bench(
    plugins: Annotated[str, typer.Option(help="Names of backbones, separated by commas.")] = "",
    batch_sizes: Annotated[
        str | None, typer.Option(help="Images at a time; of scenarios, at most. Default: 1,32; of scenarios 32.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16, tf32 (on a GPU), or several: fp32,bf16.")] = "fp32",
    modes: Annotated[
        str, typer.Option(help="inference, train (a step on all layers), or both: inference,train.")
    ] = "inference",
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
    scenarios: Annotated[
        str,
        typer.Option(
            help="Instead, tests by MLPerf's LoadGen: single-stream, multi-stream, server or offline, separated by "
            "commas. Needs pip install mlcommons-loadgen."
        ),
    ] = "",
    duration: Annotated[
        float | None,
        typer.Option(help="Seconds that a scenario takes at least; MLPerf's rules say 600. Default: 10."),
    ] = None,
    target_qps: Annotated[
        float | None, typer.Option(help="Queries a second, at random times, that the scenario server issues.")
    ] = None,
    latency_bound: Annotated[
        float | None,
        typer.Option(help="Milliseconds within which 99 % of the server's queries have to be answered. Default: 15."),
    ] = None,
    repeat: Annotated[
        int, typer.Option(min=1, help="Processes that each is measured in, one after another: to compare, several.")
    ] = 1,
    label: Annotated[
        str | None,
        typer.Option(help="Name to record under; with one that is there, goes on. Default: the time."),
    ] = None,
    db: Database = "benchmark.db",
    timeout: Timeout = 600.0,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
) -> None:
    """Measure backbones without training them: time, memory, work and energy, or speed in MLPerf's scenarios.

    Each is measured in a process of its own, on random images that are on the device already. Every sample is kept.

    In scenarios LoadGen asks, times, and says what is valid; --error and --longest do not matter. Up to as many samples
    as the batch size allows are computed at once, of those that wait; a server waits for no more of them.

    Exit codes: 0 all were measured, 1 one was not, or LoadGen does not call it valid, 2 it could not be started, 130
    interrupted.

    Examples:

      harness bench --plugins alexnet,googlenet,resnet18

      harness bench --plugins resnet18 --batch-sizes 1,8,32,128 --precision fp32,bf16 --modes inference,train

      harness bench --plugins resnet18 --scenarios single-stream,offline --precision bf16

      harness bench --plugins resnet18 --scenarios server --target-qps 20 --latency-bound 200 --batch-sizes 8
    """
    from harness.analysis.roofs import SUITE, place_sets
    from harness.bench import Conditions, Request, make_configs, measure_all
    from harness.cli.display import BenchDisplay
    from harness.cli.measurements import bench_table, set_json
    from harness.cli.scenarios import is_valid, scenario_table
    from harness.launch import Limits
    from harness.measure.rule import Rule
    from harness.store import open_store

    configs = (
        make_configs(
            Request(
                plugins=words(plugins),
                weights=weights or (),
                modes=words(modes),
                precisions=words(precision),
                batch_sizes=words(batch_sizes if batch_sizes is not None else "32" if scenarios else "1,32"),
                device=device,
                scenarios=words(scenarios),
                duration=duration,
                target_qps=target_qps,
                latency_bound=latency_bound,
            )
        )
        * repeat
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
        placed = place_sets(found, store.sets.read(suite=SUITE))
    if as_json:
        print_json({"label": label, "sets": [set_json(record, placed.get(record.id or 0)) for record in found]})
    elif found:
        out.print(scenario_table(found, label) if scenarios else bench_table(found, label, placed))
    if interrupted:
        err.print(
            f"[bold]Interrupted,[/] {len(found)} of {len(configs)} measured and kept. Go on with {escape(go_on)}.",
            soft_wrap=True,
        )
        raise typer.Exit(130)
    if any(record.status != "completed" or not is_valid(record) for record in found):
        raise typer.Exit(1)
