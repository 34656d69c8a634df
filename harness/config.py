"""From what a user typed to one frozen :class:`RunConfig` a run. The only validator of options and recipes."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from harness import paths, registry
from harness.api import DatasetOptions, Kind, Options, Schedule
from harness.api.pieces import Piece, piece
from harness.errors import ConfigError, did_you_mean
from harness.measure.rule import Rule
from harness.results import EpochResult

__all__ = [
    "QUERY_SAMPLES",
    "BenchConfig",
    "BenchTask",
    "CheckTask",
    "LoadTask",
    "Mode",
    "Override",
    "Precision",
    "Recipe",
    "RoofTask",
    "RunConfig",
    "Scenario",
    "ScenarioConfig",
    "ScenarioTask",
    "Task",
    "apply_to_dataset",
    "apply_to_schedule",
    "parse_set",
    "parse_weights",
    "read_recipe",
    "settings",
]

Precision = Literal["fp32", "tf32", "bf16"]
Mode = Literal["inference", "train"]
Scenario = Literal["single-stream", "multi-stream", "server", "offline"]
QUERY_SAMPLES = 8  # of a query in the multi-stream scenario, by MLPerf's rules
_M = TypeVar("_M", bound=BaseModel)


class RunConfig(Options):
    """Everything that decides a run's result. Names are plugins'; ``weights`` is a path where it is no word."""

    backbone: str
    weights: str = "imagenet"
    schedule_name: str
    schedule: Schedule
    dataset: str
    data: dict[str, Any] = Field(default_factory=dict)
    limit_train: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0, lt=2**32)
    device: str = "auto"
    precision: Precision = "fp32"
    deterministic: bool = False

    @property
    def hash(self) -> str:
        """sha256 of the canonical JSON of all fields."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Task:
    """A run as its process is given it.

    Args:
        config: what to do.
        fingerprint: of the images that the run was planned for.
        checkpoints: the run's own folder for them; None keeps none.
        checkpoint_every: seconds between two.
        recorded: what is known of the run's epochs from earlier attempts.
        latency: whether to measure the latency of inference at the end.
        jobs: how many runs train side by side, of which this is one.
    """

    config: RunConfig
    fingerprint: str
    checkpoints: Path | None = None
    checkpoint_every: float = 60.0
    recorded: tuple[EpochResult, ...] = ()
    latency: bool = True
    jobs: int = 1
    work: ClassVar[str] = "harness.engine.run"  # the module whose ``execute`` does it


@dataclass(frozen=True)
class CheckTask:
    """A plugin to check. ``weights`` are those of a backbone, ``settings`` a data set's options as typed."""

    kind: Kind
    name: str
    weights: str = "random"
    settings: tuple[str, ...] = ()
    work: ClassVar[str] = "harness.testing.conformance"


@dataclass(frozen=True)
class LoadTask:
    """A plugin to load."""

    kind: Kind
    name: str
    work: ClassVar[str] = "harness.launch.load"


class BenchConfig(Options):
    """What `harness bench` measures in one process. ``weights`` is a path where it is no word."""

    backbone: str
    weights: str = "random"
    mode: Mode = "inference"
    precision: Precision = "fp32"
    batch_size: int = Field(1, ge=1, le=65_536)
    device: str = "auto"
    suite: ClassVar[str] = "bench"

    @property
    def name(self) -> str:
        """The same for whatever can be compared with it."""
        return f"{self.backbone} {self.mode} {self.precision} batch {self.batch_size}"


class ScenarioConfig(BenchConfig):
    """A test by MLPerf's LoadGen.

    ``batch_size`` is the most images that are computed at once, ``duration`` LoadGen's least duration in seconds.
    ``target_qps`` (queries a second) and ``latency_bound`` (milliseconds) are those of the server scenario, None in
    others.
    """

    scenario: Scenario
    duration: float = Field(10.0, ge=0.1, le=3600)
    target_qps: float | None = Field(None, gt=0, le=100_000)
    latency_bound: float | None = Field(None, gt=0, le=60_000)
    suite: ClassVar[str] = "loadgen"

    @property
    def name(self) -> str:
        """The same for whatever can be compared with it."""
        load = "" if self.target_qps is None else f" at {self.target_qps:g} queries/s"
        return f"{self.backbone} {self.mode} {self.precision} {self.scenario} batch {self.batch_size}{load}"


