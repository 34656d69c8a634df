"""`harness bench --scenarios`, started as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from harness.config import BenchConfig
from harness.results import MeasurementSet
from harness.store import open_store
from support import Harness

Bench = Callable[..., subprocess.CompletedProcess[str]]
EVERY = ["--scenarios", "single-stream,multi-stream,server,offline", "--target-qps", "1000", "--latency-bound", "5000"]


@pytest.fixture
def bench(harness: Harness, test_plugins: Path, tmp_path: Path) -> Bench:
    """Run ``harness bench ARGS...``; afterwards no log of LoadGen's must be left, wherever it ended."""
    (tmp_path / "temporary").mkdir()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = harness("bench", *arguments, PYTHONPATH=test_plugins, TMPDIR=tmp_path / "temporary")
        assert not list((tmp_path / "temporary").iterdir())
        return done

    return run


def _sets(folder: Path, label: str | None = None) -> list[MeasurementSet]:
    with open_store(str(folder / "benchmark.db"), create=False) as store:
        return store.sets.read(label=label)


def test_every_scenario_is_stored_and_the_same_can_be_compared(bench: Bench, harness: Harness, tmp_path: Path) -> None:
    done = bench("--plugins", "tiny", *EVERY, "--duration", "0.5", "--batch-sizes", "4", "--label", "first")
    found = _sets(tmp_path, "first")
    if done.returncode == 1 and any(one.measurement("latency").details["flags"] for one in found):
        assert "not valid:" in done.stderr
        pytest.skip("the machine did other work meanwhile, so LoadGen called a test not valid")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Measured by LoadGen, first" in done.stdout
    assert done.stdout.count("yes") == 4
    assert [(one.suite, one.name) for one in found] == [
        ("loadgen", "tiny inference fp32 single-stream batch 1"),
        ("loadgen", "tiny inference fp32 multi-stream batch 4"),
        ("loadgen", "tiny inference fp32 server batch 4 at 1000 queries/s"),
        ("loadgen", "tiny inference fp32 offline batch 4"),
    ]
    for one in found:
        result, latency = one.measurement("loadgen_result"), one.measurement("latency")
        assert one.status == "completed"
        assert result.details["valid"] is True
        assert all(result.details["requirements"].values())
        assert result.details["reasons"] == []
        assert result.details["version"].startswith("6.")
        assert result.details["settings"]["min_duration_ms"] == 500
        assert "Result is : VALID" in result.details["summary"]
        assert latency.unit == "s"
        assert (latency.samples > 0).all()
        assert {"flags", "readings"} <= latency.details.keys()
    single, multi, server, offline = (one.measurement("loadgen_result") for one in found)
    latencies = [np.sort(one.measurement("latency").samples) for one in found]
    assert single.samples[0] == latencies[0][int(0.9 * len(latencies[0]))]
    assert multi.samples[0] == latencies[1][int(0.99 * len(latencies[1]))]
    assert len(latencies[1]) >= 662, "which its percentile needs"
    assert (single.unit, multi.unit, server.unit, offline.unit) == ("s", "s", "1/s", "1/s")
    assert server.details["settings"]["target_latency_ns"] == 5e9
    scheduled = found[2].measurement("scheduled_samples").samples[0]
    assert 0 < server.samples[0] < 1.1 * scheduled, "a machine that is busy answers later than it is asked"
    assert scheduled == pytest.approx(1000, rel=0.15)
    samples = found[3].measurement("sample_latency").samples
    assert offline.samples[0] == pytest.approx(len(samples) / samples.max(), rel=1e-4)
    assert samples.max() >= 0.5
    assert latencies[3].sum() == pytest.approx(samples.max(), rel=0.1), "a batch after another"

    again = bench("--plugins", "tiny", *EVERY, "--duration", "0.5", "--batch-sizes", "4", "--label", "first", "--json")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("measured already under this label") == 4
    told = json.loads(again.stdout)["sets"]
    assert [one["measurements"][0]["samples"] for one in told] == [
        one.measurement("latency").samples.tolist() for one in found
    ]
    assert told[2]["measurements"][1]["details"]["valid"] is True

    done = bench(
        "--plugins", "tiny", "--scenarios", "offline", "--duration", "0.3", "--batch-sizes", "4", "--label", "x"
    )
    assert done.returncode == 0, done.stderr
    compared = harness("compare", "first", "x", "--json")
    assert compared.returncode == 0, compared.stderr
    (pair,) = json.loads(compared.stdout)
    assert pair["base_name"] == pair["head_name"] == "tiny inference fp32 offline batch 4"
    assert pair["low"] <= pair["ratio"] <= pair["high"]
    refused = harness("compare", f"set:{found[0].id}", "x")
    assert refused.returncode == 2
    assert "differ in what was measured (tiny inference fp32 single-stream" in refused.stderr


