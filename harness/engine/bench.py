"""One backbone measured, without training it: memory, work, time and energy, each in a pass of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from harness import registry
from harness.api import Backbone
from harness.config import BenchConfig, BenchTask, Precision
from harness.engine.device import resolve_device
from harness.engine.model import build
from harness.engine.stage import forward
from harness.errors import MeasurementError
from harness.measure.clock import now, synchronize
from harness.measure.environment import read_environment
from harness.measure.latency import measure_latency
from harness.measure.memory import memory_of, own_memory
from harness.measure.sensors import Absent, sensors_of
from harness.measure.work import measure_work
from harness.results import Environment, Event, Measurement, Note, Progress, RunSetup

__all__ = [
    "CLASSES",
    "INPUTS",
    "Loaded",
    "Prepared",
    "execute",
    "inference",
    "load",
    "prepare",
    "random_batches",
    "refuse_nan",
]

CLASSES = 1000  # of ImageNet, as the backbones that others measure have
INPUTS = 4  # batches that calls take turns with, so that none finds its images in a cache
_ENERGY_SECONDS, _ENERGY_SAMPLES = 1.0, 5


def execute(task: BenchTask, emit: Callable[[Event], None], _stopping: Callable[[], bool] = lambda: False) -> None:
    """Measure, handing every result to ``emit``.

    Args:
        task: what to measure.
        emit: called with a :class:`RunSetup`, then with measurements.

    Raises:
        HarnessError: it cannot be measured as asked.
        MemoryError: a batch does not fit.
    """
    config = task.config
    prepared = prepare(config, emit)
    call, device, environment = prepared.call, prepared.device, prepared.environment

    def measured(name: str, unit: str, values: object, **details: object) -> None:
        samples = np.atleast_1d(np.asarray(values, np.float64))
        emit(Measurement(name, unit, samples, environment.device_name, config.batch_size, details=details))

    for name, size in own_memory(prepared.module).items():
        measured(name, "B", size)
    emit(Progress("memory", 0, 3))
    for name, peak in memory_of(call, device).items():
        measured(name, "B", peak)
    if task.rule is None:
        return
    for one in measure_work(call, config.batch_size, environment.device_name):
        emit(one)
    emit(Progress("time", 1, 3))
    emit(measure_latency(call, config.batch_size, device, environment.device_name, task.rule))
    emit(Progress("energy", 2, 3))
    try:
        measured("energy", "J", _energy(call, config.batch_size, device))
    except Absent as why:
        measured("energy", "J", [], absent=str(why))


@dataclass(frozen=True)
class Loaded:
    """A backbone's network on its device, channels-last."""

    backbone: Backbone
    module: nn.Module
    device: torch.device
    environment: Environment


@dataclass(frozen=True)
class Prepared:
    """A backbone that is ready to be measured: ``call`` works on one batch."""

    call: Callable[[], object]
    module: nn.Module
    device: torch.device
    environment: Environment


def prepare(config: BenchConfig, emit: Callable[[Event], None]) -> Prepared:
    """Build what a config names, hand ``emit`` a :class:`RunSetup`, and try it.

    Raises:
        HarnessError: it cannot be measured as asked.
        MemoryError: a batch does not fit.
    """
    loaded = load(config, emit)
    make = training if config.mode == "train" else inference
    call = make(loaded.module, loaded.backbone, CLASSES, config.batch_size, loaded.device, config.precision)
    refuse_nan(call(), config.backbone)
    return Prepared(call, loaded.module, loaded.device, loaded.environment)


def load(config: BenchConfig, emit: Callable[[Event], None]) -> Loaded:
    """Build the network that a config names, and hand ``emit`` a :class:`RunSetup`.

    Raises:
        HarnessError: it cannot be had as asked.
    """

    def note(text: str) -> None:
        emit(Note(text))

    device = resolve_device(config.device, config.precision, note)
    backbone = registry.load(registry.find("backbone", config.backbone), Backbone)
    module, weights = build(
        backbone,
        config.backbone,
        weights=config.weights,
        classes=CLASSES,
        auxiliary=False,
        seed=0,
        note=note,
    )
    module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    environment = read_environment(device)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    emit(RunSetup(environment, weights, parameters))
    return Loaded(backbone, module, device, environment)


def refuse_nan(computed: object, backbone: str) -> None:
    """Let pass what a network computed.

    Raises:
        MeasurementError: it is not finite.
    """
    if not torch.as_tensor(computed).isfinite().all():
        raise MeasurementError(f"{backbone} gives numbers for random images that are not finite")


def inference(
    module: nn.Module, backbone: Backbone, classes: int, batch_size: int, device: torch.device, precision: Precision
) -> Callable[[], object]:
    """Return a call that computes logits of random images, which are on the device already, in eval mode."""
    module.eval()
    batches = cycle(random_batches(batch_size, backbone.input_size, device))

    def call() -> Tensor:
        with torch.inference_mode():
            logits, _ = forward(module, (next(batches),), backbone, classes, precision)
        return logits

    return call


def training(
    module: nn.Module, backbone: Backbone, classes: int, batch_size: int, device: torch.device, precision: Precision
) -> Callable[[], object]:
    """Return a call that takes a step of SGD with momentum on all layers, at a rate of zero, in train mode."""
    module.train().requires_grad_(True)
    batches = cycle(random_batches(batch_size, backbone.input_size, device))
    labels = torch.arange(batch_size, device=device) % classes
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0, momentum=0.9, fused=True)

    def call() -> Tensor:
        logits, _ = forward(module, (next(batches),), backbone, classes, precision)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return call


def random_batches(batch_size: int, size: int, device: torch.device) -> list[Tensor]:
    """Random float images (batch_size, 3, size, size), channels-last."""
    generator = torch.Generator().manual_seed(0)
    made = (torch.randn(batch_size, 3, size, size, generator=generator) for _ in range(INPUTS))
    return [images.to(device, memory_format=torch.channels_last) for images in made]


def _energy(call: Callable[[], object], batch_size: int, device: torch.device) -> list[float]:
    """Return joules an image, of several spells of a second.

    Raises:
        Absent: the counter cannot be read.
    """
    sensors, found = sensors_of(device), []
    sensors.joules()  # where there is no counter, nothing is worth waiting for
    for _ in range(_ENERGY_SAMPLES):
        before, begin, images = sensors.joules(), now(), 0
        while now() - begin < _ENERGY_SECONDS:
            call()
            synchronize(device)
            images += batch_size
        found.append((sensors.joules() - before) / images)
    return found
