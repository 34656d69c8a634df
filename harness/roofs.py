"""What this machine can do at most, measured once and kept. No printing, and no torch in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from harness.analysis.roofs import SUITE
from harness.bench import Conditions, execute_task
from harness.config import RoofTask
from harness.errors import MeasurementError
from harness.results import Event, MeasurementSet
from harness.store import Store

__all__ = ["measure_roofs"]


def measure_roofs(device: str, store: Store, conditions: Conditions, watch: Callable[[Event], None]) -> MeasurementSet:
    """Measure the roofs in a process of its own, store and return them.

    Raises:
        MeasurementError: they could not be measured; nothing is stored.
        Stopped: somebody wanted to stop; nothing is stored.
    """
    task = RoofTask(device, conditions.rule)
    environment, _, measurements, failure = execute_task(task, conditions, watch)
    if failure is not None:
        raise MeasurementError(f"--device {device}: {failure.message}")
    record = MeasurementSet(SUITE, SUITE, SUITE, {"device": device}, environment, tuple(measurements))
    return replace(record, id=store.sets.add(record))
