"""`harness report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.output import bar, print_json, say

__all__ = ["report"]


def report(
    db: Annotated[str, typer.Option(envvar="HARNESS_DB", help="Results database: a file or a URL.")] = "benchmark.db",
    out: Annotated[
        Path, typer.Option(help="Folder for the pages: new, empty, or an earlier report, which is replaced.")
    ] = Path("reports/latest"),
    experiment: Annotated[str | None, typer.Option(help="Experiment to report. Default: the newest.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Write the pages of every experiment, and not only of one.")
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the front page in the browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write an experiment as static pages, with the leaderboard of all runs, and print the path of the front page.

    Examples:

      harness report

      harness report --experiment table1 --out reports/monday --open

      harness report --all
    """
    from harness.report.render import render_report
    from harness.store import open_store

    with open_store(db, create=False, say=say) as store, bar("writing pages") as watch:
        index = render_report(store, out, experiment=experiment, everything=everything, watch=watch)
    if as_json:
        print_json({"index": str(index.absolute())})
    else:
        typer.echo(index)
    if open_browser:
        typer.launch(index.absolute().as_uri())
