"""From what a user asked for to recorded runs and ensembles. No printing, and no torch in this process."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from harness import registry
from harness.analysis import metrics
from harness.api import Dataset, Ensemble, Schedule
from harness.config import (
    Recipe,
    RunConfig,
    Task,
    apply_to_dataset,
    apply_to_schedule,
    parse_set,
    parse_weights,
    read_recipe,
)
from harness.data.files import file_sha256
from harness.data.record import describe
from harness.data.splits import load_splits
from harness.errors import ConfigError, RunTakenOverError, Stopped, StoreError
from harness.launch import Child, Limits, run_in_child
from harness.paths import checkpoint_dir
from harness.registry import Plugin
from harness.results import (
    DatasetRecord,
    EnsembleRecord,
    Event,
    Experiment,
    Failure,
    Note,
    PlannedRun,
    Run,
    RunStatus,
    Selection,
    Sweep,
)
from harness.store import HEARTBEAT_SECONDS, Store

__all__ = ["Execution", "Outcome", "Plan", "Request", "make_plan", "plan_sweep", "run_sweep"]

# What the paper used: the only plugins that the core knows by name.
DEFAULT_SCHEDULE = "paper"
DEFAULT_ENSEMBLE = "majority_vote"
DEFAULT_DATASET = "chest-xray"


@dataclass(frozen=True)
class Request:
    """What a user asked for, as typed; None is what was not said. Values of the request win over its recipe's."""

    plugins: Sequence[str] = ()
    data: str | None = None
    weights: Sequence[str] = ()
    settings: Sequence[str] = ()
    recipe: Path | None = None
    stages: Sequence[str] | None = None
    limit_train: int | None = None
    seed: int | None = None
    device: str | None = None
    precision: str | None = None
    deterministic: bool = False
    experiment: str | None = None


@dataclass(frozen=True)
class Plan:
    """A config for each run with the plugins it uses, and the ensembles over them; all of one schedule and data set.

    ``experiment`` is None where the user named none.
    """

    experiment: str | None
    configs: tuple[RunConfig, ...]
    plugins: tuple[tuple[Plugin, ...], ...]
    ensembles: tuple[Plugin, ...]
    dataset: DatasetRecord


@dataclass(frozen=True)
class Execution:
    """How runs are executed, which changes nothing of their results.

    Args:
        limits: what a run may take.
        checkpoint_every: seconds between two checkpoints.
        latency: whether to measure the latency of inference at each run's end.
        stopping: tells whether somebody wants to stop.
        started: a process for the first run, which has started already.
    """

    limits: Limits = field(default_factory=Limits)
    checkpoint_every: float = 60.0
    latency: bool = True
    stopping: Callable[[], bool] = lambda: False
    started: list[Child] = field(default_factory=list)


@dataclass
class Outcome:
    """What came of a sweep. ``run_ids`` are all its runs, ``complaints`` the ensembles that failed, in words."""

    experiment: Experiment
    run_ids: tuple[int, ...]
    ensembles: list[EnsembleRecord] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    interrupted: bool = False


def make_plan(request: Request) -> Plan:
    """Resolve a request: plugins found and loaded (all but backbones), options validated, images found.

    Raises:
        HarnessError: anything of it cannot be used. Nothing has been recorded then.
    """
    recipe, overrides = read_recipe(request.recipe) if request.recipe else (Recipe(), [])
    overrides += [parse_set(text) for text in request.settings]
    argument = _choose_data(request.data)
    chosen = _choose_plugins(request.plugins, recipe.plugins, argument[0] if argument else None)
    schedule_plugin, dataset_plugin = chosen["schedule"][0], chosen["dataset"][0]
    schedule = apply_to_schedule(
        registry.load(schedule_plugin, Schedule),
        overrides,
        request.stages if request.stages is not None else recipe.stages,
    )
    dataset = registry.load(dataset_plugin, Dataset)
    options = apply_to_dataset(dataset_plugin.name, argument[1] if argument else None, dataset.Options, overrides)
    backbones = [plugin.name for plugin in chosen["backbone"]]
    weights = parse_weights(request.weights, backbones, parse_weights(_weights_of(recipe), backbones, {}))
    for name, value in weights.items():
        if Path(value).is_absolute() and not Path(value).exists():
            raise ConfigError(f"--weights {name}={value}: there is no such file or folder")
    try:
        configs = tuple(
            RunConfig(
                backbone=plugin.name,
                weights=weights[plugin.name],
                schedule_name=schedule_plugin.name,
                schedule=schedule,
                dataset=dataset_plugin.name,
                data=options.model_dump(mode="json"),
                limit_train=request.limit_train if request.limit_train is not None else recipe.limit_train,
                seed=request.seed if request.seed is not None else recipe.seed or 0,
                device=request.device or recipe.device or "auto",
                precision=request.precision or recipe.precision or "fp32",
                deterministic=request.deterministic or bool(recipe.deterministic),
            )
            for plugin in chosen["backbone"]
        )
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{option} {first['input']}: {first['msg'].lower()}") from error
    splits = load_splits(dataset, dataset_plugin.name, options, configs[0].limit_train, configs[0].seed)
    for plugin in chosen["ensemble"]:
        registry.load(plugin, Ensemble)
    return Plan(
        experiment=request.experiment or recipe.experiment,
        configs=configs,
        plugins=tuple((plugin, schedule_plugin, dataset_plugin) for plugin in chosen["backbone"]),
        ensembles=tuple(chosen["ensemble"]),
        dataset=describe(dataset_plugin.name, dataset, splits),
    )


