"""`harness data`."""

from __future__ import annotations

import typer

app = typer.Typer(help="Add, list and inspect data sets.", no_args_is_help=True)
