"""`harness sets`, started as a user starts it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.results import Environment, Measurement, MeasurementSet, PluginRecord, WeightsRecord
from harness.store import open_store
from support import Harness

HERE = Environment("cpu", "a processor", "3.11.7", "2.14.1", {"git": None, "threads": 2, "cpu_usable": 2})
TIMES = Measurement("latency", "s", np.linspace(0.09, 0.11, 21), "a processor", 8, details={"flags": ["a fan"]})
RECORD = MeasurementSet(
    label="x",
    suite="bench",
    name="net inference fp32 batch 8",
    config={"backbone": "net", "batch_size": 8, "precision": "fp32"},
    environment=HERE,
    measurements=(
        TIMES,
        Measurement("flops", "FLOP", np.array([8e9]), "a processor", 8),
        Measurement("energy", "J", np.array([]), "a processor", 8, details={"absent": "no counters"}),
    ),
    plugins=(PluginRecord("backbone", "net", "a-package", "1.0"),),
    weights=WeightsRecord("random", "a rule", None),
    commit="c0ffee" + 34 * "0",
)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "benchmark.db"
    with open_store(str(path)) as store:
        store.sets.add(RECORD)
        store.sets.add(replace(RECORD, status="failed", message="why [it] failed", measurements=()))
        roof = Measurement("matmul_fp32", "FLOP/s", np.array([100e9]), "a processor")
        store.sets.add(MeasurementSet("roofs", "roofs", "roofs", {}, HERE, (roof,)))
    return path


@pytest.mark.usefixtures("database")
def test_sets_are_listed_and_shown(harness: Harness) -> None:
    listed = harness("sets", "list")
    assert listed.returncode == 0, listed.stderr
    for words in ("net inference fp32 batch 8", "100", "21", "failed", "c0ffee0", "a processor"):
        assert words in listed.stdout
    assert "The newest" not in listed.stdout
    newest = harness("sets", "list", "--limit", "2")
    assert "The newest 2; --limit shows more." in newest.stdout
    for options, numbers in {
        (): [1, 2, 3],
        ("--suite", "roofs"): [3],
        ("--label", "x", "--commit", "c0ff"): [1, 2],
        ("--limit", "2"): [2, 3],
    }.items():
        told = json.loads(harness("sets", "list", *options, "--json").stdout)
        assert [one["id"] for one in told] == numbers, options
        assert all("samples" not in found for one in told for found in one["measurements"])
    assert harness("sets", "list", "--label", "none").stdout.strip() == "No measurement set is like that."

    shown = harness("sets", "show", "1")
    assert shown.returncode == 0, shown.stderr
    for words in ("absent: no counters", "a fan", "80% compute", "backbone net (a-package 1.0)", "100 ms (median"):
        assert words in shown.stdout
    told = json.loads(harness("sets", "show", "1", "--json").stdout)
    assert told["measurements"][0]["samples"] == TIMES.samples.tolist()
    assert told["roof"]["fraction"] == pytest.approx(0.8)
    assert "failed: why [it] failed" in harness("sets", "show", "2").stdout


@pytest.mark.usefixtures("database")
def test_sets_are_exported(harness: Harness, tmp_path: Path) -> None:
    done = harness("sets", "export", "x", "--format", "github-action-benchmark", "--out", "out.json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads((tmp_path / "out.json").read_text())
    assert (found["name"], found["unit"], found["value"]) == (RECORD.name, "ms", pytest.approx(100))
    bencher = json.loads(harness("sets", "export", "set:1", "--format", "bencher").stdout)
    assert bencher[RECORD.name]["latency"]["value"] == pytest.approx(1e8)
    assert "`net inference fp32 batch 8`" in harness("sets", "export", "commit:c0ffee0", "--format", "markdown").stdout
    for options, message in {
        ("x", "--format", "bench"): "--format bench: no such format. Did you mean bencher",
        ("none", "--format", "bencher"): "'none': no times are stored under that label",
        ("set:2", "--format", "bencher"): "'set:2': no times",
        ("x", "--format", "bencher", "--out", "no/folder.json"): "--out no/folder.json cannot be written",
    }.items():
        refused = harness("sets", "export", *options)
        assert refused.returncode == 2, options
        assert message in refused.stderr, refused.stderr


def test_sets_are_deleted(harness: Harness, database: Path) -> None:
    refused = harness("sets", "rm", "1", "9", "--yes")
    assert refused.returncode == 2
    assert "the database has no measurement set 9" in refused.stderr
    done = harness("sets", "rm", "1", "2", "--yes")
    assert done.returncode == 0, done.stderr
    with open_store(str(database)) as store:
        assert [one.id for one in store.sets.read()] == [3]


def test_a_file_that_cannot_be_imported_records_nothing(harness: Harness, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    for file, message in {"bad.json": "bad.json is no file of pytest-benchmark's", "none.json": "No such file"}.items():
        refused = harness("sets", "import", file)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not (tmp_path / "benchmark.db").exists()
