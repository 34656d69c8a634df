"""MLPerf's LoadGen: its settings, a test in a thread of its own, and what its logs say of it.

A query's samples are named by numbers of LoadGen's; which image each stands for is left to whoever computes.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

import mlperf_loadgen
import numpy as np
from numpy.typing import NDArray

from harness.config import QUERY_SAMPLES, Scenario, ScenarioConfig
from harness.errors import MeasurementError

__all__ = ["Metric", "Test", "Verdict", "make_settings", "read_latencies", "read_verdict"]

_RULES = "resnet50"  # the model whose rules hold: MLPerf's own classifier of images
_OFFICIAL_SECONDS = 600.0
_LONGEST = 10  # times the least duration, after which a stream ends
_HEADROOM = 8  # so much faster a network may turn out to be than it seemed, on a machine that was busy
_SCENARIOS = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}


@dataclass(frozen=True)
class Metric:
    """A figure of LoadGen's, in ``unit``; ``words`` say what it is."""

    words: str
    unit: str
    value: float


# As LoadGen's log calls them, the scenario's result first. The unit of latencies there is nanoseconds.
_METRICS: dict[Scenario, tuple[tuple[str, str], ...]] = {
    "single-stream": (("p90 latency", "result_90.00_percentile_latency_ns"),),
    "multi-stream": (("p99 latency", "result_99.00_percentile_per_query_latency_ns"),),
    "server": (
        ("completed samples", "result_completed_samples_per_sec"),
        ("scheduled samples", "result_scheduled_samples_per_sec"),
    ),
    "offline": (("samples", "result_samples_per_second"),),
}
_REQUIREMENTS = {
    "result_perf_constraints_met": "latency bound",
    "result_min_duration_met": "min duration",
    "result_min_queries_met": "min queries",
    "early_stopping_met": "early stopping",
}


@dataclass(frozen=True)
class Verdict:
    """What LoadGen says of a test.

    Args:
        valid: whether it satisfies all that LoadGen requires.
        requirements: each, by name, and whether it was satisfied.
        reasons: why it is not valid, in LoadGen's words.
        metrics: the scenario's result first.
        settings: that were in effect, as LoadGen names them.
        version: LoadGen's.
        summary: the file for people.
    """

    valid: bool
    requirements: dict[str, bool]
    reasons: tuple[str, ...]
    metrics: tuple[Metric, ...]
    settings: dict[str, Any]
    version: str
    summary: str


def make_settings(config: ScenarioConfig, seconds: float, folder: Path) -> Any:
    """Return LoadGen's TestSettings: MLPerf's rules, with the duration that was asked for.

    These are of LoadGen's own ``mlperf.conf``: percentiles, random seeds and the least number of queries, which in
    the offline scenario is of samples, and as much smaller as the duration is.

    Args:
        config: what was asked for.
        seconds: that a batch takes when nothing disturbs it. LoadGen makes its queries beforehand, and has to know how
            many will do.
        folder: for a file that LoadGen wants to read.

    Raises:
        MeasurementError: LoadGen does not know its own rules.
    """
    empty = folder / "user.conf"  # LoadGen reads its own rules on the way to a user's
    empty.write_text("")
    scenario = _SCENARIOS[config.scenario]
    settings = mlperf_loadgen.TestSettings()
    if settings.FromConfig(str(empty), _RULES, scenario) != 0:
        raise MeasurementError("LoadGen could not read MLPerf's rules, which are a part of it")
    settings.scenario = getattr(mlperf_loadgen.TestScenario, scenario)
    settings.mode = mlperf_loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(1e3 * config.duration)
    settings.performance_sample_count_override = 0  # as many images as there are
    match config.scenario:
        case "single-stream":
            settings.max_duration_ms = _LONGEST * settings.min_duration_ms
            settings.single_stream_expected_latency_ns = max(1, round(1e9 * seconds / _HEADROOM))
        case "multi-stream":
            settings.max_duration_ms = _LONGEST * settings.min_duration_ms
            settings.multi_stream_samples_per_query = QUERY_SAMPLES
            of_query = seconds * ceil(QUERY_SAMPLES / config.batch_size)
            settings.multi_stream_expected_latency_ns = max(1, round(1e9 * of_query / _HEADROOM))
        case "server":
            assert config.target_qps is not None and config.latency_bound is not None  # noqa: S101, PT018
            settings.server_target_qps = config.target_qps
            settings.server_target_latency_ns = round(1e6 * config.latency_bound)
            settings.server_max_async_queries = _hopeless(settings)
        case "offline":
            settings.offline_expected_qps = 1.1 * config.batch_size / seconds
            least = ceil(settings.min_query_count * config.duration / _OFFICIAL_SECONDS)
            settings.min_query_count = max(least, config.batch_size)
    return settings