def _choose_data(data: str | None) -> tuple[str, str | None] | None:
    """Split ``NAME`` or ``NAME:ARGUMENT``."""
    if not data:
        return None
    name, colon, argument = data.partition(":")
    return name, argument if colon else None


def _choose_plugins(named: Sequence[str], of_recipe: Sequence[str], data: str | None) -> dict[str, list[Plugin]]:
    """Sort the named plugins by kind, and fill in the kinds that nobody named, from the recipe first."""
    said = [registry.find_any(name) for name in named] + ([registry.find("dataset", data)] if data else [])
    kinds = {plugin.kind for plugin in said}
    recipes = [plugin for plugin in map(registry.find_any, of_recipe) if plugin.kind not in kinds]
    chosen: dict[str, list[Plugin]] = {kind: [] for kind in registry.KINDS}
    for plugin in said + recipes:
        if plugin not in chosen[plugin.kind]:
            chosen[plugin.kind].append(plugin)
    if not chosen["backbone"]:
        raise ConfigError(
            "--plugins: name at least one backbone, for example --plugins resnet18; `harness plugins` lists them"
        )
    chosen["schedule"] = chosen["schedule"] or [registry.find("schedule", DEFAULT_SCHEDULE)]
    chosen["ensemble"] = chosen["ensemble"] or [registry.find("ensemble", DEFAULT_ENSEMBLE)]
    chosen["dataset"] = chosen["dataset"] or [registry.find("dataset", DEFAULT_DATASET)]
    for kind in ("schedule", "dataset"):
        if len(chosen[kind]) > 1:
            several = " and ".join(plugin.name for plugin in chosen[kind])
            raise ConfigError(f"one call takes one {kind}; found {several}")
    return chosen


def _weights_of(recipe: Recipe) -> list[str]:
    if isinstance(recipe.weights, dict):
        return [f"{name}={value}" for name, value in recipe.weights.items()]
    return [recipe.weights] if recipe.weights else []


def plan_sweep(plan: Plan, store: Store, command: str, *, repeat: bool = False) -> Sweep:
    """Record what is about to be done, and find what of it is done already.

    Args:
        plan: what to do.
        store: where to record it.
        command: what the user typed, for the record.
        repeat: do everything anew.
    """
    runs = [
        PlannedRun(
            backbone=config.backbone,
            schedule=config.schedule_name,
            seed=config.seed,
            config=config.model_dump(mode="json"),
            config_hash=config.hash,
            plugins=tuple(plugin.record for plugin in plugins),
        )
        for config, plugins in zip(plan.configs, plan.plugins, strict=True)
    ]
    ensembles = [plugin.name for plugin in plan.ensembles]
    return store.plan(
        runs, plan.dataset, command=command, ensembles=ensembles, experiment=plan.experiment, repeat=repeat
    )


