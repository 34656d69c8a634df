"""One backbone as MLPerf's LoadGen tests it: one of its scenarios, with images that are on the device already.

LoadGen issues queries from a thread of its own. This one takes up to ``batch_size`` of the samples that wait, without
waiting for more, computes them in one batch, waits for the device, and tells LoadGen that they are complete. So only a
server's queries share batches, and those of a multi-stream query or of the offline one are cut into them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.config import QUERY_SAMPLES, ScenarioConfig, ScenarioTask
from harness.engine.bench import CLASSES, INPUTS, Loaded, load, random_batches, refuse_nan
from harness.engine.loadgen import Test, make_settings, read_latencies, read_verdict
from harness.engine.stage import forward
from harness.measure.clock import now, synchronize
from harness.measure.latency import Watch
from harness.measure.rule import Rule
from harness.measure.sampling import sample
from harness.results import Event, Measurement, Progress

__all__ = ["execute"]

_ESTIMATE = Rule(error=0.05, longest=1.0)
_WARM_UP_SECONDS = 5.0
_TELL_SECONDS = 1.0


def execute(task: ScenarioTask, emit: Callable[[Event], None], _stopping: Callable[[], bool] = lambda: False) -> None:
    """Run a test, handing every result to ``emit``.

    Args:
        task: what to test.
        emit: called with a :class:`~harness.results.RunSetup`, then with measurements: ``latency`` and
            ``loadgen_result``, in the offline scenario ``sample_latency``, in the server's ``scheduled_samples``.

    Raises:
        HarnessError: it cannot be tested as asked.
        MemoryError: a batch does not fit.
    """
    config = task.config
    loaded = load(config, emit)
    compute = _computation(loaded, config)
    emit(Progress("warm-up", 0, 1))
    seconds = _warm_up(compute, config, loaded.device)
    settings = make_settings(config, seconds, task.folder)
    watch = Watch(loaded.device)
    with Test(settings, task.folder, INPUTS * config.batch_size) as test:
        _serve(test, compute, config, emit, watch)
    conditions = watch.end()
    verdict = read_verdict(config.scenario, task.folder)
    queries, samples = read_latencies(config.scenario, task.folder)

    def measured(name: str, unit: str, values: NDArray[np.float64], batch_size: int, details: dict[str, Any]) -> None:
        emit(Measurement(name, unit, values, loaded.environment.device_name, batch_size, details=details))

    source = {"source": "LoadGen's trace"}
    if config.scenario == "offline":  # whose only query takes all the time: what can be compared is how fast it goes
        measured("latency", "s", _of_batches(samples, config.batch_size), config.batch_size, conditions | source)
        measured("sample_latency", "s", samples, 1, source)
    else:
        of_query = QUERY_SAMPLES if config.scenario == "multi-stream" else 1
        measured("latency", "s", queries, of_query, conditions | source)
    result, *others = verdict.metrics
    said = {"metric": result.words} | asdict(verdict)
    del said["metrics"]
    measured("loadgen_result", result.unit, np.array([result.value]), config.batch_size, said)
    for other in others:
        measured("scheduled_samples", other.unit, np.array([other.value]), config.batch_size, {"metric": other.words})


def _computation(loaded: Loaded, config: ScenarioConfig) -> Callable[[int], Tensor]:
    """Return what computes logits of so many random images, which take turns, and waits for them."""
    module = loaded.module.eval()
    batches = cycle(random_batches(config.batch_size, loaded.backbone.input_size, loaded.device))

    def compute(images: int) -> Tensor:
        with torch.inference_mode():
            inputs = (next(batches)[:images],)
            logits, _ = forward(module, inputs, loaded.backbone, CLASSES, config.precision)
        synchronize(loaded.device)
        return logits

    return compute


def _warm_up(compute: Callable[[int], Tensor], config: ScenarioConfig, device: torch.device) -> float:
    """Compute until it is as fast as it will be, and return the least seconds that a batch took."""
    refuse_nan(compute(config.batch_size), config.backbone)
    if config.scenario == "server":  # batches of any size will come, and the first of a size takes longer
        begin = now()
        for images in range(1, config.batch_size):
            if now() - begin < _WARM_UP_SECONDS:
                compute(images)
    return float(sample(partial(compute, config.batch_size), device, _ESTIMATE).seconds.min())


def _serve(
    test: Test, compute: Callable[[int], Tensor], config: ScenarioConfig, emit: Callable[[Event], None], watch: Watch
) -> None:
    """Compute what LoadGen asks for, until the test has ended. Sensors are read once a second, which takes a moment."""
    begin = told = now()
    while (images := test.take(config.batch_size, _TELL_SECONDS)) is not None:
        if images:
            compute(images)
            test.complete()
        if now() - told >= _TELL_SECONDS:
            told = now()
            watch.read()
            emit(Progress(f"{told - begin:.0f} s of at least {config.duration:g} s", int(told - begin), 0))


def _of_batches(samples: NDArray[np.float64], batch_size: int) -> NDArray[np.float64]:
    """Return the seconds between the completion of one batch and the next; the last is left out if it was smaller."""
    completed, sizes = np.unique(samples, return_counts=True)
    seconds: NDArray[np.float64] = np.diff(completed, prepend=0.0)[sizes == batch_size]
    return seconds
