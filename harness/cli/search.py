"""`harness ensemble --search`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from rich.table import Table

from harness.cli.output import bar, err, escape, out, print_json
from harness.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.analysis.laboratory import Candidate
    from harness.registry import Plugin
    from harness.results import EnsembleRecord, Experiment, Run
    from harness.store import Store

    Voters = Sequence[tuple[Run, str]]

__all__ = ["search_ensembles"]

MOST = 50_000  # candidates
SHOWN = 10


def search_ensembles(store: Store, into: Experiment, voters: Voters, plugins: Sequence[Plugin], as_json: bool) -> None:
    """Score every subset of the voters by every rule on validation images; record and show the best."""
    from harness import registry
    from harness.analysis.ensemble import combine_runs, member_probabilities
    from harness.analysis.laboratory import candidates, score
    from harness.api import Ensemble

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
    best = found[0]
    chosen = [voters[place] for place in best.members]
    plugin = next(plugin for plugin in plugins if plugin.name == best.rule)
    record = combine_runs(rules[best.rule], plugin.record, chosen)
    record = replace(record, id=store.add_ensemble(into, record))
    if dataset.passport and dataset.passport.verdict == "leaky":
        err.print(f"[bold]The choice is optimistic:[/] {escape(dataset.passport.because)}", soft_wrap=True)
    if as_json:
        print_json(_json(voters, found, record))
        return
    _show(voters, found, record)


def _predicted(voters: Voters, split: str) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Return true labels (n,), and those predicted by each voter."""
    from harness.analysis.ensemble import member_probabilities
    from harness.analysis.metrics import classify

    labels = next(one.labels for one in voters[0][0].dataset.splits if one.name == split)
    return labels, [classify(of_member) for of_member in member_probabilities(voters, split)]


def _json(voters: Voters, found: Sequence[Candidate], record: EnsembleRecord) -> dict[str, object]:
    from harness.analysis.laboratory import diversity, oracle
    from harness.cli.tables import ensemble_json

    named = [{"run_id": run.id, "stage": stage, "backbone": run.backbone} for run, stage in voters]
    return {
        "members": named,
        "candidates": [asdict(candidate) for candidate in found],
        "chosen": ensemble_json(record),
        "splits": {
            split: {
                "images": len(labels),
                "oracle": oracle(labels, predicted),
                "pairs": [asdict(pair) for pair in diversity(labels, predicted)],
            }
            for split in ("val", "test")
            for labels, predicted in [_predicted(voters, split)]
        },
    }


def _show(voters: Voters, found: Sequence[Candidate], record: EnsembleRecord) -> None:
    from harness.analysis.laboratory import diversity, oracle
    from harness.analysis.metrics import wilson
    from harness.analysis.paired import mcnemar
    from harness.report.text import p_value

    names = [f"{run.backbone} ({run.id}, {stage})" for run, stage in voters]
    table = Table(title=f"The best of {len(found):,} ensembles, by validation images", title_justify="left")
    for heading, side in (("members", "left"), ("rule", "left"), ("Brier score", "right")):
        table.add_column(heading, justify=side, overflow="fold")  # type: ignore[arg-type]
    for candidate in found[:SHOWN]:
        members = ", ".join(names[place] for place in candidate.members)
        table.add_row(escape(members), escape(candidate.rule), f"{candidate.brier:.4f}")
    out.print(table)
    pairs = Table(title="Errors in common, validation / test images", title_justify="left")
    for heading in ("one", "other", "overlap", "Q", "disagree"):
        pairs.add_column(heading, justify="left" if heading in ("one", "other") else "right", overflow="fold")
    splits = {split: _predicted(voters, split) for split in ("val", "test")}
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
    labels, predicted = splits["test"]
    place = found[0].members[_best_member(voters, found[0])]
    against = mcnemar(labels, record.labels, predicted[place])
    low, high = wilson(record.correct, record.images)
    out.print(
        escape(
            f"Chosen: {record.method} of {', '.join(names[one] for one in found[0].members)}. On the test images, "
            f"which had no say in it: {record.accuracy:.2%} ({low:.1%} to {high:.1%}), AUC {_number(record.auc, 4)}; "
            f"against its best member by validation, {names[place]}: {against.only_first} images to "
            f"{against.only_second} ({p_value(against.p)})."
        ),
        soft_wrap=True,
    )


def _best_member(voters: Voters, chosen: Candidate) -> int:
    """Return the place among the chosen members of that with the highest validation accuracy, of equals the first."""
    labels, predicted = _predicted([voters[place] for place in chosen.members], "val")
    rights = [int((one == labels).sum()) for one in predicted]
    return rights.index(max(rights))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