def _hopeless(settings: Any) -> int:
    """Return how many queries may wait before a server's test ends: with so many it cannot become valid any more.

    Those that arrived within the latency bound (twice their mean, and ten) may be in time yet, and of all queries as
    many may be late as the percentile allows. All others would only have to be worked off.
    """
    qps: float = settings.server_target_qps
    queries = max(qps * settings.min_duration_ms / 1e3, settings.min_query_count)
    late = (1 - settings.server_target_latency_percentile) * queries
    return int(10 + 2 * qps * settings.server_target_latency_ns / 1e9 + late)


class Test:
    """A test that runs, in a thread of its own, while the one that made it computes. A context manager.

    LoadGen cannot be told to stop. Left by an exception, the test is brought to its end without anything computed.

    Args:
        settings: LoadGen's.
        folder: for its logs.
        images: how many there are.
    """

    __test__ = False  # pytest's

    def __init__(self, settings: Any, folder: Path, images: int) -> None:
        self._queries: SimpleQueue[list[int] | None] = SimpleQueue()
        self._waiting: deque[int] = deque()
        self._taken: list[int] = []
        self._ended = self._abandoned = False
        self._all_issued = threading.Event()
        self._error: BaseException | None = None
        self._settings = settings
        self._logs = mlperf_loadgen.LogSettings()
        self._logs.log_output.outdir = str(folder)
        self._logs.enable_trace = True  # which holds the latency of every sample
        self._audit = str(folder / "audit.config")  # else one in the working directory would change the settings
        self._sut = mlperf_loadgen.ConstructSUT(self._issue, self._all_issued.set)
        self._library = mlperf_loadgen.ConstructQSL(images, images, lambda _: None, lambda _: None)
        self._thread = threading.Thread(target=self._run, name="LoadGen", daemon=True)

    def __enter__(self) -> Test:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            self._abandon()
        self._thread.join()
        mlperf_loadgen.DestroyQSL(self._library)
        mlperf_loadgen.DestroySUT(self._sut)
        if kind is None and self._error is not None:
            raise MeasurementError(f"LoadGen failed: {self._error}") from self._error

    def take(self, most: int, wait: float) -> int | None:
        """Take samples that wait, as many as there are, but no more than ``most``, and return how many.

        Where there are none, wait for some, at most for so many seconds.

        Returns:
            None when the test has ended.
        """
        while not self._ended and len(self._waiting) < most:
            try:
                query = self._queries.get(timeout=wait) if not self._waiting else self._queries.get_nowait()
            except Empty:
                break
            if query is None:
                self._ended = True
            else:
                self._waiting.extend(query)
        if self._ended and not self._waiting:
            return None
        self._taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        return len(self._taken)

    def complete(self) -> None:
        """Tell LoadGen that the samples taken last are computed."""
        _answer(self._taken)
        self._taken = []

    def _issue(self, samples: list[Any]) -> None:
        query = [sample.id for sample in samples]
        if self._abandoned:
            _answer(query)
        else:
            self._queries.put(query)

    def _run(self) -> None:
        try:
            mlperf_loadgen.StartTestWithLogSettings(self._sut, self._library, self._settings, self._logs, self._audit)
        except BaseException as error:
            self._error = error
        finally:
            self._all_issued.set()
            self._queries.put(None)

    def _abandon(self) -> None:
        if self._settings.scenario == mlperf_loadgen.TestScenario.Server:
            self._all_issued.wait()  # it soon is: LoadGen ends a test in which too many queries wait
        self._abandoned = True  # and the streams' queries are answered as soon as they are asked
        self.complete()
        while self.take(1024, 1.0) is not None:
            self.complete()


