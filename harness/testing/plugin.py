"""A plugin of pytest's: benchmarks land in the results database, and backbones are measured by name.

It is registered by an entry point, so every pytest in the environment loads it: it imports nothing before it is asked
for something. ``--harness-db`` records each benchmark of pytest-benchmark's as it ends, under the commit that it
measured, and whatever :func:`measure_backbone` measured.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.results import MeasurementSet
    from harness.store import Store

__all__ = ["MeasureBackbone", "measure_backbone"]

_NAME = "harness-recorder"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("harness", "results database")
    group.addoption(
        "--harness-db",
        metavar="URL",
        help="Record benchmarks (of pytest-benchmark, and of the fixture measure_backbone) in this results database: "
        "a file or a URL.",
    )
    group.addoption("--harness-label", metavar="NAME", help="Name to record them under. Default: pytest and the time.")


def pytest_configure(config: pytest.Config) -> None:
    """Open the database where one is named. Workers of pytest-xdist measure nothing, so they need none."""
    url = config.getoption("harness_db")
    if url is None and config.getoption("harness_label") is not None:
        raise pytest.UsageError("--harness-label names what --harness-db records, which was not given")
    if url is None or _is_worker(config):
        return
    from datetime import UTC, datetime

    from harness.errors import HarnessError
    from harness.store import open_store

    label = config.getoption("harness_label") or f"pytest {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    try:
        store = open_store(url)
    except HarnessError as error:
        raise pytest.UsageError(f"--harness-db: {error}") from error
    config.pluginmanager.register(_Recorder(config, store, label), _NAME)


class _Recorder:
    """Records into one database until pytest ends."""

    def __init__(self, config: pytest.Config, store: Store, label: str) -> None:
        self._config, self._store, self.label = config, store, label
        self._sets: list[int] = []
        self._about: tuple[dict[str, Any], dict[str, Any] | None] | None = None

    def add(self, record: MeasurementSet) -> MeasurementSet:
        """Store a set, and return it with its number."""
        from dataclasses import replace

        number = self._store.sets.add(record)
        self._sets.append(number)
        return replace(record, id=number)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        """Record what the test has measured, while its fixtures are still there."""
        benchmark = getattr(item, "funcargs", {}).get("benchmark")
        yield
        stats = getattr(benchmark, "stats", None)  # none where benchmarks are disabled, or nothing was measured
        if stats is not None and not getattr(stats, "has_error", True):
            from harness.exchange.pytest_benchmark import to_set

            self.add(to_set(stats.as_dict(include_data=True), *self._machine_and_commit(), self.label))

    def _machine_and_commit(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Ask pytest-benchmark, once, as it asks itself when it writes its JSON."""
        if self._about is None:
            hook, config = self._config.hook, self._config
            machine = hook.pytest_benchmark_generate_machine_info(config=config)
            hook.pytest_benchmark_update_machine_info(config=config, machine_info=machine)
            commit = hook.pytest_benchmark_generate_commit_info(config=config)
            hook.pytest_benchmark_update_commit_info(config=config, commit_info=commit)
            self._about = machine, commit
        return self._about

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was recorded."""
        from harness.store import shown_url

        if self._sets:
            where = shown_url(self._config.getoption("harness_db"))
            terminalreporter.write_line(f"harness: {len(self._sets)} recorded in {where} under {self.label!r}")

    def pytest_unconfigure(self) -> None:
        """Close the database."""
        self._store.close()


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Let pytest-benchmark's JSON name the version of torch, where it is recorded: others' times are not compared."""
    if config.getoption("harness_db") is None:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        machine_info["torch"] = version("torch")
    except PackageNotFoundError:
        return


class MeasureBackbone:
    """What the fixture :func:`measure_backbone` gives: call it with a backbone's name."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def __call__(
        self,
        backbone: str,
        *,
        mode: str = "inference",
        precision: str = "fp32",
        batch_size: int = 1,
        weights: str = "random",
        device: str = "auto",
        error: float = 0.01,
        longest: float = 10.0,
        timeout: float = 600.0,
    ) -> MeasurementSet:
        """Measure in a process of its own, as ``harness bench`` does, and record it where ``--harness-db`` says.

        Args:
            backbone: its name.
            mode: ``inference``, or ``train`` for a step on all layers.
            precision: ``fp32``, ``bf16``, or ``tf32`` on a GPU.
            batch_size: images at a time.
            weights: as of ``harness bench``.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            error: half the width of the median's 95 % interval, as a share of the median, at which sampling stops.
            longest: seconds of sampling at most.
            timeout: seconds without any sign of life after which it counts as hung.

        Returns:
            What was measured: ``measurement("latency").samples`` are seconds a batch. A backbone that cannot be
            measured fails the test.
        """
        from dataclasses import replace

        from harness.bench import Conditions, Request, make_configs, measure
        from harness.errors import HarnessError
        from harness.launch import Limits
        from harness.measure.rule import Rule

        try:
            request = Request([backbone], [weights], [mode], [precision], [str(batch_size)], device=device)
            (config,) = make_configs(request)
        except HarnessError as refused:
            raise pytest.fail.Exception(str(refused), pytrace=False) from None
        conditions = Conditions(Rule(error, longest), Limits(timeout), lambda: False)
        record = measure(config, conditions, lambda _event: None)
        recorder = self._config.pluginmanager.get_plugin(_NAME)
        if isinstance(recorder, _Recorder):
            record = recorder.add(replace(record, label=recorder.label))
        if record.status != "completed":
            pytest.fail(f"{record.name}: {record.status}: {record.message}", pytrace=False)
        return record


@pytest.fixture
def measure_backbone(request: pytest.FixtureRequest) -> MeasureBackbone:
    """Measure backbones by name, each alone on the machine: a function (:class:`MeasureBackbone`)."""
    if _is_worker(request.config):
        pytest.skip("what others do at the same time would be measured too; run this test without pytest-xdist's -n")
    return MeasureBackbone(request.config)


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")  # pytest-xdist's
