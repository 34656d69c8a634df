"""`harness run`, started as a user starts it, on backbones small enough to train in a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.analysis.metrics import softmax
from harness.cli.sweep import command as typed_command
from harness.results import Selection
from harness.store import open_store
from support import Harness

SMALL = ["--data", "phantom", "--set", "data.train=32", "--set", "data.val=16", "--set", "data.test=24"]
SHORT = [*SMALL, "--weights", "random", "--set", "frozen.epochs=2", "--set", "finetune.epochs=1"]
THREE = "tiny,tiny_two,tiny_three,majority_vote,mean_probability"


def test_three_backbones_two_stages_and_the_vote(harness: Harness, test_plugins: Path, tmp_path: Path) -> None:
    done = harness("run", "--plugins", THREE, *SHORT, "--experiment", "first", PYTHONPATH=str(test_plugins))
    assert done.returncode == 0, done.stderr
    for part in ("tiny_two", "random", "majority_vote of 3", "after frozen", "after finetune", "harness report"):
        assert part in done.stdout
    assert "frozen 2/2: loss" in done.stderr

    with open_store(str(tmp_path / "benchmark.db"), create=False) as store:
        runs = [store.run(run.id) for run in store.runs(Selection(experiment="first"))]
        ensembles = store.ensembles("first")
    assert [run.status for run in runs] == ["completed"] * 3
    for run in runs:
        assert run.weights.kind == "random"
        assert run.config["schedule"]["stages"][0]["epochs"] == 2
        assert [len(stage.epochs) for stage in run.stages] == [2, 1]
        assert run.stages[0].trainable == 72 * 2 + 2
        assert run.stages[1].trainable == run.parameters
        assert run.environment.details["packages"]["torch"]
        assert {(m.name, m.batch_size) for m in run.measurements} >= {
            ("latency", 1),
            ("latency", 32),
            ("rss_peak", None),
        }
        assert all(len(m.samples) >= 10 for m in run.measurements if m.name == "latency")
        assert {(p.kind, p.distribution) for p in run.plugins} >= {("backbone", "harness-test-plugins")}
    assert [(record.method, record.members[0].stage) for record in ensembles] == [
        (method, stage) for method in ("majority_vote", "mean_probability") for stage in ("frozen", "finetune")
    ]
    # the stored ensembles, computed again from the stored predictions alone
    for record in ensembles:
        members = [next(run for run in runs if run.id == member.run_id) for member in record.members]
        labels = next(split.labels for split in members[0].dataset.splits if split.name == "test")
        logits = np.stack([run.stage(record.members[0].stage).predictions["test"].logits for run in members])
        if record.method == "majority_vote":
            expected = (logits.argmax(2).sum(0) >= 2).astype(int)
        else:
            expected = softmax(logits).mean(0).argmax(1)
        assert record.labels.tolist() == expected.tolist()
        assert record.correct == int((expected == labels).sum())


def test_the_parent_of_the_runs_imports_no_torch(test_plugins: Path, tmp_path: Path) -> None:
    command = ["run", "--plugins", "tiny", *SHORT, "--db", str(tmp_path / "b.db")]
    code = f"""
import sys
from harness.cli import main
try:
    main({command})
except SystemExit as end:
    assert not end.code, end
assert not {{"torch", "torchvision", "timm"}} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(test_plugins)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "after finetune" in done.stdout


def test_the_same_seed_repeats_bit_for_bit_and_another_does_not(
    harness: Harness, test_plugins: Path, tmp_path: Path
) -> None:
    for seed in ("7", "7", "8"):
        done = harness("run", "--plugins", "tiny", *SHORT, "--seed", seed, "--repeat", PYTHONPATH=str(test_plugins))
        assert done.returncode == 0, done.stderr
    with open_store(str(tmp_path / "benchmark.db"), create=False) as store:
        first, again, other = (store.run(run_id) for run_id in (1, 2, 3))
    assert first.config_hash == again.config_hash != other.config_hash
    for stage in ("frozen", "finetune"):
        logits = [run.stage(stage).predictions["test"].logits for run in (first, again, other)]
        assert np.array_equal(logits[0], logits[1])
        assert not np.array_equal(logits[0], logits[2])
    assert [e.train_loss for e in first.stages[0].epochs] == [e.train_loss for e in again.stages[0].epochs]


