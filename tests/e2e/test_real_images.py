"""The main job on the real chest X-rays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harness.engine.device import emulates
from support import Harness


def _add(harness: Harness, real_images: Path) -> None:
    added = harness("data", "add", "chest-xray", "--from", real_images)
    assert added.returncode == 0, added.stderr
    for part in ("5216", "624", "NORMAL", "PNEUMONIA", "30"):
        assert part in added.stdout + added.stderr


@pytest.mark.slow
def test_pretrained_weights_through_both_stages(harness: Harness, real_images: Path) -> None:
    _add(harness, real_images)
    short = ["--set", "frozen.epochs=2", "--set", "finetune.epochs=1", "--limit-train", "320"]
    fast = "fp32" if emulates(torch.device("cpu"), "bf16") else "bf16"
    done = harness("run", "--plugins", "efficientnet_lite0", *short, "--precision", fast, "--json", timeout=550)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["weights"]["kind"] == "pretrained"
    assert run["dataset"]["counts"]["test"] == {"NORMAL": 234, "PNEUMONIA": 390}
    assert sum(run["dataset"]["counts"]["train"].values()) == 320
    frozen, finetune = run["stages"]
    assert frozen["test_auc"] > 0.75, "ImageNet features see more than chance within twenty steps"
    assert finetune["test_images"] == 624


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_papers_three_on_640_images(harness: Harness, real_images: Path) -> None:
    _add(harness, real_images)
    command = ["run", "--plugins", "alexnet,googlenet,resnet18", "--weights", "random", "--data", "chest-xray"]
    short = ["--set", "frozen.epochs=1", "--set", "finetune.epochs=1", "--limit-train", "640", "--json"]
    done = harness(*command, *short, timeout=3500)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [run["status"] for run in result["runs"]] == ["completed"] * 3
    assert [(e["method"], e["members"][0]["stage"]) for e in result["ensembles"]] == [
        ("majority_vote", "frozen"),
        ("majority_vote", "finetune"),
    ]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_frozen_stage_on_all_images_reaches_an_auc_of_094(harness: Harness, real_images: Path) -> None:
    _add(harness, real_images)
    command = ["run", "--plugins", "efficientnet_lite0", "--data", "chest-xray", "--stages", "frozen", "--json"]
    done = harness(*command, "--set", "frozen.epochs=3", timeout=3500)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runs"][0]["stages"][0]["test_auc"] >= 0.94