@dataclass(frozen=True)
class BenchTask:
    """A measurement as its process is given it.

    Args:
        config: what to measure.
        rule: when sampling stops; None measures memory alone.
    """

    config: BenchConfig
    rule: Rule | None
    work: ClassVar[str] = "harness.engine.bench"


@dataclass(frozen=True)
class RoofTask:
    """What a machine can do at most, as the process that measures it is told to.

    Args:
        device: as a user says it.
        rule: when sampling stops.
    """

    device: str
    rule: Rule
    work: ClassVar[str] = "harness.engine.roofs"


@dataclass(frozen=True)
class ScenarioTask:
    """A test by LoadGen as its process is given it.

    Args:
        config: what to test.
        folder: where LoadGen writes its logs; whoever made it removes it, also where the process was killed.
    """

    config: ScenarioConfig
    folder: Path
    work: ClassVar[str] = "harness.engine.scenarios"


class Override:
    """One value set by the user: ``frozen.epochs`` to 2, said by ``--set`` or by a recipe file."""

    def __init__(self, path: tuple[str, ...], value: Any, origin: str) -> None:
        self.path, self.value, self.origin = path, value, origin

    @property
    def key(self) -> str:
        """The dotted key, as typed."""
        return ".".join(self.path)


def _axes(given: Any) -> Any:
    """Take a value that is no table for the setting of its axis's name."""
    if not isinstance(given, dict):
        return given
    for name, values in given.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{name!r} should be a list of values to try; found {values!r}")
    return {
        name: [value if isinstance(value, dict) else {name: value} for value in values]
        for name, values in given.items()
    }


Axes = Annotated[dict[str, tuple[dict[str, Any], ...]], BeforeValidator(_axes)]


class Composed(Schedule):
    """A schedule that a recipe file composes of stages, instead of a plugin."""

    name: str = Field(min_length=1)


class Recipe(Options):
    """The top level of a recipe file. Each other table sets options: a stage's, ``transform``'s or ``data``'s.

    ``axes`` are what is varied, every value with every other: an axis has the name of an option and its values, or any
    name and tables of several options, with keys as those of ``--set``. ``readings`` are the same for choices that a
    protocol leaves open, the likely reading first; they are varied by `harness spec-curve` alone.
    """

    plugins: tuple[str, ...] = ()
    schedule: Composed | None = None
    weights: str | dict[str, str] | None = None
    experiment: str | None = None
    seed: int | tuple[int, ...] | None = None
    device: str | None = None
    precision: Precision | None = None
    deterministic: bool | None = None
    limit_train: int | None = None
    stages: tuple[str, ...] | None = None
    axes: Axes = Field(default_factory=dict)
    readings: Axes = Field(default_factory=dict)


