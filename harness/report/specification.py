"""What holds under how many readings: runs that differ in their options, and what each reading concludes. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from harness.analysis.metrics import classify
from harness.analysis.specification import Effect, effect, joint_test
from harness.report.answer import same_test_images
from harness.report.paper import options
from harness.report.text import p_value, points
from harness.results import EnsembleRecord, Run

__all__ = ["Choice", "Conclusion", "Mean", "Reading", "Specification", "choices", "specification"]

FEWEST = 4  # readings that make a curve
_OTHER = ("backbone", "weights", "seed", "device")  # options that are no reading of a protocol
_NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Choice:
    """Options that differ between runs, always together, as ``--set`` names them; and the value that each run has."""

    options: tuple[str, ...]
    values: Mapping[int, str]

    @property
    def name(self) -> str:
        """The options in words."""
        return ", ".join(self.options)


@dataclass(frozen=True)
class Reading:
    """The effect under one reading: the place of its first run in the experiment, its values by choice, its seeds."""

    number: int
    values: tuple[str, ...]
    seeds: int
    effect: Effect


@dataclass(frozen=True)
class Mean:
    """The mean effect of the readings that have a value of a choice."""

    choice: str
    value: str
    readings: int
    mean: float


@dataclass(frozen=True)
class Conclusion:
    """One difference under all readings, the least first. ``summary`` says it in sentences."""

    title: str
    readings: tuple[Reading, ...]
    means: tuple[Mean, ...]
    summary: str


@dataclass(frozen=True)
class Specification:
    """The curves of an experiment. ``choices`` are the names of what was varied."""

    choices: tuple[str, ...]
    readings: int
    conclusions: tuple[Conclusion, ...]


def choices(runs: Sequence[Run]) -> tuple[Choice, ...]:
    """Find the options that differ between runs; those that divide the runs alike are one choice.

    An option that only some runs have, as of one kind of learning rate, is left to the one that it depends on.
    """
    found = {run.id: options(run) for run in runs}
    names = dict.fromkeys(name for of_run in found.values() for name in of_run if name not in _OTHER)
    alike: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        values = [of_run.get(name) for of_run in found.values()]
        if None in values or len(set(values)) == 1:
            continue
        numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
        alike.setdefault(tuple(numbers[value] for value in values), []).append(name)
    return tuple(
        Choice(
            tuple(of_group),
            {run: ", ".join(dict.fromkeys(of_run[name] for name in of_group)) for run, of_run in found.items()},
        )
        for of_group in alike.values()
    )


def specification(runs: Sequence[Run], ensembles: Sequence[EnsembleRecord]) -> Specification | None:
    """Draw the conclusions of each reading.

    They are, for each network, what the stages after the first changed; of the ensembles after the first stage, what
    they gain on their best member; and of the network that leads under the first reading, its lead over each other.

    Args:
        runs: read with everything; those that have not completed are left out.
        ensembles: of these runs.

    Returns:
        None where there are fewer than four readings, or the runs were tested on different images.
    """
    runs = sorted((run for run in runs if run.status == "completed"), key=lambda run: run.id)
    varied = choices(runs)
    read = {run.id: tuple(choice.values[run.id] for choice in varied) for run in runs}
    order = list(dict.fromkeys(read.values()))
    if len(order) < FEWEST or not same_test_images(runs):
        return None
    test = next((split for split in runs[0].dataset.splits if split.name == "test"), None)
    if test is None:
        return None
    groups = test.groups if len(set(test.groups)) > 1 else test.ids
    names = tuple(choice.name for choice in varied)
    found: dict[str, dict[tuple[str, ...], list[NDArray[np.float64]]]] = {}
    for title, reading, difference in [
        *_changes(runs, read),
        *_gains(runs, ensembles, read),
        *_leads(runs, read, order[0]),
    ]:
        found.setdefault(title, defaultdict(list))[reading].append(difference)
    conclusions = [
        _conclusion(title, {reading: by_seed[reading] for reading in order if reading in by_seed}, order, names, groups)
        for title, by_seed in found.items()
        if len(by_seed) >= FEWEST
    ]
    return Specification(names, len(order), tuple(conclusions)) if conclusions else None


_Found = Iterable[tuple[str, tuple[str, ...], NDArray[np.float64]]]


def _changes(runs: Sequence[Run], read: Mapping[int, tuple[str, ...]]) -> _Found:
    for run in runs:
        first, last = run.stages[0].name, run.stages[-1].name
        if first != last and (before := _right(run, first)) is not None and (after := _right(run, last)) is not None:
            yield f"{run.backbone}: {last} less {first}", read[run.id], after - before


def _gains(runs: Sequence[Run], ensembles: Sequence[EnsembleRecord], read: Mapping[int, tuple[str, ...]]) -> _Found:
    by_id = {run.id: run for run in runs}
    for record in ensembles:
        stages = {member.stage for member in record.members}
        members = [by_id[member.run_id] for member in record.members if member.run_id in by_id]
        if record.split != "test" or len(stages) > 1 or len(members) < len(record.members):
            continue
        stage = stages.pop()
        if stage != members[0].stages[0].name or len({read[member.id] for member in members}) > 1:
            continue
        rights = [right for member in members if (right := _right(member, stage)) is not None]
        truth = _labels(members[0])
        if truth is not None and len(rights) == len(members):
            best = max(rights, key=lambda right: float(right.sum()))
            combined = (record.labels == truth).astype(np.float64)
            yield (
                f"{record.method} of {len(members)} less its best member, {stage}",
                read[members[0].id],
                combined - best,
            )


def _leads(runs: Sequence[Run], read: Mapping[int, tuple[str, ...]], first: tuple[str, ...]) -> _Found:
    stage = runs[0].stages[0].name
    rights = {
        (read[run.id], run.seed, run.backbone): right for run in runs if (right := _right(run, stage)) is not None
    }
    likely: defaultdict[str, list[float]] = defaultdict(list)
    for (reading, _, backbone), right in rights.items():
        if reading == first:
            likely[backbone].append(float(right.mean()))
    if len(likely) < 2:
        return
    leader = max(likely, key=lambda backbone: float(np.mean(likely[backbone])))
    for (reading, seed, backbone), right in rights.items():
        if backbone != leader and (other := rights.get((reading, seed, leader))) is not None:
            yield f"{leader} less {backbone}, {stage}", reading, other - right


def _labels(run: Run) -> NDArray[np.int64] | None:
    return next((split.labels for split in run.dataset.splits if split.name == "test"), None)


def _right(run: Run, name: str) -> NDArray[np.float64] | None:
    """Return 1 for each test image that was classified rightly after a stage, else 0."""
    stage, labels = run.stage(name), _labels(run)
    if stage is None or labels is None or "test" not in stage.predictions:
        return None
    right: NDArray[np.bool_] = classify(stage.predictions["test"].logits) == labels
    return right.astype(np.float64)


def _conclusion(
    title: str,
    by_reading: Mapping[tuple[str, ...], Sequence[NDArray[np.float64]]],
    order: Sequence[tuple[str, ...]],
    names: Sequence[str],
    groups: Sequence[str],
) -> Conclusion:
    differences = {reading: np.mean(of_seeds, axis=0) for reading, of_seeds in by_reading.items()}
    readings = [
        Reading(order.index(reading) + 1, reading, len(by_reading[reading]), effect(difference, groups))
        for reading, difference in differences.items()
    ]
    means = []
    for place, name in enumerate(names):
        for value in dict.fromkeys(reading.values[place] for reading in readings):
            of_value = [reading.effect.value for reading in readings if reading.values[place] == value]
            means.append(Mean(name, value, len(of_value), float(np.mean(of_value))))
    p = joint_test(np.stack(list(differences.values())), groups)
    readings.sort(key=lambda reading: (reading.effect.value, reading.number))
    return Conclusion(title, tuple(readings), tuple(means), f"{_summary(readings, p)} {_strongest(means)}".rstrip())


def _strongest(means: Sequence[Mean]) -> str:
    """Say on which choice the effect depends most."""
    by_choice: defaultdict[str, list[Mean]] = defaultdict(list)
    for mean in means:
        by_choice[mean.choice].append(mean)
    if not by_choice:
        return ""
    name, of_choice = max(by_choice.items(), key=lambda item: np.ptp([mean.mean for mean in item[1]]))
    values = " and ".join(f"{points(mean.mean)} with {mean.value}" for mean in of_choice)
    return f"It depends most on {name}: on average {values}."


def _summary(readings: Sequence[Reading], p: float) -> str:
    values = [reading.effect.value for reading in readings]
    told = Counter(reading.effect.verdict for reading in readings)
    below, above = sum(value < 0 for value in values), sum(value > 0 for value in values)
    said = f"Below zero in {below} of {len(values)} readings, {told['fall']} of them beyond chance"
    said += f"; above in {above}, {told['rise']} beyond chance"
    low, middle, high = map(points, (min(values), median(values), max(values)))
    together = "more than chance explains" if p < 0.05 else "no more than chance explains"
    return (
        f"{said}. From {low} to {high} points, median {middle}, which over all readings together is {together} "
        f"({p_value(p)})."
    )
