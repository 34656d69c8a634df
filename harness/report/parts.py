"""Parts of a page, computed from one run: shares with intervals, curves, confusions, latency, memory. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.analysis.metrics import classify, correct, wilson
from harness.analysis.roofs import Placed
from harness.analysis.samples import summarize
from harness.report.text import audited, count, figure, percent
from harness.results import DatasetRecord, Measurement, Run, StageRecord

__all__ = [
    "Audit",
    "Badge",
    "Confusion",
    "ConfusionRow",
    "CurvePoint",
    "Curves",
    "Latency",
    "Memory",
    "Recall",
    "Share",
    "Span",
    "audit",
    "badge",
    "confusion",
    "curves",
    "latencies",
    "memory",
    "planned_stages",
    "share",
    "test_labels",
    "test_share",
    "val_share",
]

MOST_CLASSES = 8
MOST_CONFUSED = 10

_MEMORY = {
    "rss_peak": "process (RSS)",
    "cuda_allocated_peak": "GPU allocated",
    "cuda_reserved_peak": "GPU reserved",
    "cuda_used": "GPU, all told",
}


@dataclass(frozen=True)
class Badge:
    """A word or two in a frame. ``kind`` is its style: of initial weights random, pretrained, file or unknown."""

    kind: str
    text: str

    @property
    def suffix(self) -> str:
        """What a chart's label says after the name of the network."""
        return "" if self.kind == "pretrained" else f" ({self.text})"


def badge(run: Run) -> Badge:
    """Say what the weights were; a run that failed before they were there says what was asked for."""
    asked = str(run.config.get("weights", "unknown"))
    kind = run.weights.kind if run.weights else "random" if asked == "random" else "unknown"
    texts = {"random": "random weights, not pretrained", "pretrained": "pretrained", "file": "weights from a file"}
    return Badge(kind, texts.get(kind, "weights not loaded"))


@dataclass(frozen=True)
class Audit:
    """What figures on a data set are worth: the verdict, and why in sentences.

    ``more`` is what else was found, and how far one gets without looking at an image.
    """

    dataset: str
    badge: Badge
    text: str
    more: tuple[str, ...]


def audit(dataset: DatasetRecord) -> Audit:
    """Return the verdict of a data set's passport; one that has none was not audited."""
    verdict, text = audited(dataset.passport)
    more: list[str] = []
    if passport := dataset.passport:
        more += [reason.text for reason in passport.reasons if reason.verdict != passport.verdict]
        for one in (*((passport.majority,) if passport.majority else ()), *(passport.baselines or ())):
            right = f"right on {percent(one.accuracy['test'])} of test" if "test" in one.accuracy else "not tested"
            area = f", AUC {figure(one.auc['test'])}" if "test" in one.auc else ""
            more.append(f"trivial answer by {one.name}: {one.rule}; {right}{area}")
        more += passport.notes
    return Audit(dataset.name, Badge(verdict.replace(" ", "-"), verdict), text, tuple(more))


@dataclass(frozen=True)
class Share:
    """A share of images with its Wilson 95 % interval."""

    correct: int
    images: int
    value: float
    low: float
    high: float


def share(right: int, images: int) -> Share:
    """Return ``right / images`` with its interval; there is at least one image."""
    low, high = wilson(right, images)
    return Share(right, images, right / images, low, high)


def test_share(stage: StageRecord | None) -> Share | None:
    """Return the test accuracy after a stage, if it was tested."""
    if stage is None or stage.test_correct is None or not stage.test_images:
        return None
    return share(stage.test_correct, stage.test_images)


def val_share(run: Run, stage: StageRecord) -> Share | None:
    """Return the validation accuracy of the tested epoch, from its stored predictions."""
    labels, prediction = _labels(run, "val"), stage.predictions.get("val")
    if labels is None or prediction is None or not len(labels):
        return None
    return share(correct(labels, classify(prediction.logits)), len(labels))


def _labels(run: Run, split: str) -> NDArray[np.int64] | None:
    return next((record.labels for record in run.dataset.splits if record.name == split), None)


def test_labels(run: Run) -> NDArray[np.int64] | None:
    """Return the true labels of the test images, if they are stored."""
    return _labels(run, "test")


def planned_stages(runs: Iterable[Run]) -> tuple[str, ...]:
    """Name the stages of the runs' schedules in their order."""
    planned = (stage["name"] for run in runs for stage in run.config.get("schedule", {}).get("stages", ()))
    return tuple(dict.fromkeys(planned))


# --- curves ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """A stage's place on the common axis of epochs. ``tested`` is the epoch whose weights were tested, on that axis."""

    name: str
    start: float
    end: float
    tested: int | None


@dataclass(frozen=True)
class CurvePoint:
    """Figures of one epoch, None where they are not finite. ``epoch`` counts through all stages, from 1."""

    epoch: int
    stage: int
    train_accuracy: float | None
    val_accuracy: float | None
    train_loss: float | None
    val_loss: float | None


