"""From a sweep that is planned to recorded runs and ensembles. No printing, and no torch in this process."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from pydantic import ValidationError

from harness import registry
from harness.analysis import metrics
from harness.api import Ensemble
from harness.config import RunConfig, Task
from harness.data.files import file_sha256
from harness.errors import RunTakenOverError, Stopped, StoreError
from harness.launch import OUT_OF_MEMORY, Child, Limits, run_in_child
from harness.measure.gpus import ready_ahead
from harness.paths import checkpoint_dir
from harness.results import EnsembleRecord, Event, Experiment, Failure, Note, Run, RunStatus, Selection, Sweep, Turn
from harness.store import HEARTBEAT_SECONDS, Store

__all__ = ["Execution", "Outcome", "run_sweep"]

_WAIT_SECONDS = 0.5


@dataclass(frozen=True)
class Execution:
    """How runs are executed, which changes nothing of their results.

    Args:
        limits: what a run may take.
        checkpoint_every: seconds between two checkpoints.
        latency: whether to measure the latency of inference at each run's end.
        stopping: tells whether somebody wants to stop.
        started: processes for the first runs, which have started already.
        jobs: how many runs train side by side.
    """

    limits: Limits = field(default_factory=Limits)
    checkpoint_every: float = 60.0
    latency: bool = True
    stopping: Callable[[], bool] = lambda: False
    started: list[Child] = field(default_factory=list)
    jobs: int = 1


@dataclass
class Outcome:
    """What came of a sweep. ``run_ids`` are all its runs, ``complaints`` the ensembles that failed, in words."""

    experiment: Experiment
    run_ids: tuple[int, ...]
    ensembles: list[EnsembleRecord] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    interrupted: bool = False


def run_sweep(
    sweep: Sweep, store: Store, execution: Execution, watch: Callable[[int, Run, Event | None], None]
) -> Outcome:
    """Execute what of a sweep has not completed, each run in its own process, and record everything as it happens.

    A run that fails is recorded as failed and the others go on; one that had too little memory beside others is tried
    again alone. Where somebody wants to stop, runs in progress are recorded as interrupted with a checkpoint to go on
    from, and no other starts.

    Args:
        sweep: what to do.
        store: where it is recorded.
        execution: how.
        watch: told of each event of each run, by its position in the sweep, one at a time; None when a run begins.
    """
    unfinished = [run for run in store.runs(Selection(ids=sweep.run_ids)) if run.status != "completed"]
    device = str(unfinished[0].config["device"]) if unfinished else "cpu"
    jobs = max(1, min(execution.jobs, len(unfinished)))
    work = _Work(store, execution, watch, jobs)
    at_once = max(1, min(jobs + ready_ahead(device), len(unfinished)))
    work.execute(list(enumerate(sweep.run_ids)), at_once)
    if at_once > 1 and execution.limits.memory is None:  # which holds for each of them, alone too
        work.jobs = 1
        work.execute(tuple(work.short_of_memory), 1)
    outcome = Outcome(sweep.experiment, sweep.run_ids, interrupted=work.interrupted)
    if not outcome.interrupted:  # ensembles of what happened to be done would stand beside the final ones
        _combine(sweep, store, outcome)
    return outcome


class _Turns:
    """Which runs may do what at the same time.

    As many as there are jobs train, while others get ready; one that is ready and waits disturbs nobody. Whoever
    measures is alone, and goes before those that wait to train.
    """

    def __init__(self, jobs: int, stopping: Callable[[], bool]) -> None:
        self._jobs, self._stopping = jobs, stopping
        self._changed = threading.Condition()
        self._runs = Counter[str]()  # by what they do or wait for

    @contextmanager
    def of_run(self) -> Iterator[Callable[[str, Callable[[], None]], None]]:
        """Yield what lets a run ``prepare``, then ``train``, then ``measure``; it calls ``beat`` while it waits."""
        doing = "nothing"

        def turn(to: str) -> None:
            nonlocal doing
            self._runs.subtract([doing])
            doing = to
            self._runs.update([doing])
            self._changed.notify_all()

        def wait(to: str, beat: Callable[[], None]) -> None:
            with self._changed:
                turn(f"wait to {to}")
            while True:
                with self._changed:
                    if self._may(to) or (self._changed.wait(_WAIT_SECONDS) and self._may(to)):
                        turn(to)
                        return
                beat()

        try:
            yield wait
        finally:
            with self._changed:
                turn("nothing")

    def _may(self, to: str) -> bool:
        runs = self._runs
        if to == "measure":
            return not (runs["prepare"] or runs["train"] or runs["measure"])
        if self._stopping():  # it does not go on then
            return True
        if runs["measure"] or runs["wait to measure"]:
            return False
        return to == "prepare" or runs["train"] < self._jobs


class _Work:
    """A sweep in progress. Whatever touches the database or the terminal is done by one thread at a time."""

    def __init__(
        self, store: Store, execution: Execution, watch: Callable[[int, Run, Event | None], None], jobs: int
    ) -> None:
        self._store, self._execution, self._watch, self.jobs = store, execution, watch, jobs
        self._lock = threading.Lock()
        self._turns = _Turns(jobs, self._stopping)
        self._error: BaseException | None = None  # which ends the sweep: nothing can be recorded any more
        self.interrupted = False
        self.short_of_memory: list[tuple[int, int]] = []

    def _stopping(self) -> bool:
        return self._error is not None or self._execution.stopping()

    def execute(self, positions: Sequence[tuple[int, int]], at_once: int) -> None:
        """Execute the runs of some positions in the sweep, but for those that have completed or that others are at."""
        with ThreadPoolExecutor(at_once, thread_name_prefix="run") as pool:
            try:
                list(pool.map(self._execute, positions))
            except BaseException as error:  # an interrupt of this thread, which is to reach the others
                self._error = error
                raise
        if self._error is not None:
            raise self._error

    def _execute(self, position: tuple[int, int]) -> None:
        try:
            with self._turns.of_run() as wait:
                wait("prepare", lambda: None)
                self._begin(*position, wait)
        except Exception as error:  # raised by who waits for all threads
            self._error = self._error or error

    def _begin(self, index: int, run_id: int, wait: Callable[[str, Callable[[], None]], None]) -> None:
        if self._stopping():
            self.interrupted = True
            return
        with self._lock:
            begun = self._store.begin(run_id)
            found = self._store.runs(Selection(ids=(run_id,)), epochs=True)
            if not found:
                return  # it was removed meanwhile
            run = found[0]
            self._watch(index, run, None)
            if not begun and run.status == "completed":
                since = ", from other weights than are there now" if _weights_changed(run) else ""
                self._watch(index, run, Note(f"recorded already{since}, as run {run_id}; --repeat runs it again"))
            elif not begun:
                self._watch(index, run, Note(f"run {run_id} is being executed by another process, and left to it"))
        if begun and self._run(index, run, wait) == "interrupted":
            self.interrupted = True

    def _run(self, index: int, run: Run, wait: Callable[[str, Callable[[], None]], None]) -> RunStatus:
        status: RunStatus = "completed"
        beaten = time.monotonic()

        def beat() -> None:
            nonlocal beaten
            if time.monotonic() - beaten > HEARTBEAT_SECONDS:
                with self._lock:
                    _beat(self._store, run.id)
                beaten = time.monotonic()

        try:
            with closing(self._events(run)) as events:
                try:
                    for event in events:
                        beat()
                        status = self._heed(index, run, event, lambda to: wait(to, beat), status)
                except Stopped:
                    status = "interrupted"
                with self._lock:
                    self._store.finish_run(run.id, status)
        except RunTakenOverError as error:
            with self._lock:
                self._watch(index, run, Note(str(error)))
            return "lost"
        if status == "completed":
            shutil.rmtree(checkpoint_dir(run.uid), ignore_errors=True)
        return status

    def _heed(
        self, index: int, run: Run, event: Event | None, wait: Callable[[str], None], status: RunStatus
    ) -> RunStatus:
        """Record an event, and return the run's status after it."""
        if event is None:  # what storing predictions needs loads while the other process loads torch
            metrics.load_libraries()
            return status
        if isinstance(event, Turn):
            wait(event.to)
            if event.to == "train" and self._stopping():
                raise Stopped
            return status
        with self._lock:
            self._store.record(run.id, event)
            self._watch(index, run, event)
            if not isinstance(event, Failure):
                return status
            if event.kind == OUT_OF_MEMORY:
                self.short_of_memory.append((index, run.id))
            return "failed"

    def _events(self, run: Run) -> Generator[Event | None, None, None]:
        try:
            config = RunConfig.model_validate(run.config)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            said = f"this version of harness has another idea of {where!r}: {first['msg'].lower()}"
            yield Failure("ConfigError", said)
            return
        task = Task(
            config=config,
            fingerprint=run.dataset.fingerprint,
            checkpoints=checkpoint_dir(run.uid),
            checkpoint_every=self._execution.checkpoint_every,
            recorded=tuple(epoch for stage in run.stages for epoch in stage.epochs),
            latency=self._execution.latency,
            jobs=self.jobs,
        )
        with self._lock:  # a process inherits what is set for it in this one's environment
            child = self._execution.started.pop() if self._execution.started else Child(task.work)
        yield from run_in_child(task, self._execution.limits, self._stopping, child)


