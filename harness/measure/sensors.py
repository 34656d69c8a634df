"""What the machine does while something is measured: clocks, temperature, energy, and what else it works on.

A GPU is asked through NVIDIA's management library, a processor through psutil and, for its energy, Linux's powercap
files (RAPL). What cannot be read is :class:`Absent`, and says why; it is never zero.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from harness.measure.clock import now

__all__ = ["Absent", "Sensors", "sensors_of"]

EVERY_SECONDS = 0.25  # between two readings
OTHERS = 0.1  # share of the device that others may take
STOLEN = 0.02  # share of the processor that a virtual machine's host may withhold
SLOWER = 0.05  # fall of the clock from its highest reading, as a share
IDLE_SECONDS = 0.5
GPU_IDLE_SECONDS = 1.5
RAPL = Path("/sys/class/powercap")
# What NVIDIA calls the reasons that spoil a measurement. Idling and clocks that somebody has set do not.
THROTTLES = {
    "SwPowerCap": "power cap",
    "HwSlowdown": "hardware slowdown",
    "SwThermalSlowdown": "heat, by software",
    "HwThermalSlowdown": "heat, by hardware",
    "HwPowerBrakeSlowdown": "power brake",
}


class Absent(Exception):  # noqa: N818 - it is an answer
    """A sensor cannot be read; the message says why."""


class Sensors(ABC):
    """Those of one device: :meth:`start`, :meth:`read` between samples, then :meth:`flags` and :meth:`readings`."""

    def __init__(self) -> None:
        self._clocks: list[float] = []
        self._degrees: list[float] = []
        self._read = 0.0

    def start(self) -> None:
        """Begin anew."""
        self._clocks, self._degrees, self._read = [], [], 0.0
        self.read()

    def read(self) -> None:
        """Take a reading, if the last one was long enough ago."""
        if now() - self._read >= EVERY_SECONDS:
            self._take()
            self._read = now()

    def flags(self) -> list[str]:
        """Say what spoils the samples taken since the start."""
        fastest = max(self._clocks, default=0.0)
        slowest = min(self._clocks[self._clocks.index(fastest) :] if self._clocks else [], default=0.0)  # after that
        return [f"the clock fell from {fastest:.0f} to {slowest:.0f} MHz"] if slowest < (1 - SLOWER) * fastest else []

    def readings(self) -> dict[str, Any]:
        """Return what was read since the start: medians; without what this device does not tell."""
        found = {"clock_mhz": self._clocks, "temperature_celsius": self._degrees}
        return {name: median(values) for name, values in found.items() if values}

    @abstractmethod
    def busy(self) -> str | None:
        """Say what else the device works on now; None where it is idle."""

    @abstractmethod
    def joules(self) -> float:
        """Read the energy counter.

        Raises:
            Absent: there is none.
        """

    @abstractmethod
    def _take(self) -> None: ...


class _Processor(Sensors):
    def __init__(self) -> None:
        super().__init__()
        self._process = psutil.Process()
        self._zones = dict.fromkeys(sorted(RAPL.glob("intel-rapl:[0-9]")), 0)
        self._joules = 0.0

    def start(self) -> None:
        self._before = self._times()
        super().start()

    def flags(self) -> list[str]:
        total, used, own, stolen = (b - a for a, b in zip(self._before, self._times(), strict=True))
        found = super().flags()
        if total > 0 and used - own > OTHERS * total:
            found.append(f"meanwhile other processes took {(used - own) / total:.0%} of the processor")
        if total > 0 and stolen > STOLEN * total:
            found.append(f"the host of this virtual machine withheld {stolen / total:.0%} of the processor")
        return found

    def busy(self) -> str | None:
        share = psutil.cpu_percent(IDLE_SECONDS) / 100
        return f"before it began, {share:.0%} of the processor was busy with something else" if share > OTHERS else None

    def joules(self) -> float:
        if not self._zones:
            raise Absent(f"this system has no energy counters of its processor ({RAPL}/intel-rapl:0)")
        for zone, last in self._zones.items():
            try:
                value, most = (int((zone / name).read_text()) for name in ("energy_uj", "max_energy_range_uj"))
            except (OSError, ValueError) as error:
                raise Absent(f"the energy counter {zone}/energy_uj cannot be read ({error})") from error
            self._joules += (value - last) % (most + 1) / 1e6  # it begins at zero again when it is full
            self._zones[zone] = value
        return self._joules

    def _take(self) -> None:
        with suppress(AttributeError, OSError, NotImplementedError):  # not on every system
            if frequency := psutil.cpu_freq():
                self._clocks.append(frequency.current)
            for name in ("coretemp", "k10temp", "zenpower"):
                self._degrees += [one.current for one in psutil.sensors_temperatures().get(name, [])[:1]]

    def _times(self) -> tuple[float, float, float, float]:
        machine, process = psutil.cpu_times(), self._process.cpu_times()
        idle, stolen = machine.idle + getattr(machine, "iowait", 0.0), getattr(machine, "steal", 0.0)
        total = sum(machine) - getattr(machine, "guest", 0.0) - getattr(machine, "guest_nice", 0.0)  # in user and nice
        return total, total - idle - stolen, process.user + process.system, stolen


class _Gpu(Sensors):
    def __init__(self, device: torch.device) -> None:
        super().__init__()
        import pynvml

        self._nvml = pynvml
        self._reasons: set[str] = set()
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        except pynvml.NVMLError as error:
            raise Absent(f"NVIDIA's management library cannot be asked ({error})") from error

    def start(self) -> None:
        self._reasons = set()
        super().start()

    def flags(self) -> list[str]:
        return [*super().flags(), *(f"the GPU was slowed down: {reason}" for reason in sorted(self._reasons))]

    def busy(self) -> str | None:
        # The rate is of up to a second that has passed, and so of what this process did itself.
        begin = now()
        while (used := self._ask(self._nvml.nvmlDeviceGetUtilizationRates).gpu / 100) > OTHERS:
            if now() - begin > GPU_IDLE_SECONDS:
                break
            time.sleep(0.05)
        return f"before it began, the GPU was {used:.0%} busy with something else" if used > OTHERS else None

    def joules(self) -> float:
        return float(self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption)) / 1e3

    def _take(self) -> None:
        nvml = self._nvml
        with suppress(Absent):
            self._clocks.append(float(self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM)))
        with suppress(Absent):
            self._degrees.append(float(self._ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU)))
        with suppress(Absent):
            found = self._ask(nvml.nvmlDeviceGetCurrentClocksEventReasons)
            self._reasons |= {
                words for name, words in THROTTLES.items() if found & getattr(nvml, f"nvmlClocksEventReason{name}")
            }

    def _ask(self, question: Callable[..., Any], *details: Any) -> Any:
        try:
            return question(self._handle, *details)
        except self._nvml.NVMLError as error:
            raise Absent(f"{question.__name__}: {error}") from error


def sensors_of(device: torch.device) -> Sensors:
    """Return a device's sensors.

    Raises:
        Absent: they cannot be read.
    """
    return _Gpu(device) if device.type == "cuda" else _Processor()
