"""`harness roofs`, started as a user starts it, and the measurements that lie below."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness.store import open_store
from support import Harness


def test_measurements_before_and_after_say_how_far_below_the_roof_they_lie(
    harness: Harness, test_plugins: Path, tmp_path: Path
) -> None:
    quick = ["--plugins", "tiny", "--batch-sizes", "4", "--longest", "0.3"]
    before = harness("bench", *quick, PYTHONPATH=test_plugins)
    assert "`harness roofs` measures what this machine can do at most" in " ".join(before.stdout.split())
    run = ["run", "--plugins", "tiny,phantom", "--weights", "random", "--stages", "frozen"]
    run += ["--set", "frozen.epochs=1", "--limit-train", "32"]
    done = harness(*run, PYTHONPATH=test_plugins)
    assert done.returncode == 0, done.stderr

    done = harness("roofs", "--longest", "0.3")
    assert done.returncode == 0, done.stderr
    for words in ("Roofs of ", "product of two matrices, fp32", "GFLOP/s", "GB/s", "a CPU works in the host's memory"):
        assert words in done.stdout
    with open_store(str(tmp_path / "benchmark.db")) as store:
        (roofs,) = store.sets.read(suite="roofs")
    found = {one.name: one for one in roofs.measurements}
    assert list(found) == ["matmul_fp32", "matmul_bf16", "copy", "host_to_device", "launch", "decode"]
    for name, one in found.items():
        assert len(one.samples) >= 3 or one.details["absent"], name
    # What one thread of any machine that runs this does, and what none does.
    assert 1e9 < np.median(found["matmul_fp32"].samples) < 1e14
    assert 1e8 < np.median(found["copy"].samples) < 1e13
    assert 1e3 < np.median(found["launch"].samples) < 1e8
    assert 50 < np.median(found["decode"].samples) < 1e5

    after = harness("bench", *quick, "--json", PYTHONPATH=test_plugins)
    (measured,) = json.loads(after.stdout)["sets"]
    roof = measured["roof"]
    assert roof["bottleneck"] in ("compute", "memory", "launch")
    (median,) = (one["median"] for one in measured["measurements"] if one["name"] == "latency")
    assert roof["fraction"] == pytest.approx(roof["least"][roof["bottleneck"]] / median)
    (flops,) = (one["median"] for one in measured["measurements"] if one["name"] == "flops")
    assert roof["least"]["compute"] == pytest.approx(flops / np.median(found["matmul_fp32"].samples))

    shown = harness("runs", "show", "1", "--json")
    assert set(json.loads(shown.stdout)["roofs"]) == {"1", "32"}
    words = f"{json.loads(shown.stdout)['roofs']['32']['fraction']:.0%}"
    assert words in harness("runs", "show", "1").stdout
    assert harness("report", "--out", "pages").returncode == 0
    page = (tmp_path / "pages" / "runs" / "1.html").read_text()
    assert "Of the roof" in page
    assert words.replace("%", "\N{NO-BREAK SPACE}% ") in page


def test_a_device_that_is_not_there_has_no_roofs(harness: Harness, tmp_path: Path) -> None:
    done = harness("roofs", "--device", "cuda:7")
    assert done.returncode == 2
    assert "--device cuda:7" in done.stderr
    assert "Traceback" not in done.stderr
    with open_store(str(tmp_path / "benchmark.db")) as store:
        assert store.sets.read() == []
