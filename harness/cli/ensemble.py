"""`harness ensemble`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Annotated

import typer

from harness.cli.options import Database, Json, words
from harness.cli.output import err, escape, out, print_json, say
from harness.errors import ConfigError, did_you_mean

__all__ = ["ensemble"]


def ensemble(
    runs: Annotated[str, typer.Option(help="Numbers of the members, of `harness runs list`: 7,8,9.")] = "",
    where: Annotated[str | None, typer.Option(help="Or a filter, as of `harness runs list --where`.")] = None,
    method: Annotated[str, typer.Option(help="Rules, separated by commas. Default: all that are installed.")] = "",
    stage: Annotated[
        str | None,
        typer.Option(
            help="Stage whose predictions count, or several: each run votes once after each (a snapshot ensemble). "
            "Default: the last that all have."
        ),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option(help="Experiment that there is, to record them in. Default: the lowest number's.")
    ] = None,
    search: Annotated[
        bool,
        typer.Option(
            "--search", help="Score every two members or more by every rule on validation images, and record the best."
        ),
    ] = False,
    db: Database = "benchmark.db",
    as_json: Json = False,
) -> None:
    """Combine stored predictions of completed runs by several rules. Nothing is trained.

    Rules that are fitted are fitted to the predictions of validation images alone; what is shown is of the test images.
    Results are recorded in an experiment, and stand in its reports. With --search test images have no say in which is
    best; what they say of it is shown then.

    Exit codes: 0 done, 1 a rule failed, 2 it could not be done.

    Examples:

      harness ensemble --runs 7,8,9

      harness ensemble --where "backbone = resnet18 and experiment = seeds" --method mean_probability,stacking

      harness ensemble --runs 7 --stage snapshot1,snapshot2,snapshot3

      harness ensemble --search --where "experiment = best"
    """
    from harness import registry
    from harness.analysis.ensemble import combine_runs
    from harness.analysis.metrics import classify
    from harness.api import Ensemble
    from harness.cli.search import search_ensembles
    from harness.cli.tables import detectable_words, ensemble_json, methods_table
    from harness.errors import HarnessError
    from harness.results import EnsembleRecord, Selection
    from harness.store import open_store, shown_url

    numbers = sorted(set(map(_number, words(runs))))
    if bool(numbers) == bool(where):
        raise ConfigError("name the members, by --runs 7,8,9 or by --where EXPRESSION, not by both")
    plugins = [registry.find("ensemble", name) for name in words(method)] or registry.plugins("ensemble")
    with open_store(db, create=False, write=True, say=say) as store:
        if where:
            numbers = sorted(store.run_ids(Selection(where=f"({where}) and status = completed")))
        members = [store.run(run_id) for run_id in numbers]
        if unfinished := [run.id for run in members if run.status != "completed"]:
            raise ConfigError(f"--runs {runs}: run {unfinished[0]} has not completed")
        if others := [run.id for run in members if run.dataset.fingerprint != members[0].dataset.fingerprint]:
            raise ConfigError(f"runs {members[0].id} and {others[0]} used different images, so they cannot be combined")
        of_all = [one.name for one in members[0].stages if all(run.stage(one.name) for run in members)]
        stages = words(stage or "") or of_all[-1:]
        if not stages or not set(stages) <= set(of_all):
            raise ConfigError(f"--stage {stage}: the members share {', '.join(of_all) or 'no stage'}")
        voters = [(run, name) for run in members for name in dict.fromkeys(stages)]
        if len(voters) < 2:
            raise ConfigError(f"an ensemble has two members or more; found {len(voters)}")
        known = {one.name: one for one in store.experiments()}
        if experiment is not None and experiment not in known:
            raise ConfigError(f"--experiment {experiment}: there is none. {did_you_mean(experiment, known)}")
        into = members[0].experiment if experiment is None else known[experiment]
        if search:
            search_ensembles(store, into, voters, plugins, as_json)
            return
        found: list[EnsembleRecord] = []
        for plugin in plugins:
            try:
                rule = registry.load(plugin, Ensemble)
                record = combine_runs(rule, plugin.record, voters)
                record = replace(record, id=store.add_ensemble(into, record))
            except Exception as error:  # a plugin's: whatever it raises, the other rules go on
                said = f"{type(error).__name__}: {error}" if not isinstance(error, HarnessError) else str(error)
                err.print(f"[bold red]failed:[/] {escape(plugin.name)}: {escape(said)}", soft_wrap=True)
                continue
            found.append(record)
    if as_json:
        print_json([ensemble_json(record) for record in found])
    else:
        out.print(methods_table(voters, found))
        out.print("Below each share, the Wilson 95 % interval in %.", style="dim")
        truth = next(split.labels for split in members[0].dataset.splits if split.name == "test")
        decided = [
            (truth, classify(tested.predictions["test"].logits))
            for run, name in voters
            if (tested := run.stage(name)) and "test" in tested.predictions
        ]
        out.print(escape(detectable_words(decided)), style="dim", soft_wrap=True)
        shown = "" if db == "benchmark.db" else f" --db {shlex.quote(shown_url(db))}"
        out.print(escape(f"Next: harness report{shown} --experiment {shlex.quote(into.name)}"), soft_wrap=True)
    if len(found) < len(plugins):
        raise typer.Exit(1)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"--runs {text}: say numbers, such as 7,8,9")
    return int(text)
