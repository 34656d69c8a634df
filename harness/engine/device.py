"""Devices and precision."""

from __future__ import annotations

import resource
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import psutil
import torch

from harness.config import Precision
from harness.errors import DeviceError

__all__ = ["autocast", "free_memory", "most_memory", "out_of_memory", "resolve_device"]


def resolve_device(name: str, precision: Precision) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into a device that is there.

    Raises:
        DeviceError: no such device, or one that cannot compute in that precision.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"--device {name!r} is no device; say auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"--device {name}: harness trains on cpu and cuda")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        device = torch.device("cuda", device.index or 0)
        if device.index >= count:
            raise DeviceError(f"--device {name}: this machine offers torch {count} CUDA devices; say --device cpu")
        if precision == "bf16" and torch.cuda.get_device_capability(device) < (8, 0):
            raise DeviceError(
                f"--precision bf16: {torch.cuda.get_device_name(device)} is too old for bfloat16 (compute capability "
                "8.0 is needed); say --precision fp32"
            )
    return device


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context of forward passes: bfloat16 where torch deems it safe, or nothing. Weights stay fp32."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory did not suffice, on a device or on the host."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a device's own memory; None for a CPU, which has none."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def most_memory() -> int:
    """Return the bytes that this process may have: the machine's, or what a container, a job or a limit leaves it."""
    limits: list[int] = [psutil.virtual_memory().total]
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    with suppress(OSError):
        group = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().rpartition("::/")[2].strip()
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):  # no file, or no number: no limit
                limits.append(int((folder / "memory.max").read_text()))
    return min(limits)
