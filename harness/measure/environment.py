"""What a run's figures hold for: machine, software, device, flags."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import psutil
import torch

from harness.results import Environment

__all__ = ["cpu_name", "read_environment"]


def read_environment(device: torch.device) -> Environment:
    """Describe this process's machine and software, with ``device`` as the one that computes."""
    cpu = cpu_name()
    details: dict[str, Any] = {
        "platform": platform.platform(),
        "cpu": cpu,
        "cpu_count": os.cpu_count(),
        "cpu_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "threads": torch.get_num_threads(),
        "malloc": os.environ.get("GLIBC_TUNABLES", ""),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "git": _git(),
        "packages": {
            dist.name: dist.version for dist in sorted(distributions(), key=lambda d: d.name.lower()) if dist.name
        },
    }
    name = cpu
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        details |= {
            "gpu": name,
            "gpu_memory_bytes": torch.cuda.get_device_properties(device).total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _driver(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        }
    return Environment(
        device=str(device),
        device_name=name,
        python=platform.python_version(),
        torch=str(torch.__version__),  # a class of torch's own, that a process without torch could not read
        details=details,
    )


def cpu_name() -> str:
    """Name the processor as the system does."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _driver() -> str | None:
    """Version of NVIDIA's driver; None where its management library cannot be asked, as in some containers."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def _git() -> dict[str, Any] | None:
    """Commit of the repository that the run was started in; None outside of one."""

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603, S607
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    return None if commit is None else {"commit": commit, "dirty": bool(ask("status", "--porcelain"))}
