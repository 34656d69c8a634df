"""`harness verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import Database, Json
from harness.cli.output import escape, out, print_json, say

if TYPE_CHECKING:
    from harness.analysis.reproduction import Mean
    from harness.report.contract import CheckedPair, Contract
    from harness.report.paper import Deviation

__all__ = ["verify"]

_COLOURS = {"reproduced": "green", "not reproduced": "bold red", "undecided": "yellow"}


def verify(
    table: Annotated[str, typer.Argument(help="A published table that comes with harness (table1), or a TOML file.")],
    experiment: Annotated[str | None, typer.Option(help="Only runs of this experiment.")] = None,
    where: Annotated[str, typer.Option(help="Only these runs: a filter, as of `harness runs list --where`.")] = "",
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="Let runs count that deviate so from the table's protocol: KEY=VALUE, such as weights=random."
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Let what is undecided be an exit code of 1 too.")] = False,
    db: Database = "benchmark.db",
    as_json: Json = False,
) -> None:
    """Hold stored runs against a published table: is each figure, and each claim, reproduced?

    All completed runs count that follow the table's protocol on its data set; a figure is their mean over seeds. It is
    reproduced where its 90 % interval lies within the margin of the published one, not reproduced where it lies
    beyond. A claim that one figure is above another is reproduced where the differences within seeds are above 0, not
    reproduced where they are below, at 5 % after Holm's adjustment. Everything else is undecided, as is one seed.

    Exit codes: 0 nothing is "not reproduced", 1 something is (with --strict: or undecided, as is a figure that no run
    has), 2 it could not be done: also where no run at all counts, or those that count do not go together.

    Examples:

      harness verify table1

      harness verify my.toml --experiment seeds --allow weights=random --strict
    """
    from harness.errors import ConfigError, did_you_mean
    from harness.report.contract import check_contract
    from harness.report.paper import read_table
    from harness.results import Selection
    from harness.store import open_store

    paper = read_table(table)
    for text in allow or ():
        try:
            paper.check_point(text)
        except ConfigError as error:
            raise ConfigError(f"--allow {error}") from None
    with open_store(db, create=False, say=say) as store:
        known = [one.name for one in store.experiments()]
        if experiment is not None and experiment not in known:
            raise ConfigError(f"--experiment {experiment}: there is none. {did_you_mean(experiment, known)}")
        runs = store.runs(Selection(where=where, experiment=experiment))
        found = check_contract(paper, runs, store.ensembles(), allow or ())
    if not found.runs:
        raise ConfigError(_nothing(found))
    if as_json:
        print_json(_json(table, found))
    else:
        _print(found)
    if found.count("not reproduced") or (strict and found.count("undecided")):
        raise typer.Exit(1)


def _nothing(found: Contract) -> str:
    names, data = ", ".join(found.paper.backbones), found.paper.protocol["dataset"]
    said = f"no completed run of {names} on {data} follows the protocol of {found.paper.source}"
    if found.left_out:
        said += f"; what they deviate in, and --allow KEY=VALUE lets pass: {_deviations(found.left_out)}"
    return f"{said}. The command that runs the table: {found.paper.command}"


def _deviations(found: Sequence[Deviation]) -> str:
    """Every deviation as ``--allow`` takes it, with its runs."""
    return ", ".join(
        f"{one.what}={one.ours} (run{'s' * (len(one.runs) > 1)} {', '.join(map(str, one.runs))})" for one in found
    )


def _print(found: Contract) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    paper = found.paper
    title = f"{escape(paper.source)} of {escape(paper.title)}: test accuracy, %"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("row", "after"):
        table.add_column(heading, overflow="fold")
    for heading in ("published ± margin", "ours ± deviation", "seeds", "90 % of the mean"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for cell in found.cells:
        table.add_row(
            escape(cell.name),
            escape(cell.stage),
            f"{100 * cell.published.accuracy:.2f} ± {100 * cell.published.margin:.3g}",
            "no run" if cell.mean is None else _mean(cell.mean),
            str(len(cell.right)),
            _interval(cell.mean, cell.interval),
            _verdict(cell.verdict),
        )
    out.print(table)
    for one in found.claims:
        out.print(f"{_verdict(one.verdict)}: {escape(one.claim.text)}", soft_wrap=True)
        for pair in one.pairs:
            out.print(f"  {escape(_pair(pair))}", soft_wrap=True)
    for line in _lines(found):
        out.print(escape(line), soft_wrap=True, style="dim")
    if found.random:
        said = "Random weights count here, so nothing was transferred from ImageNet: runs "
        out.print(f"[yellow]{said}{', '.join(map(str, found.random))}.[/]", soft_wrap=True)
    out.print(escape(found.summary), soft_wrap=True, style="bold")


def _pair(of: CheckedPair) -> str:
    said = f"{of.pair.greater} - {of.pair.than}: published {100 * of.published:+.2f} points, ours "
    if of.ours.mean is None:
        return f"{said}no run"
    bounds = _interval(of.ours.mean, of.ours.interval, "+.2f")
    seeds = f"{of.ours.n} seed{'s' * (of.ours.n > 1)}"
    return f"{said}{_mean(of.ours.mean, '+.2f')} ({seeds}{f'; 90 %: {bounds}' if bounds else ''})"


def _mean(mean: Mean, form: str = ".2f") -> str:
    spread = "" if mean.deviation is None else f" ± {100 * mean.deviation:.2f}"
    return f"{100 * mean.mean:{form}}{spread}"


def _interval(mean: Mean | None, interval: tuple[float, float] | None, form: str = ".2f") -> str:
    if interval is not None:
        return " to ".join(format(100 * bound, form) for bound in interval)
    return "no spread" if mean is not None and mean.n > 1 else ""


def _verdict(verdict: str) -> str:
    return f"[{_COLOURS[verdict]}]{verdict}[/]"


def _lines(found: Contract) -> list[str]:
    """What to know of the runs that count, and of those that do not."""
    lines = [f"Runs that count: {', '.join(map(str, found.runs))}."]
    if found.but_for:
        lines.append(
            f"They deviate from the protocol, which the table or --allow lets pass: {_deviations(found.but_for)}."
        )
    if found.left_out:
        lines.append(f"Left out for deviations that --allow KEY=VALUE lets pass: {_deviations(found.left_out)}.")
    if found.repeated:
        lines.append(f"Left out, since a newer run has their seed: {', '.join(map(str, found.repeated))}.")
    if found.incomplete:
        lines.append(f"Not completed, so not counted: {', '.join(map(str, found.incomplete))}.")
    few = any(len(cell.right) == 1 for cell in found.cells)
    if few or found.missing:
        said = f"No run has {', '.join(found.missing)}. " if found.missing else ""
        said += "One seed decides nothing; at least 2, better 5. " if few else ""
        lines.append(f"{said}The command that runs the table, and nothing twice: {found.paper.command}")
    return lines


def _json(table: str, found: Contract) -> dict[str, Any]:
    paper = found.paper
    return {
        "table": table,
        "title": paper.title,
        "summary": found.summary,
        "verdicts": {verdict: found.count(verdict) for verdict in ("reproduced", "not reproduced", "undecided")},
        "cells": [
            {
                "name": cell.name,
                "stage": cell.stage,
                "published": cell.published.accuracy,
                "margin": cell.published.margin,
                "n": len(cell.right),
                "correct": {str(seed): right for seed, right in cell.right.items()},
                "images": cell.images if cell.right else None,
                "mean": cell.mean.mean if cell.mean else None,
                "deviation": cell.mean.deviation if cell.mean else None,
                "interval_90": cell.interval,
                "verdict": cell.verdict,
                "note": cell.note,
            }
            for cell in found.cells
        ],
        "claims": [
            {
                "text": one.claim.text,
                "verdict": one.verdict,
                "note": one.note,
                "p_holds": one.holds,
                "p_refuted": one.refuted,
                "pairs": [
                    {
                        "greater": pair.pair.greater,
                        "than": pair.pair.than,
                        "published": pair.published,
                        "n": pair.ours.n,
                        "mean": pair.ours.mean.mean if pair.ours.mean else None,
                        "deviation": pair.ours.mean.deviation if pair.ours.mean else None,
                        "interval_90": pair.ours.interval,
                    }
                    for pair in one.pairs
                ],
            }
            for one in found.claims
        ],
        "runs": found.runs,
        "random_weights": found.random,
        "deviations": [asdict(one) for one in found.but_for],
        "left_out": [asdict(one) for one in found.left_out],
        "repeated": found.repeated,
        "incomplete": found.incomplete,
        "missing": found.missing,
        "command": paper.command,
    }
