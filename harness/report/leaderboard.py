"""The leaderboard: the best runs of a database, by data set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from harness.analysis.paired import detectable, ranks
from harness.report.parts import Badge, Share, badge, test_share
from harness.results import Run

__all__ = ["LEADERS", "Leader", "LeaderboardView", "Leaders", "leaderboard_view"]

LEADERS = 500


@dataclass(frozen=True)
class Leader:
    """A run, by its last tested stage. ``rank`` is one more than the number of runs that are better beyond chance.
    ``page`` says whether the report has a page of it.
    """

    rank: int
    id: int
    page: bool
    backbone: str
    badge: Badge
    experiment: str
    schedule: str
    seed: int
    stage: str
    share: Share
    auc: float | None
    parameters: int | None


@dataclass(frozen=True)
class Leaders:
    """The runs on one data set, the most accurate first.

    ``detectable`` is the smallest difference in accuracy, as a share, that a comparison of two of them would find.
    """

    dataset: str
    fingerprint: str
    synthetic: bool
    rows: tuple[Leader, ...]
    detectable: float | None


@dataclass(frozen=True)
class LeaderboardView:
    """``shown`` runs of ``total``."""

    boards: tuple[Leaders, ...]
    shown: int
    total: int


Decisions = Mapping[int, tuple[NDArray[np.int64], NDArray[np.int64]]]


def leaderboard_view(runs: Sequence[Run], total: int, pages: Collection[int], decisions: Decisions) -> LeaderboardView:
    """Group runs by data set, that of the best run first, and rank them.

    Args:
        runs: the most accurate first; those without a test accuracy are left out.
        total: how many runs the database has.
        pages: ids of the runs that have a page.
        decisions: true and predicted labels of the test images by run, after its last tested stage.
    """
    order = {fingerprint: place for place, fingerprint in enumerate(dict.fromkeys(_fingerprint(run) for run in runs))}
    boards = []
    for _, of_dataset in groupby(sorted(runs, key=lambda run: order[_fingerprint(run)]), key=_fingerprint):
        members = list(of_dataset)
        members = [run for run in members if run.id in decisions]
        if not members:
            continue
        labels = decisions[members[0].id][0]
        predicted = [decisions[run.id][1] for run in members]
        ranked = zip(members, ranks(labels, predicted), strict=True)
        rows = tuple(leader for run, rank in ranked if (leader := _leader(run, rank, run.id in pages)))
        dataset = members[0].dataset
        boards.append(
            Leaders(dataset.name, dataset.fingerprint, dataset.synthetic, rows, detectable(labels, predicted))
        )
    return LeaderboardView(tuple(boards), sum(len(board.rows) for board in boards), total)


def _fingerprint(run: Run) -> str:
    return run.dataset.fingerprint


def _leader(run: Run, rank: int, page: bool) -> Leader | None:
    for stage in reversed(run.stages):
        if found := test_share(stage):
            return Leader(
                rank=rank,
                id=run.id,
                page=page,
                backbone=run.backbone,
                badge=badge(run),
                experiment=run.experiment.name,
                schedule=run.schedule,
                seed=run.seed,
                stage=stage.name,
                share=found,
                auc=stage.test_auc,
                parameters=run.parameters,
            )
    return None
