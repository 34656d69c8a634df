"""The one clock. On a GPU, work is asynchronous: :func:`synchronize` before reading the time."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

__all__ = ["Stopwatch", "now", "synchronize"]


def now() -> float:
    """Seconds on a monotonic clock."""
    return time.perf_counter()


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Stopwatch:
    """Times calls: by events on a CUDA device, whose L2 cache is overwritten before each, or else by the clock.

    Overwriting is not timed. It also keeps the device busy while the call's first kernels are launched, so that what
    is timed is the device's work, as of ``triton.testing.do_bench``.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            l2 = torch.cuda.get_device_properties(device).L2_cache_size
            self._other = torch.empty(2 * l2, dtype=torch.int8, device=device)
            self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def time(self, call: Callable[[], object]) -> float:
        """Return the seconds that a call takes."""
        if self._device.type != "cuda":
            begin = now()
            call()
            return now() - begin
        self._other.zero_()
        self._begin.record()
        call()
        self._end.record()
        synchronize(self._device)
        return float(self._begin.elapsed_time(self._end)) / 1e3
