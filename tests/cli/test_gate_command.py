"""`harness gate`, started as a user starts it: revisions that are really installed, and what is stored."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gate_errors import make_repository
from harness.store import open_store
from support import ROOT, Harness

MEASURED = ["--plugins", "layers", "--batch-sizes", "4"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a backbone of 40 layers, of 160, and one that cannot be built."""
    folder = tmp_path_factory.mktemp("gate") / "project"
    make_repository(folder, {"base": "40", "slower": "160", "broken": "1 / 0"})
    return folder


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the backbone installed, which the command's own environment knows it by."""
    from conftest import install

    return install("harness-gated", tmp_path_factory)


@pytest.mark.timeout(1800)
@pytest.mark.slow
def test_a_slower_revision_fails_and_the_same_one_passes(
    harness: Harness, project: Path, layers: Path, tmp_path: Path
) -> None:
    where = [*MEASURED, "--project", project, "--threshold", "40"]
    done = harness(
        "gate", "--base", "base", "--head", "slower", "--label", "x", "--json", *where, PYTHONPATH=layers, timeout=600
    )
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    (found,) = told["benchmarks"]
    assert (told["verdict"], found["verdict"], found["name"]) == ("fail", "fail", "layers inference fp32 batch 4")
    assert 0.4 < found["decision"]["low"] < found["decision"]["change"] < found["decision"]["high"]
    with open_store(str(tmp_path / "benchmark.db")) as store:
        sides = {side: store.sets.read(label=f"x {side}", suite="gate") for side in ("base", "head")}
    assert [len(sets) for sets in sides.values()] == [2 * found["rounds"], found["rounds"]]
    for side, sets in sides.items():
        taken = np.concatenate([one.measurement("latency").samples for one in sets])
        assert found[side] == pytest.approx(float(np.median(taken)))
    commits = {side: {one.commit for one in sets} for side, sets in sides.items()}
    heads = {tag: (project / ".git" / "refs" / "tags" / tag).read_text().strip() for tag in ("base", "slower")}
    assert commits == {"base": {heads["base"]}, "head": {heads["slower"]}}
    for one in sides["base"] + sides["head"]:
        assert (one.weights.kind, one.plugins[0].distribution) == ("random", "harness-gated")
        assert len(one.measurement("latency").samples) >= 8

    # Of these processes the times are what the machine made of them; here they are what is to be told apart.
    with open_store(str(tmp_path / "benchmark.db")) as store:
        for side, factor in (("base", 1.0), ("head", 1.5)):
            for apart in (0.98, 1.0, 1.02):
                one = sides[side][0]
                times = np.full(8, 0.004 * factor * apart)
                store.sets.add(
                    replace(one, label=f"y {side}", measurements=(replace(one.measurements[0], samples=times),))
                )
        store.sets.remove([one.id for one in sides["head"]])
    stored = harness("gate", "--base", "label:y base", "--head", f"commit:{heads['slower'][:10]}", "--threshold", "20")
    assert stored.returncode == 1, stored.stdout + stored.stderr
    assert "+50.0%" in stored.stdout
    same = harness(
        "gate", "--base", "base", "--head", "base", *where, "--threshold", "200", PYTHONPATH=layers, timeout=600
    )
    assert same.returncode == 0, same.stdout + same.stderr
    assert "pass" in same.stdout
    against = ["--base", "label:x base", "--head", "here", "--rounds", "3"]
    anew = harness("gate", *against, *where, "--json", PYTHONPATH=layers, timeout=600)
    (found,) = json.loads(anew.stdout)["benchmarks"]
    assert found["base"] == pytest.approx(told["benchmarks"][0]["base"])
    # The machine's speed may have moved meanwhile, so any verdict may be.
    assert found["verdict"] == ("pass", "fail", "ambiguous")[anew.returncode]


def test_a_head_that_cannot_be_measured_fails_and_a_base_leaves_it_open(
    harness: Harness, project: Path, layers: Path
) -> None:
    where = [*MEASURED, "--project", project, "--json"]
    for base, head, code in (("here", "broken", 1), ("broken", "here", 2)):
        done = harness("gate", "--base", base, "--head", head, *where, PYTHONPATH=layers)
        assert done.returncode == code, done.stderr
        (found,) = json.loads(done.stdout)["benchmarks"]
        assert "division by zero" in found["message"]


