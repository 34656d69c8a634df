"""What a user wants compared, found in the database. No printing, and no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.analysis.compare import Comparison, compare
from harness.errors import MeasurementError
from harness.results import Environment, Measurement, MeasurementSet
from harness.store import Store

__all__ = ["Side", "compare_sides", "find", "refuse_other_conditions", "side_of"]

_NUMBERED = re.compile(r"(set|run):(\d+)")


@dataclass(frozen=True)
class Side:
    """Times of one thing, measured in one or several processes.

    ``name`` says what was measured, ``conditions`` under which of them it may be compared, ``spoilt`` whether something
    has spoilt samples.
    """

    name: str
    conditions: dict[str, str]
    batch_size: int | None
    processes: tuple[NDArray[np.float64], ...]
    spoilt: bool = False

    @property
    def medians(self) -> list[float]:
        """Of each process."""
        return [float(np.median(samples)) for samples in self.processes]


def find(store: Store, said: str) -> dict[str, Side]:
    """Find what ``said`` means: a label of measurement sets, ``set:N``, ``run:N``, or ``commit:SHA`` (its beginning).

    Returns:
        By name. Sets of the same name are processes of one side.

    Raises:
        MeasurementError: there is no such thing, it holds no times, or a commit's name is no name of one alone.
    """
    found: dict[str, Side] = {}
    for side in _sides(store, said):
        known = found.get(side.name)
        if known is not None and known.conditions != side.conditions:
            raise MeasurementError(f"{said}: its sets of {side.name} were not all measured under the same conditions")
        if known is not None:
            both = (*known.processes, *side.processes)
            side = replace(side, processes=both, spoilt=side.spoilt or known.spoilt)
        found[side.name] = side
    if not found:
        raise MeasurementError(
            f"{said!r}: no times are stored under that label; name a label, set:N, run:N or commit:SHA"
        )
    return found


def _sides(store: Store, said: str) -> Iterator[Side]:
    numbered = _NUMBERED.fullmatch(said)
    if numbered and numbered[1] == "run":
        run = store.run(int(numbered[2]))
        for one in run.measurements:
            if one.name == "latency":
                name = f"{run.backbone} inference {run.config['precision']} batch {one.batch_size}"
                yield from [side_of(name, run.environment, one)] if len(one.samples) else []
        return
    if numbered:
        sets = store.sets.read(ids=[int(numbered[2])])
    elif said.startswith("commit:"):
        sets = _of_commit(store, said)
    else:
        sets = store.sets.read(label=said)
    for record in sets:
        latency = record.measurement("latency")
        if latency is not None and len(latency.samples):
            side = side_of(record.name, record.environment, latency)
            # Of a server, how long a query takes says nothing of how many it answers.
            yield replace(side, batch_size=None) if record.config.get("scenario") == "server" else side


def _of_commit(store: Store, said: str) -> list[MeasurementSet]:
    sha = said.removeprefix("commit:")
    if not re.fullmatch(r"[0-9a-f]{7,}", sha):
        raise MeasurementError(f"{said}: name a commit by seven digits of its hash or more")
    sets = store.sets.read(commit=sha)
    if len(commits := sorted({str(one.commit) for one in sets})) > 1:
        raise MeasurementError(f"{said} may be {' or '.join(commits)}; say more of it")
    suites: dict[str, str] = {}
    for one in sets:
        if suites.setdefault(one.name, one.suite) != one.suite:
            both = f"by {suites[one.name]} and by {one.suite}"
            raise MeasurementError(f"{said}: {one.name} was measured {both}, which is not the same; name a label")
    return sets


def side_of(name: str, environment: Environment | None, latency: Measurement) -> Side:
    """Return what one process measured; there is at least one sample."""
    conditions = {"device": latency.device, "torch": environment.torch if environment else "unknown"}
    return Side(name, conditions, latency.batch_size, (latency.samples,), bool(latency.details.get("flags")))


def refuse_other_conditions(one: Side, other: Side, instead: str = "") -> None:
    """Let pass what may be compared.

    Args:
        one: a side.
        other: another.
        instead: what the user may do, for the end of the message.

    Raises:
        MeasurementError: the two were not measured under the same conditions; it names them.
    """
    reasons = [
        f"{what} ({one.conditions[what]} and {other.conditions[what]})"
        for what in one.conditions
        if one.conditions[what] != other.conditions[what]
    ]
    if one.name != other.name:
        reasons.append(f"what was measured ({one.name} and {other.name})")
    if reasons:
        raise MeasurementError(
            f"{one.name}: the two differ in {' and '.join(reasons)}, so their ratio says nothing of the code{instead}"
        )


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
        if not anyway:
            refuse_other_conditions(one, other, "; --anyway compares them all the same")
        yield one.name, other.name, compare(one.processes, other.processes, margin)


def _listed(sides: Sequence[str] | dict[str, Side]) -> str:
    return ", ".join(sides)
