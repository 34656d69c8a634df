"""`harness compare`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from harness.cli.options import Database, Json
from harness.cli.output import escape, out, print_json, say

__all__ = ["compare"]

_What = Annotated[str, typer.Argument(help="A label, set:N, run:N or commit:SHA.")]


def compare(
    base: _What,
    head: _What,
    margin: Annotated[float, typer.Option(min=0, max=50, help="Per cent of difference that count as the same.")] = 2.0,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare what was measured on other devices, torch versions or networks.")
    ] = False,
    db: Database = "benchmark.db",
    as_json: Json = False,
) -> None:
    """Compare stored times: the ratio of their medians with a 95 % interval, and what that says.

    The verdict is same, faster, slower, or undecided, which more samples would settle. Measured once on each side, an
    interval knows nothing of how one process differs from the next: measure several times under one label.

    Examples:

      harness compare before after

      harness compare set:3 set:7 --anyway
    """
    from rich.table import Table

    from harness.comparison import compare_sides, find
    from harness.store import open_store

    with open_store(db, create=False, say=say) as store:
        sides = find(store, base), find(store, head)
    found = list(compare_sides(*sides, margin=margin / 100, anyway=anyway))
    if as_json:
        print_json([{"base_name": one, "head_name": other, **asdict(result)} for one, other, result in found])
        return
    table = Table(title=f"{escape(head)} against {escape(base)}", title_justify="left")
    table.add_column("what", overflow="fold")
    for heading in ("base, ms", "head, ms", "ratio", "95 %"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    colours = {"slower": "red", "faster": "green"}
    for one, other, result in found:
        colour = colours.get(result.verdict, "default")
        table.add_row(
            escape(one if one == other else f"{other} / {one}"),
            f"{1e3 * result.base:.4g}{' *' if sides[0][one].spoilt else ''}",
            f"{1e3 * result.head:.4g}{' *' if sides[1][other].spoilt else ''}",
            f"{result.ratio:.3f}",
            "few samples" if result.low is None else f"{result.low:.3f} to {result.high:.3f}",
            f"[{colour}]{result.verdict}[/]",
        )
    if any(sides[0][one].spoilt or sides[1][other].spoilt for one, other, _ in found):
        table.caption, table.caption_justify = "* spoilt; `harness sets show` says by what", "left"
    out.print(table)
