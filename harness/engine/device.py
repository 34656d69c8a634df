"""Devices and precision."""

from __future__ import annotations

import resource
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import psutil
import torch

from harness.config import Precision
from harness.errors import DeviceError
from harness.measure.gpus import find_gpu

__all__ = ["autocast", "emulates", "free_memory", "most_memory", "out_of_memory", "resolve_device"]


def resolve_device(name: str, precision: Precision, note: Callable[[str], None]) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into a device that is there.

    Args:
        name: as a user says it.
        precision: in which it is to compute.
        note: told what the user should know of it.

    Raises:
        DeviceError: no such device, or one that cannot compute in that precision.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and find_gpu("auto"):
            raise DeviceError(
                f"--device auto: this machine has a GPU, which this torch ({torch.__version__}, CUDA "
                f"{torch.version.cuda or 'none'}) cannot use: its driver may be too old; say --device cpu to do without"
            )
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
        if precision != "fp32" and torch.cuda.get_device_capability(device) < (8, 0):
            raise DeviceError(
                f"--precision {precision}: {torch.cuda.get_device_name(device)} is too old for it (compute capability "
                "8.0 is needed); say --precision fp32"
            )
        # fp32 is fp32; the process does nothing else.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    elif precision == "tf32":
        raise DeviceError(f"--precision tf32: that is of NVIDIA's GPUs, and {device} is none; say fp32 or bf16")
    if emulates(device, precision):
        note("this CPU has no instructions for bf16, which is emulated: right, but several times slower than fp32")
    return device


def emulates(device: torch.device, precision: Precision) -> bool:
    """Tell whether a device has no instructions for a precision, so that torch computes it by way of another."""
    onednn = torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type == "cpu" and precision == "bf16" and not onednn


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
