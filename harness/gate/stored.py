"""What is stored already: times of two sides, or the predictions of two runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from harness.analysis.gate import decide, decide_accuracy, estimate_apart
from harness.analysis.metrics import classify
from harness.comparison import Side, refuse_other_conditions
from harness.errors import MeasurementError
from harness.gate import Gated, Rules
from harness.results import Run, SplitRecord
from harness.store import Store

__all__ = ["FEW", "gate_accuracy", "gate_stored"]

FEW = (
    "how far processes lie apart is not known; measure in three or more, with `harness bench --repeat 3` "
    "or by starting pytest three times with one label"
)


def gate_stored(base: Mapping[str, Side], head: Mapping[str, Side], rules: Rules) -> Iterator[Gated]:
    """Compare the processes of two sides, for each name that base holds; one that head has no times of fails.

    Raises:
        MeasurementError: they hold no name in common, or were measured under other conditions.
    """
    if not any(name in head for name in base):
        raise MeasurementError(f"base holds {', '.join(base)} and head {', '.join(head)}: nothing in common")
    for name in base:
        threshold = rules.thresholds.of(name)
        if name not in head:
            yield Gated(name, threshold, "fail", message="head holds no times of it")
            continue
        refuse_other_conditions(base[name], head[name])
        few = min(len(base[name].processes), len(head[name].processes))
        of_base, of_head = (float(np.median(np.concatenate(side[name].processes))) for side in (base, head))
        if few < 2:
            yield Gated(name, threshold, "ambiguous", few, of_base, of_head, message=f"one process on a side: {FEW}")
            continue
        estimate = estimate_apart(base[name].medians, head[name].medians)
        decision = decide(estimate, threshold, rules.false_alarms / len(base))
        yield Gated(name, threshold, decision.verdict, few, of_base, of_head, decision)


def gate_accuracy(store: Store, base: int, head: int, rules: Rules) -> Gated:
    """Compare the stored test predictions of two runs, image by image.

    Raises:
        MeasurementError: a run has none, or they are of other images.
    """
    runs = store.run(base), store.run(head)
    (images, of_base), (others, of_head) = (_right(run) for run in runs)
    if (images.ids, images.labels.tolist()) != (others.ids, others.labels.tolist()):
        raise MeasurementError(
            f"runs {base} and {head} were tested on different images, so no image tells of both; "
            f"{runs[0].dataset.name} ({len(images.ids)}) and {runs[1].dataset.name} ({len(others.ids)})"
        )
    threshold = rules.thresholds.of("accuracy")
    decision = decide_accuracy(of_base, of_head, threshold, rules.false_alarms)
    shares = float(of_base.mean()), float(of_head.mean())
    return Gated("accuracy", threshold, decision.verdict, 1, *shares, decision)


def _right(run: Run) -> tuple[SplitRecord, NDArray[np.bool_]]:
    """Return the test images, and which were classified rightly at the end."""
    images = next((split for split in run.dataset.splits if split.name == "test"), None)
    tested = [stage.predictions["test"] for stage in run.stages if "test" in stage.predictions]
    if images is None or not tested:
        raise MeasurementError(f"run {run.id} has no stored test predictions (it is {run.status})")
    return images, classify(tested[-1].logits) == images.labels
