"""Runs and ensembles that differ in their seed alone, as one figure with its spread. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.reproduction import Mean, mean_and_deviation
from harness.report.specification import choices
from harness.results import EnsembleRecord, Run

__all__ = ["OverSeeds", "SeedCell", "over_seeds"]


@dataclass(frozen=True)
class SeedCell:
    """Test accuracy after a stage over seeds: at the most probable class, at the threshold that validation chose (None
    where a seed has none), and the AUC.
    """

    stage: str
    accuracy: Mean
    chosen: Mean | None
    auc: Mean | None


@dataclass(frozen=True)
class OverSeeds:
    """A network, or an ensemble of networks, under one config, over ``seeds``. ``differs`` says which of several."""

    name: str
    differs: str
    seeds: tuple[int, ...]
    cells: tuple[SeedCell, ...]


@dataclass(frozen=True)
class _Found:
    seed: int
    accuracy: float
    chosen: float | None
    auc: float | None


def over_seeds(runs: Sequence[Run], ensembles: Sequence[EnsembleRecord]) -> tuple[OverSeeds, ...]:
    """Summarise what was done with two seeds or more: networks first, then ensembles whose members share their seed.

    Args:
        runs: with their stages.
        ensembles: of these runs.
    """
    varied = choices(runs)
    differs = {run.id: ", ".join(f"{choice.name}={choice.values[run.id]}" for choice in varied) for run in runs}
    by_id = {run.id: run for run in runs}
    found: dict[tuple[str, str, str], dict[str, list[_Found]]] = {}
    for run in runs:
        key = (run.backbone, differs[run.id], _but_seed(run.config))
        for stage in run.stages:
            if stage.test_images and stage.test_accuracy is not None:
                chosen = None if stage.threshold_correct is None else stage.threshold_correct / stage.test_images
                one = _Found(run.seed, stage.test_accuracy, chosen, stage.test_auc)
                found.setdefault(key, {}).setdefault(stage.name, []).append(one)
    for record in ensembles:
        members = [by_id[member.run_id] for member in record.members if member.run_id in by_id]
        stages, seeds = {member.stage for member in record.members}, {run.seed for run in members}
        if record.split != "test" or len(members) < len(record.members) or len(stages) > 1 or len(seeds) > 1:
            continue
        name = f"{record.method} of {', '.join(run.backbone for run in members)}"
        key = (name, differs[members[0].id], json.dumps([_but_seed(run.config) for run in members]))
        chosen = None if record.threshold_correct is None else record.threshold_correct / record.images
        one = _Found(seeds.pop(), record.accuracy, chosen, record.auc)
        found.setdefault(key, {}).setdefault(stages.pop(), []).append(one)
    return tuple(
        OverSeeds(name, said, _seeds(by_stage), tuple(_cell(stage, ones) for stage, ones in by_stage.items()))
        for (name, said, _), by_stage in found.items()
        if len(_seeds(by_stage)) > 1
    )


def _but_seed(config: Mapping[str, object]) -> str:
    return json.dumps({name: value for name, value in config.items() if name != "seed"}, sort_keys=True, default=str)


def _seeds(by_stage: Mapping[str, Sequence[_Found]]) -> tuple[int, ...]:
    return tuple(sorted({one.seed for ones in by_stage.values() for one in ones}))


def _cell(stage: str, ones: Sequence[_Found]) -> SeedCell:
    chosen = [one.chosen for one in ones if one.chosen is not None]
    areas = [one.auc for one in ones if one.auc is not None]
    return SeedCell(
        stage,
        mean_and_deviation([one.accuracy for one in ones]),
        mean_and_deviation(chosen) if len(chosen) == len(ones) else None,
        mean_and_deviation(areas) if len(areas) == len(ones) else None,
    )
