"""`harness plugins`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.output import err, escape, out, print_json
from harness.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from harness.results import Failure

__all__ = ["plugins"]


def plugins(
    kind: Annotated[
        str | None,
        typer.Option(help="backbone, family, schedule, rate, optimizer, loss, ensemble or dataset."),
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="List what a family has, such as timm. Its library is imported for that.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Load each in a process of its own, and say which cannot be.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that an import may take (--verify).")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the installed plugins and where each comes from. Without --verify and --family none is imported.

    Exit codes: 0, or 1 where --verify finds one that cannot be loaded.

    Examples:

      harness plugins --kind backbone

      harness plugins --family torchvision

      harness plugins --verify
    """
    from collections import Counter

    from rich.table import Table

    from harness import registry
    from harness.launch.load import load_elsewhere

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
    failures: list[Failure | None] = [None] * len(found)
    if verify:
        with err.status("loading"):
            failures = load_elsewhere(found, timeout)
    if as_json:
        rows = [{**vars(plugin.record), "target": plugin.target, "api": plugin.api} for plugin in found]
        states = [{"failure": failure and failure.message} for failure in failures] if verify else [{}] * len(found)
        print_json([row | state for row, state in zip(rows, states, strict=True)])
    else:
        table = Table()
        for heading in ("kind", "name", "distribution", "version", *(["state"] if verify else [])):
            table.add_column(heading, overflow="fold")
        for plugin, failure in zip(found, failures, strict=True):
            record = plugin.record
            state = f"[bold red]broken:[/] {escape(failure.message)}" if failure else "[green]ok[/]"
            words = map(escape, (record.kind, record.name, record.distribution, record.version))
            table.add_row(*words, *([state] if verify else []))
        out.print(table)
    for (of_kind, name), times in Counter((plugin.kind, plugin.name) for plugin in found).items():
        if times > 1:
            err.print(f"[bold yellow]warning:[/] {times} distributions register the {of_kind} {escape(repr(name))}")
    for plugin in found:
        if plugin.unfit:
            err.print(f"[bold yellow]warning:[/] the {escape(str(plugin))}: {plugin.unfit}", soft_wrap=True)
    if any(failures):
        raise typer.Exit(1)