@pytest.mark.slow
def test_every_fault_of_a_plugin_is_one_failed_run_that_says_why(
    harness: Harness, test_plugins: Path, tmp_path: Path
) -> None:
    faults = (
        "import_error,wrong_head,raises,loses_connection,exits,exits_hard,segfaults,killed,hangs,eats_memory,diverges"
    )
    limits = ["--timeout", "30", "--memory-limit", "3"]
    done = harness("run", "--plugins", f"tiny,{faults},tiny_two", *SHORT, *limits, "--json", PYTHONPATH=test_plugins)
    assert done.returncode == 1
    result = json.loads(done.stdout)
    status = {run["backbone"]: run["status"] for run in result["runs"]}
    assert status == {"tiny": "completed", "tiny_two": "completed"} | dict.fromkeys(faults.split(","), "failed")
    causes = {
        "import_error": ("plugin", "the plugin's own mistake"),
        "wrong_head": ("should be an nn.Linear", ""),
        "raises": ("compute", "RuntimeError"),
        "loses_connection": ("the server of the weights hung up", "ConnectionResetError"),
        "exits": ("a plugin ended the run with exit code 0", "SystemExit"),
        "exits_hard": ("exited with code 7, without a word", ""),
        "segfaults": ("SIGSEGV (a fault in native code)", "in string_at"),
        "killed": ("SIGKILL (by another program)", ""),
        "hangs": ("nothing was heard of the run for 30 seconds", "faults.py"),
        "eats_memory": ("the run needs more memory than the 3 GiB of --memory-limit", "faults.py"),
        "diverges": ("training diverged", ""),
    }
    failures = {run["backbone"]: run["failure"] for run in result["runs"]}
    for name, (message, traceback) in causes.items():
        assert message in failures[name]["message"], failures[name]
        assert traceback in failures[name]["traceback"], failures[name]
    assert len(result["ensembles"]) == 2
    assert "in _look_up" in done.stderr, "a broken plugin's own traceback is shown"
    assert "[bold]this[/bold]" in done.stderr, "messages are shown as they are, not as markup"


