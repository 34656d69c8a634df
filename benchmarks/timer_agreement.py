"""Does `harness bench` time what other timers time? The same calls, in turns, in one process.

    python benchmarks/timer_agreement.py

Beside torch.utils.benchmark, and on a GPU triton.testing.do_bench. The ratio of medians is of all turns.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from harness.launch import ALLOCATOR

if "GLIBC_TUNABLES" not in os.environ:  # as harness starts its processes
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "GLIBC_TUNABLES": ALLOCATOR})

import numpy as np
import torch
from torch.utils.benchmark import Timer

from harness.config import BenchConfig
from harness.engine.bench import prepare
from harness.measure.rule import Rule
from harness.measure.sampling import sample


def timers(call: Callable[[], object], device: torch.device, seconds: float) -> dict[str, Callable[[], float]]:
    """Return what times a call: each returns the median of a turn, in seconds."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    rule = Rule(error=0.0, longest=seconds, warm_up=0.5)
    found: dict[str, Callable[[], float]] = {
        "harness": lambda: float(np.median(sample(call, device, rule).seconds)),
        "torch.utils.benchmark": lambda: timer.blocked_autorange(min_run_time=seconds).median,
    }
    if device.type == "cuda":
        from triton.testing import do_bench

        found["triton"] = lambda: do_bench(call, warmup=100, rep=1000 * seconds, return_mode="median") / 1e3
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plugins", default="alexnet,googlenet,resnet18")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn")
    arguments = parser.parse_args()
    for name in arguments.plugins.split(","):
        prepared = prepare(BenchConfig(backbone=name, batch_size=arguments.batch_size), lambda _event: None)
        ways = timers(prepared.call, prepared.device, arguments.seconds)
        turns: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(arguments.turns):
            for way in list(ways)[:: 1 if turn % 2 else -1]:
                turns[way].append(ways[way]())
        medians = {way: float(np.median(times)) for way, times in turns.items()}
        for way, median in medians.items():
            pairs = np.log(turns["harness"]) - np.log(turns[way])
            print(
                f"{name:10} {way:22} {1e3 * median:8.3f} ms   harness / it: {medians['harness'] / median:.3f} "
                f"(turns: {np.exp(pairs.min()):.3f} to {np.exp(pairs.max()):.3f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
