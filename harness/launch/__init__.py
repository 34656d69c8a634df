"""Where a run executes: a child process on this machine, so that whatever happens there is one failed run, no more.

The parent imports no torch. A child starts with the C library's allocator told to keep its memory, because a network's
activations are large blocks that would go back to the system, and be zeroed again, at every step.

The two talk through a pipe. The child sends events, and waits after each that belongs into the database until the
parent has dealt with it: so a checkpoint never knows of more than the database. The parent sends one of two words.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from harness.config import BenchTask, CheckTask, LoadTask, RoofTask, ScenarioTask, Task
from harness.errors import BrokenPluginError, ConfigError, HarnessError, Stopped
from harness.results import Event, Failure, Note, Progress, StageStarted

__all__ = ["ALLOCATOR", "OUT_OF_MEMORY", "Child", "Limits", "kill_group", "kill_tree", "run_in_child"]

OUT_OF_MEMORY = "MemoryError"  # the kind of a failure for want of memory, on the host or the device

# Read by glibc when a process starts: huge pages, no mmap for large blocks, nothing given back in between.
ALLOCATOR = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776"
_GO_ON, _STOP = "go on", "stop"
_POLL_SECONDS = 0.5
_PROGRESS_SECONDS = 0.1
_STOP_SECONDS = 30.0  # of silence after being told to stop: a batch and a checkpoint of the largest networks take less


@dataclass(frozen=True)
class Limits:
    """What a run may take.

    Args:
        silence: seconds without any sign of life, after which it counts as hung.
        memory: bytes of memory of its own; None for whatever the machine has.
    """

    silence: float = 1800.0
    memory: int | None = None


class Child:
    """A process that has started, and imports what runs need while it waits for the one run that it executes.

    Args:
        work: the module of the run's kind, as a task names it.
    """

    def __init__(self, work: str) -> None:
        context = get_context("spawn")
        self.pipe, there = context.Pipe()
        self._folder = tempfile.TemporaryDirectory(prefix="harness-")
        self.faults = Path(self._folder.name) / "traceback"
        self.process = context.Process(target=_child, args=(work, there, self.faults))
        with _environment("GLIBC_TUNABLES", ALLOCATOR):
            self.process.start()
        there.close()

    def close(self) -> None:
        """Kill the process, and whatever it has started, if they are there."""
        if self.pipe.closed:  # done before; its number may be another's by now
            return
        self.pipe.close()
        kill_group(self.process.pid)
        self.process.kill()
        self.process.join()
        self._folder.cleanup()


def kill_group(leader: int | None) -> None:
    """Kill a process group, of which a process that has ended may have left some."""
    if leader is not None and hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)


def kill_tree(process: int) -> None:
    """Kill a process and all that it has started, as a power cut would."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(process)
        for one in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                one.kill()


def run_in_child(
    task: Task | BenchTask | CheckTask | LoadTask | ScenarioTask | RoofTask,
    limits: Limits,
    stopping: Callable[[], bool] = lambda: False,
    child: Child | None = None,
) -> Generator[Event | None, None, None]:
    """Execute a run in a process of its own, and yield its events; None where there is none yet.

    Whatever ends the process early is the last event, a Failure. Closing the iterator kills the process.

    Args:
        task: the run.
        limits: what it may take.
        stopping: tells whether somebody wants it to stop.
        child: a process that has started already.

    Raises:
        Stopped: ``stopping`` said so, and the run did.
    """
    killed_before = _out_of_memory_kills()
    with closing(child or Child(task.work)) as child:
        process = child.process
        try:
            _send(child.pipe, (task, limits))
            yield from _events(child.pipe, limits, stopping)
        except EOFError:  # nothing more, though the run has not said that it ended
            process.join()
            killed = process.exitcode == -signal.SIGKILL and _out_of_memory_kills() > killed_before
            cause = _cause(process.exitcode or 0, limits, killed)
            yield Failure(OUT_OF_MEMORY if killed else "died", cause, _read(child.faults))
        except TimeoutError:
            if process.pid is not None and hasattr(signal, "SIGUSR1"):
                os.kill(process.pid, signal.SIGUSR1)  # the child writes down where it hangs
                time.sleep(1)
            message = f"nothing was heard of the run for {limits.silence:.0f} seconds (--timeout), so it was ended"
            yield Failure("hung", message, _read(child.faults))


def _events(pipe: Connection, limits: Limits, stopping: Callable[[], bool]) -> Generator[Event | None, None, None]:
    """Yield what the child sends.

    Raises:
        EOFError: the child is gone.
        TimeoutError: it has been silent for too long.
        Stopped: it stopped, or would not and has to be killed.
    """
    told = False
    heard = time.monotonic()
    while True:
        if not told and stopping():
            told, heard = True, time.monotonic()
            _send(pipe, _STOP)
        if not pipe.poll(_POLL_SECONDS):
            if told and time.monotonic() - heard > _STOP_SECONDS:
                raise Stopped
            if time.monotonic() - heard > limits.silence:
                raise TimeoutError
            yield None
            continue
        try:
            event = pipe.recv()
        except (EOFError, OSError) as error:  # the end, perhaps in the middle of a message
            if told or stopping():
                raise Stopped from error
            raise EOFError from error
        if event is None:
            return
        if isinstance(event, Stopped):
            raise event
        yield event
        if isinstance(event, Failure):
            return
        if not isinstance(event, Progress | Note):
            _send(pipe, _GO_ON)
        heard = time.monotonic()


