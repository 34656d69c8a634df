"""The published figures of ``table1.toml``, and how a run's protocol differs from theirs."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.report.text import flatten, show
from harness.results import Run

__all__ = ["Deviation", "Paper", "PaperFigure", "deviations", "load_paper", "options"]


@dataclass(frozen=True)
class PaperFigure:
    """A published test accuracy, and the images right that it amounts to."""

    accuracy: float
    correct: int


@dataclass(frozen=True)
class Paper:
    """Published figures by name and stage. ``protocol`` has the keys of ``--set``, ``images`` the sizes of splits."""

    title: str
    authors: str
    source: str
    stages: Mapping[str, str]
    backbones: Mapping[str, Mapping[str, PaperFigure]]
    ensembles: Mapping[str, Mapping[str, PaperFigure]]
    members: Mapping[str, tuple[str, ...]]
    protocol: Mapping[str, Any]
    images: Mapping[str, int]

    def concerns(self, run: Run) -> bool:
        """True where the run is of one of the paper's networks, or on its images."""
        return run.backbone in self.backbones or run.dataset.name == self.protocol["dataset"]


@dataclass(frozen=True)
class Deviation:
    """One point in which runs differ from the paper. ``runs`` is empty where it is true of all of them."""

    what: str
    ours: str
    paper: str
    runs: tuple[int, ...]


@cache
def load_paper() -> Paper:
    """Read the published figures."""
    content = tomllib.loads((Path(__file__).parent / "table1.toml").read_text(encoding="utf-8"))
    stages = content["stages"]

    def figures(entries: list[dict[str, Any]]) -> dict[str, dict[str, PaperFigure]]:
        return {
            entry["name"]: {stage: PaperFigure(**entry[stage]) for stage in stages if stage in entry}
            for entry in entries
        }

    return Paper(
        title=content["title"],
        authors=content["authors"],
        source=content["source"],
        stages=stages,
        backbones=figures(content["backbones"]),
        ensembles=figures(content["ensembles"]),
        members={entry["name"]: tuple(entry["members"]) for entry in content["ensembles"]},
        protocol=content["protocol"],
        images=content["images"],
    )


def options(run: Run) -> dict[str, str]:
    """A run's resolved options under the keys of ``--set``, in the order of the configuration."""
    config = {key: value for key, value in run.config.items() if key != "schedule"}
    schedule = dict(run.config.get("schedule", {}))
    config |= {"transform": schedule.get("transform", {})}
    config |= {stage["name"]: {k: v for k, v in stage.items() if k != "name"} for stage in schedule.get("stages", ())}
    return {key: show(value) for key, value in flatten(config).items()}


def deviations(paper: Paper, runs: Sequence[Run]) -> tuple[Deviation, ...]:
    """List what differs from the paper's protocol, each point once with the runs that it is true of."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for run in runs:
        for point in _deviations(paper, run):
            found.setdefault(point, []).append(run.id)
    return tuple(
        Deviation(*point, runs=() if len(ids) == len(runs) else tuple(ids)) for point, ids in sorted(found.items())
    )


def _deviations(paper: Paper, run: Run) -> list[tuple[str, str, str]]:
    ours = options(run)
    points = []
    if run.dataset.synthetic:
        points.append(("images", "synthetic", "radiographs"))
    trained = {stage["name"] for stage in run.config.get("schedule", {}).get("stages", ())}
    points += [(stage, "left out", "trained") for stage in paper.stages if stage not in trained]
    points += [
        (key, ours[key], show(value))
        for key, value in paper.protocol.items()
        if key in ours and ours[key] != show(value)
    ]
    sizes = {split: sum(counts.values()) for split, counts in run.dataset.counts.items()}
    points += [
        (f"{split} images", f"{sizes[split]:,}", f"{size:,}")
        for split, size in paper.images.items()
        if split in sizes and sizes[split] != size
    ]
    return points
