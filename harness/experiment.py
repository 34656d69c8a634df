"""From what a user asked for to a sweep that is recorded: which runs there are to be. No torch in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from pydantic import ValidationError

from harness import registry
from harness.api import Dataset, Ensemble, Schedule
from harness.config import (
    Override,
    Recipe,
    RunConfig,
    apply_to_dataset,
    apply_to_schedule,
    parse_set,
    parse_weights,
    read_recipe,
)
from harness.data.record import describe
from harness.data.splits import load_splits
from harness.errors import ConfigError, DataError, PluginNotFoundError
from harness.launch.load import load_elsewhere
from harness.measure.gpus import find_gpu
from harness.recipes import recipe_path, variations
from harness.registry import Kind, Plugin
from harness.results import (
    DatasetRecord,
    PlannedRun,
    PluginRecord,
    Run,
    Sweep,
)
from harness.store import Store

__all__ = ["Plan", "Request", "make_plan", "plan_again", "plan_sweep"]

PIECES: tuple[Kind, ...] = ("rate", "optimizer", "loss")  # of stages
# What the paper used: the only plugins that the core knows by name.
DEFAULT_SCHEDULE = "paper"
DEFAULT_ENSEMBLE = "majority_vote"
DEFAULT_DATASET = "chest-xray"


@dataclass(frozen=True)
class Request:
    """What a user asked for, as typed; None is what was not said. Values of the request win over its recipe's.

    ``recipe`` is a file, or the name of one that comes with harness. ``readings`` is how many of its readings to take,
    and None leaves them out.
    """

    plugins: Sequence[str] = ()
    data: str | None = None
    weights: Sequence[str] = ()
    settings: Sequence[str] = ()
    recipe: str | None = None
    readings: int | None = None
    stages: Sequence[str] | None = None
    limit_train: int | None = None
    seeds: Sequence[int] = ()
    device: str | None = None
    precision: str | None = None
    deterministic: bool = False
    experiment: str | None = None


@dataclass(frozen=True)
class Plan:
    """Runs to be, and the ensembles over them. ``experiment`` is None where the user named none."""

    experiment: str | None
    runs: tuple[PlannedRun, ...]
    ensembles: tuple[Plugin, ...]


def make_plan(request: Request) -> Plan:
    """Resolve a request: plugins found and loaded (all but backbones), options validated, images found.

    Raises:
        HarnessError: anything of it cannot be used. Nothing has been recorded then.
    """
    origin = f"the recipe {request.recipe}"
    recipe, overrides = read_recipe(recipe_path(request.recipe)) if request.recipe else (Recipe(), [])
    typed = [parse_set(text) for text in request.settings]
    argument = _choose_data(request.data)
    chosen = _choose_plugins(request.plugins, recipe.plugins, argument[0] if argument else None)
    dataset_plugin = chosen["dataset"][0]
    composed = recipe.schedule
    if composed is not None and any(registry.find_any(name).kind == "schedule" for name in recipe.plugins):
        raise ConfigError(f"{origin} both names a schedule and composes one")
    if composed is None or chosen["schedule"]:
        plugin = (chosen["schedule"] or [registry.find("schedule", DEFAULT_SCHEDULE)])[0]
        begun, schedule_record = registry.load(plugin, Schedule), plugin.record
    else:
        begun = Schedule.model_construct(**{name: getattr(composed, name) for name in Schedule.model_fields})
        schedule_record = PluginRecord("schedule", composed.name, f"recipe {request.recipe}", "")
    stages = request.stages if request.stages is not None else recipe.stages
    dataset = registry.load(dataset_plugin, Dataset)
    backbones = [plugin.name for plugin in chosen["backbone"]]
    default = dict.fromkeys(backbones, begun.weights)
    weights = parse_weights(request.weights, backbones, parse_weights(_weights_of(recipe), backbones, default))
    seeds = list(dict.fromkeys(request.seeds or _seeds_of(recipe)))
    limit_train = request.limit_train if request.limit_train is not None else recipe.limit_train
    if limit_train is not None and len(seeds) > 1:
        raise ConfigError("--limit-train draws its images by the seed, so it takes one --seed at a time")
    for name, value in weights.items():
        if Path(value).is_absolute() and not Path(value).exists():
            raise ConfigError(f"--weights {name}={value}: there is no such file or folder")
    device = request.device or recipe.device or "auto"
    precision: str | None = request.precision or recipe.precision
    if precision is None:
        gpu = find_gpu(device)
        precision = "bf16" if gpu and gpu.capability >= (8, 0) else "fp32"
    described: dict[str, DatasetRecord] = {}
    runs: dict[str, PlannedRun] = {}
    for varied in _variations(recipe, origin, request):
        said = [*overrides, *varied, *typed]
        schedule = apply_to_schedule(begun, said, stages)
        options = apply_to_dataset(dataset_plugin.name, argument[1] if argument else None, dataset.Options, said)
        used = options.model_dump_json()
        for seed, plugin in product(seeds, chosen["backbone"]):
            try:
                config = RunConfig(
                    backbone=plugin.name,
                    weights=weights[plugin.name],
                    schedule_name=schedule_record.name,
                    schedule=schedule,
                    dataset=dataset_plugin.name,
                    data=options.model_dump(mode="json"),
                    limit_train=limit_train,
                    seed=seed,
                    device=device,
                    precision=precision,
                    deterministic=request.deterministic or bool(recipe.deterministic),
                )
            except ValidationError as error:
                first = error.errors()[0]
                option = str(first["loc"][0]).replace("_", "-")
                raise ConfigError(f"--{option} {first['input']}: {first['msg'].lower()}") from error
            if used not in described:
                splits = load_splits(dataset, dataset_plugin.name, options, limit_train, seed)
                described[used] = describe(dataset_plugin.name, dataset, splits)
            records = (plugin.record, schedule_record, dataset_plugin.record, *_pieces(schedule))
            # what the user said of an axis makes its values the same
            runs.setdefault(
                config.hash,
                PlannedRun(
                    backbone=plugin.name,
                    schedule=schedule_record.name,
                    seed=seed,
                    config=config.model_dump(mode="json"),
                    config_hash=config.hash,
                    plugins=records,
                    dataset=described[used],
                ),
            )
    for plugin in chosen["ensemble"]:
        registry.load(plugin, Ensemble)
    members = [plugin for plugin in chosen["backbone"] if plugin.member is not None]
    for failure in filter(None, load_elsewhere(members)):  # whether a family has the name, its library alone knows
        raise PluginNotFoundError(failure.message)
    named = recipe.experiment and recipe.experiment + ("-readings" if request.readings else "")
    return Plan(request.experiment or named, tuple(runs.values()), tuple(chosen["ensemble"]))


def _variations(recipe: Recipe, origin: str, request: Request) -> list[list[Override]]:
    """Return what is set differently from run to run; readings where some are asked for."""
    if request.readings is None:
        return variations(recipe.axes, origin)
    if not recipe.readings:
        raise ConfigError(f"{origin} has no [readings]: choices that are open, each with the values to try")
    return variations({**recipe.axes, **recipe.readings}, origin, request.readings)


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
        if plugin.kind in PIECES:
            option = {"rate": "lr"}.get(plugin.kind, plugin.kind)
            raise ConfigError(
                f"--plugins {plugin.name}: a stage is made of it: --set STAGE.{option}.kind={plugin.name}"
            )
        if plugin not in chosen[plugin.kind]:
            chosen[plugin.kind].append(plugin)
    if not chosen["backbone"]:
        raise ConfigError(
            "--plugins: name at least one backbone, for example --plugins resnet18; `harness plugins` lists them"
        )
    chosen["ensemble"] = chosen["ensemble"] or [registry.find("ensemble", DEFAULT_ENSEMBLE)]
    chosen["dataset"] = chosen["dataset"] or [registry.find("dataset", DEFAULT_DATASET)]
    for kind in ("schedule", "dataset"):
        if len(chosen[kind]) > 1:
            several = " and ".join(plugin.name for plugin in chosen[kind])
            raise ConfigError(f"one call takes one {kind}; found {several}")
    return chosen


def _seeds_of(recipe: Recipe) -> tuple[int, ...]:
    return recipe.seed if isinstance(recipe.seed, tuple) else (recipe.seed or 0,)


def _pieces(schedule: Schedule) -> list[PluginRecord]:
    """Return the plugins of others that stages are made of; harness's own are of its version, which is recorded."""
    used = {(one.plugin, one.kind) for stage in schedule.stages for one in (stage.lr, stage.optimizer, stage.loss)}
    records = [registry.find(*names).record for names in sorted(used)]
    return [record for record in records if record.distribution != "transfer-harness"]


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
    ensembles = [plugin.name for plugin in plan.ensembles]
    return store.plan(plan.runs, command=command, ensembles=ensembles, experiment=plan.experiment, repeat=repeat)


