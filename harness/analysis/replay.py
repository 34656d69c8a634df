"""A run against the same run made again: where they first part, and how far apart they end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.analysis.metrics import softmax
from harness.results import Environment, EpochResult, Run

__all__ = ["Difference", "Replay", "compare_runs", "environment_changes"]

Verdict = Literal["bit-exact", "within tolerance", "different"]
_FIGURES = ("lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy")  # of an epoch; times differ always


@dataclass(frozen=True)
class Difference:
    """A figure of an epoch that differs; ``epoch`` is None for what a stage ends with. ``then`` is the first run's."""

    stage: str
    epoch: int | None
    what: str
    then: str
    now: str


@dataclass(frozen=True)
class Replay:
    """How a run compares with the one that it repeats.

    ``first`` is where they part, None where they never do. ``farthest`` is the greatest difference between
    probabilities of a test image after the last stage; None where they cannot be compared.
    """

    verdict: Verdict
    first: Difference | None
    farthest: float | None


def compare_runs(then: Run, now: Run, tolerance: float) -> Replay:
    """Compare two completed runs of one config, read with everything.

    They are bit-exact where every epoch's figures, each stage's digests of weights, buffers and optimiser, and all
    predictions are the same. They are within tolerance where no test image's probabilities after the last stage differ
    by more than ``tolerance``: on another machine sums are made in another order, which training amplifies.

    Args:
        then: the run that is repeated.
        now: the repetition.
        tolerance: of probabilities, from 0 to 1.
    """
    first = next(_differences(then, now), None)
    farthest = _farthest(then, now)
    if first is None:
        return Replay("bit-exact", None, farthest)
    near = farthest is not None and farthest <= tolerance
    return Replay("within tolerance" if near else "different", first, farthest)


def environment_changes(then: Environment, now: Environment) -> list[str]:
    """Say what is another than it was, of what may move figures: device, software, threads and flags."""
    said = [
        f"{name.replace('_', ' ')}: {getattr(then, name)} then, {getattr(now, name)} now"
        for name in ("device", "device_name", "python", "torch")
        if getattr(then, name) != getattr(now, name)
    ]
    ignored = {"git", "packages", "memory_bytes"}
    for name in sorted({*then.details, *now.details} - ignored):
        if (was := then.details.get(name)) != (found := now.details.get(name)):
            said.append(f"{name.replace('_', ' ')}: {was} then, {found} now")
    packages = then.details.get("packages") or {}, now.details.get("packages") or {}
    said += [
        f"{name}: {packages[0].get(name)} then, {packages[1].get(name)} now"
        for name in sorted({*packages[0], *packages[1]})
        if packages[0].get(name) != packages[1].get(name)
    ]
    return said


def _differences(then: Run, now: Run) -> Iterator[Difference]:
    for stage in then.stages:
        again = now.stage(stage.name)
        if again is None:
            yield Difference(stage.name, None, "stage", "there", "missing")
            return
        for epoch, other in zip(stage.epochs, again.epochs, strict=False):
            yield from _of_epoch(epoch, other)
        if len(stage.epochs) != len(again.epochs):
            yield Difference(stage.name, None, "epochs", str(len(stage.epochs)), str(len(again.epochs)))
        for what in ("tested_epoch", "weights_sha256", "optimizer_sha256"):
            if (was := getattr(stage, what)) != (found := getattr(again, what)):
                yield Difference(stage.name, None, what.replace("_", " "), str(was)[:16], str(found)[:16])
        for split, prediction in stage.predictions.items():
            if split not in again.predictions or not np.array_equal(
                prediction.logits, again.predictions[split].logits, equal_nan=True
            ):
                yield Difference(stage.name, None, f"predictions of {split}", "as stored", "others")


def _of_epoch(then: EpochResult, now: EpochResult) -> Iterator[Difference]:
    for name in _FIGURES:
        was, found = getattr(then, name), getattr(now, name)
        if was != found and not (math.isnan(was) and math.isnan(found)):
            yield Difference(then.stage, then.epoch, name.replace("_", " "), f"{was:.9g}", f"{found:.9g}")


def _farthest(then: Run, now: Run) -> float | None:
    found = [
        run.stages[-1].predictions["test"].logits
        for run in (then, now)
        if run.stages and "test" in run.stages[-1].predictions
    ]
    if len(found) < 2 or found[0].shape != found[1].shape:
        return None
    farthest = float(np.abs(softmax(found[0]) - softmax(found[1])).max(initial=0.0))
    return None if math.isnan(farthest) else farthest
