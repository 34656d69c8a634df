"""`harness ensemble --search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from rich.table import Table

from harness.cli.output import bar, err, escape, out, print_json
from harness.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.analysis.laboratory import Candidate
    from harness.analysis.paired import McNemar
    from harness.registry import Plugin
    from harness.results import EnsembleRecord, Experiment, Passport, Run
    from harness.store import Store

    Voters = Sequence[tuple[Run, str]]
    Predicted = tuple[NDArray[np.int64], list[NDArray[np.int64]]]  # true labels, and those by each voter

__all__ = ["search_ensembles"]

MOST = 50_000  # candidates
SHOWN = 10


def search_ensembles(store: Store, into: Experiment, voters: Voters, plugins: Sequence[Plugin], as_json: bool) -> None:
    """Score every subset of the voters by every rule on validation images; record and show the best."""
    from harness import registry
    from harness.analysis.ensemble import combine_runs, member_probabilities
    from harness.analysis.laboratory import candidates, score
    from harness.analysis.metrics import wilson
    from harness.analysis.paired import mcnemar
    from harness.api import Ensemble
    from harness.cli.tables import ensemble_json

    number = candidates(len(voters), len(plugins))
    if number > MOST:
        raise ConfigError(
            f"--search: {len(voters)} members and {len(plugins)} rules make {number:,} ensembles, and one search takes "
            f"{MOST:,}; name fewer members by --runs, or fewer rules by --method"
        )
    dataset = voters[0][0].dataset
    val = next((split for split in dataset.splits if split.name == "val"), None)
    if val is None or not len(val.labels):
        raise DataError(f"--search: the data set {dataset.name} has no validation images to choose by")
    rules = {plugin.name: registry.load(plugin, Ensemble) for plugin in plugins}
    with bar("scoring") as watch:
        found = score(member_probabilities(voters, "val"), val.labels, val.groups, rules, watch)
    # the choice is made; test images are asked from here on
    records = {plugin.name: plugin.record for plugin in plugins}
    tested = [
        combine_runs(rules[one.rule], records[one.rule], [voters[place] for place in one.members])
        for one in found[:SHOWN]
    ]
    splits = {split: _predicted(voters, split) for split in ("val", "test")}
    record = tested[0] = replace(tested[0], id=store.add_ensemble(into, tested[0]))
    best_member = _best_member(splits["val"], found[0])
    labels, predicted = splits["test"]
    against = mcnemar(labels, record.labels, predicted[best_member])
    because = _leak_into_val(dataset.passport)
    if because:
        err.print(f"[bold]The choice is optimistic:[/] {escape(because)}", soft_wrap=True)
    if as_json:
        named = [{"run_id": run.id, "stage": stage, "backbone": run.backbone} for run, stage in voters]
        print_json(
            {
                "criterion": "brier",
                "optimistic": because,
                "members": named,
                "candidates": [asdict(candidate) for candidate in found],
                "best": [
                    {**asdict(one), "test": _share(of_test.correct, of_test.images) | {"auc": of_test.auc}}
                    for one, of_test in zip(found, tested, strict=False)
                ],
                "chosen": ensemble_json(record)
                | {"interval": wilson(record.correct, record.images)}
                | {"against": {**named[best_member], **asdict(against)}},
                "splits": {split: _split_json(*of_split) for split, of_split in splits.items()},
            }
        )
        return
    _show(voters, found, tested, splits, best_member, against)


def _leak_into_val(passport: Passport | None) -> str | None:
    """Return why validation figures are too good, where the passport says that they are."""
    leaks = [one.text for one in passport.reasons if one.verdict == "leaky" and "val" in one.spoils] if passport else []
    return "; ".join(leaks) or None


def _predicted(voters: Voters, split: str) -> Predicted:
    """Return true labels (n,), and those predicted by each voter."""
    from harness.analysis.ensemble import member_probabilities
    from harness.analysis.metrics import classify

    labels = next(one.labels for one in voters[0][0].dataset.splits if one.name == split)
    return labels, [classify(of_member) for of_member in member_probabilities(voters, split)]


def _share(correct: int, images: int) -> dict[str, object]:
    from harness.analysis.metrics import wilson

    return {"correct": correct, "images": images, "share": correct / images, "interval": wilson(correct, images)}


def _split_json(labels: NDArray[np.int64], predicted: Sequence[NDArray[np.int64]]) -> dict[str, object]:
    from harness.analysis.laboratory import diversity, oracle

    return {
        "images": len(labels),
        "oracle": _share(oracle(labels, predicted), len(labels)),
        "pairs": [asdict(pair) for pair in diversity(labels, predicted)],
    }


def _show(
    voters: Voters,
    found: Sequence[Candidate],
    tested: Sequence[EnsembleRecord],
    splits: Mapping[str, Predicted],
    best_member: int,
    against: McNemar,
) -> None:
    from harness.analysis.laboratory import diversity, oracle
    from harness.analysis.metrics import wilson
    from harness.report.text import p_value

    names = [f"{run.backbone} ({run.id}, {stage})" for run, stage in voters]
    table = Table(title=f"The best of {len(found):,} ensembles, by validation images", title_justify="left")
    headings = ("members", "rule", "Brier score,\nvalidation", "test accuracy,\nnot used for the choice")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in headings[:2] else "right", overflow="fold")
    for candidate, of_test in zip(found, tested, strict=False):
        members = ", ".join(names[place] for place in candidate.members)
        low, high = wilson(of_test.correct, of_test.images)
        shown = f"{of_test.accuracy:.2%}\n[dim]{low * 100:.1f} to {high * 100:.1f}[/]"
        table.add_row(escape(members), escape(candidate.rule), f"{candidate.brier:.4f}", shown)
    out.print(table)
    pairs = Table(title="Errors in common, validation / test images", title_justify="left")
    for heading in ("one", "other", "overlap", "Q", "disagree"):
        pairs.add_column(heading, justify="left" if heading in ("one", "other") else "right", overflow="fold")
    for val, test in zip(diversity(*splits["val"]), diversity(*splits["test"]), strict=True):
        pairs.add_row(
            escape(names[val.first]),
            escape(names[val.second]),
            f"{_percent(val.overlap)} / {_percent(test.overlap)}",
            f"{_number(val.q)} / {_number(test.q)}",
            f"{_percent(val.disagreement)} / {_percent(test.disagreement)}",
        )
    out.print(pairs)
    for split, words in (("val", "validation"), ("test", "test")):
        labels, predicted = splits[split]
        right = oracle(labels, predicted)
        low, high = wilson(right, len(labels))
        out.print(
            f"At least one member is right on {right / len(labels):.2%} of the {words} images ({low:.1%} to "
            f"{high:.1%}).",
            soft_wrap=True,
        )
    record = tested[0]
    low, high = wilson(record.correct, record.images)
    out.print(
        escape(
            f"Chosen: {record.method} of {', '.join(names[one] for one in found[0].members)}. On the test images, "
            f"which had no say in it: {record.accuracy:.2%} ({low:.1%} to {high:.1%}), AUC {_number(record.auc, 4)}; "
            f"against its best member by validation, {names[best_member]}: {against.only_first} images to "
            f"{against.only_second} ({p_value(against.p)})."
        ),
        soft_wrap=True,
    )


def _best_member(val: Predicted, chosen: Candidate) -> int:
    """Return which of the chosen members has the highest validation accuracy, of equals the first."""
    labels, predicted = val
    return max(chosen.members, key=lambda place: int((predicted[place] == labels).sum()))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
