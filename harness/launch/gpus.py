"""This machine's GPUs, as NVIDIA's management library tells a process that loads neither torch nor CUDA."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

__all__ = ["AHEAD", "Gpu", "find_gpu"]

AHEAD = 2  # runs that get ready for a GPU while others train on it


@dataclass(frozen=True)
class Gpu:
    """``capability`` is the compute capability, ``free`` the bytes of its memory that nothing uses."""

    name: str
    capability: tuple[int, int]
    free: int


def find_gpu(device: str) -> Gpu | None:
    """Return the GPU that ``auto``, ``cuda`` or ``cuda:N`` stands for, or None where it stands for none."""
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
        return Gpu(pynvml.nvmlDeviceGetName(handle), (major, minor), pynvml.nvmlDeviceGetMemoryInfo(handle).free)
    return None
