"""This machine's GPUs, as NVIDIA's management library tells a process that loads neither torch nor CUDA."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

__all__ = ["Gpu", "find_gpu", "ready_ahead"]

_AHEAD = 2  # runs that get ready for a GPU while others train on it
_CORES, _BYTES = 4, 4 * 2**30  # that there must be for each of them


@dataclass(frozen=True)
class Gpu:
    """``capability`` is the compute capability, ``free`` the bytes of its memory that nothing uses."""

    capability: tuple[int, int]
    free: int


def find_gpu(device: str) -> Gpu | None:
    """Return the GPU that ``auto``, ``cuda`` or ``cuda:N`` stands for, or None where it stands for none.

    Numbers are NVIDIA's library's, which are CUDA's where all GPUs are alike, or where CUDA_DEVICE_ORDER is PCI_BUS_ID.
    """
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cuda"):
        return None
    import pynvml

    with suppress(pynvml.NVMLError, ValueError, IndexError):
        pynvml.nvmlInit()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [str(index) for index in range(pynvml.nvmlDeviceGetCount())] if visible is None else visible.split(",")
        name = names[int(number or 0)].strip()
        if name.isdecimal():
            handle = pynvml.nvmlDeviceGetHandleByIndex(int(name))
        else:
            handle = pynvml.nvmlDeviceGetHandleByUUID(name)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        return Gpu((major, minor), pynvml.nvmlDeviceGetMemoryInfo(handle).free)
    return None


def ready_ahead(device: str) -> int:
    """How many runs may get ready while others train: none on a CPU, where that would cost those their speed."""
    gpu = find_gpu(device)
    if gpu is None:
        return 0
    return max(0, min(_AHEAD, (os.cpu_count() or 1) // _CORES, gpu.free // _BYTES - 1))
