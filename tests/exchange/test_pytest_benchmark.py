"""Files of pytest-benchmark's that cannot be used say why. Real files are read in tests/testing/test_plugin.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import MeasurementError
from harness.exchange.pytest_benchmark import read_file

BENCHMARK = {"fullname": "test_a.py::test_it", "stats": {"data": [0.1, 0.2], "iterations": 3}}
CONTENT = {
    "machine_info": {"cpu": {"brand_raw": "a processor"}, "python_version": "3.11.7", "torch": "2.14.1"},
    "commit_info": {"id": "c0ffee", "dirty": True},
    "benchmarks": [BENCHMARK],
}


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps(CONTENT))
    (found,) = read_file(path, "x")
    assert (found.label, found.suite, found.name, found.commit) == (
        "x",
        "pytest-benchmark",
        "test_a.py::test_it",
        "c0ffee",
    )
    assert found.environment.details["git"] == {"commit": "c0ffee", "dirty": True}
    assert (found.environment.device_name, found.environment.torch) == ("a processor", "2.14.1")
    latency = found.measurement("latency")
    assert latency.samples.tolist() == [0.1, 0.2]
    assert latency.details["iterations"] == 3


def _with(**changes: object) -> str:
    return json.dumps(CONTENT | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "cannot be read"),
        ("[]", "is no file of pytest-benchmark's"),
        ("{}", "is no file of pytest-benchmark's: KeyError('benchmarks')"),
        (_with(benchmarks=[]), "holds no benchmarks"),
        (_with(benchmarks=[{"fullname": "t", "stats": {}}]), "t was saved without its samples; use --benchmark-json"),
        (_with(benchmarks=[{"fullname": "t", "stats": {"data": [-1.0]}}]), "t has samples that are no times"),
        (_with(benchmarks=[{"fullname": "t", "stats": {"data": ["x"]}}]), "is no file of pytest-benchmark's"),
        (_with(benchmarks=[{"stats": {"data": [1.0]}}]), "KeyError('fullname')"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "benchmark.json"
    path.write_text(text)
    with pytest.raises(MeasurementError) as refused:
        read_file(path, "x")
    assert str(path) in str(refused.value)
    assert message in str(refused.value)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="No such file"):
        read_file(tmp_path / "none.json", "x")
