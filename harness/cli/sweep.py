"""A sweep as a person sees it: progress, interrupts, the table at the end. `run` and `resume` share it."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from harness.cli.output import err, escape, no_control, out, print_json
from harness.errors import HarnessError, StoreError

if TYPE_CHECKING:
    from harness.launch import Child
    from harness.results import Run, Sweep
    from harness.store import Store
    from harness.sweep import Outcome

__all__ = ["asked_for", "carry_out", "command", "end", "execute", "stop_when_told"]


def execute(
    store: Store,
    sweep: Sweep,
    db: str,
    timeout: float,
    memory_limit: float | None,
    checkpoint_every: float,
    latency: bool,
    jobs: int,
    as_json: bool,
    started: Sequence[Child] = (),
) -> None:
    """Execute a sweep, show it, and end with the exit code that it deserves."""
    from harness.cli.tables import accuracy_table, detectable_words, ensemble_json, of_one_class, run_json
    from harness.results import Selection

    outcome = carry_out(store, sweep, db, timeout, memory_limit, checkpoint_every, latency, jobs, started)
    name = sweep.experiment.name
    runs = store.runs(Selection(ids=outcome.run_ids), epochs=as_json)
    if not runs:
        raise StoreError(f"every run of {name!r} was removed meanwhile")
    if as_json:
        print_json(
            {
                "experiment": name,
                "runs": [run_json(item) for item in sorted(runs, key=lambda run: run.id)],
                "ensembles": [ensemble_json(item) for item in outcome.ensembles],
            }
        )
    else:
        dataset = runs[0].dataset
        synthetic = ", synthetic images" if dataset.synthetic else ""
        out.print(accuracy_table(runs, outcome.ensembles, f"{name} ({dataset.name}{synthetic})"))
        out.print("Share and number of test images right; below, the Wilson 95 % interval in %.", style="dim")
        if len(found := store.decisions([run.id for run in runs])) > 1:
            out.print(escape(detectable_words(list(found.values()))), style="dim", soft_wrap=True)
        for words in of_one_class(runs):
            out.print(f"{escape(words)}: it has learnt no difference yet.", style="dim")
        shown, named = asked_for(db, name)
        out.print(escape(f"Next: harness report{shown}{named}\n      harness runs list{shown}"), soft_wrap=True)
    end(outcome, runs, db)


def carry_out(
    store: Store,
    sweep: Sweep,
    db: str,
    timeout: float,
    memory_limit: float | None,
    checkpoint_every: float,
    latency: bool,
    jobs: int,
    started: Sequence[Child] = (),
) -> Outcome:
    """Execute a sweep with its progress shown, and say which ensembles failed."""
    from harness.cli.display import RunDisplay
    from harness.launch import Limits
    from harness.sweep import Execution, run_sweep

    memory = int(memory_limit * 2**30) if memory_limit else None
    with stop_when_told(
        f"harness resume{''.join(asked_for(db, sweep.experiment.name))}", "at the next checkpoint"
    ) as stopping:
        execution = Execution(Limits(timeout, memory), checkpoint_every, latency, stopping, list(started), jobs)
        with RunDisplay(err, len(sweep.run_ids)) as display:
            outcome = run_sweep(sweep, store, execution, display.show)
    for complaint in outcome.complaints:
        err.print(f"[bold red]failed:[/] {escape(complaint)}", soft_wrap=True)
    return outcome


def end(outcome: Outcome, runs: Sequence[Run], db: str) -> None:
    """Say what of a sweep did not complete, and end with the exit code for it, if it is not 0."""
    go_on = f"harness resume{''.join(asked_for(db, outcome.experiment.name))}"
    unfinished = [run for run in runs if run.status != "completed"]
    if outcome.interrupted:
        err.print(
            f"[bold]Interrupted,[/] {len(runs) - len(unfinished)} of {len(runs)} runs completed. What was recorded is "
            f"kept. Go on with: {escape(go_on)}",
            soft_wrap=True,
        )
        raise typer.Exit(130)
    if unfinished:
        err.print(
            f"{len(unfinished)} of {len(runs)} runs did not complete. With the cause mended, {escape(go_on)} tries "
            "them again.",
            soft_wrap=True,
        )
    if outcome.complaints or unfinished:
        raise typer.Exit(1)


def asked_for(db: str, experiment: str) -> tuple[str, str]:
    """Return the options that name a database and an experiment on a command line."""
    from harness.store import shown_url

    shown = "" if db == "benchmark.db" else f" --db {shlex.quote(shown_url(db))}"
    return shown, f" --experiment {shlex.quote(experiment)}"


def command() -> str:
    """Return what was typed, with what a database URL hides left out."""
    from harness.store import shown_url

    def shown(word: str) -> str:
        option, equals, value = word.partition("=") if word.startswith("--db=") else ("", "", word)
        if "://" not in value:
            return word
        try:
            return f"{option}{equals}{shown_url(value)}"
        except HarnessError:
            return f"{option}{equals}URL"

    return shlex.join(["harness", *map(shown, sys.argv[1:])])


@contextmanager
def stop_when_told(go_on: str, when: str) -> Iterator[Callable[[], bool]]:
    """Yield whether somebody wants to stop: by an interrupt, a closed terminal, or a job that is cancelled.

    The first time the run in progress writes a checkpoint and all is recorded; the second time this process leaves at
    once, which leaves the run to be found as lost.
    """
    told = threading.Event()
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        # In a thread: the main one may be waiting for a locked database, and hears of no signal meanwhile.
        while numbers := reader.recv(64):
            for number in numbers:
                if number not in heeded:
                    continue
                if told.is_set():
                    os.write(
                        2, f"\nLeft at once; what was recorded is kept. Go on with: {no_control(go_on)}\n".encode()
                    )
                    os._exit(130)
                told.set()
                os.write(2, f"\nStopping {when}; once more to leave at once.\n".encode())

    every = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    heeded = [number for number in every if signal.getsignal(number) is not signal.SIG_IGN]
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    wakeup_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda _number, _frame: None) for number in heeded}
    try:
        yield told.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        writer.close()
        listener.join()
        reader.close()
