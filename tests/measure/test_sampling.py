"""When sampling stops, what the sensors say, and what a call is found to have to do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import quantile_test
from torch import nn

from harness.measure import clock, sampling, sensors
from harness.measure.memory import memory_of, own_memory
from harness.measure.rule import Rule
from harness.measure.sampling import error_of_median, sample
from harness.measure.sensors import Absent, sensors_of
from harness.measure.work import count_work

CPU = torch.device("cpu")


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock of the test's own, which a call sets forward."""
    at = 0.0

    def forward(seconds: float) -> None:
        nonlocal at
        at += seconds

    monkeypatch.setattr(clock, "now", lambda: at)
    monkeypatch.setattr(sampling, "now", lambda: at)
    return forward


def test_sampling_ends_when_the_median_is_known(takes: Callable[[float], None]) -> None:
    draws = np.random.default_rng(0)
    found = sample(lambda: takes(draws.normal(0.1, 0.002)), CPU, Rule(error=0.01, longest=1000))
    assert found.stopped == "converged"
    assert found.error <= 0.01
    assert 8 <= len(found.seconds) < 40
    finer = sample(lambda: takes(draws.normal(0.1, 0.002)), CPU, Rule(error=0.001, longest=1000))
    assert len(finer.seconds) > 4 * len(found.seconds)


def test_sampling_ends_at_its_longest_time_and_says_so(takes: Callable[[float], None]) -> None:
    draws = np.random.default_rng(0)
    found = sample(lambda: takes(draws.exponential(0.1)), CPU, Rule(error=0.001, longest=5))
    assert found.stopped == "time"
    assert 5 <= found.seconds.sum() < 7
    once = sample(lambda: takes(60), CPU, Rule(longest=5))
    assert (len(once.seconds), once.stopped, once.stable, once.error) == (3, "time", False, None)
    assert len(sample(lambda: takes(60), CPU, Rule(longest=5, least=10)).seconds) == 10


def test_calls_that_grow_faster_are_warm_up(takes: Callable[[float], None]) -> None:
    seconds = iter([1.0 / n for n in range(1, 30)] + [0.03] * 1000)
    found = sample(lambda: takes(next(seconds)), CPU, Rule(warm_up=1000))
    assert found.stable
    assert found.warm_up > 20
    assert found.seconds.max() < 0.05


def test_the_error_is_of_an_exact_interval() -> None:
    """Between order statistics, as scipy's; which of two neighbours is a matter of rounding."""
    draws = np.random.default_rng(0)
    for n in (8, 30, 200):
        samples = draws.gamma(2, size=n)
        exact = quantile_test(samples).confidence_interval(0.95)
        half = (exact.high - exact.low) / 2 / np.median(samples)
        assert error_of_median(samples.tolist()) == pytest.approx(half, rel=0.35)
    assert error_of_median([1.0] * 7) == np.inf


def test_what_else_runs_spoils_samples() -> None:
    if os.cpu_count() == 1:
        pytest.skip("one processor: what this process waits for cannot keep it busy meanwhile")
    of_cpu = sensors_of(CPU)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        said = of_cpu.busy()
        of_cpu.start()
        time.sleep(0.7)
        flags = of_cpu.flags()
    finally:
        busy.kill()
        busy.wait()
    assert said is not None
    assert "busy with something else" in said
    assert any("other processes took" in flag for flag in flags)


def test_energy_is_the_counters_and_its_turning_over_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "RAPL", tmp_path)
    with pytest.raises(Absent, match="no energy counters"):
        sensors_of(CPU).joules()
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "max_energy_range_uj").write_text("9999999\n")
    (zone / "energy_uj").write_text("9000000\n")
    of_cpu = sensors_of(CPU)
    before = of_cpu.joules()
    (zone / "energy_uj").write_text("2000000\n")
    assert of_cpu.joules() - before == pytest.approx(3)
    (zone / "energy_uj").unlink()
    with pytest.raises(Absent, match="energy_uj cannot be read"):
        of_cpu.joules()


def test_work_is_counted() -> None:
    module, images = nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.ones(2, 3, 16, 16)
    with torch.no_grad():
        found = count_work(lambda: module(images))
    assert found.flops == 2 * 2 * 8 * 16 * 16 * 3 * 9
    assert found.moved_bytes == 4 * (images.numel() + module.weight.numel() + 2 * 8 * 16 * 16)
    assert found.kernels == 1
    with torch.no_grad():
        assert count_work(lambda: images.permute(1, 0, 2, 3).reshape(-1)).kernels == 1, "a view moves nothing"


def test_memory_is_of_the_calls_alone() -> None:
    """In a process of its own, whose peak was higher before."""
    code = """
import torch
from harness.measure.memory import memory_of
before = torch.ones(2**28)  # 1 GiB
del before
found = memory_of(lambda: torch.ones(2**26), torch.device("cpu"))  # 256 MiB
again = memory_of(lambda: None, torch.device("cpu"))
print(found["rss_peak"] - again["rss_peak"])
"""
    if sys.platform != "linux":
        pytest.skip("the peak of a process can be reset on Linux alone")
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(told.stdout) == pytest.approx(2**28, rel=0.05)


def test_a_networks_own_memory() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert own_memory(module) == {"parameters": 4 * (12 + 4 + 8), "buffers": 4 * 8 + 8}
    assert memory_of(lambda: None, CPU).keys() == {"rss_peak"}
