"""pytest with harness's plugin, in a project of its own, as its entry point registers it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gate_errors import commit
from harness.store import open_store
from support import Harness

TESTS = """
import pytest

def test_fast(benchmark):
    benchmark(sum, range(100))

@pytest.mark.parametrize("what", [object(), float("nan")], ids=["thing", "nan"])
def test_params(benchmark, what):
    benchmark.pedantic(sorted, args=([3, 1, 2],), rounds=7, iterations=5)

def test_raises(benchmark):
    with pytest.raises(ZeroDivisionError):
        benchmark(lambda: 1 / 0)

def test_without():
    pass
"""
BACKBONES = """
def test_speed(measure_backbone):
    found = measure_backbone("tiny", batch_size=4, longest=0.3)
    assert found.name == "tiny inference fp32 batch 4"
    assert len(found.measurement("latency").samples) >= 3

def test_fault(measure_backbone):
    measure_backbone("raises", longest=0.3)

def test_unknown(measure_backbone):
    measure_backbone("tinny")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with benchmarks."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "test_speed.py").write_text(TESTS)
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    commit(folder, "first")
    return folder


def _pytest(folder: Path, *arguments: str, **environment: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**env, "HARNESS_HOME": str(folder / "home"), **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _commit(folder: Path) -> str:
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_benchmarks_land_under_their_commit_and_the_gate_reads_them(project: Path, harness: Harness) -> None:
    database = project.parent / "benchmark.db"
    for number in range(3):
        json_file = f"--benchmark-json=../{number}.json"
        done = _pytest(project, f"--harness-db={database}", "--harness-label=x", json_file)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"harness: 3 recorded in {database} under 'x'" in done.stdout
    with open_store(str(database)) as store:
        found = store.sets.read(label="x")
    names = ["test_speed.py::test_fast", "test_speed.py::test_params[thing]", "test_speed.py::test_params[nan]"]
    assert [one.name for one in found[:3]] == names
    assert len(found) == 9
    sha = _commit(project)
    written = json.loads((project.parent / "0.json").read_text())
    assert written["machine_info"]["torch"] == found[0].environment.torch
    for one, benchmark in zip(found[:3], written["benchmarks"], strict=True):
        latency = one.measurement("latency")
        assert (one.suite, one.commit, latency.unit) == ("pytest-benchmark", sha, "s")
        assert latency.samples.tolist() == benchmark["stats"]["data"]
        assert latency.details["iterations"] == benchmark["stats"]["iterations"]
    assert len(found[1].measurement("latency").samples) == 7

    gated = harness("gate", "--base", f"commit:{sha[:8]}", "--head", "label:x", "--threshold", "900", "--json")
    assert gated.returncode in (0, 2), gated.stderr
    assert [one["name"] for one in json.loads(gated.stdout)["benchmarks"]] == names

    # The files hold the same, and so land as the same.
    for number in range(3):
        done = harness("sets", "import", f"{number}.json", "--label", "files")
        assert done.returncode == 0, done.stderr
    with open_store(str(database)) as store:
        imported = store.sets.read(label="files")
    assert len(imported) == 9
    twice = harness("sets", "import", "0.json", "--label", "files")
    assert twice.returncode == 2
    assert "0.json: recorded under 'files' before, as set 10; one process is not two" in twice.stderr
    done = harness("sets", "import", "0.json", "--db", "other.db")
    assert f"under '{sha}'" in done.stdout, done.stderr
    for one, other in zip(found, imported, strict=True):
        assert (one.name, one.commit, one.config["group"]) == (other.name, other.commit, other.config["group"])
        assert (one.environment.device_name, one.environment.torch) == (
            other.environment.device_name,
            other.environment.torch,
        )
        assert np.array_equal(one.measurement("latency").samples, other.measurement("latency").samples)


def test_without_a_database_nothing_is_recorded_or_imported(project: Path) -> None:
    (project / "conftest.py").write_text(
        "import sys\n\n\ndef pytest_sessionfinish():\n"
        "    loaded = {name.partition('.')[0] for name in sys.modules} & {'torch', 'sqlalchemy', 'numpy', 'pydantic'}\n"
        "    assert not loaded, loaded\n"
    )
    done = _pytest(project, "--benchmark-disable")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "recorded" not in done.stdout


def test_a_database_that_cannot_be_opened_is_an_error_of_usage(project: Path) -> None:
    done = _pytest(project, "--harness-db=/nowhere/at/all.db")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--harness-db: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_label_without_a_database_is_an_error_of_usage(project: Path) -> None:
    done = _pytest(project, "--harness-label=x")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--harness-label names what --harness-db records" in done.stderr


def test_backbones_are_measured_by_name(project: Path, test_plugins: Path) -> None:
    (project / "test_speed.py").write_text(BACKBONES)
    database = project / "benchmark.db"
    done = _pytest(project, f"--harness-db={database}", PYTHONPATH=test_plugins)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert "2 failed" in done.stdout
    assert "raises inference fp32 batch 1: failed: " in done.stdout
    assert "Did you mean tiny" in done.stdout
    assert "harness: 2 recorded" in done.stdout
    with open_store(str(database)) as store:
        found = store.sets.read()
    assert [(one.name, one.status) for one in found] == [
        ("tiny inference fp32 batch 4", "completed"),
        ("raises inference fp32 batch 1", "failed"),
    ]
    assert found[0].commit == _commit(project)
    beside = _pytest(project, "-n", "1", "-k", "test_speed", PYTHONPATH=test_plugins)
    assert "3 skipped" in beside.stdout, beside.stdout
