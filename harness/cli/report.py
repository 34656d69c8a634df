"""`harness report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.output import print_json, say

__all__ = ["report"]


def report(
    db: Annotated[str, typer.Option(envvar="HARNESS_DB", help="Results database: a file or a URL.")] = "benchmark.db",
    out: Annotated[
        Path, typer.Option(help="Folder for the pages: new, empty, or an earlier report, which is replaced.")
    ] = Path("reports/latest"),
    experiment: Annotated[str | None, typer.Option(help="Experiment of the front page. Default: the newest.")] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the front page in the browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write the results as static pages, and print the path of the front page.

    Examples:

      harness report

      harness report --db benchmark.db --out reports/monday --open
    """
    from harness.report import render_report
    from harness.store import open_store

    with open_store(db, create=False, say=say) as store:
        index = render_report(store, out, experiment=experiment)
    if as_json:
        print_json({"index": str(index.absolute())})
    else:
        typer.echo(index)
    if open_browser:
        typer.launch(index.absolute().as_uri())
