"""LoadGen itself, with computations of the tests' own."""

from __future__ import annotations

import time
from pathlib import Path

import mlperf_loadgen
import numpy as np
import pytest

from harness.engine.loadgen import Test, read_latencies, read_verdict
from harness.errors import MeasurementError

SLEEP = 0.002


def _settings(scenario: str, **values: float):
    settings = mlperf_loadgen.TestSettings()
    settings.scenario = getattr(mlperf_loadgen.TestScenario, scenario)
    settings.min_duration_ms = 300
    for name, value in values.items():
        setattr(settings, name, value)
    return settings


def _serve(settings, folder: Path, most: int, sleep: float = SLEEP) -> list[int]:
    """Return how many samples were taken at a time."""
    sizes = []
    with Test(settings, folder, 16) as test:
        while (samples := test.take(most, 1.0)) is not None:
            if samples:
                time.sleep(sleep)
                test.complete()
                sizes.append(samples)
    return sizes


def test_a_query_takes_as_long_as_its_last_sample(tmp_path: Path) -> None:
    settings = _settings("MultiStream", multi_stream_samples_per_query=8, multi_stream_expected_latency_ns=1_000_000)
    sizes = _serve(settings, tmp_path, 3)
    assert sizes[:6] == [3, 3, 2, 3, 3, 2]
    queries, samples = read_latencies("multi-stream", tmp_path)
    assert len(samples) == 8 * len(queries) == sum(sizes)
    assert np.array_equal(samples.reshape(-1, 8).max(axis=1), queries)
    first, second, third = samples[0], samples[3], samples[6]
    assert SLEEP <= first <= second - SLEEP <= third - 2 * SLEEP
    verdict = read_verdict("multi-stream", tmp_path)
    (metric,) = verdict.metrics
    assert metric.value == np.sort(queries)[int(0.99 * len(queries))]
    assert not verdict.valid
    assert verdict.requirements == {"min duration": True, "min queries": True, "early stopping": False}
    assert "Need to process at least 662 queries" in verdict.reasons[0]
    assert "Result is : INVALID" in verdict.summary


def test_a_server_takes_what_waits_and_waits_for_no_more(tmp_path: Path) -> None:
    seldom = _serve(_settings("Server", server_target_qps=30, min_query_count=1), tmp_path, 4)
    assert np.mean(seldom) < 1.5
    often = _serve(_settings("Server", server_target_qps=4000), tmp_path, 4)
    assert max(often) == 4
    assert np.mean(often) > 3
    latencies, _ = read_latencies("server", tmp_path)
    assert len(latencies) == sum(often)
    assert latencies.max() > 10 * latencies.min(), "counted from when a query was due, not from when it was taken"


def test_the_offline_query_is_cut_into_full_batches(tmp_path: Path) -> None:
    sizes = _serve(_settings("Offline", offline_expected_qps=600), tmp_path, 64)
    assert sizes == [64, 64, 64, 6]  # 1.1 * 0.3 s * 600 / s
    queries, samples = read_latencies("offline", tmp_path)
    assert (len(queries), len(samples)) == (1, 198)
    assert np.unique(samples, return_counts=True)[1].tolist() == sizes
    verdict = read_verdict("offline", tmp_path)
    assert verdict.metrics[0].value == pytest.approx(198 / samples.max(), rel=1e-4)
    assert not verdict.valid, "it ended before its duration"


@pytest.mark.parametrize("scenario", ["SingleStream", "MultiStream", "Server", "Offline"])
def test_an_exception_ends_the_test(tmp_path: Path, scenario: str) -> None:
    settings = _settings(scenario, server_target_qps=200, server_max_async_queries=20)
    settings.min_duration_ms = 20_000
    settings.offline_expected_qps = 100
    begin = time.monotonic()

    def compute() -> None:
        with Test(settings, tmp_path, 16) as test:
            assert test.take(1, 5.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        compute()
    assert time.monotonic() - begin < 10
    assert "Ending early" in (tmp_path / "mlperf_log_detail.txt").read_text() or scenario == "Offline"


def test_an_audit_file_in_the_working_directory_changes_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("audit.config").write_text("*.*.performance_issue_same = 1\n*.*.mode = 2\n")
    (tmp_path / "logs").mkdir()
    _serve(_settings("SingleStream", single_stream_expected_latency_ns=1_000_000), tmp_path / "logs", 1)
    assert read_verdict("single-stream", tmp_path / "logs").settings["performance_issue_same"] is False


def test_a_trace_that_lacks_a_sample_is_noticed(tmp_path: Path) -> None:
    _serve(_settings("SingleStream", single_stream_expected_latency_ns=1_000_000), tmp_path, 1)
    read_latencies("single-stream", tmp_path)
    trace = tmp_path / "mlperf_log_trace.json"
    lines = trace.read_text().splitlines()
    lines.remove(next(line for line in lines if '"sample_seq":7,' in line))
    trace.write_text("\n".join(lines))
    with pytest.raises(MeasurementError, match="do not agree: result_query_count"):
        read_latencies("single-stream", tmp_path)