def test_what_cannot_be_gated_says_why(harness: Harness, project: Path, layers: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("default = 'much'")
    (tmp_path / "typo.toml").write_text("defualt = 3")
    (tmp_path / "less.toml").write_text("[benchmarks]\nx = -150")
    shutil.copytree(project, tmp_path / "uninstallable")
    pyproject = tmp_path / "uninstallable" / "pyproject.toml"
    measured = {
        ("--base", "nowhere"): "--base nowhere: no revision of the git repository",
        ("--base", "here", "--head", "label:x"): "cannot be held against each other",
        ("--base", "here", "--thresholds", "bad.toml"): "--thresholds bad.toml: default = 'much': input should be",
        ("--base", "here", "--thresholds", "typo.toml"): "--thresholds typo.toml: defualt",
        ("--base", "here", "--thresholds", "less.toml"): "--thresholds less.toml: benchmarks.x = -150",
        ("--base", "here", "--thresholds", "none.toml"): "--thresholds none.toml cannot be read",
        ("--base", "here", "--threshold", "nan"): "Invalid value for '--threshold'",
        ("--base", "here", "--threshold", "1001"): "Invalid value for '--threshold'",
        ("--base", "here", "--plugins", ""): "--plugins: name at least one backbone",
        ("--base", "label:a", "--head", "label:b"): "--plugins layers: nothing is measured where both sides are stored",
        ("--bass", "here"): "No such option: --bass",
        (): "Missing option '--base'",
    }
    stored = {
        ("--base", "run:x", "--head", "run:2"): "--base run:x: run:N takes the number",
        ("--base", "label:none", "--head", "label:x"): "no times are stored under that label",
        ("--base", "commit:", "--head", "label:x"): "commit:: name a commit by seven digits of its hash or more",
    }
    with open_store(str(tmp_path / "benchmark.db")):
        pass
    for options, message in {**{(*MEASURED, *words): said for words, said in measured.items()}, **stored}.items():
        done = harness("gate", "--project", project, *options, PYTHONPATH=layers, NO_COLOR="1")
        assert done.returncode == 3, (options, done.stderr)
        assert message in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    elsewhere = harness("gate", "--base", "run:1", "--head", "run:2", "--db", "none.db")
    assert elsewhere.returncode == 3
    assert not (tmp_path / "none.db").exists()
    pyproject.write_text("[build-system]\nrequires = []\nbuild-backend = 'none_of_this'\n")
    from gate_errors import commit

    commit(tmp_path / "uninstallable", "uninstallable")
    done = harness(
        "gate", *MEASURED, "--base", "uninstallable", "--project", tmp_path / "uninstallable", PYTHONPATH=layers
    )
    assert done.returncode == 3
    assert "--base uninstallable cannot be installed" in done.stderr
    assert "none_of_this" in done.stderr


@pytest.mark.slow
def test_stored_times_of_another_machine_or_one_process_prove_nothing(
    harness: Harness, layers: Path, tmp_path: Path
) -> None:
    options = [*MEASURED, "--longest", "0.3"]
    done = harness("bench", *options, "--label", "once", PYTHONPATH=layers)
    assert done.returncode == 0, done.stderr
    done = harness("bench", *options, "--label", "twice", "--repeat", "2", PYTHONPATH=layers)
    assert done.returncode == 0, done.stderr
    once = harness("gate", "--base", "label:once", "--head", "label:twice", "--json")
    assert once.returncode == 2, once.stderr
    assert "one process on a side" in json.loads(once.stdout)["benchmarks"][0]["message"]
    anew = harness("gate", "--base", "label:once", "--head", "here", *MEASURED, PYTHONPATH=layers)
    assert anew.returncode == 3, anew.stderr
    assert "--base label:once holds one process of layers inference fp32 batch 4: how far" in anew.stderr
    with open_store(str(tmp_path / "benchmark.db")) as store:
        for one in store.sets.read(label="twice")[:1]:
            for number in range(2):  # what another benchmark had, and head has not
                store.sets.add(replace(one, label="more", name=f"gone {number // 2}"))
                store.sets.add(replace(one, label="more"))
    gone = harness("gate", "--base", "label:more", "--head", "label:twice", "--json")
    assert gone.returncode == 1, gone.stderr
    verdicts = {one["name"]: one["message"] for one in json.loads(gone.stdout)["benchmarks"]}
    assert verdicts["gone 0"] == "head holds no times of it"
    with open_store(str(tmp_path / "benchmark.db")) as store:
        for one in store.sets.read(label="twice"):
            elsewhere = tuple(replace(measured, device="another processor") for measured in one.measurements)
            store.sets.add(replace(one, label="elsewhere", measurements=elsewhere))
    for head, plugins in {"label:twice": [], "here": MEASURED}.items():
        refused = harness("gate", "--base", "label:elsewhere", "--head", head, *plugins, PYTHONPATH=layers)
        assert refused.returncode == 3
        assert "differ in device (another processor and " in refused.stderr


def test_accuracy_of_real_runs_is_held_against_each_other(harness: Harness, tmp_path: Path) -> None:
    """Runs of the committed database: ImageNet weights, and random ones."""
    shutil.copy(ROOT / "benchmark.db.example", tmp_path / "benchmark.db")
    with open_store(str(tmp_path / "benchmark.db")) as store:
        runs = {(run.weights.kind, run.id): run for run in store.runs() if run.stages}
    trained = min(number for kind, number in runs if kind == "pretrained")
    random = min(number for kind, number in runs if kind == "random")
    worse = harness("gate", "--base", f"run:{trained}", "--head", f"run:{random}", "--threshold", "2", "--json")
    assert worse.returncode == 1, worse.stderr
    (found,) = json.loads(worse.stdout)["benchmarks"]
    assert found["decision"]["change"] == pytest.approx(found["base"] - found["head"])
    assert harness("gate", "--base", f"run:{random}", "--head", f"run:{trained}").returncode == 0
    itself = harness("gate", "--base", f"run:{trained}", "--head", f"run:{trained}", "--threshold", "2")
    assert itself.returncode == 0
    assert "+0.0%" in itself.stdout
    missing = harness("gate", "--base", "run:99", "--head", "run:1")
    assert missing.returncode == 3
    assert "99" in missing.stderr