def _weights_changed(run: Run) -> bool:
    """Tell whether the user's file that a run started from has another content by now."""
    if run.weights is None or run.weights.kind != "file":
        return False
    try:
        return file_sha256(Path(run.weights.origin)) != run.weights.sha256
    except OSError:
        return False


def _beat(store: Store, run_id: int) -> None:
    try:
        store.heartbeat(run_id)
    except RunTakenOverError:
        raise
    except StoreError:
        pass  # a server that restarts: if it stays away, the next result cannot be recorded, and says so


def _combine(sweep: Sweep, store: Store, outcome: Outcome) -> None:
    """Combine the runs that completed and differ in their backbones alone, after each stage; of one backbone those that
    differ in their seeds alone.

    One run alone makes no ensemble.
    """
    from harness.analysis.ensemble import combine_runs

    completed = {run.id: run for run in store.runs(Selection(ids=sweep.run_ids)) if run.status == "completed"}
    several = len({run.backbone for run in completed.values()}) > 1
    teams: dict[str, list[int]] = {}
    for run_id in sweep.run_ids:
        if run_id in completed:
            own = {"backbone", "weights"} if several else {"seed"}
            shared = {name: value for name, value in completed[run_id].config.items() if name not in own}
            teams.setdefault(json.dumps(shared, sort_keys=True), []).append(run_id)
    for team in teams.values():
        if len(team) < 2:
            continue
        runs = [store.run(run_id) for run_id in team]
        for name, stage in product(sweep.ensembles, [stage.name for stage in runs[0].stages]):
            try:
                plugin = registry.find("ensemble", name)
                voters = [(run, stage) for run in runs]
                record = combine_runs(registry.load(plugin, Ensemble), plugin.record, voters)
                store.add_ensemble(outcome.experiment, record)
            except Exception as error:  # a plugin's: whatever it raises, the other ensembles go on
                outcome.complaints.append(f"{name} after {stage}: {type(error).__name__}: {error}")
                continue
            outcome.ensembles.append(record)
