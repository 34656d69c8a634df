"""`harness verify-resume`."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import Json
from harness.cli.output import escape, out, print_json, say
from harness.errors import ConfigError

__all__ = ["verify_resume"]


def verify_resume(
    context: typer.Context,
    kills: Annotated[int, typer.Option(min=1, help="How many kills.")] = 5,
    kill_seed: Annotated[int, typer.Option(help="Seed of their moments.")] = 0,
    as_json: Json = False,
) -> None:
    """Kill a run at random moments, resume it after each, and compare it with an undisturbed one.

    Takes the options of `harness run` besides. Final weights, the optimiser's state and the predictions must have the
    same hashes. On a GPU, say --deterministic. Nothing is written into your database.

    Exit codes: 0 the same, 1 different, 2 it could not be done.

    Example: harness verify-resume --kills 10 --plugins resnet18,phantom --weights random --checkpoint-every 5
    """
    import tempfile
    from dataclasses import asdict
    from pathlib import Path

    from rich.table import Table

    from harness import verify

    arguments = context.args
    for option in ("--db", "--experiment", "--repeat", "--json"):
        if any(word == option or word.startswith(f"{option}=") for word in arguments):
            raise ConfigError(f"{option}: not here; the runs go into a database that is thrown away")
    with tempfile.TemporaryDirectory(prefix="harness-verify-") as folder:
        verdict = verify.verify_resume(arguments, kills, kill_seed, Path(folder), say)
    if as_json:
        print_json({"same": verdict.same, **asdict(verdict)})
    else:
        table = Table(title="sha256 after each stage, undisturbed")
        for heading in ("backbone", "stage", "weights", "optimizer", "predictions", "killed and resumed"):
            table.add_column(heading)
        for number, digest in enumerate(verdict.reference):
            others = [digests[number] if number < len(digests) else None for digests in verdict.disturbed]
            told = "the same" if all(other == digest for other in others) else "[bold red]different[/]"
            hashes = (digest.weights[:12], digest.optimizer[:12], digest.predictions[:12])
            table.add_row(escape(digest.backbone), escape(digest.stage), *hashes, told)
        out.print(table)
        out.print(f"{len(verdict.kills)} kills, {len(verdict.disturbed)} resumed sweeps")
    if not verdict.same:
        raise typer.Exit(1)
