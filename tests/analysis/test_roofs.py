"""Where measurements lie below the roofs of their machine, on figures that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from harness.analysis.roofs import Roofs, place, place_sets, roofs_of
from harness.results import Environment, Measurement, MeasurementSet

ROOFS = Roofs({"fp32": 100e9, "bf16": 400e9}, copy=10e9, launch=1e5, host_to_device=1e9, decode=1000.0)


def _call(seconds: float, **work: float) -> list[Measurement]:
    counts = {"flops": 0.0, "moved_bytes": 0.0, "kernels": 0.0} | work
    latency = Measurement("latency", "s", np.array([seconds / 2, seconds, 3 * seconds]), "a processor", 8)
    return [latency, *(Measurement(name, "1", np.array([one]), "a processor", 8) for name, one in counts.items())]


def test_the_resource_that_needs_the_longest_holds_a_call_up() -> None:
    compute = place(_call(0.1, flops=8e9, moved_bytes=4e8, kernels=1000), 8, "fp32", ROOFS)
    assert compute is not None
    assert (compute.bottleneck, compute.fraction) == ("compute", pytest.approx(0.8))
    assert compute.least["memory"] == pytest.approx(0.04)
    assert compute.least["launch"] == pytest.approx(0.01)
    in_bf16 = place(_call(0.1, flops=8e9, moved_bytes=4e8), 8, "bf16", ROOFS)
    assert in_bf16 is not None
    assert (in_bf16.bottleneck, in_bf16.fraction) == ("memory", pytest.approx(0.4))
    small = place(_call(0.02, flops=1e6, moved_bytes=1e6, kernels=1500), 8, "fp32", ROOFS)
    assert small is not None
    assert (small.bottleneck, small.fraction) == ("launch", pytest.approx(0.75))


def test_bytes_that_caches_have_saved_hold_nothing_up() -> None:
    placed = place(_call(0.1, flops=5e9, moved_bytes=2e9), 8, "fp32", ROOFS)
    assert placed is not None
    assert (placed.bottleneck, placed.fraction) == ("compute", pytest.approx(0.5))
    assert "memory" not in placed.least


def test_what_feeds_slower_than_the_call_is_said() -> None:
    assert place(_call(0.009, flops=8e8), 8, "fp32", ROOFS).fed is None
    assert place(_call(0.007, flops=1e8), 8, "fp32", ROOFS).fed == "decode"
    slow_bus = Roofs({"fp32": 100e9}, None, None, host_to_device=1e8, decode=1e6)
    assert place(_call(0.009, flops=1e8), 8, "fp32", slow_bus).fed == "transfer"


def test_where_nothing_is_known_nothing_is_said() -> None:
    assert place(_call(0.1, flops=8e9), 16, "fp32", ROOFS) is None, "another batch size"
    assert place(_call(0.1, flops=8e9)[:1], 8, "fp32", ROOFS) is None, "no work was counted"
    assert place(_call(0.1, flops=8e9), 8, "fp32", Roofs({}, None, None, None, None)) is None


def test_the_newest_roofs_of_the_same_machine_hold() -> None:
    here = Environment("cpu", "a processor", "3.11", "2.14", {"threads": 2, "cpu_usable": 4})
    elsewhere = Environment("cpu", "another", "3.11", "2.14", {"threads": 2, "cpu_usable": 4})

    def measured(rate: float, environment: Environment) -> MeasurementSet:
        rates = {"matmul_fp32": rate, "decode": 100.0}
        found = [Measurement(name, "1", np.array([one]), "") for name, one in rates.items()]
        absent = Measurement("host_to_device", "B/s", np.array([]), "", details={"absent": "why"})
        return MeasurementSet("roofs", "roofs", "roofs", {}, environment, (*found, absent))

    sets = [measured(1e9, here), measured(80e9, here), measured(2e9, elsewhere)]
    roofs = roofs_of(sets, here)
    assert roofs == Roofs({"fp32": 80e9}, None, None, None, decode=400.0)
    assert roofs_of(sets, None) is None
    fewer = Environment("cpu", "a processor", "3.11", "2.14", {"threads": 1, "cpu_usable": 4})
    assert roofs_of(sets, fewer) is None, "with fewer threads the roof is another"

    config = {"precision": "fp32", "batch_size": 8}
    record = MeasurementSet("x", "bench", "net", config, here, tuple(_call(0.2, flops=8e9)), id=7)
    placed = place_sets([record, sets[0]], sets)
    assert list(placed) == [7]
    assert placed[7].fraction == pytest.approx(0.5)
