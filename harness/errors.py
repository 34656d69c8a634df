"""Every exception that harness raises on purpose.

HarnessError                 one clear message for a person; the command line prints it without a traceback
├── ConfigError              an option, a --set key or a recipe that cannot be used
├── PluginError              a plugin that cannot be used
│   ├── PluginNotFoundError  no plugin of that name is installed
│   └── BrokenPluginError    it is installed, but loading it failed; carries the plugin's own traceback
├── DataError                images or a data set that cannot be used
├── WeightsError             pretrained weights that cannot be had or do not fit
├── DeviceError              a device or precision that this machine does not offer
├── MeasurementError         a measurement that cannot be taken
├── TrainingError            training that went wrong: a loss that is no number any more
└── StoreError               a results database that cannot be read or written
    └── RunTakenOverError    a run that another process executes by now
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BrokenPluginError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "HarnessError",
    "MeasurementError",
    "PluginError",
    "PluginNotFoundError",
    "RunTakenOverError",
    "Stopped",
    "StoreError",
    "TrainingError",
    "WeightsError",
    "did_you_mean",
]


class Stopped(BaseException):
    """The run was asked to stop, and did. No error, and out of reach of a plugin's ``except Exception``."""


class HarnessError(Exception):
    """Root of the tree: what went wrong, where, and what to do about it, in words for the user.

    ``exit_code`` is the command line's.
    """

    exit_code: int = 2


class ConfigError(HarnessError):
    """An option, a ``--set`` key or a recipe file that cannot be used."""


class PluginError(HarnessError):
    """A plugin that cannot be used."""


class PluginNotFoundError(PluginError):
    """No installed plugin has that name."""


class BrokenPluginError(PluginError):
    """An installed plugin failed while it was loaded.

    ``details`` holds the plugin's own traceback, which is shown to the user in full.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details

    def __reduce__(self) -> tuple[type[BrokenPluginError], tuple[str, str]]:
        return type(self), (str(self), self.details)


class DataError(HarnessError):
    """Images or a data set that cannot be used."""


class WeightsError(HarnessError):
    """Pretrained weights that cannot be had, or that do not fit the network."""


class DeviceError(HarnessError):
    """A device or a precision that this machine does not offer."""


class MeasurementError(HarnessError):
    """A measurement that cannot be taken, or compared."""


class TrainingError(HarnessError):
    """Training that went wrong for reasons of its recipe."""


class StoreError(HarnessError):
    """A results database that cannot be read or written."""


class RunTakenOverError(StoreError):
    """Another process has taken the one that executed a run for gone, and executes it now."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return a sentence that offers the nearest of ``choices``, or lists them all."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    listed = f"Available: {', '.join(known)}." if known else "None is available."
    return f"Did you mean {' or '.join(near)}? {listed}" if near else listed
