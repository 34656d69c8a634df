"""What pytest-benchmark measured, from its JSON files or its own hooks: one measurement set a benchmark."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import MeasurementError
from harness.results import Environment, Measurement, MeasurementSet

__all__ = ["SUITE", "read_file", "to_set"]

SUITE = "pytest-benchmark"
_UNKNOWN = "unknown"
_NO_COMMIT = ("unversioned", "unknown")  # as pytest-benchmark says where it finds none


def read_file(path: Path, label: str | None) -> list[MeasurementSet]:
    """Read a file of ``--benchmark-json``, or of ``--benchmark-save`` with ``--benchmark-save-data``.

    Args:
        path: the file.
        label: of the sets; None takes the commit that the file names.

    Raises:
        MeasurementError: it is no such file, or holds no benchmarks, no samples, or no commit where it is to be the
            label.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MeasurementError(f"{path} cannot be read: {error}") from error
    try:
        benchmarks, machine, commit = content["benchmarks"], content["machine_info"], content.get("commit_info")
        found = [to_set(one, machine, commit, label or "") for one in benchmarks]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MeasurementError(f"{path} is no file of pytest-benchmark's: {error!r} is not as it writes it") from error
    except MeasurementError as error:
        raise MeasurementError(f"{path}: {error}") from error
    if not found:
        raise MeasurementError(f"{path} holds no benchmarks")
    if label is None:
        if found[0].commit is None:
            raise MeasurementError(f"{path} names no commit to record it under; say --label NAME")
        return [replace(one, label=one.commit or "") for one in found]
    return found


def to_set(
    benchmark: Mapping[str, Any], machine: Mapping[str, Any], commit: Mapping[str, Any] | None, label: str
) -> MeasurementSet:
    """Return one benchmark as a measurement set.

    Args:
        benchmark: as ``pytest_benchmark.stats.Metadata.as_dict`` gives it, with data.
        machine: its ``machine_info``; a version of torch is in it where harness's plugin was there.
        commit: its ``commit_info``.
        label: of the set.

    Raises:
        MeasurementError: there are no samples, or some are no times.
        KeyError, TypeError: something is not as pytest-benchmark writes it.
    """
    name, stats = str(benchmark["fullname"]), benchmark["stats"]
    if not stats.get("data"):
        raise MeasurementError(
            f"{name} was saved without its samples; use --benchmark-json, or --benchmark-save with "
            "--benchmark-save-data"
        )
    seconds = np.asarray(stats["data"], np.float64)
    if not (np.isfinite(seconds).all() and (seconds >= 0).all()):
        raise MeasurementError(f"{name} has samples that are no times")
    cpu = machine.get("cpu") or {}
    device = str(cpu.get("brand_raw") or machine.get("processor") or _UNKNOWN)
    environment = Environment(
        "cpu",
        device,
        str(machine.get("python_version", _UNKNOWN)),
        str(machine.get("torch", _UNKNOWN)),
        {"machine_info": _plain(machine), "git": _git(commit)},
    )
    latency = Measurement(
        "latency", "s", seconds, device, details={"flags": [], "iterations": int(stats.get("iterations", 1))}
    )
    return MeasurementSet(
        label=label,
        suite=SUITE,
        name=name,
        config={"benchmark": name, "group": benchmark.get("group"), "params": _plain(benchmark.get("params"))},
        environment=environment,
        measurements=(latency,),
        commit=git["commit"] if (git := _git(commit)) else None,
    )


def _git(commit: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not commit or commit.get("id") in (None, "", *_NO_COMMIT):
        return None
    return {"commit": str(commit["id"]), "dirty": bool(commit.get("dirty"))}


def _plain(value: Any) -> Any:
    """Return what JSON can hold: parameters of a test may be any objects."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    plain = value is None or isinstance(value, str | int | bool) or (isinstance(value, float) and math.isfinite(value))
    return value if plain else repr(value)
