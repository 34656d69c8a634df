"""What a user wants compared, found in the database. No printing, and no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.analysis.compare import Comparison, compare
from harness.errors import MeasurementError
from harness.results import Environment, Measurement
from harness.store import Store

__all__ = ["Side", "compare_sides", "find"]

_NUMBERED = re.compile(r"(set|run):(\d+)")


@dataclass(frozen=True)
class Side:
    """Times of one thing, measured in one or several processes.

    ``name`` says what was measured, ``conditions`` under which of them it may be compared.
    """

    name: str
    conditions: dict[str, str]
    batch_size: int | None
    processes: tuple[NDArray[np.float64], ...]


def find(store: Store, said: str) -> dict[str, Side]:
    """Find what ``said`` means: a label of measurement sets, ``set:N`` or ``run:N``.

    Returns:
        By name. Sets of the same name are processes of one side.

    Raises:
        MeasurementError: there is no such thing, or it holds no times.
    """
    found: dict[str, Side] = {}
    for side in _sides(store, said):
        known = found.get(side.name)
        if known is not None and known.conditions != side.conditions:
            raise MeasurementError(f"{said}: its sets of {side.name} were not all measured under the same conditions")
        found[side.name] = replace(side, processes=(*known.processes, *side.processes)) if known else side
    if not found:
        raise MeasurementError(f"{said!r}: no times are stored under that label; name a label, set:N or run:N")
    return found


def _sides(store: Store, said: str) -> Iterator[Side]:
    numbered = _NUMBERED.fullmatch(said)
    if numbered and numbered[1] == "run":
        run = store.run(int(numbered[2]))
        for one in run.measurements:
            if one.name == "latency":
                name = f"{run.backbone} inference {run.config['precision']} batch {one.batch_size}"
                yield from _side(name, run.environment, one)
        return
    sets = store.sets.read(ids=[int(numbered[2])]) if numbered else store.sets.read(label=said)
    for record in sets:
        latency = record.measurement("latency")
        if latency is not None:
            yield from _side(record.name, record.environment, latency)


def _side(name: str, environment: Environment | None, latency: Measurement) -> Iterator[Side]:
    if len(latency.samples):
        conditions = {"device": latency.device, "torch": environment.torch if environment else "unknown"}
        yield Side(name, conditions, latency.batch_size, (latency.samples,))


def compare_sides(
    base: dict[str, Side], head: dict[str, Side], *, margin: float, anyway: bool
) -> Iterator[tuple[str, str, Comparison]]:
    """Compare what both sides hold under the same name; where each holds one thing alone, these.

    Yields:
        The name of base's, that of head's, and how they compare.

    Raises:
        MeasurementError: they hold nothing in common, or were measured under other conditions without ``anyway``.
    """
    pairs = [(base[name], head[name]) for name in base if name in head]
    if not pairs and len(base) == len(head) == 1:
        pairs = [(next(iter(base.values())), next(iter(head.values())))]
    if not pairs:
        raise MeasurementError(
            f"nothing was measured on both sides: {_listed(base)} on one, {_listed(head)} on the other"
        )
    for one, other in pairs:
        reasons = [
            f"{what} ({one.conditions[what]} and {other.conditions[what]})"
            for what in one.conditions
            if one.conditions[what] != other.conditions[what]
        ]
        if one.name != other.name:
            reasons.append(f"what was measured ({one.name} and {other.name})")
        if reasons and not anyway:
            raise MeasurementError(
                f"{one.name}: the two differ in {' and '.join(reasons)}, so their ratio says nothing of the code; "
                "--anyway compares them all the same"
            )
        yield one.name, other.name, compare(one.processes, other.processes, margin)


def _listed(sides: Sequence[str] | dict[str, Side]) -> str:
    return ", ".join(sides)
