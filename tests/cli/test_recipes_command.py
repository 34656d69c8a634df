"""Schedules composed in recipe files, several seeds, and ensembles over seeds and snapshots, as a user starts them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.config import read_recipe
from harness.errors import ConfigError
from support import Harness

SMALL = ["--no-latency", "--set", "data.train=32", "--set", "data.val=16", "--set", "data.test=24"]
RECIPE = """
plugins = ["tiny", "phantom", "mean_probability"]
weights = "random"
seed = [0, 1]

[schedule]
name = "gentle"

[schedule.transform]
strength = 0.5
views = "flip"

[[schedule.stages]]
name = "warm"
epochs = 2
trainable = "head"
batch_norm = "eval"
lr = {kind = "one-cycle", base = 0.01, max = 0.1}

[[schedule.stages]]
name = "deep"
epochs = 3
trainable = 1
optimizer = {kind = "lion", weight_decay = 0.0}
lr = {kind = "cosine", base = 1e-4, warm_up = 0.2}
loss = {kind = "focal"}
ema = 0.9

[deep]
epochs = 2
"""


def test_a_schedule_composed_in_a_recipe_runs_for_several_seeds(
    harness: Harness, test_plugins: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    done = harness("run", "--recipe", "recipe.toml", *SMALL, "--json", PYTHONPATH=str(test_plugins))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [run["seed"] for run in found["runs"]] == [0, 1]
    for run in found["runs"]:
        assert run["schedule"] == "gentle"
        assert [(stage["name"], len(stage["epochs"])) for stage in run["stages"]] == [("warm", 2), ("deep", 2)]
        deep = run["config"]["schedule"]["stages"][1]
        assert (deep["optimizer"]["beta2"], deep["lr"]["warm_up"], deep["loss"]["gamma"]) == (0.99, 0.2, 2.0)
        recorded = {plugin["kind"]: (plugin["name"], plugin["distribution"]) for plugin in run["plugins"]}
        assert recorded["optimizer"] == ("lion", "harness-lion")
        assert recorded["schedule"] == ("gentle", "recipe recipe.toml")
    assert [len(ensemble["members"]) for ensemble in found["ensembles"]] == [2, 2], "of the seeds, after each stage"
    again = harness("run", "--recipe", "recipe.toml", *SMALL, PYTHONPATH=str(test_plugins))
    assert "recorded already" in again.stderr


def test_backbones_of_the_same_seed_vote(harness: Harness, test_plugins: Path) -> None:
    once = ["--set", "frozen.epochs=1", "--stages", "frozen", "--weights", "random"]
    arguments = ["--plugins", "tiny,tiny_two,phantom", "--seed", "3,4", *SMALL, *once]
    done = harness("run", *arguments, "--json", PYTHONPATH=str(test_plugins))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    seeds = {run["id"]: run["seed"] for run in found["runs"]}
    teams = [{seeds[member["run_id"]] for member in ensemble["members"]} for ensemble in found["ensembles"]]
    assert teams == [{3}, {4}]
    shown = harness("run", *arguments, PYTHONPATH=str(test_plugins)).stdout
    assert "seed" in shown
    assert shown.count("majority_vote of 2") == 2


def test_snapshots_of_one_run_vote(harness: Harness, test_plugins: Path, tmp_path: Path) -> None:
    short = [word for number in range(1, 6) for word in ("--set", f"snapshot{number}.epochs=1")]
    arguments = ["--plugins", "tiny,snapshots,phantom", "--weights", "random", *SMALL, *short]
    done = harness("run", *arguments, PYTHONPATH=str(test_plugins))
    assert done.returncode == 0, done.stderr
    stages = "snapshot1,snapshot3,snapshot5"
    voted = harness("ensemble", "--runs", "1", "--stage", stages, "--method", "mean_probability", "--json")
    assert voted.returncode == 0, voted.stderr
    (record,) = json.loads(voted.stdout)
    assert [member["stage"] for member in record["members"]] == stages.split(",")
    table = harness("ensemble", "--runs", "1", "--stage", stages, "--method", "mean_probability")
    assert "tiny after snapshot3" in table.stdout
    reported = harness("report", "--out", "pages")
    assert reported.returncode == 0, reported.stderr
    pages = "".join(page.read_text() for page in (tmp_path / "pages").rglob("*.html"))
    assert "tiny (run 1, after snapshot5" in pages
    alone = harness("ensemble", "--runs", "1", "--stage", "snapshot1")
    assert alone.returncode == 2
    assert "two members or more; found 1" in alone.stderr


def test_a_schedule_says_which_weights_it_is_for(harness: Harness, test_plugins: Path) -> None:
    short = ["--set", "scratch.epochs=1"]
    done = harness("run", "--plugins", "tiny,scratch,phantom", *SMALL, *short, "--json", PYTHONPATH=str(test_plugins))
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["weights"]["kind"] == "random"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('name = "gentle"', "the recipe recipe.toml: schedule.name: field required"),
        ('kind = "one-cycle"', "no rate plugin is called 'two-cycle'. Did you mean one-cycle"),
        ("trainable = 1", "schedule.stages.1.trainable = 0: should be head, all, or a number of blocks"),
        ("max = 0.1", "schedule.stages.0.lr.max = -1.0: input should be greater than 0"),
        ("ema = 0.9", "schedule.stages.1.ema = 2: input should be less than 1"),
    ],
)
def test_what_is_wrong_with_a_composed_schedule_is_one_line(tmp_path: Path, change: str, message: str) -> None:
    bad = {
        'name = "gentle"': "", 'kind = "one-cycle"': 'kind = "two-cycle"', "trainable = 1": "trainable = 0",
        "max = 0.1": "max = -1.0", "ema = 0.9": "ema = 2",
    }[change]  # fmt: skip
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace(change, bad, 1))
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    assert message in str(caught.value).replace(str(path), "recipe.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plugins", "tiny,cosine"], "a stage is made of it: --set STAGE.lr.kind=cosine"),
        (["--plugins", "tiny", "--seed", "1,x"], "--seed 1,x: say a number, or several"),
        (["--plugins", "tiny", "--seed", "1,2", "--limit-train", "9"], "so it takes one --seed at a time"),
        (["--recipe", "twice.toml"], "both names a schedule and composes one"),
    ],
)
def test_bad_input_is_one_message(
    harness: Harness, test_plugins: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "twice.toml").write_text(RECIPE.replace('"mean_probability"', '"paper"'))
    done = harness("run", *arguments, "--data", "phantom", PYTHONPATH=str(test_plugins))
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split())


def test_a_curve_of_readings_goes_on_and_stands_in_the_report(
    harness: Harness, test_plugins: Path, tmp_path: Path
) -> None:
    (tmp_path / "open.toml").write_text(
        'experiment = "open"\nplugins = ["tiny", "phantom"]\nweights = "random"\n[readings]\n'
        '"frozen.batch_norm" = ["train", "eval"]\n"frozen.lr.cycle_momentum" = [true, false]\n'
        '"last epoch" = [{}, { "frozen.checkpoint" = "last", "finetune.checkpoint" = "last" }]\n'
    )
    short = ["--set", "frozen.epochs=1", "--set", "finetune.epochs=1", *SMALL[1:]]
    curve = ["spec-curve", "open.toml", *short]
    done = harness(*curve, "--readings", "4", "--json", PYTHONPATH=str(test_plugins))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["experiment"] == "open-readings"
    assert found["specification"]["readings"] == 4
    (conclusion,) = found["specification"]["conclusions"]
    assert conclusion["title"] == "tiny: finetune less frozen"
    assert len(conclusion["readings"]) == 4
    more = harness(*curve, "--readings", "8", PYTHONPATH=str(test_plugins))
    assert more.returncode == 0, more.stderr
    assert more.stderr.count("recorded already") == 4
    assert "of 8 readings" in " ".join(more.stdout.split())
    assert "It depends most on" in " ".join(more.stdout.split())
    report = harness("report", "--out", "pages")
    assert report.returncode == 0, report.stderr
    assert "what holds under 8 readings" in (tmp_path / "pages" / "index.html").read_text()
    few = harness(*curve, "--readings", "6", PYTHONPATH=str(test_plugins))
    assert few.returncode == 2
    assert "has 2, 4, 8, 16" in few.stderr
