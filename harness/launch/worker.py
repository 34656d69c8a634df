"""The parent's end of :mod:`harness.engine.worker`: a process in any environment that measures when it is told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import Any

from harness.config import BenchConfig
from harness.errors import MeasurementError, Stopped
from harness.launch import ALLOCATOR, kill_group
from harness.launch.environments import Installed
from harness.results import Environment, PluginRecord, WeightsRecord

__all__ = ["About", "Worker", "WorkerError"]

_POLL_SECONDS = 0.2
_LAST_SECONDS = 10.0


class WorkerError(MeasurementError):
    """A worker cannot measure.

    Args:
        name: the worker's.
        message: why.
        of_code: whether the code that it runs is the cause, and not this machine or somebody who ended it.
    """

    def __init__(self, name: str, message: str, *, of_code: bool) -> None:
        super().__init__(message)
        self.name, self.of_code = name, of_code


@dataclass(frozen=True)
class About:
    """What a worker says of itself."""

    environment: Environment
    weights: WeightsRecord
    plugin: PluginRecord


class Worker:
    """A process that has begun to load a backbone.

    Every method raises :class:`WorkerError` where it cannot go on, and :class:`~harness.errors.Stopped` where somebody
    wants to stop.

    Args:
        name: that errors carry.
        where: its environment.
        config: what it measures.
        silence: seconds without an answer after which it counts as hung.
        stopping: tells whether somebody wants to stop.
    """

    def __init__(
        self, name: str, where: Installed, config: BenchConfig, silence: float, stopping: Callable[[], bool]
    ) -> None:
        self.name = name
        self._silence, self._stopping = silence, stopping
        environment = {"GLIBC_TUNABLES": ALLOCATOR, **os.environ}
        if not where.inherits:
            environment.pop("PYTHONPATH", None)
        self._line, there = Pipe()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the environment is the user's own
                [where.python, "-P", "-m", "harness.engine.worker", str(there.fileno())],
                cwd=where.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                pass_fds=[there.fileno()],
                start_new_session=True,  # an interrupt in the terminal is the parent's
            )
        except OSError as error:
            self._line.close()
            self._said.close()
            raise WorkerError(name, f"{where.python} does not start: {error}", of_code=False) from error
        finally:
            there.close()
        with suppress(OSError):  # it is gone, as the first answer will show
            self._send({"config": config.model_dump(mode="json")})

    def ready(self) -> About:
        """Wait until it is warm."""
        answer = self._answer()
        try:
            return About(
                Environment(**answer["environment"]),
                WeightsRecord(**answer["weights"]),
                PluginRecord(**answer["plugin"]),
            )
        except (KeyError, TypeError) as error:
            other = f"its harness is another version, whose answers are not understood ({error})"
            raise WorkerError(self.name, other, of_code=False) from error

    def seconds(self, calls: int) -> list[float]:
        """Take a turn: have so many calls timed, after one that is not."""
        with suppress(OSError):
            self._send({"calls": calls})
        found: list[float] = self._answer()["seconds"]
        return found

    def close(self) -> None:
        """Kill the process, and whatever it has started, if they are there."""
        self._line.close()
        kill_group(self._process.pid)
        self._process.kill()
        self._process.wait()
        self._said.close()

    def _send(self, content: dict[str, Any]) -> None:
        self._line.send_bytes(json.dumps(content).encode())

    def _answer(self) -> dict[str, Any]:
        asked = time.monotonic()
        try:
            while not self._line.poll(_POLL_SECONDS):
                if self._stopping():
                    raise Stopped
                if time.monotonic() - asked > self._silence:
                    hung = f"nothing was heard of it for {self._silence:.0f} seconds (--timeout)"
                    raise WorkerError(self.name, hung, of_code=False)
            answer: dict[str, Any] = json.loads(self._line.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._died() from error
        if self._stopping():
            raise Stopped
        if "failure" in answer:
            raise WorkerError(self.name, answer["failure"], of_code=True)
        return answer

    def _died(self) -> WorkerError:
        with suppress(subprocess.TimeoutExpired):  # it has let go of the line, and may be busy with something else
            self._process.wait(_LAST_SECONDS)
        self._process.kill()
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        words = f"its process ended with code {code}" + (f": {lines[-1]}" if lines else ", without a word")
        return WorkerError(self.name, words, of_code=code != -signal.SIGKILL)
