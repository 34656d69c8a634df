"""From what a user wants measured to stored measurement sets. No printing, and no torch in this process."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from harness import registry
from harness.config import BenchConfig, BenchTask, parse_weights
from harness.errors import ConfigError, Stopped
from harness.launch import OUT_OF_MEMORY, Limits, run_in_child
from harness.measure.rule import Rule
from harness.results import Event, Failure, Measurement, MeasurementSet, Note, RunSetup, SetStatus
from harness.store import Store

__all__ = ["Conditions", "Request", "make_configs", "measure_all"]

SUITE = "bench"
_OPTIONS = {"mode": "--modes", "precision": "--precision", "batch_size": "--batch-sizes", "device": "--device"}


@dataclass(frozen=True)
class Request:
    """What a user asked for, as typed."""

    plugins: Sequence[str]
    weights: Sequence[str] = ()
    modes: Sequence[str] = ("inference",)
    precisions: Sequence[str] = ("fp32",)
    batch_sizes: Sequence[str] = ("1", "32")
    device: str = "auto"


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
    try:
        return [
            BenchConfig.model_validate(
                {
                    "backbone": name,
                    "weights": weights[name],
                    "mode": mode,
                    "precision": precision,
                    "batch_size": batch_size,
                    "device": request.device,
                }
            )
            for name in names
            for mode in dict.fromkeys(request.modes)
            for precision in dict.fromkeys(request.precisions)
            for batch_size in dict.fromkeys(request.batch_sizes)
        ]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = _OPTIONS[str(first["loc"][0])]
        raise ConfigError(f"{option} {first['input']}: {first['msg'].lower()}") from error


def measure_all(
    configs: Sequence[BenchConfig],
    store: Store,
    label: str,
    conditions: Conditions,
    watch: Callable[[int, Event | None], None],
) -> Iterator[MeasurementSet]:
    """Measure each config in a process of its own, store what came of it, and yield it.

    A config that completed under this label before is not measured again.

    Args:
        configs: what to measure, in this order.
        store: where it is recorded.
        label: of the sets.
        conditions: how to measure.
        watch: told of each event, by the position of its config; None when one begins.

    Raises:
        Stopped: somebody wanted to stop; what was measured before is stored.
    """
    known = {found.name: found for found in store.sets.read(label=label, suite=SUITE) if found.status == "completed"}
    for index, config in enumerate(configs):
        watch(index, None)
        before = known.get(config.name)
        if before is not None and before.config == config.model_dump(mode="json"):
            watch(index, Note(f"measured already under this label, as set {before.id}"))
            yield before
            continue
        record = replace(_measure(config, conditions, partial(watch, index)), label=label)
        yield replace(record, id=store.sets.add(record))


def _measure(config: BenchConfig, conditions: Conditions, watch: Callable[[Event], None]) -> MeasurementSet:
    setup, measurements, failure = _execute(BenchTask(config, conditions.rule), conditions, watch)
    status: SetStatus = "completed"
    message = ""
    if failure is not None:
        status, message = "failed", failure.message
        if failure.kind == OUT_OF_MEMORY:
            status = "out of memory"
            most = _most_that_fits(config, conditions, watch)
            message = f"a batch of {config.batch_size} does not fit; the largest that does has {most} images"
    plugin = registry.find("backbone", config.backbone)
    git = setup.environment.details["git"] if setup else None
    return MeasurementSet(
        label="",
        suite=SUITE,
        name=config.name,
        config=config.model_dump(mode="json"),
        environment=setup.environment if setup else None,
        measurements=tuple(measurements),
        plugins=(plugin.record,),
        weights=setup.weights if setup else None,
        status=status,
        message=message,
        commit=git["commit"] if git else None,
    )


def _execute(
    task: BenchTask, conditions: Conditions, watch: Callable[[Event], None]
) -> tuple[RunSetup | None, list[Measurement], Failure | None]:
    setup, measurements, failure = None, [], None
    with closing(run_in_child(task, conditions.limits)) as events:
        for event in events:
            if conditions.stopping():  # half a measurement is none
                raise Stopped
            match event:
                case None:
                    continue
                case RunSetup():
                    setup = event
                case Measurement():
                    measurements.append(event)
                case Failure():
                    failure = event
            watch(event)
    return setup, measurements, failure


def _most_that_fits(config: BenchConfig, conditions: Conditions, watch: Callable[[Event], None]) -> int:
    """Search for the largest batch, each tried in a process of its own; 0 where not even one image fits."""

    def fits(batch_size: int) -> bool:
        watch(Note(f"memory does not suffice; tries a batch of {batch_size}"))
        smaller = config.model_copy(update={"batch_size": batch_size})
        _, _, failure = _execute(BenchTask(smaller, rule=None), conditions, lambda _event: None)
        return failure is None

    return bisect_left(range(1, config.batch_size), x=True, key=lambda batch_size: not fits(batch_size))