def test_a_server_that_is_asked_too_much_ends_and_is_not_valid(bench: Bench, tmp_path: Path) -> None:
    options = ["--scenarios", "server", "--target-qps", "2000", "--latency-bound", "50", "--duration", "5"]
    begin = time.monotonic()
    done = bench("--plugins", "slow", *options, "--batch-sizes", "1")  # 20 ms an image: 40 times too much
    assert time.monotonic() - begin < 60
    assert done.returncode == 1, done.stderr
    assert "not valid: not satisfied: latency bound, min duration" in done.stderr
    assert "Too many outstanding queries" in done.stderr
    assert "no: latency bound" in " ".join(done.stdout.split())
    (found,) = _sets(tmp_path)
    result = found.measurement("loadgen_result")
    assert (found.status, result.details["valid"]) == ("completed", False)
    assert any("Reduce target QPS" in reason for reason in result.details["reasons"])
    assert len(found.measurement("latency").samples) < 2000
    assert result.samples[0] < 50
    assert found.measurement("scheduled_samples").samples[0] > 1000


@pytest.mark.parametrize("scenario", ["single-stream", "server"])
def test_a_model_that_raises_in_a_test_is_a_failure(bench: Bench, tmp_path: Path, scenario: str) -> None:
    options = ["--scenarios", scenario, "--duration", "10", "--batch-sizes", "4"]
    options += ["--target-qps", "50"] if scenario == "server" else []
    begin = time.monotonic()
    done = bench("--plugins", "raises_under_load", *options)
    assert time.monotonic() - begin < 25
    assert done.returncode == 1
    assert "gave up under load" in done.stderr
    (found,) = _sets(tmp_path)
    assert (found.status, found.message) == ("failed", "gave up under load")
    assert found.measurements == ()
    assert "terminate called" not in done.stderr


def test_an_interrupt_leaves_nothing_behind(test_plugins: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    options = ["--plugins", "slow", "--scenarios", "offline", "--duration", "300", "--batch-sizes", "1"]
    started = subprocess.Popen(
        [sys.executable, "-m", "harness", "bench", *options],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(test_plugins),
            "HARNESS_HOME": str(tmp_path / "home"),
            "TMPDIR": str(temporary),
        },
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not list(temporary.glob("harness-loadgen-*/mlperf_log_detail.txt")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(1)
    children = psutil.Process(started.pid).children(recursive=True)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=20)
    assert started.returncode == 130, said
    assert "0 of 1 measured and kept" in said
    assert children
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert not list(temporary.iterdir())
    assert _sets(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scenarios", "offline,online"], "--scenarios online"),
        (["--scenarios", "server"], "--scenarios server: say with --target-qps"),
        (["--scenarios", "server", "--target-qps", "0"], "--target-qps 0"),
        (["--scenarios", "server", "--target-qps", "5", "--latency-bound", "0"], "--latency-bound 0"),
        (["--scenarios", "offline", "--target-qps", "5"], "--target-qps 5 belongs to the scenario `server`"),
        (["--scenarios", "offline", "--duration", "0"], "--duration 0"),
        (["--scenarios", "offline", "--modes", "train"], "--modes train: LoadGen's scenarios are of inference alone"),
        (["--duration", "5"], "--duration 5 belongs to --scenarios"),
    ],
)
def test_what_cannot_be_asked_for(bench: Bench, options: list[str], message: str) -> None:
    done = bench("--plugins", "tiny", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_loadgen_the_command_that_installs_it_is_named(test_plugins: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['mlperf_loadgen'] = None; from harness.cli import main; "
        "main(['bench', '--plugins', 'tiny', '--scenarios', 'offline'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(test_plugins)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "run: pip install mlcommons-loadgen" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_line_imports_neither_torch_nor_loadgen() -> None:
    code = (
        "import sys; import harness.bench, harness.cli.bench, harness.cli.scenarios; "
        "assert not {'torch', 'mlperf_loadgen'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert BenchConfig.suite == "bench"