def test_stages_and_settings_from_a_recipe(harness: Harness, test_plugins: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(
        'plugins = ["tiny", "phantom"]\nweights = "random"\nstages = ["frozen"]\nseed = 5\n'
        "[frozen]\nepochs = 3\nclass_weights = 'sampler'\n[data]\ntrain = 32\nval = 16\ntest = 24\n"
    )
    done = harness("run", "--recipe", "recipe.toml", "--set", "frozen.epochs=1", "--json", PYTHONPATH=str(test_plugins))
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["seed"] == 5
    assert [(stage["name"], len(stage["epochs"])) for stage in run["stages"]] == [("frozen", 1)]
    assert sum(run["dataset"]["counts"]["train"].values()) == 32


@pytest.mark.parametrize(
    "settings",
    [
        ["frozen.class_weights=inverse", "frozen.checkpoint=last", "finetune.start_from=last", "transform.flip=false"],
        ["frozen.batch_norm=eval", "frozen.dropout=false", "transform.crop=none", "transform.evaluate=resize"],
        ["frozen.lr.step_every=epoch", "frozen.lr.mode=triangular2", "transform.normalize=dataset"],
        ["frozen.optimizer.kind=adam", "frozen.lr.kind=constant", "transform.normalize=half"],
    ],
)
def test_every_open_choice_of_the_paper_runs(harness: Harness, test_plugins: Path, settings: list[str]) -> None:
    flags = [word for setting in settings for word in ("--set", setting)]
    done = harness("run", "--plugins", "tiny", *SHORT, *flags, "--precision", "bf16", PYTHONPATH=str(test_plugins))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--plugins", "resnet81"], ["no plugin is called 'resnet81'", "Did you mean resnet18"]),
        (["--plugins", ""], ["--plugins", "at least one backbone"]),
        (["--plugins", "phantom"], ["at least one backbone"]),
        (["--plugins", "resnet18,phantom,chest-xray"], ["one dataset", "phantom and chest-xray"]),
        (["--plugins", "resnet18"], ["data fetch", "data add", "--data phantom"]),
        (["--plugins", "resnet18", "--data", "phantom", "--set", "frozen.epoch=1"], ["Did you mean epochs"]),
        (["--plugins", "resnet18", "--data", "phantom", "--set", "frozen.epochs=0"], ["frozen.epochs", "0"]),
        (["--plugins", "resnet18", "--data", "phantom", "--precision", "fp8"], ["--precision fp8", "'tf32' or 'bf16'"]),
        (["--plugins", "resnet18", "--data", "phantom", "--limit-train", "1"], ["1"]),
        (["--plugins", "resnet18", "--data", "phantom", "--db", "no/such/folder/x.db"], ["no/such/folder"]),
        (["--plugins", "resnet18", "--recipe", "missing.toml"], ["missing.toml"]),
        (["--plugins", "resnet18", "--data", "imagefolder"], ["data.path"]),
    ],
)
def test_bad_input_is_one_message_and_code_two(harness: Harness, arguments: list[str], parts: list[str]) -> None:
    done = harness("run", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr


def test_debug_shows_the_traceback(harness: Harness) -> None:
    done = harness("run", "--plugins", "resnet81", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "PluginNotFoundError" in done.stderr


def test_weights_that_cannot_be_had_say_the_ways_out(harness: Harness, tmp_path: Path) -> None:
    # a proxy that refuses stands for a machine without a network
    nowhere = {"https_proxy": "http://127.0.0.1:9", "TORCH_HOME": str(tmp_path / "torch")}
    done = harness("run", "--plugins", "resnet18", *SMALL, **nowhere)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for way in ("HARNESS_WEIGHTS_DIR", "--weights resnet18=PATH", "--weights resnet18=random"):
        assert way in done.stderr


def test_weights_that_are_not_there_are_refused_before_anything_is_recorded(harness: Harness, tmp_path: Path) -> None:
    done = harness("run", "--plugins", "alexnet", "--weights", "./nowhere", "--data", "phantom")
    assert done.returncode == 2
    assert f"--weights alexnet={tmp_path / 'nowhere'}: there is no such file or folder" in done.stderr
    assert not (tmp_path / "benchmark.db").exists()


def test_an_ensemble_that_raises_is_a_complaint_and_the_others_go_on(harness: Harness, test_plugins: Path) -> None:
    names = "tiny,tiny_two,raises_ensemble,mean_probability"
    done = harness("run", "--plugins", names, *SHORT, "--json", PYTHONPATH=str(test_plugins))
    assert done.returncode == 1
    assert "raises_ensemble after frozen: ValueError: no quorum" in done.stderr
    assert [ensemble["method"] for ensemble in json.loads(done.stdout)["ensembles"]] == ["mean_probability"] * 2


def test_a_password_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = [
        "postgresql://me:secret@host/db",
        "postgresql://host/db?user=me&password=secret",
        "postgresql://me:secret@host:port/db",
    ]
    monkeypatch.setattr("sys.argv", ["harness", "run", "--db", urls[0], "--db", urls[1], f"--db={urls[2]}", "--seed=1"])
    command = typed_command()
    assert "secret" not in command
    assert "--seed=1" in command


def test_runs_list_and_show(harness: Harness, test_plugins: Path) -> None:
    assert harness("run", "--plugins", "tiny,raises", *SHORT, PYTHONPATH=str(test_plugins)).returncode == 1
    listed = json.loads(harness("runs", "list", "--json").stdout)
    assert [(run["backbone"], run["status"]) for run in listed] == [("raises", "failed"), ("tiny", "completed")]
    assert "tiny" in harness("runs", "list", "--status", "completed").stdout
    assert "raises" not in harness("runs", "list", "--backbone", "tiny").stdout
    shown = harness("runs", "show", "1")
    for part in ("random", "latency, batch 32", "median", "frozen: test accuracy", "harness-test-plugins 1.2.3"):
        assert part in shown.stdout
    assert "RuntimeError" in harness("runs", "show", "2").stdout
    missing = harness("runs", "show", "99")
    assert missing.returncode == 2
    assert "99" in missing.stderr
    assert harness("runs", "list", "--status", "done").returncode == 2


def test_doctor_finds_broken_plugins(harness: Harness, test_plugins: Path) -> None:
    assert harness("doctor").returncode == 0
    done = harness("doctor", "--json", PYTHONPATH=str(test_plugins))
    assert done.returncode == 1
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert findings["backbone import_error"]["state"] == "broken"
    assert "the plugin's own mistake" in findings["backbone import_error"]["details"]
    assert findings["backbone tiny"]["state"] == "ok"
    assert findings["dataset phantom"]["state"] == "ok"
    assert "data add" in findings["dataset chest-xray"]["text"]


def test_verify_loads_each_plugin_elsewhere(harness: Harness, test_plugins: Path, endless_plugins: Path) -> None:
    """One that hangs, exits or crashes at import is listed as broken, and harms nothing."""
    path = f"{test_plugins}:{endless_plugins}"
    done = harness("plugins", "--kind", "backbone", "--verify", "--timeout", "6", "--json", PYTHONPATH=path)
    assert done.returncode == 1, done.stderr
    failures = {row["name"]: row["failure"] for row in json.loads(done.stdout)}
    assert failures["tiny"] is None
    assert failures["resnet18"] is None
    for name, words in {
        "never_ends": "nothing was heard",
        "crashes": "SIGSEGV",
        "exits_at_import": "SystemExit: bye",
        "import_error": "KeyError",
        "wrong_type": "found builtins.dict",
    }.items():
        assert words in failures[name], name
    done = harness("plugins", "--kind", "ensemble", "--verify")
    assert done.returncode == 0
    assert "ok" in done.stdout
    listed = harness("plugins", PYTHONPATH=path)  # which imports none
    assert "never_ends" in listed.stdout


@pytest.mark.parametrize("command", [["--version"], ["--help"], ["--show-completion", "bash"]])
def test_small_things(harness: Harness, command: list[str]) -> None:
    done = harness(*command)
    assert done.returncode == 0
    assert "harness" in done.stdout
