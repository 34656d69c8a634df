"""Peaks of memory since the process, or on a GPU the stage, began."""

from __future__ import annotations

import resource
import sys

import numpy as np
import torch

from harness.results import Measurement

__all__ = ["peak_memory", "reset_peaks"]


def reset_peaks(device: torch.device) -> None:
    """Begin a new peak where the device can: the process's resident set cannot."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device, device_name: str, stage: str) -> list[Measurement]:
    """Read the peaks, in bytes: resident set of this process since it began, and the GPU's since the last reset."""
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"rss_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peaks["cuda_allocated_peak"] = torch.cuda.max_memory_allocated(device)
        peaks["cuda_reserved_peak"] = torch.cuda.max_memory_reserved(device)
    return [
        Measurement(name, "B", np.array([value], dtype=np.float64), device_name, stage=stage)
        for name, value in peaks.items()
    ]
