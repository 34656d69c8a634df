"""Which process works on a run, and whether it still does."""

from __future__ import annotations

import os
import socket
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
    """A process. ``started`` tells it from a later one of the same number, ``host`` from one of another container."""

    host: str
    pid: int
    started: float


@cache
def _host() -> str:
    numbering = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {numbering.readlink()}" if numbering.is_symlink() else socket.gethostname()


def this_worker() -> Worker:
    """Describe this process."""
    return Worker(_host(), os.getpid(), psutil.Process().create_time())


def is_gone(worker: Worker, silence: timedelta) -> bool:
    """Tell whether a process works no more: for sure on this machine, by its silence where it ran on another."""
    if worker.host != _host():
        return silence > _SILENCE
    try:
        process = psutil.Process(worker.pid)
        return bool(process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - worker.started) > 1)
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
