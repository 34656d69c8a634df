"""What an experiment says, in sentences, and no more than its figures carry. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from harness.analysis.metrics import classify, wilson
from harness.analysis.paired import mcnemar
from harness.report.parts import Share, badge, share, test_labels, test_share
from harness.report.text import count, interval, p_value, percent
from harness.results import EnsembleRecord, Run, StageRecord

__all__ = ["Answer", "answer", "baseline", "same_test_images"]


@dataclass(frozen=True)
class Answer:
    """The answer in one sentence, and what should be known beside it."""

    lead: str
    details: tuple[str, ...]


@dataclass(frozen=True)
class _Candidate:
    run: Run
    stage: StageRecord
    share: Share

    @property
    def name(self) -> str:
        return f"{self.run.backbone}{badge(self.run).suffix}"

    @property
    def predicted(self) -> ArrayLike | None:
        prediction = self.stage.predictions.get("test")
        return None if prediction is None else classify(prediction.logits)


def same_test_images(runs: Sequence[Run]) -> bool:
    """True where all runs were tested on the same images, so that their figures compare."""
    splits = [next((split for split in run.dataset.splits if split.name == "test"), None) for run in runs]
    return len({(split.ids, split.labels.tobytes()) if split else None for split in splits}) <= 1


def baseline(run: Run) -> tuple[str, Share] | None:
    """Return the most frequent class of the test images, and the share right of always answering it."""
    counts = run.dataset.counts.get("test", {})
    if not sum(counts.values()):
        return None
    name = max(counts, key=lambda key: counts[key])
    return name, share(counts[name], sum(counts.values()))


def answer(runs: Sequence[Run], ensembles: Sequence[EnsembleRecord]) -> Answer:
    """Say which network was best, whether that can be told from chance, and whether an ensemble helped."""
    candidates = [
        _Candidate(run, stage, found)
        for run in runs
        for stage in run.stages
        if (found := test_share(stage)) is not None
    ]
    if not candidates:
        return Answer(f"Nothing has been tested yet: {_statuses(runs)}.", ())
    if not same_test_images([candidate.run for candidate in candidates]):
        return Answer(
            "The runs of this experiment were tested on different images, so they have no common answer.",
            ("Compare only runs of one data set; the table below names it for each.",),
        )
    best = max(candidates, key=lambda candidate: candidate.share.value)
    where = "On synthetic images, " if best.run.dataset.synthetic else ""
    lead = (
        f"{where}{best.name} was right on {percent(best.share.value)} of {count(best.share.images)} test images "
        f"after {best.stage.name} (95 % interval {interval(best.share.low, best.share.high)} %)"
    )
    others = [candidate for candidate in candidates if candidate.run.backbone != best.run.backbone]
    details = []
    if others:
        second = max(others, key=lambda candidate: candidate.share.value)
        clause, detail = _against(best, second)
        lead += clause
        details.append(detail)
    details += [_ensemble(ensembles, candidates)] if ensembles else []
    details += [_trivial(best)]
    if len(candidates) > 1:
        details.append(
            "The best was picked by its test accuracy, so that figure flatters it a little; tests take images as "
            "independent, although some are of the same patient."
        )
    return Answer(f"{lead}.", tuple(detail for detail in details if detail))


def _against(best: _Candidate, second: _Candidate) -> tuple[str, str]:
    labels, first, other = test_labels(best.run), best.predicted, second.predicted
    figures = f"{second.name}, {percent(second.share.value)} after {second.stage.name}"
    if labels is None or first is None or other is None:
        return "", f"Next comes {figures}."
    test = mcnemar(labels, first, other)
    detail = (
        f"Next comes {figures}: {best.name} alone was right on {count(test.only_first)} images, {second.name} alone on "
        f"{count(test.only_second)} (exact McNemar test, {p_value(test.p)})."
    )
    if test.told_apart:
        return f", better than {second.name} by more than chance explains", detail
    return f", but cannot be told apart from {second.name}", detail


def _ensemble(ensembles: Sequence[EnsembleRecord], candidates: Sequence[_Candidate]) -> str:
    best = max(ensembles, key=lambda record: record.accuracy)
    low, high = wilson(best.correct, best.images)
    said = (
        f"The best ensemble, {best.method} of {len(best.members)}, reached {percent(best.accuracy)} "
        f"({interval(low, high)} %) after {best.members[0].stage}"
    )
    voters = {(member.run_id, member.stage) for member in best.members}
    members = [candidate for candidate in candidates if (candidate.run.id, candidate.stage.name) in voters]
    if len(members) < len(best.members):  # the others are of another experiment, and one of them may be the best
        return f"{said}."
    member = max(members, key=lambda candidate: candidate.share.value)
    gain = best.correct - member.share.correct
    change = (
        f"{abs(gain)} {'image' if abs(gain) == 1 else 'images'} {'more' if gain > 0 else 'fewer'} than"
        if gain
        else "as many images as"
    )
    said += f", {change} its best member, {member.name}"
    labels, predicted = test_labels(member.run), member.predicted
    if labels is None or predicted is None:
        return f"{said}."
    test = mcnemar(labels, best.labels, predicted)
    verdict = "a difference beyond chance" if test.told_apart else "the two cannot be told apart"
    return f"{said}: {verdict} (exact McNemar test, {p_value(test.p)})."


def _trivial(best: _Candidate) -> str:
    found = baseline(best.run)
    if found is None:
        return ""
    name, trivial = found
    always = f"Always answering {name} would be right on {percent(trivial.value)}"
    if best.share.low <= trivial.value:
        return f"{always}: no network here is clearly better than that."
    return f"{always}."


def _statuses(runs: Sequence[Run]) -> str:
    found = [run.status for run in runs]
    return ", ".join(f"{found.count(status)} {status}" for status in sorted(set(found)))