def _answer(samples: list[int]) -> None:
    mlperf_loadgen.QuerySamplesComplete([mlperf_loadgen.QuerySampleResponse(one, 0, 0) for one in samples])


def read_verdict(scenario: Scenario, folder: Path) -> Verdict:
    """Read what LoadGen's logs say.

    Raises:
        MeasurementError: they do not say it.
    """
    values, errors = _read_detail(folder)
    try:
        requirements = {words: bool(values[key]) for key, words in _REQUIREMENTS.items() if key in values}
        reasons = [*errors, str(values.get("result_invalid_reason", "")).strip()]
        if not requirements["early stopping"]:
            reasons.append(" ".join(str(values["early_stopping_result"]).replace(" * ", " ").split()))
        return Verdict(
            valid=values["result_validity"] == "VALID",
            requirements=requirements,
            reasons=tuple(filter(None, reasons)),
            metrics=tuple(_metric(words, key, values[key]) for words, key in _METRICS[scenario]),
            settings={
                key.removeprefix("effective_"): value for key, value in values.items() if key.startswith("effective_")
            },
            version=str(values["loadgen_version"]),
            summary=(folder / "mlperf_log_summary.txt").read_text(),
        )
    except KeyError as error:
        said = "; ".join(errors) or "nothing went wrong"
        raise MeasurementError(f"LoadGen's log does not say {error.args[0]!r}, but that {said}") from error


def _metric(words: str, key: str, value: float) -> Metric:
    return Metric(words, "s", value / 1e9) if key.endswith("_ns") else Metric(words, "1/s", float(value))


def read_latencies(scenario: Scenario, folder: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read LoadGen's trace.

    Returns:
        Latencies in seconds, of each query and of each sample, in the order in which LoadGen numbered them. A query's
        is that of its last sample.

    Raises:
        MeasurementError: the trace does not agree with LoadGen's results.
    """
    lines = (folder / "mlperf_log_trace.json").read_text().splitlines()
    begun = [
        json.loads(line.rstrip(","))["args"] for line in lines if line.startswith('{"name":"Sample"') and "args" in line
    ]
    begun.sort(key=lambda sample: sample["sample_seq"])
    samples = np.array([sample["complete_ns"] for sample in begun], np.int64)
    _, which = np.unique([sample["query_seq"] for sample in begun], return_inverse=True)
    queries = np.zeros(which.max(initial=-1) + 1, np.int64)
    np.maximum.at(queries, which, samples)
    values, _ = _read_detail(folder)
    longest = "result_max_query_latency_ns" if scenario == "multi-stream" else "result_max_latency_ns"
    ours = {
        "result_query_count": len(queries),
        "result_50.00_percentile_latency_ns": int(np.sort(samples)[len(samples) // 2]) if len(samples) else None,
        longest: int(queries.max(initial=0)),
    }
    for key, value in ours.items():
        if values.get(key) != value:
            raise MeasurementError(f"LoadGen's trace and its log do not agree: {key} {value} and {values.get(key)}")
    return queries / 1e9, samples / 1e9


def _read_detail(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return what LoadGen's log says by its keys, and its errors."""
    values: dict[str, Any] = {}
    errors = []
    for line in (folder / "mlperf_log_detail.txt").read_text().splitlines():
        said = json.loads(line.removeprefix(":::MLLOG "))
        values[said["key"]] = said["value"]
        if said["metadata"]["is_error"]:
            errors.append(str(said["value"]))
    return values, errors
