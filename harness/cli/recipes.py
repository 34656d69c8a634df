"""`harness recipes`."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import Json

__all__ = ["recipes"]


def recipes(
    name: Annotated[str, typer.Argument(help="Print this one, to change a copy of it.")] = "",
    as_json: Json = False,
) -> None:
    """List the recipes that come with harness, or print one.

    Examples:

      harness recipes

      harness run --recipe table1-strict

      harness recipes noise > mine.toml && harness run --recipe mine.toml
    """
    from rich.table import Table

    from harness.cli.output import escape, out, print_json
    from harness.recipes import recipe_path, shipped

    if name:
        typer.echo(recipe_path(name).read_text(encoding="utf-8"), nl=False)
        return
    about = {
        known: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for known, path in shipped().items()
    }
    if as_json:
        print_json([{"name": known, "about": said, "path": str(shipped()[known])} for known, said in about.items()])
        return
    table = Table()
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it does")
    for known, said in about.items():
        table.add_row(escape(known), escape(said))
    out.print(table)
    out.print("Run one with: harness run --recipe NAME", style="dim")
