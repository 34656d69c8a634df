from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from image_trees import encoded, grey, kaggle, write_folder
from support import Harness

SMALL = ["--set", "data.val_normal=2", "--set", "data.val_pneumonia=3"]


def test_add_show_and_list(harness: Harness, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images", kaggle())
    before = {row["name"]: row for row in json.loads(harness("data", "list", "--json").stdout)}
    assert "have not been added" in before["chest-xray"]["state"]
    assert before["phantom"] == before["phantom"] | {"state": "ready", "synthetic": True}
    added = harness("data", "add", "chest-xray", "--from", source)
    assert added.returncode == 0, added.stderr
    for part in ("0 groups of identical files", "0 patients in more than one split", "no published release"):
        assert part in added.stdout
    shown = json.loads(harness("data", "show", "chest-xray", *SMALL, "--json").stdout)
    assert shown["counts"]["val"] == {"NORMAL": 2, "PNEUMONIA": 3}
    assert "10.17632" in shown["citation"]
    grouped = harness("data", "show", "chest-xray", *SMALL, "--set", "data.split=grouped")
    assert "0.0% of val images" in grouped.stdout
    again = json.loads(harness("data", "add", "chest-xray", "--from", source, "--json").stdout)
    assert again["classes"] == ["NORMAL", "PNEUMONIA"]


def test_the_real_data_set(harness: Harness, real_images: Path) -> None:
    added = harness("data", "add", "chest-xray", "--from", real_images, "--json")
    found = json.loads(added.stdout)
    assert {split: sum(of_class.values()) for split, of_class in found["counts"].items()} == {
        "train": 5216,
        "test": 624,
    }
    assert (found["duplicate_groups"], found["duplicate_files"]) == (30, 62)
    assert found["groups_in_several_splits"] == []
    assert found["release"] == "Kaggle's without its 16 val images"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "chest-xray", "--from", "missing.zip"], "there is nothing at"),
        (["add", "phantom", "--from", "missing.zip"], "takes no images from outside"),
        (["add", "chest-rays", "--from", "x"], "Did you mean chest-xray"),
        (["show", "imagefolder"], "data.path"),
        (["show", "chest-xray", "--set", "data.split=patient"], "'paper', 'grouped' or 'folds'"),
        (["audit", "chest-xray"], "have not been added"),
        (["audit", "imagefolder:missing"], "there is nothing at"),
        (["audit", "phantom", "--set", "data.split=grouped"], "nothing is called 'split' in 'data'"),
        (["audit", "phantom", "--set", "frozen.epochs=1"], "begin with data."),
        (["fetch", "phantom"], "has no file to download"),
        (["fetch", "chest-xray", "--from", "hugging-face"], "Did you mean huggingface"),
        (["fetch", "chest-xray", "--from", "huggingface", "--url", "x"], "--url stands for one file"),
    ],
)
def test_mistakes_are_one_message(harness: Harness, arguments: list[str], said: str) -> None:
    done = harness("data", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_audit_says_and_stores_what_a_data_set_is_worth(harness: Harness, tmp_path: Path) -> None:
    harness("data", "add", "chest-xray", "--from", write_folder(tmp_path / "images", kaggle()))
    done = harness("data", "audit", "chest-xray", *SMALL)
    assert done.returncode == 0, done.stderr
    for part in ("leaky", "validation figures are optimistic", "file size: ", "most frequent class: always PNEUMONIA"):
        assert part in done.stdout
    strict = harness("data", "audit", "chest-xray", *SMALL, "--strict", "--json")
    assert (strict.returncode, json.loads(strict.stdout)["verdict"]) == (1, "leaky")
    grouped = harness("data", "audit", "chest-xray", *SMALL, "--set", "data.split=grouped", "--json")
    found = json.loads(grouped.stdout)
    assert found["verdict"] == "clean"
    assert found["overlaps"][0] == {
        "first": "train",
        "second": "val",
        "patients": 0,
        "files": 0,
        "images": 0,
        "total": 5,
    }
    assert (found["counts"]["test"], found["pictures"]["modes"]) == ({"NORMAL": 2, "PNEUMONIA": 2}, {"RGB": 21})
    with closing(sqlite3.connect(tmp_path / "benchmark.db")) as connection:
        rows = dict(connection.execute("select fingerprint, passport from datasets"))
    assert json.loads(rows[found["fingerprint"]])["baselines"] == found["baselines"]
    assert len(rows) == 2


def test_audit_of_unknown_patients_and_of_no_files(harness: Harness, tmp_path: Path) -> None:
    photos = {f"{kind}/{n}.jpeg": encoded(grey(n + 50 * (kind == "b"))) for kind in "ab" for n in range(12)}
    folder = write_folder(tmp_path / "photos", photos)
    unknown = harness("data", "audit", f"imagefolder:{folder}", "--strict")
    assert unknown.returncode == 1
    assert "patients are unknown" in unknown.stdout
    phantom = harness("data", "audit", "phantom", "--strict", "--db", tmp_path / "other.db")
    assert phantom.returncode == 0
    assert "file sizes are unknown" in phantom.stdout
    assert "synthetic" in phantom.stdout


def test_a_run_stores_what_is_known_without_looking(harness: Harness, tmp_path: Path) -> None:
    small = ["--set", "data.train=8", "--set", "data.val=8", "--set", "data.test=8"]
    done = harness(
        *("run", "--plugins", "resnet18", "--data", "phantom", "--weights", "random", "--device", "cpu"),
        *("--set", "frozen.epochs=1", "--stages", "frozen", "--no-latency", *small),
    )
    assert done.returncode == 0, done.stderr
    before = json.loads(harness("runs", "show", "1", "--json").stdout)["dataset"]["passport"]
    assert (before["verdict"], before["baselines"]) == ("clean", None)
    assert "clean: No patient and no file is in two splits" in harness("runs", "show", "1").stdout
    audited = json.loads(harness("data", "audit", "phantom", *small, "--json").stdout)
    after = json.loads(harness("runs", "show", "1", "--json").stdout)["dataset"]["passport"]
    assert after == {name: audited[name] for name in after}
    assert [one["name"] for one in after["baselines"]] == ["mean intensity"]