def plan_again(run: Run) -> PlannedRun:
    """Plan to make a stored run again, with the plugins and images that are there now.

    Raises:
        HarnessError: a plugin is gone, its config is of another version, or the images or labels are others by now.
    """
    try:
        config = RunConfig.model_validate(run.config)
        needed: dict[str, Kind] = {
            kind: kind for kind in (*PIECES, "backbone", "dataset")
        }  # a schedule is in the config, whole
        plugins = [
            registry.find(needed[one.kind], one.name).record if one.kind in needed else one for one in run.plugins
        ]
        dataset = registry.load(registry.find("dataset", config.dataset), Dataset)
        options = dataset.Options.model_validate(config.data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"run {run.id} cannot be made again: this version of harness has another idea of {where!r}: "
            f"{first['msg'].lower()}"
        ) from error
    splits = load_splits(dataset, config.dataset, options, config.limit_train, config.seed)
    found = describe(config.dataset, dataset, splits)
    if found.fingerprint != run.dataset.fingerprint:
        raise DataError(
            f"run {run.id} used other images of {config.dataset!r} than are there now (fingerprint "
            f"{run.dataset.fingerprint[:16]} then, {found.fingerprint[:16]} now): images, labels, patients or splits "
            "have changed since, so it cannot be made again"
        )
    return PlannedRun(run.backbone, run.schedule, run.seed, run.config, config.hash, tuple(plugins), found)
