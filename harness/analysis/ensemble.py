"""Ensembles of stored predictions. Nothing is retrained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.analysis.metrics import auc, correct, softmax
from harness.analysis.validation import classify_at, threshold_on_validation
from harness.api import Ensemble
from harness.errors import DataError
from harness.results import EnsembleRecord, Member, PluginRecord, Run

__all__ = ["combine_runs", "member_probabilities"]


def combine_runs(
    ensemble: Ensemble, plugin: PluginRecord, voters: Sequence[tuple[Run, str]], split: str = "test"
) -> EnsembleRecord:
    """Combine the predictions that runs made on ``split``, each at the end of a stage of it.

    A rule that is fitted is fitted to their predictions of validation images, on which the threshold is chosen too.

    Args:
        ensemble: the rule.
        plugin: where the rule comes from, for the record.
        voters: two or more runs, read with their predictions, with a stage that each has completed; all of one data
            set. One run may be there after several stages.
        split: ``val`` or ``test``.

    Raises:
        DataError: the runs did not predict the same images.
    """
    one, first = voters[0][0].id, voters[0][0].dataset
    for run, _ in voters:
        if run.dataset.fingerprint != first.fingerprint:
            raise DataError(f"runs {one} and {run.id} used different images, so their votes cannot be combined")
    truth = {record.name: record.labels for record in first.splits}
    if type(ensemble).fit is not Ensemble.fit:
        ensemble = ensemble.fit(member_probabilities(voters, "val"), truth["val"])
    combined = ensemble.combine(member_probabilities(voters, split))
    labels = truth[split]
    threshold = None
    if combined.scores.shape[1] == 2 and all(_has(run, stage, "val") for run, stage in voters):
        of_val = ensemble.combine(member_probabilities(voters, "val")).scores[:, 1]
        threshold = threshold_on_validation(truth["val"], of_val.clip(0, 1))
    return EnsembleRecord(
        method=plugin.name,
        split=split,
        members=tuple(Member(run.id, stage, run.backbone) for run, stage in voters),
        plugin=plugin,
        dataset=first,
        labels=combined.labels,
        scores=combined.scores,
        images=len(labels),
        correct=int((combined.labels == labels).sum()),
        auc=auc(labels, combined.scores),
        threshold=threshold,
        threshold_correct=None if threshold is None else correct(labels, classify_at(combined.scores[:, 1], threshold)),
    )


def _has(run: Run, stage: str, split: str) -> bool:
    record = run.stage(stage)
    return record is not None and split in record.predictions


def member_probabilities(voters: Sequence[tuple[Run, str]], split: str) -> NDArray[np.float64]:
    """Return the members' probabilities of the images of a split, (members, n, classes).

    Raises:
        DataError: a member has none, or diverged.
    """
    logits = []
    for run, stage in voters:
        record = run.stage(stage)
        if record is None or split not in record.predictions:
            raise DataError(f"run {run.id} has no predictions of {split} after {stage}, so it cannot vote")
        member = record.predictions[split].logits
        if not np.isfinite(member).all():
            raise DataError(f"run {run.id} diverged: its predictions of {split} are not finite, so it cannot vote")
        logits.append(member)
    return np.stack([softmax(member) for member in logits])
