"""Base and head measured in turns on this machine, or head alone, against times that are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from harness.analysis.gate import Estimate, Verdict, estimate_apart, estimate_rounds
from harness.comparison import Side, refuse_other_conditions, side_of
from harness.config import BenchConfig
from harness.gate import Gated, Rules, decide_in_looks
from harness.launch.environments import Installed
from harness.launch.worker import About, Worker, WorkerError
from harness.results import Measurement, MeasurementSet
from harness.store import Store

__all__ = ["Gate", "gate_against", "gate_turns"]

SUITE = "gate"
_TURNS = 8
_TURN_SECONDS = 0.05
_MOST_CALLS = 1000  # of a turn


@dataclass(frozen=True)
class Gate:
    """What both kinds of measured gates need.

    Args:
        configs: the benchmarks.
        rules: how to decide. The rate of false alarms is shared among benchmarks and looks (Bonferroni).
        store: where every process is recorded as a measurement set, under ``LABEL base`` or ``LABEL head``.
        label: of these.
        watch: told of each round: the benchmark, how many are done, and how many will be at the next look.
    """

    configs: Sequence[BenchConfig]
    rules: Rules
    store: Store
    label: str
    watch: Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Turns:
    """What a process measured: of each turn the median, and every sample; and what it said of itself."""

    medians: NDArray[np.float64]
    seconds: NDArray[np.float64]
    about: About


def gate_turns(gate: Gate, base: Installed, head: Installed) -> Iterator[Gated]:
    """Measure base and head in turns, until there is a verdict or no round is left.

    A round starts three processes, two of base and one of head, which take turns: what the machine does at the time
    reaches all three alike, and the two of base tell how far processes of the same code lie apart.

    Raises:
        Stopped: somebody wanted to stop; what was measured before is stored.
    """
    sides = {"base": base, "base again": base, "head": head}

    def estimate(rounds: Sequence[Mapping[str, _Turns]]) -> Estimate:
        medians = ([one[name].medians for name in sides] for one in rounds)
        return estimate_rounds([(of_base, again, of_head) for of_base, again, of_head in medians])

    for config in gate.configs:
        yield _decide(gate, config, sides, estimate, None)


def gate_against(gate: Gate, base: Mapping[str, Side], head: Installed) -> Iterator[Gated]:
    """Measure head alone, against stored times of the same names, each of two processes or more.

    These are of another time, and how a machine differs between times is not in the noise that their processes show:
    where both can be measured in turns, that is the better gate.

    Raises:
        MeasurementError: base was measured under other conditions.
        Stopped: somebody wanted to stop.
    """
    for config in gate.configs:
        stored = base[config.name]

        def estimate(rounds: Sequence[Mapping[str, _Turns]], stored: Side = stored) -> Estimate:
            return estimate_apart(stored.medians, [float(np.median(one["head"].seconds)) for one in rounds])

        yield _decide(gate, config, {"head": head}, estimate, stored)


def _decide(
    gate: Gate,
    config: BenchConfig,
    sides: Mapping[str, Installed],
    estimate: Callable[[Sequence[Mapping[str, _Turns]]], Estimate],
    stored: Side | None,
) -> Gated:
    threshold = gate.rules.thresholds.of(config.name)
    done = 0

    def measure(number: int, next_look: int) -> Mapping[str, _Turns]:
        nonlocal done
        done = number
        gate.watch(config.name, number, next_look)
        taken = _round(config, sides, number, gate.rules)
        for name, turns in taken.items():
            record = _record(config, sides[name], turns, f"{gate.label} {name.split()[0]}")
            if stored is not None:
                refuse_other_conditions(stored, side_of(record.name, turns.about.environment, record.measurements[0]))
            gate.store.sets.add(record)
        return taken

    try:
        decision, rounds = decide_in_looks(measure, estimate, threshold, gate.rules, len(gate.configs))
    except WorkerError as error:
        # A head that is broken fails. Without a base there is nothing to hold it against, and a process that somebody
        # killed, or that hung, says nothing of the code.
        verdict: Verdict = "fail" if error.name == "head" and error.of_code else "ambiguous"
        return Gated(config.name, threshold, verdict, done, message=f"{error.name} cannot be measured: {error}")
    seconds = {name: np.concatenate([one[name].seconds for one in rounds]) for name in sides}
    of_base = np.concatenate(stored.processes if stored else [seconds["base"], seconds["base again"]])
    medians = float(np.median(of_base)), float(np.median(seconds["head"]))
    return Gated(config.name, threshold, decision.verdict, len(rounds), *medians, decision)


def _round(config: BenchConfig, sides: Mapping[str, Installed], number: int, rules: Rules) -> dict[str, _Turns]:
    with ExitStack() as stack:
        workers = []
        for name, side in sides.items():  # all begin to load at once
            worker = Worker(name, side, config, rules.silence, rules.stopping)
            stack.callback(worker.close)
            workers.append(worker)
        about = {worker.name: worker.ready() for worker in workers}
        first = median(workers[0].seconds(3))
        calls = max(1, min(_MOST_CALLS, round(_TURN_SECONDS / first)))
        taken: dict[str, list[list[float]]] = {name: [] for name in sides}
        for turn in range(_TURNS):
            for position in range(len(workers)):
                worker = workers[(position + turn + number) % len(workers)]  # nobody is always the first
                taken[worker.name].append(worker.seconds(calls))
    return {
        name: _Turns(np.array([median(turn) for turn in turns]), np.concatenate(turns), about[name])
        for name, turns in taken.items()
    }


def _record(config: BenchConfig, side: Installed, turns: _Turns, label: str) -> MeasurementSet:
    git = turns.about.environment.details.get("git") if side.inherits else None  # of where this command runs
    latency = Measurement(
        "latency",
        "s",
        turns.seconds,
        turns.about.environment.device_name,
        config.batch_size,
        details={"flags": [], "sensors_absent": "a gate reads none", "turns": len(turns.medians)},
    )
    return MeasurementSet(
        label=label,
        suite=SUITE,
        name=config.name,
        config=config.model_dump(mode="json"),
        environment=turns.about.environment,
        measurements=(latency,),
        plugins=(turns.about.plugin,),
        weights=turns.about.weights,
        commit=side.commit or (git["commit"] if git else None),
    )
