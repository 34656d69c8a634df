"""`harness cache`."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import Json
from harness.cli.output import escape, out, print_json, readable_bytes
from harness.errors import DataError
from harness.paths import Kept, kept_dir, sizes

app = typer.Typer(help="Look at what runs keep for other runs, and clear it.", no_args_is_help=True)

_WHAT = {
    Kept.DECODED: "decoded images",
    Kept.FEATURES: "what frozen layers made of images",
}


@app.command("info")
def show_info(as_json: Json = False) -> None:
    """Show what is kept, where, and how much room it takes.

    Example: harness cache info
    """
    from rich.table import Table

    found = {kind: sizes(kept_dir(kind)) for kind in _WHAT}
    if as_json:
        print_json(
            {
                kind: {"folder": str(kept_dir(kind)), "files": len(files), "bytes": sum(files.values())}
                for kind, files in found.items()
            }
        )
        return
    table = Table()
    table.add_column("kept")
    table.add_column("files", justify="right")
    table.add_column("size", justify="right")
    table.add_column("folder", overflow="fold")
    for kind, files in found.items():
        size = readable_bytes(sum(files.values()))
        table.add_row(f"{kind}: {_WHAT[kind]}", f"{len(files):,}", size, escape(str(kept_dir(kind))))
    out.print(table)


@app.command("clear")
def clear(
    kinds: Annotated[
        list[Kept] | None, typer.Argument(help="decoded or features; all of it without.", metavar="[KIND]...")
    ] = None,
    as_json: Json = False,
) -> None:
    """Delete what is kept. Runs make it again; one that is going on is not disturbed.

    Examples:

      harness cache clear

      harness cache clear features
    """
    removed = 0
    for kind in kinds or _WHAT:
        for path, size in sizes(kept_dir(kind)).items():
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise DataError(f"{path} cannot be deleted: {error.strerror}") from error
            removed += size
    if as_json:
        print_json({"bytes": removed})
    else:
        out.print(f"{readable_bytes(removed)} freed.")