def _send(pipe: Connection, content: object) -> None:
    with suppress(OSError):  # the child is gone, as the next read will show
        pipe.send(content)


def _cause(exitcode: int, limits: Limits, out_of_memory: bool) -> str:
    if exitcode >= 0:
        return f"the run's process exited with code {exitcode}, without a word"
    name = signal.Signals(-exitcode).name
    if out_of_memory:
        return "the system ran out of memory and killed the run's process (SIGKILL); lower its batch size"
    if name == "SIGABRT" and limits.memory:
        return f"the run's process gave up (SIGABRT), perhaps at its --memory-limit of {limits.memory / 2**30:g} GiB"
    causes = {"SIGKILL": "by another program", "SIGSEGV": "a fault in native code", "SIGBUS": "a full disk or /dev/shm"}
    return f"the run's process was ended by {name}" + (f" ({causes[name]})" if name in causes else "")


def _out_of_memory_kills() -> int:
    """Count what the kernel has killed for want of memory since it started; 0 where it does not say."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


class _ParentGoneError(BaseException):
    """Nobody is there to talk to; out of reach of a plugin's ``except Exception``."""


class _Line:
    """The child's end of the pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._stop = False
        self._training = False
        self._told = 0.0

    def stopping(self) -> bool:
        with _to_parent():
            while self._pipe.poll():
                self._hear()
        return self._stop

    def emit(self, event: Event) -> None:
        if not isinstance(event, Progress) or self._due(event):
            with _to_parent():
                self._pipe.send(event)
        self._training = self._training or isinstance(event, StageStarted)
        if isinstance(event, Progress | Note):
            # Before training nothing is lost. It then stops by itself, with a checkpoint; what comes after it is short.
            if not self._training and self.stopping():
                raise Stopped
        elif not isinstance(event, Failure):
            with _to_parent():
                while self._hear() != _GO_ON:
                    pass

    def _due(self, progress: Progress) -> bool:
        """Tell whether progress is worth telling: a head on features makes hundreds of steps a second."""
        now = time.monotonic()
        due = now - self._told >= _PROGRESS_SECONDS or progress.done in (0, progress.total)
        self._told = now if due else self._told
        return due

    def end(self, word: Failure | Stopped | None) -> None:
        self._pipe.send(word)

    def _hear(self) -> str:
        word = str(self._pipe.recv())
        self._stop = self._stop or word == _STOP
        return word


@contextmanager
def _to_parent() -> Iterator[None]:
    try:
        yield
    except (ConnectionError, EOFError) as error:
        raise _ParentGoneError from error


def _child(work: str, pipe: Connection, faults: Path) -> None:
    # These reach every process of the terminal or job; the parent decides what becomes of this one.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(os, "setsid"):
        os.setsid()  # what it starts ends with it, and disturbs nobody who is measured next
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with faults.open("w") as file:
        faulthandler.enable(file)
        if hasattr(signal, "SIGUSR1"):
            faulthandler.register(signal.SIGUSR1, file)
        with suppress(Exception):  # which comes again when there is somebody to hear of it
            importlib.import_module(work)
        try:
            task, limits = pipe.recv()
        except EOFError:
            return
        if isinstance(task, Task) and task.config.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        line = _Line(pipe)
        try:
            _limit_memory(limits.memory)
            importlib.import_module(work).execute(task, line.emit, line.stopping)
            line.end(None)
        except Stopped as stopped:
            line.end(stopped)
        except _ParentGoneError:
            return
        except BrokenPluginError as error:
            line.end(Failure(type(error).__name__, str(error), error.details))
        except HarnessError as error:
            line.end(Failure(type(error).__name__, str(error)))
        except SystemExit as error:
            said = f"a plugin ended the run with exit code {error.code}"
            line.end(Failure("SystemExit", said, traceback.format_exc()))
        except Exception as error:
            kind, said = type(error).__name__, str(error)
            # The latter two are torch's: of a GPU's memory, and of the host's.
            if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in said:
                given = f"the {limits.memory / 2**30:g} GiB of --memory-limit" if limits.memory else "this machine has"
                kind, said = OUT_OF_MEMORY, f"the run needs more memory than {given} ({said})"
            line.end(Failure(kind, said, traceback.format_exc()))


def _end_with_parent() -> None:
    """End this process when its parent is gone, which leaves nobody to tell."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        kill_group(os.getpid())
        os._exit(1)


def _limit_memory(limit: int | None) -> None:
    if sys.platform == "linux":
        # Where memory runs out, this process is the one to go, and not its parent or somebody else's.
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    if limit is None:
        return
    try:
        import resource
    except ModuleNotFoundError:
        raise ConfigError("--memory-limit: this system has no such limits") from None
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most != resource.RLIM_INFINITY and limit > most:
        raise ConfigError(f"--memory-limit: no more than the {most / 2**30:g} GiB of `ulimit -d` can be given")
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable for processes that start inside, unless the user has set it."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
