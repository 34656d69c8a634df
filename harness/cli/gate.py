"""`harness gate`."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from harness.cli.options import Database, Json, Timeout, words
from harness.cli.output import bar, err, out, print_json, say
from harness.cli.sweep import stop_when_told
from harness.errors import ConfigError, HarnessError, Stopped

if TYPE_CHECKING:
    from harness.bench import Request
    from harness.gate import Gated, Rules
    from harness.launch.environments import Installed
    from harness.store import Store

__all__ = ["GateCommand", "gate"]

_CODES = {"pass": 0, "fail": 1, "ambiguous": 2}
_USAGE, _COULD_NOT = 2, 3


def gate(
    base: Annotated[
        str,
        typer.Option(
            help="A revision of git, a virtual environment's folder, label:NAME or commit:SHA for stored times, or "
            "run:N for a run's accuracy."
        ),
    ],
    head: Annotated[str, typer.Option(help="Likewise; `here` is the environment of this command.")] = "here",
    plugins: Annotated[str, typer.Option(help="Names of backbones to measure, separated by commas.")] = "",
    batch_sizes: Annotated[str, typer.Option(help="Images at a time, separated by commas.")] = "32",
    precision: Annotated[str, typer.Option(help="fp32, bf16, tf32 (on a GPU), or several: fp32,bf16.")] = "fp32",
    modes: Annotated[
        str, typer.Option(help="inference, train (a step on all layers), or both: inference,train.")
    ] = "inference",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    weights: Annotated[list[str] | None, typer.Option(help="As of `harness bench`.")] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1000, help="Per cent of slowdown, or points of accuracy, that are tolerated.")
    ] = 5.0,
    thresholds: Annotated[
        Path | None, typer.Option(help="TOML file: `default`, and a table `benchmarks` of patterns of names.")
    ] = None,
    false_alarms: Annotated[
        float, typer.Option(min=0.001, max=20, help="Per cent of gates that may fail with nothing beyond a threshold.")
    ] = 1.0,
    rounds: Annotated[
        int, typer.Option(min=3, help="At most. A round starts two processes of base and one of head.")
    ] = 24,
    project: Annotated[Path, typer.Option(help="Folder of the project whose revisions are installed.")] = Path(),
    label: Annotated[str | None, typer.Option(help="Name to record under. Default: the time.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the verdicts as Markdown, for a job's page.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write them as JUnit's XML.")] = None,
    db: Database = "benchmark.db",
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Tell whether head is slower than base, at a stated rate of false alarms.

    Base and head take turns on this machine in fresh processes, with a second process of base beside them, which tells
    how far processes of the same code lie apart here. While that leaves it open whether the slowdown is beyond the
    threshold, rounds are added. Two runs are compared in their accuracy, image by image.

    Exit codes: 0 pass, 1 fail, 2 ambiguous, 3 it could not be done, 130 interrupted.

    Examples:

      harness gate --base main --plugins resnet18

      harness gate --base v1.2 --head HEAD --plugins resnet18 --batch-sizes 1,32 --thresholds gate.toml

      harness gate --base run:3 --head run:7 --threshold 1
    """
    from harness.bench import Request
    from harness.cli.measurements import gate_table
    from harness.exchange.ci import gate_junit, gate_markdown
    from harness.gate import Rules, make_thresholds, overall
    from harness.store import open_store

    request = Request(
        plugins=words(plugins),
        weights=weights or (),
        modes=words(modes),
        precisions=words(precision),
        batch_sizes=words(batch_sizes),
        device=device,
    )
    label = label or f"gate {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    found: list[Gated] = []
    with _exit_code_of_its_own():
        tolerated = make_thresholds(threshold, thresholds)
        measured = "installed" in (_kind(base), _kind(head))
        try:
            with (
                open_store(db, create=measured, say=say) as store,
                stop_when_told("the same command, which begins anew", "now") as stopping,
            ):
                rules = Rules(tolerated, false_alarms / 100, rounds, timeout, stopping)
                for one in _verdicts(base, head, request, rules, project, store, label):
                    say(f"{one.name}: {one.verdict}{f', {one.message}' if one.message else ''}")
                    found.append(one)
        except Stopped:
            err.print("[bold]Interrupted,[/] there is no verdict; every process that was measured is kept.")
            raise typer.Exit(130) from None
    for pattern in tolerated.unused([one.name for one in found]):
        say(f"--thresholds {thresholds}: {pattern!r} matches none of these benchmarks")
    verdict = overall(found)
    if markdown:
        _write("--markdown", markdown, gate_markdown(found, base, head, false_alarms / 100))
    if junit:
        _write("--junit", junit, gate_junit(found))
    if as_json:
        print_json({"verdict": verdict, "label": label, "benchmarks": [asdict(one) for one in found]})
    else:
        out.print(gate_table(found, f"{head} against {base}"))
    raise typer.Exit(_CODES[verdict])


