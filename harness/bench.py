"""From what a user wants measured to stored measurement sets. No printing, and no torch in this process."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from harness import registry
from harness.config import QUERY_SAMPLES, BenchConfig, BenchTask, RoofTask, ScenarioConfig, ScenarioTask, parse_weights
from harness.errors import ConfigError, Stopped
from harness.launch import OUT_OF_MEMORY, Limits, run_in_child
from harness.measure.rule import Rule
from harness.results import (
    Environment,
    Event,
    Failure,
    Measurement,
    MeasurementSet,
    Note,
    RunSetup,
    SetStatus,
    WeightsRecord,
)
from harness.store import Store

__all__ = ["Conditions", "Request", "execute_task", "make_configs", "measure", "measure_all"]

_OPTIONS = {
    "mode": "--modes",
    "precision": "--precision",
    "batch_size": "--batch-sizes",
    "device": "--device",
    "scenario": "--scenarios",
    "duration": "--duration",
    "target_qps": "--target-qps",
    "latency_bound": "--latency-bound",
}
_LATENCY_BOUND = 15.0  # milliseconds; MLPerf's for ResNet50
_MOST_AT_ONCE = {"single-stream": 1, "multi-stream": QUERY_SAMPLES}


@dataclass(frozen=True)
class Request:
    """What a user asked for, as typed. Without ``scenarios`` what follows them is None."""

    plugins: Sequence[str]
    weights: Sequence[str] = ()
    modes: Sequence[str] = ("inference",)
    precisions: Sequence[str] = ("fp32",)
    batch_sizes: Sequence[str] = ("1", "32")
    device: str = "auto"
    scenarios: Sequence[str] = ()
    duration: float | None = None
    target_qps: float | None = None
    latency_bound: float | None = None


@dataclass(frozen=True)
class Conditions:
    """How things are measured.

    Args:
        rule: when sampling stops.
        limits: what a measurement may take.
        stopping: tells whether somebody wants to stop.
    """

    rule: Rule
    limits: Limits
    stopping: Callable[[], bool]


def make_configs(request: Request) -> list[BenchConfig]:
    """Resolve a request into one config a process.

    Raises:
        HarnessError: anything of it cannot be used.
    """
    plugins = [registry.find("backbone", name) for name in dict.fromkeys(request.plugins)]
    if not plugins:
        raise ConfigError("--plugins: name at least one backbone, for example --plugins resnet18")
    names = [plugin.name for plugin in plugins]
    weights = parse_weights(request.weights or ["random"], names, {})
    for name, value in weights.items():
        if Path(value).is_absolute() and not Path(value).exists():
            raise ConfigError(f"--weights {name}={value}: there is no such file or folder")
    _refuse_options(request)
    try:
        configs = [
            _config(
                {
                    "backbone": name,
                    "weights": weights[name],
                    "mode": mode,
                    "precision": precision,
                    "batch_size": batch_size,
                    "device": request.device,
                },
                scenario,
                request,
            )
            for name in names
            for mode in dict.fromkeys(request.modes)
            for precision in dict.fromkeys(request.precisions)
            for scenario in dict.fromkeys(request.scenarios or (None,))
            for batch_size in dict.fromkeys(request.batch_sizes)
        ]
        return list({config.model_dump_json(): config for config in configs}.values())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = _OPTIONS[str(first["loc"][0])]
        raise ConfigError(f"{option} {first['input']}: {first['msg'].lower()}") from error


def _config(values: dict[str, Any], scenario: str | None, request: Request) -> BenchConfig:
    if scenario is None:
        return BenchConfig.model_validate(values)
    bound = _LATENCY_BOUND if request.latency_bound is None else request.latency_bound
    config = ScenarioConfig.model_validate(
        values
        | {"scenario": scenario}
        | ({} if request.duration is None else {"duration": request.duration})
        | ({"target_qps": request.target_qps, "latency_bound": bound} if scenario == "server" else {})
    )
    most = min(config.batch_size, _MOST_AT_ONCE.get(scenario, config.batch_size))
    return config.model_copy(update={"batch_size": most})


def _refuse_options(request: Request) -> None:
    """Let pass options of LoadGen's scenarios that belong together.

    Raises:
        ConfigError: they do not, or LoadGen is not installed.
    """
    of_scenarios = {"duration": request.duration, "target_qps": request.target_qps}
    of_scenarios["latency_bound"] = request.latency_bound
    if not request.scenarios:
        for name, value in of_scenarios.items():
            if value is not None:
                raise ConfigError(f"{_OPTIONS[name]} {value:g} belongs to --scenarios, which was not given")
        return
    if find_spec("mlperf_loadgen") is None:
        raise ConfigError("--scenarios needs MLPerf's LoadGen; run: pip install mlcommons-loadgen")
    if set(request.modes) != {"inference"}:
        raise ConfigError(f"--modes {','.join(request.modes)}: LoadGen's scenarios are of inference alone")
    for name in ("target_qps", "latency_bound"):
        value = of_scenarios[name]
        if value is not None and "server" not in request.scenarios:
            raise ConfigError(f"{_OPTIONS[name]} {value:g} belongs to the scenario `server`, which was not asked for")
    if "server" in request.scenarios and request.target_qps is None:
        raise ConfigError("--scenarios server: say with --target-qps how many queries a second the server is to get")


def measure_all(
    configs: Sequence[BenchConfig],
    store: Store,
    label: str,
    conditions: Conditions,
    watch: Callable[[int, Event | None], None],
) -> Iterator[MeasurementSet]:
    """Measure each config in a process of its own, store what came of it, and yield it.

    A config that completed under this label before is not measured again, unless it is here more often.

    Args:
        configs: what to measure, in this order.
        store: where it is recorded.
        label: of the sets.
        conditions: how to measure.
        watch: told of each event, by the position of its config; None when one begins.

    Raises:
        Stopped: somebody wanted to stop; what was measured before is stored.
    """
    known = [found for found in store.sets.read(label=label) if found.status == "completed"]
    for index, config in enumerate(configs):
        watch(index, None)
        asked = config.suite, config.model_dump(mode="json")
        before = next((found for found in known if (found.suite, found.config) == asked), None)
        if before is not None:
            known.remove(before)
            watch(index, Note(f"measured already under this label, as set {before.id}"))
            yield before
            continue
        record = replace(measure(config, conditions, partial(watch, index)), label=label)
        yield replace(record, id=store.sets.add(record))


def measure(config: BenchConfig, conditions: Conditions, watch: Callable[[Event], None]) -> MeasurementSet:
    """Measure a config in a process of its own; what came of it has no label yet, and is not stored.

    Raises:
        Stopped: somebody wanted to stop.
    """
    with _task(config, conditions.rule) as task:
        environment, weights, measurements, failure = execute_task(task, conditions, watch)
    status: SetStatus = "completed"
    message = ""
    if failure is not None:
        status, message = "failed", failure.message
        if failure.kind == OUT_OF_MEMORY:
            status = "out of memory"
            most = _most_that_fits(config, conditions, watch)
            message = f"a batch of {config.batch_size} does not fit; the largest that does has {most} images"
    plugin = registry.find("backbone", config.backbone)
    git = environment.details["git"] if environment else None
    return MeasurementSet(
        label="",
        suite=config.suite,
        name=config.name,
        config=config.model_dump(mode="json"),
        environment=environment,
        measurements=tuple(measurements),
        plugins=(plugin.record,),
        weights=weights,
        status=status,
        message=message,
        commit=git["commit"] if git else None,
    )


@contextmanager
def _task(config: BenchConfig, rule: Rule) -> Iterator[BenchTask | ScenarioTask]:
    if not isinstance(config, ScenarioConfig):
        yield BenchTask(config, rule)
        return
    with TemporaryDirectory(prefix="harness-loadgen-") as folder:
        yield ScenarioTask(config, Path(folder))


def execute_task(
    task: BenchTask | ScenarioTask | RoofTask, conditions: Conditions, watch: Callable[[Event], None]
) -> tuple[Environment | None, WeightsRecord | None, list[Measurement], Failure | None]:
    """Execute a measurement in a process of its own, and return what it said.

    Raises:
        Stopped: somebody wanted to stop.
    """
    environment, weights, measurements, failure = None, None, [], None
    with closing(run_in_child(task, conditions.limits)) as events:
        for event in events:
            if conditions.stopping():  # half a measurement is none
                raise Stopped
            match event:
                case None:
                    continue
                case Environment():
                    environment = event
                case RunSetup():
                    environment, weights = event.environment, event.weights
                case Measurement():
                    measurements.append(event)
                case Failure():
                    failure = event
            watch(event)
    return environment, weights, measurements, failure


def _most_that_fits(config: BenchConfig, conditions: Conditions, watch: Callable[[Event], None]) -> int:
    """Search for the largest batch, each tried in a process of its own; 0 where not even one image fits."""

    def fits(batch_size: int) -> bool:
        watch(Note(f"memory does not suffice; tries a batch of {batch_size}"))
        smaller = config.model_copy(update={"batch_size": batch_size})
        *_, failure = execute_task(BenchTask(smaller, rule=None), conditions, lambda _event: None)
        return failure is None

    return bisect_left(range(1, config.batch_size), x=True, key=lambda batch_size: not fits(batch_size))
