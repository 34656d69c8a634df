"""`harness run`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.output import err, escape, out, print_json
from harness.errors import ConfigError, HarnessError

if TYPE_CHECKING:
    from harness.api import Ensemble
    from harness.config import RunConfig
    from harness.registry import Plugin
    from harness.results import DatasetRecord, EnsembleRecord, Experiment, RunStatus
    from harness.store import Store

__all__ = ["run"]

# What the paper used: the only plugins that the core knows by name.
DEFAULT_SCHEDULE = "paper"
DEFAULT_ENSEMBLE = "majority_vote"
DEFAULT_DATASET = "chest-xray"


@dataclass(frozen=True)
class _Plan:
    """What one call is going to do: a config for each backbone, and the ensembles over them."""

    configs: list[RunConfig]
    plugins: dict[str, list[Plugin]]
    ensembles: list[tuple[Plugin, Ensemble]]
    dataset: DatasetRecord
    experiment: str


def run(
    plugins: Annotated[
        str,
        typer.Option(
            help="Names of backbones, and of a schedule, ensembles and a data set where they are not the default, "
            "separated by commas; kind:name where a name means two."
        ),
    ] = "",
    data: Annotated[
        str | None, typer.Option(help=f"Data set, or imagefolder:FOLDER. Default: {DEFAULT_DATASET}.")
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="imagenet, random, or a file or folder of checkpoints; NAME=... for one backbone. Repeatable.  "
            "[default: imagenet]"
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override an option, such as frozen.epochs=2 or data.split=grouped. Repeatable."),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="TOML file with the same options.")] = None,
    stages: Annotated[str | None, typer.Option(help="Stages to run, such as frozen. Default: all.")] = None,
    limit_train: Annotated[
        int | None, typer.Option(min=1, help="Train on this many images, drawn evenly by class.")
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
    plan = _plan(
        plugins=plugins,
        data=data,
        weights=weights or [],
        settings=settings or [],
        recipe_path=recipe,
        stages=stages,
        limit_train=limit_train,
        seed=seed,
        device=device,
        precision=precision,
        experiment=experiment,
    )
    from harness.store import open_store

    with open_store(db) as store:
        store.add_dataset(plan.dataset)
        record = store.experiment(plan.experiment, _command(db))
        run_ids = []
        interrupted = False
        try:
            for config in plan.configs:
                run_ids.append(_start(store, record, plan, config))
                _execute(store, run_ids[-1], config, f"{len(run_ids)}/{len(plan.configs)}")
        except KeyboardInterrupt:
            interrupted = True
        combined, complaints = _combine(store, record, plan, run_ids)
        runs = [store.run(run_id) for run_id in run_ids]

    from harness.cli.tables import accuracy_table, ensemble_json, run_json

    for complaint in complaints:
        err.print(f"[bold red]failed:[/] {escape(complaint)}", soft_wrap=True)
    if as_json:
        print_json(
            {
                "experiment": record.name,
                "runs": [run_json(item) for item in runs],
                "ensembles": [ensemble_json(item) for item in combined],
            }
        )
    else:
        synthetic = ", synthetic images" if plan.dataset.synthetic else ""
        out.print(accuracy_table(runs, combined, f"{record.name} ({plan.dataset.name}{synthetic})"))
        out.print("Accuracy with its Wilson 95 % interval (images right / all).", style="dim")
        shown = "" if db == "benchmark.db" else f" --db {shlex.quote(_hidden(db))}"
        out.print(f"Next: harness report{shown}    harness runs show {run_ids[0]}{shown}", soft_wrap=True)
    if interrupted:
        err.print("[bold]Interrupted.[/] What had been recorded is kept. The same command starts the runs anew.")
        raise typer.Exit(130)
    if complaints or any(item.status != "completed" for item in runs):
        raise typer.Exit(1)


def _plan(
    *,
    plugins: str,
    data: str | None,
    weights: list[str],
    settings: list[str],
    recipe_path: Path | None,
    stages: str | None,
    limit_train: int | None,
    seed: int | None,
    device: str | None,
    precision: str | None,
    experiment: str | None,
) -> _Plan:
    """Turn what was typed into a plan; nothing is trained, and no torch is imported.

    Raises:
        HarnessError: anything of it cannot be used.
    """
    from pydantic import ValidationError

    from harness import registry
    from harness.api import Dataset, Ensemble, Schedule
    from harness.config import (
        Recipe,
        RunConfig,
        apply_to_dataset,
        apply_to_schedule,
        parse_set,
        parse_weights,
        read_recipe,
    )
    from harness.data.record import describe
    from harness.data.splits import limit_train as limited

    recipe, overrides = read_recipe(recipe_path) if recipe_path else (Recipe(), [])
    overrides += [parse_set(text) for text in settings]

    names = _names(plugins) or list(recipe.plugins)
    chosen: dict[str, list[Plugin]] = {kind: [] for kind in registry.KINDS}
    for name in names:
        plugin = registry.find_any(name)
        if plugin not in chosen[plugin.kind]:
            chosen[plugin.kind].append(plugin)
    if not chosen["backbone"]:
        raise ConfigError(
            "--plugins: name at least one backbone, for example --plugins resnet18; `harness plugins` lists them"
        )
    data_name, colon, argument = (data or "").partition(":")
    if data_name:
        chosen["dataset"].append(registry.find("dataset", data_name))
    for kind, default in (
        ("schedule", DEFAULT_SCHEDULE),
        ("ensemble", DEFAULT_ENSEMBLE),
        ("dataset", DEFAULT_DATASET),
    ):
        chosen[kind] = chosen[kind] or [registry.find(kind, default)]  # type: ignore[arg-type]
        if kind != "ensemble" and len({plugin.name for plugin in chosen[kind]}) > 1:
            several = " and ".join(plugin.name for plugin in chosen[kind])
            raise ConfigError(f"one call takes one {kind}; found {several}")

    schedule_plugin, dataset_plugin = chosen["schedule"][0], chosen["dataset"][0]
    schedule = apply_to_schedule(
        registry.load(schedule_plugin, Schedule), overrides, _names(stages) if stages is not None else recipe.stages
    )
    dataset = registry.load(dataset_plugin, Dataset)
    options = apply_to_dataset(dataset_plugin.name, argument if colon else None, dataset.Options, overrides)
    given_weights = weights
    if not weights and recipe.weights is not None:
        table = recipe.weights
        given_weights = [table] if isinstance(table, str) else [f"{name}={value}" for name, value in table.items()]
    backbones = [plugin.name for plugin in chosen["backbone"]]
    of_backbone = parse_weights(given_weights, backbones)
    try:
        configs = [
            RunConfig(
                backbone=name,
                weights=of_backbone[name],
                schedule_name=schedule_plugin.name,
                schedule=schedule,
                dataset=dataset_plugin.name,
                data=options.model_dump(mode="json"),
                limit_train=limit_train if limit_train is not None else recipe.limit_train,
                seed=seed if seed is not None else recipe.seed or 0,
                device=device or recipe.device or "auto",
                precision=precision or recipe.precision or "fp32",  # type: ignore[arg-type]
            )
            for name in backbones
        ]
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{option} {first['input']}: {first['msg'].lower()}") from error
    splits = dataset.load(dataset_plugin.name, options)
    if configs[0].limit_train is not None:
        splits = limited(splits, configs[0].limit_train, configs[0].seed)
    return _Plan(
        configs=configs,
        plugins={
            plugin.name: [plugin, schedule_plugin, dataset_plugin, *chosen["ensemble"]] for plugin in chosen["backbone"]
        },
        ensembles=[(plugin, registry.load(plugin, Ensemble)) for plugin in chosen["ensemble"]],
        dataset=describe(dataset_plugin.name, dataset, splits),
        experiment=experiment
        or recipe.experiment
        or f"{dataset_plugin.name} {datetime.now(UTC).strftime('%Y-%m-%d %H:%M:%S')}",
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _hidden(db: str) -> str:
    from sqlalchemy.engine import make_url

    return make_url(db).render_as_string(hide_password=True) if "://" in db else db


def _command(db: str) -> str:
    """Return what was typed, with the password of a database URL hidden."""
    return " ".join(["harness", *(shlex.quote(word.replace(db, _hidden(db))) for word in sys.argv[1:])])


def _start(store: Store, experiment: Experiment, plan: _Plan, config: RunConfig) -> int:
    return store.start_run(
        experiment,
        backbone=config.backbone,
        schedule=config.schedule_name,
        seed=config.seed,
        config=config.model_dump(mode="json"),
        config_hash=config.hash,
        plugins=[plugin.record for plugin in plan.plugins[config.backbone]],
        dataset=plan.dataset,
    )


def _execute(store: Store, run_id: int, config: RunConfig, position: str) -> None:
    """Run one config in its process, recording and showing what comes."""
    from harness.cli.display import RunDisplay
    from harness.launch import run_in_child
    from harness.results import Failure

    status: RunStatus = "completed"
    with RunDisplay(err) as display:
        display.begin(config.backbone, position)
        events = run_in_child(config)
        try:
            for event in events:
                store.record(run_id, event)
                display.show(event)
                if isinstance(event, Failure):
                    status = "failed"
        except BaseException:
            status = "interrupted"
            raise
        finally:
            events.close()
            store.finish_run(run_id, status)


def _combine(
    store: Store, experiment: Experiment, plan: _Plan, run_ids: list[int]
) -> tuple[list[EnsembleRecord], list[str]]:
    """Combine the runs that completed, after each stage; return the ensembles, and what went wrong with others."""
    from harness.analysis.ensemble import combine_runs

    runs = [run for run in map(store.run, run_ids) if run.status == "completed"]
    if len(runs) < 2:
        return [], []
    records, complaints = [], []
    for plugin, ensemble in plan.ensembles:
        for stage in plan.configs[0].schedule.stages:
            try:
                record = combine_runs(ensemble, plugin.record, runs, stage.name)
            except HarnessError as error:
                complaints.append(f"{plugin.name} after {stage.name}: {error}")
                continue
            store.add_ensemble(experiment, record)
            records.append(record)
    return records, complaints