def read_recipe(path: Path) -> tuple[Recipe, list[Override]]:
    """Read a TOML recipe: its top-level values, and its tables as overrides.

    Raises:
        ConfigError: the file is missing, is no TOML, holds a NUL character, or a top-level key that no recipe knows.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the recipe {path} cannot be read: {error}") from error
    _refuse_nul(content, f"the recipe {path}")
    tables = {
        key: value for key, value in content.items() if isinstance(value, dict) and key not in Recipe.model_fields
    }
    top = {key: value for key, value in content.items() if key not in tables}
    if "schedule" in top:
        try:
            top["schedule"] = Composed.model_validate(top["schedule"])
        except ValidationError as error:
            raise ConfigError(_explain(error, "schedule", {(): f"the recipe {path}"})) from error
    try:
        recipe = Recipe.model_validate(top)
    except ValidationError as error:
        raise ConfigError(_explain(error, "", {(key,): f"the recipe {path}" for key in top})) from error
    return recipe, settings(tables, f"the recipe {path}")


def settings(table: Mapping[str, Any], origin: str) -> list[Override]:
    """Return what a table sets: keys may be dotted, and values tables themselves.

    Raises:
        ConfigError: a key has no dot, in itself or by a table.
    """
    found = [Override(tuple(".".join(keys).split(".")), value, origin) for keys, value in _leaves(table)]
    for override in found:
        if len(override.path) < 2 or not all(override.path):
            raise ConfigError(f"{origin}: {override.key!r} should look like STAGE.OPTION, for example frozen.epochs")
    return found


def _refuse_nul(value: Any, origin: str) -> None:
    """Refuse what TOML can say, and no path or database can hold."""
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{origin}: {value!r} holds a NUL character")
    if isinstance(value, dict):
        value = (*value, *value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            _refuse_nul(inner, origin)


def _leaves(table: Mapping[str, Any]) -> Iterable[tuple[tuple[str, ...], Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            for keys, leaf in _leaves(value):
                yield (key, *keys), leaf
        else:
            yield (key,), value


def parse_set(text: str) -> Override:
    """Parse ``frozen.epochs=2``. The value is read as TOML where it is TOML, else as text.

    Raises:
        ConfigError: there is no ``=``, the key has no dot, or the value holds a NUL character.
    """
    key, equals, value = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or len(path) < 2 or not all(path):
        raise ConfigError(f"--set {text!r} should look like STAGE.OPTION=VALUE, for example --set frozen.epochs=2")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    _refuse_nul(parsed, f"--set {text}")
    return Override(path, parsed, "--set")


def apply_to_schedule(schedule: Schedule, overrides: Iterable[Override], stages: Iterable[str] | None) -> Schedule:
    """Return the schedule with the overrides applied, reduced to ``stages`` where they are given.

    Raises:
        ConfigError: a key, value or stage that the schedule does not have; it says what is allowed.
    """
    overrides = list(overrides)
    known = [stage.name for stage in schedule.stages]
    for override in overrides:
        if override.path[0] not in (*known, "transform", "data"):
            near = did_you_mean(override.path[0], [*known, "transform", "data"])
            raise ConfigError(f"{override.origin}: nothing is called {override.path[0]!r} in {override.key!r}. {near}")
    wanted = known if stages is None else list(stages)
    for name in wanted:
        if name not in known:
            raise ConfigError(f"--stages: the schedule has no stage {name!r}. {did_you_mean(name, known)}")
    if not wanted:
        raise ConfigError(f"--stages: name at least one of {', '.join(known)}")
    changed = [_apply(stage, stage.name, overrides) for stage in schedule.stages]
    return schedule.model_copy(
        update={
            "transform": _apply(schedule.transform, "transform", overrides),
            "stages": tuple(stage for stage in changed if stage.name in wanted),
        }
    )


def apply_to_dataset(
    name: str, argument: str | None, options: type[DatasetOptions], overrides: Iterable[Override]
) -> DatasetOptions:
    """Return the data set's options, from ``--data NAME:ARGUMENT`` and the overrides that start with ``data.``.

    Raises:
        ConfigError: an option that the data set does not have, or a value that it does not take.
    """
    given = [override for override in overrides if override.path[0] == "data"]
    if argument is not None:
        if "path" not in options.model_fields:
            raise ConfigError(f"--data {name}:{argument}: the data set {name!r} takes nothing after a colon")
        given.insert(0, Override(("data", "path"), argument, "--data"))
    return _validate(options, {}, "data", given)


def _apply(model: _M, prefix: str, overrides: Iterable[Override]) -> _M:
    given = [override for override in overrides if override.path[0] == prefix]
    return _validate(type(model), model.model_dump(), prefix, given) if given else model


def _validate(model: type[_M], values: dict[str, Any], prefix: str, overrides: list[Override]) -> _M:
    # A new kind replaces the options of the old one, so kinds go first.
    for override in sorted(overrides, key=lambda override: override.path[-1] != "kind"):
        _set(model, values, override)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        origins = {override.path[1:]: override.origin for override in overrides}
        raise ConfigError(_explain(error, prefix, origins)) from error


def _set(model: type[BaseModel], values: dict[str, Any], override: Override) -> None:
    """Put one override into nested ``values``; a key that ``model`` does not have is an error that lists its keys."""
    *tables, last = override.path[1:]
    for depth, key in enumerate(tables, 1):
        path = ".".join(override.path[: depth + 1])
        _require_field(model, key, override, depth)
        inner = _inner(model, key)
        if inner is None:
            raise ConfigError(f"{override.origin}: {path!r}: {key!r} is a value, not a table")
        if not isinstance(values[key], dict):
            following = override.path[depth + 1]
            raise ConfigError(f"{override.origin}: {path} was set to {values[key]!r}, which has no {following!r}")
        if issubclass(inner, Piece):
            if (depth, last) == (len(tables), "kind"):
                _set_kind(inner.plugin, values, key, override)
                return
            inner = piece(inner.plugin, values[key]["kind"])
        model, values = inner, values[key]
    _require_field(model, last, override, len(tables) + 1)
    values[last] = override.value


def _require_field(model: type[BaseModel], key: str, override: Override, depth: int) -> None:
    known = [name for name in model.model_fields if name != "name"]
    if key not in known:
        path = ".".join(override.path[:depth])
        raise ConfigError(f"{override.origin}: nothing is called {key!r} in {path!r}. {did_you_mean(key, known)}")


def _set_kind(plugin: Kind, values: dict[str, Any], key: str, override: Override) -> None:
    """Replace a piece by another kind of it, with that one's defaults."""
    kinds = [found.name for found in registry.plugins(plugin)]
    if override.value not in kinds:
        near = did_you_mean(str(override.value), kinds)
        raise ConfigError(f"{override.origin}: {override.key} = {override.value!r} is no kind. {near}")
    if override.value != values[key]["kind"]:
        values[key] = piece(plugin, override.value).model_validate({"kind": override.value}).model_dump()


