"""The one clock. On a GPU, work is asynchronous: :func:`synchronize` before reading the time."""

from __future__ import annotations

import time

import torch

__all__ = ["now", "synchronize"]


def now() -> float:
    """Seconds on a monotonic clock."""
    return time.perf_counter()


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
