"""Latency: samples, and what the machine did while they were taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from harness.measure.rule import Rule
from harness.measure.sampling import sample
from harness.measure.sensors import Absent, Sensors, sensors_of
from harness.results import Measurement

__all__ = ["measure_latency"]


def measure_latency(
    call: Callable[[], object], batch_size: int, device: torch.device, device_name: str, rule: Rule
) -> Measurement:
    """Time a call that works on a batch, alone on the device.

    Returns:
        A measurement called ``latency``, in seconds a batch. Its details say how many calls were its ``warm_up``,
        whether they had made it ``stable``, why sampling ``stopped``, the median's relative ``error``, the sensors'
        ``readings``, and in ``flags`` what spoils the samples.
    """
    details: dict[str, Any] = {"flags": []}
    sensors: Sensors | None = None
    try:
        sensors = sensors_of(device)
        busy = sensors.busy()
        details["flags"] += [busy] if busy else []
        sensors.start()
    except Absent as why:
        details["sensors_absent"] = str(why)
    found = sample(call, device, rule, sensors.read if sensors else lambda: None)
    details |= {"warm_up": found.warm_up, "stable": found.stable, "stopped": found.stopped, "error": found.error}
    if sensors:
        details["flags"] += sensors.flags()
        details["readings"] = sensors.readings()
    return Measurement("latency", "s", found.seconds, device_name, batch_size=batch_size, details=details)