def _verdicts(
    base: str, head: str, request: Request, rules: Rules, project: Path, store: Store, label: str
) -> Iterator[Gated]:
    from harness.bench import make_configs
    from harness.comparison import find
    from harness.gate.stored import FEW, gate_accuracy, gate_stored
    from harness.gate.turns import Gate, gate_against, gate_turns
    from harness.launch.environments import HERE, installed

    kinds = _kind(base), _kind(head)
    if kinds == ("run", "run"):
        _refuse_plugins(request)
        yield gate_accuracy(store, _run_id("--base", base), _run_id("--head", head), rules)
        return
    if kinds == ("stored", "stored"):
        _refuse_plugins(request)
        yield from gate_stored(find(store, _stored(base)), find(store, _stored(head)), rules)
        return
    if kinds[0] == "run" or kinds[1] != "installed":
        raise ConfigError(f"--base {base} and --head {head}: these two cannot be held against each other")
    if kinds[0] == "stored" and not request.plugins:
        raise ConfigError(f"--base {base}: stored times are held against --head label:NAME, or what --plugins measures")
    configs = make_configs(request)
    with ExitStack() as stack, bar("rounds") as progress:

        def install(said: str, option: str) -> Installed:
            if said != HERE:
                say(f"{option} {said}: installing or finding it")
            return stack.enter_context(installed(said, option, project, rules.stopping))

        gate = Gate(configs, rules, store, label, lambda _name, done, total: progress(done, total))
        if kinds[0] == "stored":
            sides = find(store, _stored(base))
            missing = [config.name for config in configs if config.name not in sides]
            if missing:
                raise ConfigError(f"--base {base} holds no times of {', '.join(missing)}; it has {', '.join(sides)}")
            if few := [config.name for config in configs if len(sides[config.name].processes) < 2]:
                raise ConfigError(f"--base {base} holds one process of {', '.join(few)}: {FEW}")
            yield from gate_against(gate, sides, install(head, "--head"))
        else:
            yield from gate_turns(gate, install(base, "--base"), install(head, "--head"))


class GateCommand(TyperCommand):
    """What is typed wrongly is no verdict, so it has another exit code than one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as ever."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if getattr(error, "exit_code", None) == _USAGE:
                error.exit_code = _COULD_NOT  # type: ignore[attr-defined]
            raise


@contextmanager
def _exit_code_of_its_own() -> Iterator[None]:
    """End with exit code 3 where there is no verdict; all others are verdicts."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except HarnessError as error:
        error.exit_code = _COULD_NOT
        raise
    except Exception:  # a fault of harness's own must not be taken for a slowdown
        traceback.print_exc()
        raise typer.Exit(_COULD_NOT) from None


def _refuse_plugins(request: Request) -> None:
    if request.plugins:
        raise ConfigError(f"--plugins {','.join(request.plugins)}: nothing is measured where both sides are stored")


def _write(option: str, path: Path, text: str) -> None:
    """Write a file of verdicts; what cannot be written is said, and leaves the exit code as the verdicts have it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        say(f"{option} {path} cannot be written: {error.strerror}")


def _kind(said: str) -> Literal["run", "stored", "installed"]:
    if said.startswith("run:"):
        return "run"
    return "stored" if said.startswith(("label:", "commit:")) else "installed"


def _stored(said: str) -> str:
    return said.removeprefix("label:")


def _run_id(option: str, said: str) -> int:
    number = said.removeprefix("run:")
    if not number.isdecimal():
        raise ConfigError(f"{option} {said}: run:N takes the number of a run, as `harness runs list` shows it")
    return int(number)
