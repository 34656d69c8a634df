"""`harness verify`, on planted runs and on real ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.report.render import render_report
from harness.results import Selection
from harness.store import open_store
from results_for_pages import add_run, add_vote, dataset
from support import ROOT, Harness

HEAD = """
title = {title}
authors = "Nobody"
source = "Table 7"
command = "harness run --plugins alexnet,resnet18"
margin = 0.02

[stages]
frozen = "before"

[protocol]
dataset = "chest-xray"
weights = "imagenet"
"""
ROW = """
[[backbones]]
name = "{name}"
frozen = {{ accuracy = {accuracy} }}
"""
CLAIM = """
[[claims]]
text = {text}
pairs = [{{ greater = "{greater}.frozen", than = "{than}.frozen" }}]
"""


def table(folder: Path, rows: dict[str, float], *claims: tuple[str, str, str], title: str = "Planted") -> Path:
    text = HEAD.format(title=json.dumps(title))
    text += "".join(ROW.format(name=name, accuracy=accuracy) for name, accuracy in rows.items())
    text += "".join(CLAIM.format(text=json.dumps(said), greater=one, than=other) for said, one, other in claims)
    path = folder / "planted.toml"
    path.write_text(text)
    return path


@pytest.fixture
def planted(tmp_path: Path) -> None:
    """Five seeds of two networks, about 86 % and 80 % right."""
    with open_store(str(tmp_path / "benchmark.db")) as store:
        for seed, noise in enumerate((0.0, 0.004, -0.004, 0.002, -0.003)):
            for name, accuracy in (("alexnet", 0.86), ("resnet18", 0.80)):
                shares = (accuracy + noise * len(name) / 7, 0.8)
                add_run(store, "seeds", name, data=dataset(), accuracies=shares, seed=seed, frozen=1, finetune=0)


@pytest.mark.usefixtures("planted")
def test_exit_codes_follow_the_verdicts(harness: Harness, tmp_path: Path) -> None:
    good = table(tmp_path, {"alexnet": 0.86, "resnet18": 0.80}, ("A beats R", "alexnet", "resnet18"))
    done = harness("verify", good)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Of 2 figures 2 reproduced; of 1 claim 1 reproduced, from 5 seeds a figure." in done.stdout
    assert "85.99 ± 0.3" in done.stdout
    assert "reproduced: A beats R" in done.stdout
    strict = harness("verify", good, "--strict")
    assert strict.returncode == 0

    undecided = table(tmp_path, {"alexnet": 0.86, "resnet18": 0.80, "vgg": 0.7}, ("A beats V", "alexnet", "vgg"))
    done = harness("verify", undecided)
    assert done.returncode == 0
    assert "no run" in done.stdout
    assert "No run has vgg.frozen." in done.stdout
    assert "harness run --plugins alexnet,resnet18" in done.stdout
    assert harness("verify", undecided, "--strict").returncode == 1

    wrong = table(tmp_path, {"alexnet": 0.86, "resnet18": 0.90}, ("R beats A", "resnet18", "alexnet"))
    done = harness("verify", wrong)
    assert done.returncode == 1
    assert "not reproduced: R beats A" in done.stdout
    found = json.loads(harness("verify", wrong, "--json").stdout)
    assert found["verdicts"] == {"reproduced": 1, "not reproduced": 2, "undecided": 0}
    assert [cell["verdict"] for cell in found["cells"]] == ["reproduced", "not reproduced"]
    assert found["cells"][0]["n"] == 5
    assert found["claims"][0]["pairs"][0]["mean"] == pytest.approx(
        found["cells"][1]["mean"] - found["cells"][0]["mean"]
    )
    assert found["claims"][0]["p_refuted"] < 0.05


@pytest.mark.usefixtures("planted")
def test_the_selection_narrows_what_counts(harness: Harness, tmp_path: Path) -> None:
    path = table(tmp_path, {"alexnet": 0.86, "resnet18": 0.80})
    found = json.loads(harness("verify", path, "--where", "seed < 2", "--experiment", "seeds", "--json").stdout)
    assert found["runs"] == [1, 2, 3, 4]
    for options, said in (
        (["--experiment", "sedes"], "--experiment sedes: there is none. Did you mean seeds?"),
        (["--where", "sed = 2"], "sed"),
        (
            ["--where", "seed > 90"],
            "no completed run of alexnet, resnet18 on chest-xray follows the protocol of Table 7",
        ),
        (["--allow", "weigths=random"], "--allow 'weigths=random' should be KEY=VALUE"),
    ):
        done = harness("verify", path, *options)
        assert (done.returncode, done.stdout) == (2, ""), done
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_what_cannot_be_read_is_exit_code_2(harness: Harness, tmp_path: Path) -> None:
    done = harness("verify", "tabel1")
    assert done.returncode == 2
    assert "no published table is called 'tabel1', and there is no such file. Did you mean table1?" in done.stderr
    done = harness("verify", table(tmp_path, {}))
    assert done.returncode == 2
    assert "planted.toml: backbones: there is no figure in it" in done.stderr
    done = harness("verify", "table1", "--db", "missing.db")
    assert done.returncode == 2
    assert "missing.db" in done.stderr


@pytest.mark.usefixtures("planted")
def test_hostile_text_stays_text(harness: Harness, tmp_path: Path) -> None:
    evil = "[red]\x1b[31m<script>alert(1)</script>[/]\x07"
    rows = {"alexnet": 0.86, "resnet18": 0.80}
    path = table(tmp_path, rows, (evil, "alexnet", "resnet18"), title=evil)
    done = harness("verify", path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "[red]\\x1b[31m<script>alert(1)</script>[/]\\x07" in done.stdout
    assert json.loads(harness("verify", path, "--json").stdout)["title"] == evil
    broken = tmp_path / "[bold]\x1b[31m.toml"
    broken.write_text(path.read_text().replace('"alexnet.frozen"', '"\\u001b[31m"'))
    done = harness("verify", broken)
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert "\\x1b[31m" in done.stderr


def test_the_example_database_says_that_nothing_counts(harness: Harness, tmp_path: Path) -> None:
    shutil.copy(ROOT / "benchmark.db.example", tmp_path / "example.db")
    done = harness("verify", "table1", "--db", "example.db")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        "no completed run of alexnet, googlenet, resnet18 on chest-xray follows the protocol of Table 1" in done.stderr
    )
    assert "weights=random (runs 2, 3, 4, 7, 8, 9)" in done.stderr
    done = harness("verify", "table1", "--db", "example.db", "--allow", "weights=random")
    assert done.returncode == 0
    assert "Random weights count here, so nothing was transferred from ImageNet: runs 7, 8, 9." in done.stdout
    assert "Of 7 figures 7 undecided; of 3 claims 3 undecided, from 1 seed a figure." in done.stdout


def test_real_runs_against_a_table_of_their_own(harness: Harness, test_plugins: Path, tmp_path: Path) -> None:
    """Trained through the command line; the table is made of what they gave, and of what they did not."""
    small = ["--data", "phantom", "--set", "data.train=32", "--set", "data.val=16", "--set", "data.test=24"]
    options = [*small, "--weights", "random", "--set", "frozen.epochs=2", "--set", "finetune.epochs=1", "--no-latency"]
    plugins = "tiny,tiny_two,tiny_three,majority_vote"
    done = harness("run", "--plugins", plugins, *options, "--seed", "0,1,2", PYTHONPATH=test_plugins)
    assert done.returncode == 0, done.stderr
    with open_store(str(tmp_path / "benchmark.db"), create=False) as store:
        runs, votes = store.runs(Selection(sort="id", descending=False)), store.ensembles()
    right = [run.stage("frozen").test_correct for run in runs if run.backbone == "tiny"]  # type: ignore[union-attr]
    text = HEAD.format(title='"Phantoms"').replace("chest-xray", "phantom").replace("imagenet", "random")
    text = text.replace("margin = 0.02", "margin = 0.4").replace("[protocol]", '[protocol]\n"frozen.epochs" = 2')
    text += ROW.format(name="tiny", accuracy=sum(right) / 72)  # type: ignore[arg-type]
    text += '[[ensembles]]\nname = "majority_vote"\nmembers = ["tiny", "tiny_two", "tiny_three"]\n'
    text += "frozen = { accuracy = 0.5 }\n"
    path = tmp_path / "phantoms.toml"
    path.write_text(text)
    done = harness("verify", path, "--json")
    found = json.loads(done.stdout)
    tiny, vote = found["cells"]
    assert tiny["correct"] == {str(seed): count for seed, count in enumerate(right)}
    assert [*vote["correct"].values()] == [one.correct for one in votes if one.members[0].stage == "frozen"]
    assert tiny["images"] == vote["images"] == 24
    spread = len(set(right)) > 1
    assert tiny["verdict"] == ("reproduced" if spread and tiny["interval_90"][1] - tiny["mean"] < 0.4 else "undecided")
    assert found["random_weights"] == [run.id for run in runs]
    assert done.returncode == int("not reproduced" in (tiny["verdict"], vote["verdict"]))


def test_the_report_shows_the_same(harness: Harness, tmp_path: Path) -> None:
    with open_store(str(tmp_path / "benchmark.db")) as store:
        for seed, noise in enumerate((0.0, 0.0004, -0.0004)):
            accuracies = {"alexnet": (0.8526, 0.83), "googlenet": (0.93, 0.8413), "resnet18": (0.87, 0.86)}
            team = [
                add_run(store, "seeds", name, data=dataset(), accuracies=(one + noise * len(name), two), seed=seed)
                for name, (one, two) in accuracies.items()
            ]
            add_vote(store, store.run(team[0]).experiment, team, "frozen")
        page = render_report(store, tmp_path / "pages").read_text()
    found = json.loads(harness("verify", "table1", "--json").stdout)
    section = page[page.index('<section id="contract"') : page.index('<section id="figures"')]
    verdicts = [one["verdict"] for one in (*found["cells"], *found["claims"])]
    assert {"reproduced", "not reproduced", "undecided"} == set(verdicts)
    shown = [part.split("</span>")[0] for part in section.split('<span class="badge verdict-')[1:]]
    assert [one.split(">")[1] for one in shown] == verdicts
    assert found["summary"] in section
    above = page[page.index('<section id="table1"') : page.index('<section id="contract"')]
    assert above.count('class="badge verdict-') >= 7
