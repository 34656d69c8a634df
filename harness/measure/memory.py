"""How much memory a network takes: its own, and the peaks of what is done with it."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from harness.measure.clock import synchronize

__all__ = ["memory_of", "own_memory", "peaks", "reset_peaks"]


def reset_peaks(device: torch.device) -> None:
    """Begin new peaks: the GPU's, and on Linux that of the process's resident set."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peaks(device: torch.device) -> dict[str, int]:
    """Read the peaks since the last reset, in bytes; of the resident set, without Linux, since the process began."""
    found = {"rss_peak": _resident_peak()}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        found["cuda_allocated_peak"] = torch.cuda.max_memory_allocated(device)
        found["cuda_reserved_peak"] = torch.cuda.max_memory_reserved(device)
        found["cuda_used"] = total - free  # the device's own count, of everything on it
    return found


def memory_of(call: Callable[[], object], device: torch.device) -> dict[str, int]:
    """Read the peaks of calls that do nothing else."""
    reset_peaks(device)
    for _ in range(2):
        call()
    synchronize(device)
    return peaks(device)


def own_memory(module: nn.Module) -> dict[str, int]:
    """Return the bytes of a network's parameters and buffers."""
    return {
        "parameters": sum(parameter.nbytes for parameter in module.parameters()),
        "buffers": sum(buffer.nbytes for buffer in module.buffers()),
    }


def _resident_peak() -> int:
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
