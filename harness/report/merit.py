"""All figures of merit of a tested stage: as trained, and with what was chosen on validation images. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.analysis.bootstrap import clustered_mean
from harness.analysis.figures import Figures, brier, calibration_error, figures, log_loss
from harness.analysis.metrics import classify, softmax
from harness.analysis.roc import auc_interval
from harness.analysis.validation import classify_at
from harness.report.parts import Share, share
from harness.report.text import figure, interval, percent
from harness.results import Run, SplitRecord, StageRecord

__all__ = ["ClassRow", "Merit", "MeritRow", "SubtypeRow", "merit"]


@dataclass(frozen=True)
class MeritRow:
    """A figure in words: as trained, and as chosen on validation, which is empty where nothing is chosen for it."""

    name: str
    plain: str
    chosen: str


@dataclass(frozen=True)
class ClassRow:
    """A class against the rest, in words."""

    name: str
    images: int
    recall: str
    precision: str
    f1: str
    average_precision: str


@dataclass(frozen=True)
class SubtypeRow:
    """The share of a kind of images that was recognised as its class."""

    name: str
    recall: Share


@dataclass(frozen=True)
class Merit:
    """The figures after a stage. ``chosen`` says what was chosen on validation; empty where nothing was."""

    stage: str
    index: int
    chosen: str
    rows: tuple[MeritRow, ...]
    classes: tuple[ClassRow, ...]
    subtypes: tuple[SubtypeRow, ...]


def merit(run: Run, stage: StageRecord) -> Merit | None:
    """Compute the figures of a stage's test predictions; None where there are none.

    Args:
        run: read with everything.
        stage: of it.
    """
    split = next((split for split in run.dataset.splits if split.name == "test"), None)
    if split is None or "test" not in stage.predictions or not len(split.labels):
        return None
    logits = stage.predictions["test"].logits
    probabilities = softmax(logits)
    plain = figures(split.labels, probabilities)
    decided = None if stage.threshold is None else classify_at(probabilities[:, 1], stage.threshold)
    at_threshold = None if decided is None else figures(split.labels, probabilities, decided)
    cooled = None
    if stage.temperature is not None:
        cooled = softmax(logits / np.float32(stage.temperature))
    return Merit(
        stage=stage.name,
        index=stage.index,
        chosen=_chosen(stage, run.dataset.classes),
        rows=tuple(_rows(split, classify(logits), decided, probabilities, plain, at_threshold, cooled)),
        classes=tuple(
            ClassRow(
                name,
                one.images,
                _share(one.recall),
                _share(one.precision),
                _share(one.f1),
                _figure(one.average_precision),
            )
            for name, one in zip(run.dataset.classes, plain.classes, strict=True)
        ),
        subtypes=tuple(_subtypes(run, split, classify(logits))),
    )


def _chosen(stage: StageRecord, classes: tuple[str, ...]) -> str:
    said = []
    if stage.threshold is not None:
        said.append(
            f"{classes[1]} from a probability of {stage.threshold:.3f} on, where sensitivity + specificity of the "
            "validation images is greatest"
        )
    if stage.temperature is not None:
        said.append(f"logits divided by {stage.temperature:.3f}, where their log loss is least")
    return "; ".join(said)


def _rows(
    split: SplitRecord,
    predicted: NDArray[np.int64],
    decided: NDArray[np.int64] | None,
    probabilities: NDArray[np.float64],
    plain: Figures,
    at_threshold: Figures | None,
    cooled: NDArray[np.float64] | None,
) -> list[MeritRow]:
    def accuracy(found: Figures | None) -> str:
        if found is None:
            return ""
        counted = share(found.correct, found.images)
        return f"{percent(counted.value)} ({interval(counted.low, counted.high)})"

    def by_patients(labels: NDArray[np.int64] | None) -> str:
        bounds = None if labels is None else clustered_mean(labels == split.labels, split.groups).interval
        return interval(*bounds) if bounds else ""

    area = auc_interval(split.labels, probabilities[:, 1]) if probabilities.shape[1] == 2 else None
    auc = _figure(plain.auc)
    if area is not None and area.interval is not None:
        auc += f" ({figure(area.interval[0])}\N{EN DASH}{figure(area.interval[1])})"
    rows = [MeritRow("accuracy", accuracy(plain), accuracy(at_threshold))]
    if 1 < len(set(split.groups)) < len(split.ids):
        rows.append(MeritRow("its interval by patients", by_patients(predicted), by_patients(decided)))
    decisions = {
        "balanced accuracy": "balanced_accuracy",
        "sensitivity": "sensitivity",
        "specificity": "specificity",
        "F1": "f1",
    }
    for words, name in decisions.items():
        if getattr(plain, name) is not None:
            after = _share(getattr(at_threshold, name)) if at_threshold else ""
            rows.append(MeritRow(words, _share(getattr(plain, name)), after))
    rows += [MeritRow("AUC", auc, ""), MeritRow("average precision", _figure(plain.average_precision), "")]
    for words, before, figure_of in (
        ("log loss", plain.log_loss, log_loss),
        ("Brier score", plain.brier, brier),
        ("calibration error", plain.calibration_error, calibration_error),
    ):
        after = "" if cooled is None else _figure(figure_of(split.labels, cooled))
        rows.append(MeritRow(words, _figure(before), after))
    return rows


def _subtypes(run: Run, split: SplitRecord, predicted: NDArray[np.int64]) -> list[SubtypeRow]:
    rows = []
    for name, beginning in run.dataset.subtypes.items():
        of_kind = np.array([group.lower().startswith(beginning) for group in split.groups])
        if of_kind.any():
            right = int((predicted == split.labels)[of_kind].sum())
            rows.append(SubtypeRow(name, share(right, int(of_kind.sum()))))
    return rows


def _share(value: float | None) -> str:
    return "not defined" if value is None else percent(value)


def _figure(value: float | None) -> str:
    return "not defined" if value is None else figure(value)
