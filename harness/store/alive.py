"""Which process works on a run, and whether it still does."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

import psutil

__all__ = ["HEARTBEAT_SECONDS", "Worker", "is_gone", "this_worker"]

HEARTBEAT_SECONDS = 15
_SILENCE = timedelta(seconds=6 * HEARTBEAT_SECONDS)


@dataclass(frozen=True)
class Worker:
    """A process. ``started`` tells it from a later one of the same number; ``host`` is a machine since it was booted,
    or a container on it.
    """

    host: str
    pid: int
    started: float


@cache
def _host() -> str:
    name = socket.gethostname()
    if sys.platform != "linux":
        return name
    # Names are not unique, and the numbering of processes is that of a container.
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{name} {boot} {Path('/proc/self/ns/pid').readlink()}"


@cache
def this_worker() -> Worker:
    """Describe this process."""
    return Worker(_host(), os.getpid(), _started(psutil.Process()))


def _started(process: psutil.Process) -> float:
    """Return when a process started, in seconds since some moment that stays the same while the machine is up."""
    if sys.platform != "linux":
        return process.create_time()
    # psutil adds the clock of the wall, which may be set meanwhile.
    after_name = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(after_name[19]) / os.sysconf("SC_CLK_TCK")


def is_gone(worker: Worker, silence: timedelta) -> bool:
    """Tell whether a process works no more: for sure on this machine, by its silence where it ran on another."""
    if worker.host != _host():
        return silence > _SILENCE
    try:
        process = psutil.Process(worker.pid)
        return bool(process.status() == psutil.STATUS_ZOMBIE or abs(_started(process) - worker.started) > 1)
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return True
    except psutil.AccessDenied:
        return False
