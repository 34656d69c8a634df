"""`harness plugins`."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.output import err, escape, out, print_json
from harness.errors import ConfigError, did_you_mean

__all__ = ["plugins"]


def plugins(
    kind: Annotated[str | None, typer.Option(help="backbone, family, schedule, ensemble or dataset.")] = None,
    family: Annotated[
        str | None, typer.Option(help="List what a family has, such as timm. Its library is imported for that.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the installed plugins and where each comes from. None is imported, but with --family.

    Examples:

      harness plugins --kind backbone

      harness plugins --family torchvision
    """
    from collections import Counter

    from rich.table import Table

    from harness import registry

    if family is not None:
        from harness.api import Family

        names = [f"{family}:{name}" for name in registry.load(registry.find("family", family), Family).names()]
        if as_json:
            print_json(names)
        else:
            out.print("\n".join(map(escape, names)), soft_wrap=True)
        return
    if kind is not None and kind not in registry.KINDS:
        raise ConfigError(f"--kind {kind}: no such kind. {did_you_mean(kind, registry.KINDS)}")
    found = [plugin for plugin in registry.plugins() if kind in (None, plugin.kind)]
    if as_json:
        print_json([{**vars(plugin.record), "target": plugin.target} for plugin in found])
    else:
        table = Table()
        for heading in ("kind", "name", "distribution", "version"):
            table.add_column(heading, overflow="fold")
        for plugin in found:
            record = plugin.record
            table.add_row(*map(escape, (record.kind, record.name, record.distribution, record.version)))
        out.print(table)
    for (of_kind, name), times in Counter((plugin.kind, plugin.name) for plugin in found).items():
        if times > 1:
            err.print(f"[bold yellow]warning:[/] {times} distributions register the {of_kind} {escape(repr(name))}")
