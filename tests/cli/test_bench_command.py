"""`harness bench` and `harness compare`, started as a user starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from harness.errors import StoreError
from harness.results import Measurement
from harness.store import open_store
from support import Harness

QUICK = ["--longest", "0.5", "--batch-sizes", "1,4"]


def _sets(folder: Path, **wanted):
    with open_store(str(folder / "benchmark.db"), create=False) as store:
        return store.sets.read(**wanted)


def test_backbones_are_measured_and_every_sample_is_kept(harness: Harness, test_plugins: Path, tmp_path: Path) -> None:
    options = [*QUICK, "--precision", "fp32,bf16", "--modes", "inference,train", "--label", "first"]
    done = harness("bench", "--plugins", "tiny", *options, PYTHONPATH=test_plugins)
    assert done.returncode == 0, done.stderr
    assert "tiny train bf16 batch 4: " in done.stderr
    assert "Measured, first" in done.stdout
    found = _sets(tmp_path, label="first")
    assert [one.name for one in found] == [
        f"tiny {mode} {precision} batch {batch_size}"
        for mode in ("inference", "train")
        for precision in ("fp32", "bf16")
        for batch_size in (1, 4)
    ]
    for one in found:
        assert one.status == "completed"
        assert (one.weights.kind, one.plugins[0].distribution) == ("random", "harness-test-plugins")
        assert one.environment.details["packages"]["torch"]
        latency = one.measurement("latency")
        assert (latency.unit, latency.batch_size) == ("s", one.config["batch_size"])
        assert len(latency.samples) >= 3
        assert latency.details["stopped"] in ("converged", "time")
        assert {"warm_up", "stable", "error", "flags", "readings"} <= latency.details.keys()
        parameters = one.measurement("parameters").samples.tolist()
        assert parameters == [4 * (8 * 3 * 25 + 8 + 8 + 8 + 72 * 1000 + 1000)]
        assert one.measurement("rss_peak").samples[0] > 2**27
        energy = one.measurement("energy")
        assert len(energy.samples) or energy.details["absent"], "absent, and why, but never zero"
    flops = {one.name: one.measurement("flops").samples[0] for one in found}
    conv, linear = 2 * 14 * 14 * 8 * 75, 2 * 72 * 1000
    assert flops["tiny inference fp32 batch 4"] == 4 * (conv + linear)
    assert flops["tiny train fp32 batch 1"] == 2 * conv + 3 * linear, "no gradient of the images is computed"

    again = harness("bench", "--plugins", "tiny", *options, "--json", PYTHONPATH=test_plugins)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("measured already under this label") == len(found)
    told = json.loads(again.stdout)
    assert [one["id"] for one in told["sets"]] == [one.id for one in found]
    assert told["sets"][0]["measurements"][-2]["samples"] == found[0].measurement("latency").samples.tolist()


def test_what_cannot_be_measured_says_why_and_disturbs_nothing(
    harness: Harness, test_plugins: Path, tmp_path: Path
) -> None:
    faults = {
        "import_error": "the plugin's own mistake",
        "raises": "compute",
        "tuple": "expected a tensor of logits",
        "killed": "SIGKILL (by another program)",
        "diverges": "not finite",
    }
    names = ",".join(["tiny", *faults, "tiny_two"])
    options = ["--batch-sizes", "2", "--longest", "0.5"]
    done = harness("bench", "--plugins", names, *options, PYTHONPATH=test_plugins)
    assert done.returncode == 1
    found = {one.config["backbone"]: one for one in _sets(tmp_path)}
    assert {name: one.status for name, one in found.items()} == dict.fromkeys(faults, "failed") | {
        "tiny": "completed",
        "tiny_two": "completed",
    }
    for name, message in faults.items():
        assert message in found[name].message, name
        assert message.split()[0] in done.stderr


def test_a_batch_that_does_not_fit_is_kept_with_the_largest_that_does(
    harness: Harness, test_plugins: Path, tmp_path: Path
) -> None:
    options = ["--longest", "0.5", "--memory-limit", "3", "--batch-sizes", "1,6"]
    done = harness("bench", "--plugins", "hungry", *options, PYTHONPATH=test_plugins)
    assert done.returncode == 1
    one, found = _sets(tmp_path)
    assert (one.status, found.status) == ("completed", "out of memory")
    assert found.message.startswith("a batch of 6 does not fit; the largest that does has ")
    assert 1 < int(found.message.split()[-2]) < 6


def test_memory_of_the_second_is_what_it_has_alone(harness: Harness, test_plugins: Path, tmp_path: Path) -> None:
    options = ["--batch-sizes", "4", "--longest", "0.2"]
    for plugins in ("hungry,tiny", "tiny"):
        done = harness("bench", "--plugins", plugins, *options, PYTHONPATH=test_plugins)
        assert done.returncode == 0, done.stderr
    _, second, alone = (one.measurement("rss_peak").samples[0] for one in _sets(tmp_path))
    assert second == pytest.approx(alone, rel=0.01)


def test_what_one_leaves_behind_does_not_disturb_the_next(harness: Harness, test_plugins: Path, tmp_path: Path) -> None:
    left = tmp_path / "left"
    options = ["--batch-sizes", "4", "--longest", "0.2"]
    done = harness("bench", "--plugins", "forks,killed,tiny", *options, PYTHONPATH=test_plugins, LEFT_BEHIND=left)
    assert done.returncode == 1, done.stderr
    assert not psutil.pid_exists(int(left.read_text())), "it ended with the process that had started it"
    alone = harness("bench", "--plugins", "tiny", *options, PYTHONPATH=test_plugins)
    assert alone.returncode == 0, alone.stderr
    forked, killed, after, before = _sets(tmp_path)
    assert [one.status for one in (forked, killed, after, before)] == ["completed", "failed", "completed", "completed"]
    memory = [one.measurement("rss_peak").samples[0] for one in (after, before)]
    assert memory[0] == pytest.approx(memory[1], rel=0.01)


def test_an_interrupt_keeps_what_was_measured(harness: Harness, test_plugins: Path, tmp_path: Path) -> None:
    arguments = ["bench", "--plugins", "tiny,hangs", "--batch-sizes", "1", "--longest", "0.2", "--label", "x"]
    started = subprocess.Popen(
        [sys.executable, "-m", "harness", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(test_plugins), "HARNESS_HOME": str(tmp_path / "home")},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    known: list[object] = []
    while not known:
        assert time.monotonic() < deadline
        time.sleep(0.5)
        with suppress(StoreError):  # it is not there, or empty yet
            known = _sets(tmp_path)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=20)
    assert started.returncode == 130, said
    assert "1 of 2 measured and kept" in said
    assert "--label x" in said
    assert len(_sets(tmp_path)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plugins", "tinny"], "Did you mean tiny"),
        (["--plugins", ""], "--plugins: name at least one backbone"),
        (["--plugins", "tiny", "--modes", "training"], "--modes training"),
        (["--plugins", "tiny", "--precision", "fp16"], "--precision fp16"),
        (["--plugins", "tiny", "--batch-sizes", "1,0"], "--batch-sizes 0"),
        (["--plugins", "tiny", "--batch-sizes", "many"], "--batch-sizes many"),
        (["--plugins", "tiny", "--weights", "other=random"], "no backbone of this run is called 'other'"),
        (["--plugins", "tiny", "--weights", "/nowhere/w.pt"], "there is no such file"),
    ],
)
def test_what_cannot_be_asked_for(harness: Harness, test_plugins: Path, options: list[str], message: str) -> None:
    done = harness("bench", *options, PYTHONPATH=test_plugins)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_compare_finds_what_both_sides_hold(harness: Harness, test_plugins: Path, tmp_path: Path) -> None:
    for label in ("before", "after"):
        done = harness("bench", "--plugins", "tiny,slow", *QUICK, "--label", label, PYTHONPATH=test_plugins)
        assert done.returncode == 0, done.stderr
    done = harness("compare", "before", "after", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["base_name"] for one in found] == [one.name for one in _sets(tmp_path, label="before")]
    for one in found:
        if one["low"] is not None:  # few samples, as a busy machine leaves, have no interval
            assert one["low"] <= one["ratio"] <= one["high"]
        assert one["ratio"] == pytest.approx(one["head"] / one["base"])
    first, *_, last = _sets(tmp_path, label="before")
    other = harness("compare", f"set:{first.id}", f"set:{last.id}")
    assert other.returncode == 2
    assert "differ in what was measured" in other.stderr
    # What this machine made of the two is its own affair; these times are apart.
    with open_store(str(tmp_path / "benchmark.db")) as store:
        latency = first.measurement("latency")
        twice = tuple(replace(latency, samples=factor * latency.samples) for factor in (1.0, 2.0))
        same, slower = (store.sets.add(replace(first, label="x", measurements=(one,))) for one in twice)
    anyway = harness("compare", f"set:{same}", f"set:{slower}", "--json")
    assert json.loads(anyway.stdout)[0]["ratio"] == pytest.approx(2)
    anyway = harness("compare", f"set:{first.id}", f"set:{last.id}", "--anyway", "--json")
    (other,) = json.loads(anyway.stdout)
    assert (other["base_name"], other["head_name"]) == (first.name, last.name)
    table = harness("compare", "before", "after")
    assert "after against before" in table.stdout


def test_compare_refuses_what_says_nothing(harness: Harness, test_plugins: Path, tmp_path: Path) -> None:
    done = harness("bench", "--plugins", "tiny", *QUICK, "--label", "here", PYTHONPATH=test_plugins)
    assert done.returncode == 0, done.stderr
    with open_store(str(tmp_path / "benchmark.db")) as store:
        (one, other) = store.sets.read()
        for index, record in enumerate((one, other)):
            elsewhere = [
                Measurement(m.name, m.unit, m.samples, "another processor", m.batch_size, details=m.details)
                for m in record.measurements
            ]
            store.sets.add(
                type(record)("there", record.suite, record.name, record.config, record.environment, tuple(elsewhere))
            )
            assert index < 2
        store.sets.add(type(one)("empty", one.suite, one.name, one.config, status="failed", message="why"))
    for words, message in {
        ("here", "there"): "another processor), so their ratio says nothing of the code; --anyway",
        ("here", "nowhere"): "'nowhere': no times are stored under that label",
        ("here", "empty"): "'empty': no times are stored under that label",
        ("here", "set:99"): "'set:99': no times",
        ("run:99", "here"): "no run 99",
    }.items():
        refused = harness("compare", *words)
        assert refused.returncode == 2, words
        assert message in refused.stderr, refused.stderr
    assert harness("compare", "here", "there", "--anyway").returncode == 0
