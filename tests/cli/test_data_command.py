from __future__ import annotations

import json
from pathlib import Path

import pytest

from image_trees import kaggle, write_folder
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
        (["show", "chest-xray", "--set", "data.split=patient"], "'paper' or 'grouped'"),
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
