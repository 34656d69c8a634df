"""`harness cache`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from harness.cli.options import Json
from harness.cli.output import escape, out, print_json, readable_bytes
from harness.errors import DataError

app = typer.Typer(help="Look at what runs keep for other runs, and clear it.", no_args_is_help=True)

Kind = Literal["decoded", "features"]
_KINDS: dict[Kind, str] = {
    "decoded": "decoded images",
    "features": "what frozen layers made of images",
}


@app.command("info")
def show_info(as_json: Json = False) -> None:
    """Show what is kept, where, and how much room it takes.

    Example: harness cache info
    """
    from rich.table import Table

    from harness import paths

    found = {kind: paths.sizes(paths.kept_dir(kind)) for kind in _KINDS}
    if as_json:
        print_json(
            {
                kind: {"folder": str(paths.kept_dir(kind)), "files": len(sizes), "bytes": sum(sizes.values())}
                for kind, sizes in found.items()
            }
        )
        return
    table = Table()
    table.add_column("kept")
    table.add_column("files", justify="right")
    table.add_column("size", justify="right")
    table.add_column("folder", overflow="fold")
    for kind, sizes in found.items():
        size = readable_bytes(sum(sizes.values()))
        table.add_row(f"{kind}: {_KINDS[kind]}", f"{len(sizes):,}", size, escape(str(paths.kept_dir(kind))))
    out.print(table)


@app.command("clear")
def clear(
    kinds: Annotated[
        list[Kind] | None, typer.Argument(help="decoded or features; all of it without.", metavar="[KIND]...")
    ] = None,
    as_json: Json = False,
) -> None:
    """Delete what is kept. Runs make it again; one that is going on is not disturbed.

    Examples:

      harness cache clear

      harness cache clear features
    """
    from harness import paths

    removed = 0
    for kind in kinds or _KINDS:
        for path, size in paths.sizes(paths.kept_dir(kind)).items():
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise DataError(f"{path} cannot be deleted: {error.strerror}") from error
            removed += size
    if as_json:
        print_json({"bytes": removed})
    else:
        out.print(f"{readable_bytes(removed)} freed.")
