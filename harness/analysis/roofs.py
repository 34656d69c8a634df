"""How far a measurement lies below what its machine can do at most, and what holds it there. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.results import Environment, Measurement, MeasurementSet, Run

__all__ = ["SUITE", "Bottleneck", "Placed", "Roofs", "place", "place_run", "place_sets", "roofs_of"]

Bottleneck = Literal["compute", "memory", "launch", "transfer", "decode"]
SUITE = "roofs"  # of the measurement sets
IMAGE_BYTES = 224 * 224 * 3  # as they come to the device, of uint8


@dataclass(frozen=True)
class Roofs:
    """What a machine can do at most. A roof that could not be measured is None, or missing.

    Args:
        flops: FLOP/s of a matrix product, by precision.
        copy: bytes a second, read and written.
        launch: operators a second.
        host_to_device: bytes a second.
        decode: images a second, of all cores.
        spoilt: whether something has spoilt them, so that the machine can do more.
    """

    flops: Mapping[str, float]
    copy: float | None
    launch: float | None
    host_to_device: float | None
    decode: float | None
    spoilt: bool = False


@dataclass(frozen=True)
class Placed:
    """Where a call lies.

    Args:
        least: seconds that each resource alone would need for it.
        bottleneck: the resource that needs the longest.
        fraction: its share of the time that the call took.
        fed: how it would be fed slower than it computes, were its images copied to the device (``transfer``) or
            decoded on all cores (``decode``) for each call; None where both are faster.
        spoilt: whether the roofs are.
    """

    least: Mapping[Bottleneck, float]
    bottleneck: Bottleneck
    fraction: float
    fed: Bottleneck | None
    spoilt: bool = False


def roofs_of(sets: Sequence[MeasurementSet], environment: Environment | None) -> Roofs | None:
    """Return the newest roofs that were measured on the same device with as many threads and the same torch.

    Args:
        sets: of the suite :data:`SUITE`, the newest last.
        environment: of what is to be held against them.
    """
    if environment is None:
        return None
    for one in reversed(sets):
        if one.environment is None or _conditions(one.environment) != _conditions(environment):
            continue
        rates = {found.name: float(np.median(found.samples)) for found in one.measurements if len(found.samples)}
        cores = one.environment.details["cpu_usable"] or 1
        return Roofs(
            {name.removeprefix("matmul_"): rate for name, rate in rates.items() if name.startswith("matmul_")},
            rates.get("copy"),
            rates.get("launch"),
            rates.get("host_to_device"),
            cores * rates["decode"] if "decode" in rates else None,
            any(found.details.get("flags") for found in one.measurements),
        )
    return None


def _conditions(environment: Environment) -> tuple[object, ...]:
    return environment.device, environment.device_name, environment.torch, environment.details.get("threads")


def place_sets(records: Iterable[MeasurementSet], roofs: Sequence[MeasurementSet]) -> dict[int, Placed]:
    """Say where backbones' times lie, by the sets' numbers; without those whose roofs or work are not known."""
    found: dict[int, Placed] = {}
    for record in records:
        known = roofs_of(roofs, record.environment)
        if known is None or record.id is None or "precision" not in record.config:
            continue
        placed = place(record.measurements, record.config["batch_size"], record.config["precision"], known)
        if placed is not None:
            found[record.id] = placed
    return found


def place_run(run: Run, roofs: Sequence[MeasurementSet]) -> dict[int, Placed]:
    """Say where a run's latencies lie, by batch size; without those whose roofs or work are not known."""
    known = roofs_of(roofs, run.environment)
    sizes = sorted({one.batch_size for one in run.measurements if one.name == "latency" and one.batch_size})
    found = {size: place(run.measurements, size, run.config["precision"], known) for size in sizes if known}
    return {size: placed for size, placed in found.items() if placed is not None}


def place(measurements: Sequence[Measurement], batch_size: int, precision: str, roofs: Roofs) -> Placed | None:
    """Hold a call's time against its work and the machine's roofs; None where either is not known.

    The bytes are those of every operator's tensors. Where memory would need longer for them than the call took, caches
    or fusing have saved them, so memory does not hold the call up and is left out.
    """
    one = {found.name: found for found in measurements if found.batch_size == batch_size and len(found.samples)}
    if "latency" not in one:
        return None
    seconds = float(np.median(one["latency"].samples))
    rates: dict[Bottleneck, tuple[str, float | None]] = {
        "compute": ("flops", roofs.flops.get(precision)),
        "memory": ("moved_bytes", roofs.copy),
        "launch": ("kernels", roofs.launch),
    }
    least: dict[Bottleneck, float] = {
        resource: float(one[name].samples[0]) / rate for resource, (name, rate) in rates.items() if name in one and rate
    }
    if least.get("memory", 0.0) > seconds:
        del least["memory"]
    if not least:
        return None
    bottleneck = max(least, key=lambda resource: least[resource])
    feeding: dict[Bottleneck, float] = {}
    if roofs.decode:
        feeding["decode"] = batch_size / roofs.decode
    if roofs.host_to_device:
        feeding["transfer"] = batch_size * IMAGE_BYTES / roofs.host_to_device
    slowest = max(feeding, key=lambda resource: feeding[resource], default=None)
    fed = slowest if slowest is not None and feeding[slowest] > seconds else None
    return Placed(least | feeding, bottleneck, least[bottleneck] / seconds, fed, roofs.spoilt)