def _inner(model: type[BaseModel], field: str) -> type[BaseModel] | None:
    """Return the type of a table, or None where the field is a value."""
    annotation = model.model_fields[field].annotation
    candidates = get_args(annotation) or (annotation,)
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _explain(error: ValidationError, prefix: str, origins: Mapping[tuple[str, ...], str]) -> str:
    """Put pydantic's first complaint into one line: where it was said, the key, the value found, what is allowed."""
    first = error.errors(include_url=False)[0]
    location = tuple(str(part) for part in first["loc"])
    # pydantic names the member of a union inside the location; users know nothing of it
    said = max((path for path in origins if _within(path, location)), key=len, default=None)
    key = ".".join(filter(None, (prefix, *(said or location))))
    problem = first["msg"].removeprefix("Value error, ")
    found = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
    origin = origins[said] if said else ", ".join(sorted(set(origins.values())))
    return f"{origin}: {key}{found}: {problem[:1].lower() + problem[1:]}"


def _within(path: tuple[str, ...], location: tuple[str, ...]) -> bool:
    remaining = iter(location)
    return all(part in remaining for part in path)


def parse_weights(
    given: Iterable[str], backbones: Sequence[str], before: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Resolve ``--weights``: one value for all, or ``NAME=VALUE`` for one, the latter winning.

    A word without a separator, a dot or a file of that name is the name of a checkpoint; all else is a path.

    Args:
        given: what was typed.
        backbones: the backbones of the run.
        before: what holds for a backbone that nothing is said of; else ``imagenet``.

    Raises:
        ConfigError: a name that is none of ``backbones``, no value, or two values for all.
    """
    common: str | None = None
    special: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (value if equals else text):
            raise ConfigError(f"--weights {text!r}: say imagenet, random, or a file or folder of checkpoints")
        if equals and "/" not in name:
            if name not in backbones:
                near = did_you_mean(name, backbones)
                raise ConfigError(f"--weights {text}: no backbone of this run is called {name!r}. {near}")
            special[name] = value
        elif common not in (None, text):
            raise ConfigError(f"--weights was given twice for all backbones: {common} and {text}; say NAME={text}")
        else:
            common = text
    default = before or {}
    chosen = {name: special.get(name, common or default.get(name, "imagenet")) for name in backbones}
    return {name: _word_or_path(value) for name, value in chosen.items()}


def _word_or_path(value: str) -> str:
    word = re.fullmatch(r"[\w-]+", value) is not None and not Path(value).exists()
    return value if word or value in ("imagenet", "random") else str(paths.absolute(value))
