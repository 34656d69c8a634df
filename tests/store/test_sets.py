"""Measurement sets in the database: kept, found, merged, exported, checked and removed."""

import csv
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from harness.errors import StoreError
from harness.results import Environment, Measurement, MeasurementSet, PluginRecord, WeightsRecord
from harness.store import open_store
from harness.store.export import export
from harness.store.merge import merge
from harness.store.upkeep import check

ENVIRONMENT = Environment("cpu", "a processor", "3.11.7", "2.14.1", {"git": None})


def a_set(**changes):
    latency = Measurement("latency", "s", np.array([0.1, 0.3, 0.2]), "a processor", 8, details={"flags": []})
    absent = Measurement("energy", "J", np.array([]), "a processor", 8, details={"absent": "no counters"})
    values = {
        "label": "first",
        "suite": "bench",
        "name": "tiny inference fp32 batch 8",
        "config": {"backbone": "tiny", "batch_size": 8},
        "environment": ENVIRONMENT,
        "measurements": (latency, absent),
        "plugins": (PluginRecord("backbone", "tiny", "a-package", "1.0"),),
        "weights": WeightsRecord("random", "a rule", None),
        "commit": "c0ffee",
    }
    return MeasurementSet(**(values | changes))


def test_a_set_comes_back_as_it_was(url):
    with open_store(url) as store:
        first = store.sets.add(a_set())
        second = store.sets.add(a_set(label="second", suite="roofs", commit=None, status="failed", message="why"))
        found, other = store.sets.read()
        assert (found.id, other.id) == (first, second)
        assert found.uid != other.uid
        given = a_set()
        assert (found.label, found.suite, found.name, found.config) == (
            given.label,
            given.suite,
            given.name,
            given.config,
        )
        assert (found.environment, found.plugins, found.weights) == (ENVIRONMENT, given.plugins, given.weights)
        assert found.measurement("latency").samples.tolist() == [0.1, 0.3, 0.2]
        assert len(found.measurement("energy").samples) == 0
        assert found.measurement("energy").details == {"absent": "no counters"}
        assert (other.status, other.message, other.commit) == ("failed", "why", None)
        for wanted in ({"label": "second"}, {"suite": "roofs"}, {"ids": [second]}):
            assert [one.id for one in store.sets.read(**wanted)] == [second]
        assert [one.id for one in store.sets.read(commit="c0ffee")] == [first]
        assert list(check(store)) == []


def test_a_set_that_failed_before_anything_was_known(url):
    with open_store(url) as store:
        store.sets.add(a_set(environment=None, weights=None, measurements=(), status="failed", message="import error"))
        (found,) = store.sets.read()
        assert (found.environment, found.weights, found.measurements) == (None, None, ())


def test_removing_sets_takes_what_they_alone_used(url):
    with open_store(url) as store:
        first, second = store.sets.add(a_set()), store.sets.add(a_set())
        with pytest.raises(StoreError, match="no measurement set 99"):
            store.sets.remove([first, 99])
        store.sets.remove([first])
        assert [one.id for one in store.sets.read()] == [second]
        store.sets.remove([second])
        with store.database.engine.connect() as connection:
            for table in ("set_measurements", "environments"):
                assert connection.scalar(text(f"SELECT count(*) FROM {table}")) == 0


def test_merging_twice_copies_once(url, tmp_path):
    other = str(tmp_path / "other.db")
    with open_store(other) as store:
        store.sets.add(a_set())
        store.sets.add(a_set(label="second"))
    with open_store(url) as store:
        store.sets.add(a_set(label="here"))
    merged = merge(url, [other])
    assert (merged.new_sets, merged.known_sets) == (2, 0)
    again = merge(url, [other])
    assert (again.new_sets, again.known_sets) == (0, 2)
    with open_store(url) as store:
        assert [one.label for one in store.sets.read()] == ["here", "first", "second"]
        assert store.sets.read(label="second")[0].measurement("latency").samples.tolist() == [0.1, 0.3, 0.2]
        assert list(check(store)) == []


def test_export_has_a_row_for_each_sample(url, tmp_path):
    with open_store(url) as store:
        store.sets.add(a_set())
        counts = export(store, tmp_path / "all", "csv")
        assert (counts["measurement_sets"], counts["set_measurements"]) == (1, 3)
        assert export(store, tmp_path / "some", "csv", where="backbone = tiny")["measurement_sets"] == 0
    with Path(tmp_path / "all" / "set_measurements.csv").open(newline="") as file:
        assert [row["sample"] for row in csv.DictReader(file)] == ["0.1", "0.3", "0.2"]
    with Path(tmp_path / "all" / "measurement_sets.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["name"], row["device_name"], row["commit"]) == ("tiny inference fp32 batch 8", "a processor", "c0ffee")


def test_damaged_samples_are_found(url):
    with open_store(url) as store:
        store.sets.add(a_set())
        with store.database.writer.begin() as connection:
            connection.execute(text("UPDATE set_measurements SET n = 4 WHERE position = 0"))
        (finding,) = check(store)
        assert "measurement set 1, measurement 'latency'" in str(finding)