@dataclass(frozen=True)
class Curves:
    """Accuracy and loss per epoch of one run."""

    label: str
    spans: tuple[Span, ...]
    points: tuple[CurvePoint, ...]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def curves(run: Run) -> Curves | None:
    """Put the epochs of all stages on one axis; None where no epoch has ended."""
    spans, points, offset = [], [], 0
    for number, stage in enumerate(run.stages):
        last = max([stage.planned_epochs, *(epoch.epoch for epoch in stage.epochs)])
        tested = None if stage.tested_epoch is None else offset + stage.tested_epoch
        spans.append(Span(stage.name, offset + 0.5, offset + last + 0.5, tested))
        points += [
            CurvePoint(
                offset + epoch.epoch,
                number,
                _finite(epoch.train_accuracy),
                _finite(epoch.val_accuracy),
                _finite(epoch.train_loss),
                _finite(epoch.val_loss),
            )
            for epoch in stage.epochs
        ]
        offset += last
    return Curves(f"{run.backbone}{badge(run).suffix}", tuple(spans), tuple(points)) if points else None


# --- confusion -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recall:
    """How many images of one class were recognised."""

    name: str
    share: Share | None


@dataclass(frozen=True)
class ConfusionRow:
    """Images of one true class: counts by predicted class, and those as shares of the row."""

    name: str
    counts: tuple[int, ...]
    shares: tuple[float, ...]
    diagonal: int


@dataclass(frozen=True)
class Confusion:
    """Test images by true and predicted class after one stage.

    Beyond eight classes ``rows`` is empty and ``worst`` lists the ten most frequent errors (true, predicted, images).
    """

    stage: str
    index: int
    classes: tuple[str, ...]
    rows: tuple[ConfusionRow, ...]
    worst: tuple[tuple[str, str, int], ...]
    recalls: tuple[Recall, ...]


def confusion(run: Run, stage: StageRecord) -> Confusion | None:
    """Return the confusion matrix of a tested stage."""
    if stage.test_confusion is None:
        return None
    matrix = np.asarray(stage.test_confusion, np.int64)
    classes = run.dataset.classes
    totals = matrix.sum(axis=1)
    rows = tuple(
        ConfusionRow(name, tuple(line.tolist()), tuple((line / max(total, 1)).tolist()), index)
        for index, (name, line, total) in enumerate(zip(classes, matrix, totals, strict=True))
    )
    errors = matrix - np.diag(np.diag(matrix))
    worst = tuple(
        (classes[flat // len(classes)], classes[flat % len(classes)], int(errors.flat[flat]))
        for flat in np.argsort(-errors, axis=None, kind="stable")[:MOST_CONFUSED].tolist()
        if errors.flat[flat]
    )
    recalls = tuple(
        Recall(name, share(int(matrix[index, index]), int(total)) if total else None)
        for index, (name, total) in enumerate(zip(classes, totals, strict=True))
    )
    few = len(classes) <= MOST_CLASSES
    return Confusion(stage.name, stage.index, classes, rows if few else (), () if few else worst, recalls)


# --- measurements ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Latency:
    """Seconds a batch. ``low`` and ``high`` are the median's 95 % interval, None where the samples are too few.

    ``placed`` says how far below the machine's roof that lies, None where the roof or the work is not known.
    """

    batch_size: int
    n: int
    device: str
    samples: tuple[float, ...]
    least: float
    median: float
    low: float | None
    high: float | None
    p90: float
    p95: float
    p99: float
    most: float
    images_per_second: float
    placed: Placed | None


def _latency(batch_size: int, measurements: Sequence[Measurement], placed: Placed | None) -> Latency:
    samples = np.concatenate([measurement.samples for measurement in measurements])
    found = summarize(samples)
    return Latency(
        batch_size,
        found.n,
        measurements[-1].device,
        tuple(samples.tolist()),
        float(samples.min()),
        found.median,
        found.low,
        found.high,
        found.percentiles[90],
        found.percentiles[95],
        found.percentiles[99],
        float(samples.max()),
        batch_size / found.median,
        placed,
    )


def latencies(run: Run, placed: Mapping[int, Placed] | None = None) -> tuple[Latency, ...]:
    """Summarise the latency samples, a batch size each; ``placed`` says where they lie below the machine's roofs."""
    by_size: dict[int, list[Measurement]] = {}
    for measurement in run.measurements:
        if measurement.name == "latency" and measurement.batch_size and len(measurement.samples):
            by_size.setdefault(measurement.batch_size, []).append(measurement)
    return tuple(_latency(size, by_size[size], (placed or {}).get(size)) for size in sorted(by_size))


@dataclass(frozen=True)
class Memory:
    """A peak of memory in bytes. ``name`` is the measurement's own, ``label`` is for people."""

    name: str
    label: str
    stage: str
    peak: float


def memory(run: Run) -> tuple[Memory, ...]:
    """List the peaks of memory, as they were measured."""
    return tuple(
        Memory(m.name, _MEMORY[m.name], m.stage or "", float(m.samples.max()))
        for m in run.measurements
        if m.name in _MEMORY and len(m.samples)
    )


def describe_images(run: Run) -> str:
    """Sizes of the splits: ``4,916 train, 300 val, 624 test images``."""
    sizes = [f"{count(sum(counts.values()))} {split}" for split, counts in run.dataset.counts.items()]
    return f"{', '.join(sizes)} images"
