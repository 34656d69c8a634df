"""Runs against each other, image by image. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from harness.analysis.bootstrap import clustered_mean
from harness.analysis.metrics import classify, softmax
from harness.analysis.paired import detectable, pairwise
from harness.analysis.roc import delong
from harness.report.answer import same_test_images
from harness.results import Run, StageRecord

__all__ = ["MOST", "Pair", "Pairs", "pairs"]

MOST = 8  # runs, which make 28 pairs


@dataclass(frozen=True)
class Pair:
    """Two runs after their last tested stages, the more accurate first.

    ``difference`` is in accuracy, as a share, with its interval by the bootstrap over patients; ``p`` is of McNemar's
    exact test, adjusted by Holm for all pairs. ``auc`` is the difference of areas, with DeLong's interval; None where
    there are more than two classes.
    """

    first: str
    second: str
    difference: float
    interval: tuple[float, float] | None
    p: float
    auc: float | None
    auc_interval: tuple[float, float] | None


@dataclass(frozen=True)
class Pairs:
    """All pairs. ``detectable`` is the smallest difference in accuracy, as a share, that would have been found."""

    pairs: tuple[Pair, ...]
    detectable: float | None


def pairs(runs: Sequence[Run]) -> Pairs | None:
    """Compare runs that were read with everything; None where there are fewer than two, more than eight, or where they
    were tested on different images.
    """
    tested = [(run, stage) for run in runs if (stage := _last(run)) is not None]
    if not 2 <= len(tested) <= MOST or not same_test_images([run for run, _ in tested]):
        return None
    tested.sort(key=lambda one: (-(one[1].test_accuracy or 0), one[0].id))
    split = next(split for split in tested[0][0].dataset.splits if split.name == "test")
    probabilities = [softmax(stage.predictions["test"].logits) for _, stage in tested]
    predicted = [classify(stage.predictions["test"].logits) for _, stage in tested]
    p_values = pairwise(split.labels, predicted)
    found = []
    for one, other in combinations(range(len(tested)), 2):
        change = (predicted[one] == split.labels).astype(np.int64) - (predicted[other] == split.labels)
        bounds = clustered_mean(change, split.groups if len(set(split.groups)) > 1 else split.ids).interval
        areas = None
        if probabilities[one].shape[1] == 2:
            areas = delong(split.labels, probabilities[one][:, 1], probabilities[other][:, 1])
        found.append(
            Pair(
                _name(*tested[one]),
                _name(*tested[other]),
                float(change.mean()),
                bounds,
                float(p_values[one, other]),
                areas.difference if areas else None,
                areas.interval if areas else None,
            )
        )
    return Pairs(tuple(found), detectable(split.labels, predicted))


def _last(run: Run) -> StageRecord | None:
    return next((stage for stage in reversed(run.stages) if "test" in stage.predictions), None)


def _name(run: Run, stage: StageRecord) -> str:
    return f"{run.backbone}, run {run.id}, {stage.name}"
