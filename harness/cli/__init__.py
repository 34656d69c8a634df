"""The command line: each command parses, calls, prints and sets the exit code. None of this imports torch."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from harness.cli import cache, data, db, plugin, runs, sets
from harness.cli.bench import bench
from harness.cli.compare import compare
from harness.cli.doctor import doctor
from harness.cli.ensemble import ensemble
from harness.cli.gate import GateCommand, gate
from harness.cli.plugins import plugins
from harness.cli.recipes import recipes
from harness.cli.report import report
from harness.cli.reproduce import reproduce
from harness.cli.resume import resume
from harness.cli.roofs import roofs
from harness.cli.run import run
from harness.cli.spec_curve import spec_curve
from harness.cli.verify import verify
from harness.cli.verify_resume import verify_resume
from harness.errors import BrokenPluginError, HarnessError

__all__ = ["app", "main"]

app = typer.Typer(
    name="harness",
    help="Benchmark pretrained backbones, training schedules and ensembles on your images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run)
app.command()(resume)
app.command()(recipes)
app.command("spec-curve")(spec_curve)
app.command()(reproduce)
app.command("verify-resume", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(verify_resume)
app.command()(bench)
app.command()(roofs)
app.command()(compare)
app.command(cls=GateCommand)(gate)
app.command()(ensemble)
app.command()(report)
app.command()(verify)
app.add_typer(runs.app, name="runs")
app.add_typer(sets.app, name="sets")
app.command()(plugins)
app.add_typer(plugin.app, name="plugin")
app.add_typer(data.app, name="data")
app.add_typer(db.app, name="db")
app.add_typer(cache.app, name="cache")
app.command()(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"harness {version('transfer-harness')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors, anywhere on the line.")] = False,
) -> None:
    """Take the options that stand before the command."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line. Exit codes: 0 done, 1 a run failed, 2 it could not be done as asked, 130 interrupted."""
    arguments = sys.argv[1:] if argv is None else argv
    debug = "--debug" in arguments
    try:
        app([argument for argument in arguments if argument != "--debug"], prog_name="harness")
    except HarnessError as error:
        if debug:
            raise
        from harness.cli.output import err, escape

        if isinstance(error, BrokenPluginError) and error.details:
            err.print(escape(error.details.rstrip()), soft_wrap=True)
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)
