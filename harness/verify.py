"""Proof that a run which is killed and resumed ends where an undisturbed one does, bit for bit."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import TrainingError
from harness.launch import kill_tree
from harness.results import Run, Selection
from harness.store import Store, open_store
from harness.store.upkeep import check

__all__ = ["Digest", "Kill", "Verdict", "verify_resume"]


@dataclass(frozen=True)
class Digest:
    """What one stage of one run came to, as sha256. ``predictions`` covers the logits of val and test."""

    backbone: str
    stage: str
    weights: str
    optimizer: str
    predictions: str


@dataclass(frozen=True)
class Kill:
    """One SIGKILL of the whole process tree, ``after`` seconds; ``epochs`` were recorded by then."""

    after: float
    epochs: int


@dataclass(frozen=True)
class Verdict:
    """The digests of the undisturbed run and of each disturbed one, and the kills that the latter survived."""

    reference: tuple[Digest, ...]
    disturbed: tuple[tuple[Digest, ...], ...]
    kills: tuple[Kill, ...]

    @property
    def same(self) -> bool:
        """Whether every disturbed run ended where the undisturbed one did."""
        return all(digests == self.reference for digests in self.disturbed)


def verify_resume(
    arguments: Sequence[str], kills: int, seed: int, folder: Path, watch: Callable[[str], None]
) -> Verdict:
    """Run ``harness run ARGUMENTS`` undisturbed, then again with kills at random moments, resumed after each.

    Args:
        arguments: options of ``harness run``, without a database.
        kills: how many in all. A run that completes before the next kill is followed by another.
        seed: of the moments.
        folder: for the databases.
        watch: told what happens.

    Raises:
        TrainingError: a run ended otherwise than by a kill, lost what it had recorded, or left a damaged database.
    """
    moments = random.Random(seed)  # noqa: S311 (moments, no secrets)
    begin = time.monotonic()
    _wait(_start(arguments, folder / "reference.db"), None)
    lasts = time.monotonic() - begin
    reference = _digests(folder / "reference.db")
    watch(f"undisturbed: {lasts:.1f} s")
    done: list[Kill] = []
    disturbed: list[tuple[Digest, ...]] = []
    while len(done) < kills:
        database = folder / f"disturbed{len(disturbed)}.db"
        recorded, before = 0, len(done)
        while True:
            after = moments.uniform(0, lasts) if len(done) < kills else None
            begin = time.monotonic()
            if _wait(_start(arguments, database), after):
                if len(done) == before:  # the first run of all had to read everything from disk
                    lasts = min(lasts, time.monotonic() - begin)
                break
            epochs = _epochs(database)
            if epochs < recorded:
                raise TrainingError(f"{recorded} epochs were recorded in {database}, and after a kill {epochs}")
            recorded = epochs
            done.append(Kill(after or 0.0, epochs))
            watch(f"kill {len(done)} of {kills} after {after:.1f} s: {epochs} epochs recorded")
        disturbed.append(_digests(database))
        watch(f"resumed to the end: {'the same' if disturbed[-1] == reference else 'DIFFERENT'}")
    return Verdict(reference, tuple(disturbed), tuple(done))


def _start(arguments: Sequence[str], database: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness", "run", *arguments, "--db", str(database)]
    # A session of its own: an interrupt in the terminal is this process's.
    return subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def _wait(process: subprocess.Popen[str], kill_after: float | None) -> bool:
    """Return whether the process ended by itself, and not by our kill."""
    try:
        _, errors = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            kill_tree(process.pid)
            process.communicate()
    if process.returncode != 0:
        said = "\n".join(errors.strip().splitlines()[-5:])
        raise TrainingError(f"`harness run` ended with exit code {process.returncode}:\n{said}")
    return True


def _epochs(database: Path) -> int:
    """Count what is recorded in a database that is sound."""
    if not database.exists():
        return 0
    with open_store(str(database)) as store:
        for finding in check(store):
            if not finding.note:
                raise TrainingError(f"after a kill the database is not sound: {finding.text}")
        return sum(len(stage.epochs) for run in store.runs(epochs=True) for stage in run.stages)


def _digests(database: Path) -> tuple[Digest, ...]:
    with open_store(str(database), create=False) as store:
        return tuple(digest for run in _in_order(store) for digest in _of_run(run))


def _in_order(store: Store) -> list[Run]:
    return [store.run(run_id) for run_id in store.run_ids(Selection(sort="id", descending=False))]


def _of_run(run: Run) -> list[Digest]:
    digests = []
    for stage in run.stages:
        logits = hashlib.sha256()
        for split in sorted(stage.predictions):
            logits.update(stage.predictions[split].logits.tobytes())
        digests.append(
            Digest(
                run.backbone, stage.name, stage.weights_sha256 or "", stage.optimizer_sha256 or "", logits.hexdigest()
            )
        )
    return digests
