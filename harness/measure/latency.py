"""Latency: samples, and what the machine did while they were taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from harness.measure.rule import Rule
from harness.measure.sampling import sample
from harness.measure.sensors import Absent, Sensors, sensors_of
from harness.results import Measurement

__all__ = ["Watch", "measure_latency"]


class Watch:
    """What the machine does from now on, while samples are taken.

    Args:
        device: whose sensors are read; this begins with a look at what it works on already.
    """

    def __init__(self, device: torch.device) -> None:
        self._details: dict[str, Any] = {"flags": []}
        self._sensors: Sensors | None = None
        try:
            self._sensors = sensors_of(device)
            busy = self._sensors.busy()
            self._details["flags"] += [busy] if busy else []
            self._sensors.start()
        except Absent as why:
            self._details["sensors_absent"] = str(why)

    def read(self) -> None:
        """Read the sensors, if that was not done a moment ago; never while something is timed."""
        if self._sensors:
            self._sensors.read()

    def end(self) -> dict[str, Any]:
        """Return the sensors' ``readings``, and in ``flags`` what spoils the samples."""
        if self._sensors:
            self._details["flags"] += self._sensors.flags()
            self._details["readings"] = self._sensors.readings()
        return self._details


def measure_latency(
    call: Callable[[], object], batch_size: int, device: torch.device, device_name: str, rule: Rule
) -> Measurement:
    """Time a call that works on a batch, alone on the device.

    Returns:
        A measurement called ``latency``, in seconds a batch. Its details say how many calls were its ``warm_up``,
        whether they had made it ``stable``, why sampling ``stopped``, the median's relative ``error``, the sensors'
        ``readings``, and in ``flags`` what spoils the samples.
    """
    watch = Watch(device)
    found = sample(call, device, rule, watch.read)
    details = {"warm_up": found.warm_up, "stable": found.stable, "stopped": found.stopped, "error": found.error}
    return Measurement("latency", "s", found.seconds, device_name, batch_size=batch_size, details=watch.end() | details)