def run_sweep(
    sweep: Sweep, store: Store, execution: Execution, watch: Callable[[int, Run, Event | None], None]
) -> Outcome:
    """Execute what of a sweep has not completed, each run in its own process, and record everything as it happens.

    A run that fails is recorded as failed and the next one starts. Where somebody wants to stop, the run in progress is
    recorded as interrupted with a checkpoint to go on from, and no other starts.

    Args:
        sweep: what to do.
        store: where it is recorded.
        execution: how.
        watch: told of each event of each run, by its position in the sweep; None when a run begins.
    """
    outcome = Outcome(sweep.experiment, sweep.run_ids)
    for index, run_id in enumerate(sweep.run_ids):
        if execution.stopping():
            outcome.interrupted = True
            break
        begun = store.begin(run_id)
        found = store.runs(Selection(ids=(run_id,)), epochs=True)
        if not found:
            continue  # it was removed meanwhile
        run = found[0]
        watch(index, run, None)
        if begun:
            status = _execute(store, run, execution, partial(watch, index, run))
            outcome.interrupted = status == "interrupted"
        elif run.status == "completed":
            since = ", from other weights than are there now" if _weights_changed(run) else ""
            watch(index, run, Note(f"recorded already{since}, as run {run_id}; --repeat runs it again"))
        else:
            watch(index, run, Note(f"run {run_id} is being executed by another process, and left to it"))
        if outcome.interrupted:
            break
    if not outcome.interrupted:  # ensembles of what happened to be done would stand beside the final ones
        _combine(sweep, store, outcome)
    return outcome


def _weights_changed(run: Run) -> bool:
    """Tell whether the user's file that a run started from has another content by now."""
    if run.weights is None or run.weights.kind != "file":
        return False
    try:
        return file_sha256(Path(run.weights.origin)) != run.weights.sha256
    except OSError:
        return False


def _execute(store: Store, run: Run, execution: Execution, watch: Callable[[Event], None]) -> RunStatus:
    status: RunStatus = "completed"
    beaten = time.monotonic()
    events = _events(run, execution)
    with closing(events):
        try:
            for event in events:
                if time.monotonic() - beaten > HEARTBEAT_SECONDS:
                    _beat(store, run.id)
                    beaten = time.monotonic()
                if event is None:  # what storing predictions needs loads while the other process loads torch
                    metrics.load_libraries()
                    continue
                store.record(run.id, event)
                watch(event)
                if isinstance(event, Failure):
                    status = "failed"
            store.finish_run(run.id, status)
        except Stopped:
            status = "interrupted"
            store.finish_run(run.id, status)
        except RunTakenOverError as error:
            watch(Note(str(error)))
            return "lost"
    if status == "completed":
        shutil.rmtree(checkpoint_dir(run.uid), ignore_errors=True)
    return status


def _events(run: Run, execution: Execution) -> Generator[Event | None, None, None]:
    try:
        config = RunConfig.model_validate(run.config)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        yield Failure("ConfigError", f"this version of harness has another idea of {where!r}: {first['msg'].lower()}")
        return
    task = Task(
        config=config,
        fingerprint=run.dataset.fingerprint,
        checkpoints=checkpoint_dir(run.uid),
        checkpoint_every=execution.checkpoint_every,
        recorded=tuple(epoch for stage in run.stages for epoch in stage.epochs),
        latency=execution.latency,
    )
    child = execution.started.pop() if execution.started else None
    yield from run_in_child(task, execution.limits, execution.stopping, child)


def _beat(store: Store, run_id: int) -> None:
    try:
        store.heartbeat(run_id)
    except RunTakenOverError:
        raise
    except StoreError:
        pass  # a server that restarts: if it stays away, the next result cannot be recorded, and says so


def _combine(sweep: Sweep, store: Store, outcome: Outcome) -> None:
    """Combine the runs that completed, after each stage. One run alone makes no ensemble."""
    from harness.analysis.ensemble import combine_runs

    completed = {run.id for run in store.runs(Selection(ids=sweep.run_ids)) if run.status == "completed"}
    if len(completed) < 2:
        return
    runs = [store.run(run_id) for run_id in sweep.run_ids if run_id in completed]
    for name in sweep.ensembles:
        for stage in runs[0].stages:
            try:
                plugin = registry.find("ensemble", name)
                record = combine_runs(registry.load(plugin, Ensemble), plugin.record, runs, stage.name)
                store.add_ensemble(outcome.experiment, record)
            except Exception as error:  # a plugin's: whatever it raises, the other ensembles go on
                outcome.complaints.append(f"{name} after {stage.name}: {type(error).__name__}: {error}")
                continue
            outcome.ensembles.append(record)
