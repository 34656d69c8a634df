"""`harness plugin`: for those who write one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Json, Timeout, words
from harness.cli.output import err, escape, out, print_json
from harness.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from harness.registry import Plugin
    from harness.results import CheckResult

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Write and check plugins of your own.")


@app.callback()
def plugin() -> None:
    """Write and check plugins of your own."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Of the package: small letters and hyphens, as my-backbone.")],
    kind: Annotated[str, typer.Option(help="backbone, schedule, ensemble or dataset.")] = "backbone",
    folder: Annotated[Path | None, typer.Option("--out", help="Folder to make. Default: NAME.")] = None,
) -> None:
    """Write a plugin's package: installable, with tests that pass, a README and a workflow for GitHub.

    Exit codes: 0 done, 2 it could not be done.

    Examples:

      harness plugin new my-backbone

      harness plugin new my-vote --kind ensemble --out plugins/my-vote
    """
    from harness.scaffold import KINDS, write_package

    if kind not in KINDS:
        raise ConfigError(f"--kind {kind}: no such kind. {did_you_mean(kind, KINDS)}")
    where = folder or Path(name)
    for path in write_package(name, kind, where):
        out.print(escape(str(path)), soft_wrap=True)
    module = name.replace("-", "_")
    out.print(f"Next: pip install -e '{escape(str(where))}[test]' && harness plugin check {module}", soft_wrap=True)


@app.command()
def check(
    names: Annotated[
        str, typer.Argument(metavar="NAME[,NAME...]", help="Plugins; kind:name where a name means two, FAMILY:NAME.")
    ],
    weights: Annotated[
        str, typer.Option(help="Of backbones: random, or imagenet, which has to be on this machine, or a file.")
    ] = "random",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Option of a data set, such as data.path=FOLDER. Repeatable.")
    ] = None,
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Check that plugins hold to what harness relies on, each in a process of its own.

    Of a backbone, for example: logits of any batch, a head that trains alone, weights that go through a file,
    determinism, bf16, memory that is freed; on a GPU too, where there is one.

    Exit codes: 0 all checks passed, 1 some did not, 2 it could not be done, 130 interrupted.

    Examples:

      harness plugin check my_net

      harness plugin check timm:resnet50,schedule:paper

      harness plugin check imagefolder --set data.path=photos
    """
    from harness import registry
    from harness.config import parse_weights

    plugins = [registry.find_any(name) for name in words(names)]
    if settings and (others := [plugin.name for plugin in plugins if plugin.kind != "dataset"]):
        raise ConfigError(f"--set {settings[0]}: options are data sets', and {others[0]} is none")
    found: list[tuple[Plugin, list[CheckResult]]] = []
    for plugin in plugins:
        given = parse_weights([weights], [plugin.name])[plugin.name]
        found.append((plugin, _check(plugin, given, tuple(settings or ()), timeout)))
        if not as_json:
            _show(*found[-1])
    failed = sum(not result.passed for _, results in found for result in results)
    if as_json:
        print_json(
            [
                {**vars(plugin.record), "checks": [{**vars(result), "passed": result.passed} for result in results]}
                for plugin, results in found
            ]
        )
    if failed:
        raise typer.Exit(1)


def _check(plugin: Plugin, weights: str, settings: tuple[str, ...], timeout: float) -> list[CheckResult]:
    from harness.cli.sweep import stop_when_told
    from harness.config import CheckTask
    from harness.errors import Stopped
    from harness.launch import Limits, run_in_child
    from harness.results import CheckResult, Failure, Note, Progress

    task = CheckTask(plugin.kind, plugin.name, weights, settings)
    results: list[CheckResult] = []
    during = "It can be loaded"
    with stop_when_told("the same command", "now") as stopping, err.status(escape(plugin.name)) as status:
        try:
            for event in run_in_child(task, Limits(timeout), stopping):
                match event:
                    case Note():
                        during = event.text
                    case Progress():
                        status.update(f"{escape(plugin.name)}: {escape(event.phase)} ({event.done + 1}/{event.total})")
                    case CheckResult():
                        results.append(event)
                    case Failure() if event.kind in ("ConfigError", "PluginNotFoundError"):
                        raise ConfigError(event.message)
                    case Failure():
                        results.append(CheckResult(during, event.message, event.traceback))
                    case _:
                        pass
        except Stopped:
            raise typer.Exit(130) from None
    return results


def _show(plugin: Plugin, results: list[CheckResult]) -> None:
    passed = sum(result.passed for result in results)
    out.print(f"[bold]{escape(str(plugin))}[/]: {passed} of {len(results)} checks passed", soft_wrap=True)
    for result in results:
        mark = "[green]passed[/]" if result.passed else "[bold red]failed[/]"
        out.print(
            f"  {mark} {escape(result.name)}" + (f": {escape(result.message)}" if result.message else ""),
            soft_wrap=True,
        )
        if result.details:
            err.print(escape(result.details.rstrip()), soft_wrap=True)
