"""What a run stores of the images it used."""

from __future__ import annotations

from collections import Counter

import numpy as np

from harness.analysis.audit import examine
from harness.api import Dataset, ImageSplits
from harness.results import DatasetRecord, SplitRecord

__all__ = ["describe"]


def describe(name: str, dataset: Dataset, splits: ImageSplits) -> DatasetRecord:
    """Describe loaded splits: counts of all, the images of val and test, whose predictions are stored, and a passport.

    The passport is what can be said without looking at a pixel.
    """
    named = splits.named()
    tallies = {split: Counter(ref.label for ref in refs) for split, refs in named.items()}
    return DatasetRecord(
        name=name,
        fingerprint=splits.fingerprint,
        classes=splits.classes,
        counts={
            split: {label: tally[index] for index, label in enumerate(splits.classes)}
            for split, tally in tallies.items()
        },
        synthetic=dataset.synthetic,
        citation=dataset.citation,
        licence=dataset.licence,
        splits=tuple(
            SplitRecord(
                name=split,
                ids=tuple(ref.id for ref in named[split]),
                groups=tuple(ref.group for ref in named[split]),
                labels=np.array([ref.label for ref in named[split]], dtype=np.int64),
            )
            for split in ("val", "test")
        ),
        passport=examine(splits),
        subtypes=dataset.subtypes,
    )
