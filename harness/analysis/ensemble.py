"""Ensembles of stored predictions. Nothing is retrained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.analysis.metrics import auc, softmax
from harness.api import Ensemble
from harness.errors import DataError
from harness.results import EnsembleRecord, Member, PluginRecord, Run

__all__ = ["combine_runs"]


def combine_runs(
    ensemble: Ensemble, plugin: PluginRecord, runs: Sequence[Run], stage: str, split: str = "test"
) -> EnsembleRecord:
    """Combine the predictions that ``runs`` made on ``split`` at the end of ``stage``.

    Args:
        ensemble: the rule.
        plugin: where the rule comes from, for the record.
        runs: two or more, read with their predictions; all of one data set.
        stage: a stage that each of them has completed.
        split: ``val`` or ``test``.

    Raises:
        DataError: the runs did not predict the same images.
    """
    first = runs[0].dataset
    for run in runs:
        if run.dataset.fingerprint != first.fingerprint:
            raise DataError(f"runs {runs[0].id} and {run.id} used different images, so their votes cannot be combined")
    images = next(record for record in first.splits if record.name == split)
    logits = []
    for run in runs:
        record = run.stage(stage)
        if record is None or split not in record.predictions:
            raise DataError(f"run {run.id} has no predictions of {split} after {stage}, so it cannot vote")
        logits.append(record.predictions[split].logits)
    combined = ensemble.combine(np.stack([softmax(member) for member in logits]))
    return EnsembleRecord(
        method=plugin.name,
        split=split,
        members=tuple(Member(run.id, stage, run.backbone) for run in runs),
        plugin=plugin,
        dataset=first,
        labels=combined.labels,
        scores=combined.scores,
        images=len(images.labels),
        correct=int((combined.labels == images.labels).sum()),
        auc=auc(images.labels, combined.scores),
    )
