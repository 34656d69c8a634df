"""Where a run executes: a child process on this machine, so that a crash there is one failed run and nothing more.

The parent imports no torch. A child starts with the C library's allocator told to keep its memory, because a network's
activations are large blocks that would go back to the system, and be zeroed again, at every step.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from harness.config import RunConfig
from harness.errors import BrokenPluginError, HarnessError
from harness.results import Event, Failure

__all__ = ["run_in_child"]

# Read by glibc when a process starts: huge pages, no mmap for large blocks, nothing given back in between.
_ALLOCATOR = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776"


def run_in_child(config: RunConfig, fingerprint: str) -> Generator[Event, None, None]:
    """Execute a run on images of that fingerprint in a fresh process, and yield its events.

    Whatever ends the process early is the last event, a Failure.

    Closing the iterator, as an interrupt does, ends the process.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(config, fingerprint, sender))
    with _environment("GLIBC_TUNABLES", _ALLOCATOR):
        process.start()
    sender.close()
    try:
        event: Event | None
        while (event := _receive(receiver, process)) is not None:
            yield event
            if isinstance(event, Failure):
                break
    finally:
        receiver.close()
        if process.is_alive():
            process.kill()
        process.join()


def _receive(receiver: Connection, process: BaseProcess) -> Event | None:
    """Return the next event, or None after the last; a process that ends without having said so is a Failure."""
    try:
        event: Event | None = receiver.recv()
    except (EOFError, OSError):  # nothing more, or the end in the middle of a message
        process.join()
        return Failure("died", _cause(process.exitcode or 0))
    return event


def _cause(exitcode: int) -> str:
    if exitcode >= 0:
        return f"the run's process exited with code {exitcode}"
    name = signal.Signals(-exitcode).name
    hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
    return f"the run's process was ended by {name}{hint}"


def _child(config: RunConfig, fingerprint: str, sender: Connection) -> None:
    # An interrupt reaches every process of the terminal; the parent decides what becomes of this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from harness.engine.run import execute

    try:
        execute(config, fingerprint, sender.send)
        sender.send(None)
    except BrokenPipeError:
        return  # the parent is gone
    except BrokenPluginError as error:
        sender.send(Failure(type(error).__name__, str(error), error.details))
    except HarnessError as error:
        sender.send(Failure(type(error).__name__, str(error)))
    except Exception as error:
        sender.send(Failure(type(error).__name__, str(error), traceback.format_exc()))


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
