"""Recipes that come with harness, and what a recipe varies."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.config import Override
from harness.errors import ConfigError, HarnessError
from harness.experiment import Request, make_plan
from harness.recipes import recipe_path, shipped, variations
from harness_plugins.datasets.chest_xray import ChestXray


@pytest.fixture(scope="module")
def home(real_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home to which the real images were added."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HARNESS_HOME", str(folder))
        ChestXray().add("chest-xray", real_images, root=None, progress=lambda *_: None)
    return folder


@pytest.fixture
def chest_xray(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_HOME", str(home))


def _said(overrides: list[Override]) -> dict[str, Any]:
    return {override.key: override.value for override in overrides}


def test_every_value_meets_every_other_and_the_first_ones_come_first() -> None:
    axes = {"a.x": [{"a.x": 1}, {"a.x": 2}, {"a.x": 3}], "several": [{}, {"b.y": "u", "b.z": {"kind": "v"}}]}
    found = [_said(one) for one in variations(axes, "here")]
    assert found[0] == {"a.x": 1}
    assert found[-1] == {"a.x": 3, "b.y": "u", "b.z.kind": "v"}
    assert len(found) == 6
    assert variations({}, "here") == [[]]


@pytest.mark.parametrize(("sizes", "rows"), [([2] * 15, 16), ([2, 3, 2, 2], 8), ([4, 2, 2, 3, 2], 32), ([2] * 8, 16)])
def test_a_fraction_is_balanced_over_every_two_choices(sizes: list[int], rows: int) -> None:
    axes = {str(axis): [{f"a.x{axis}": value} for value in range(size)] for axis, size in enumerate(sizes)}
    found = [tuple(one.value for one in row) for row in variations(axes, "here", rows)]
    assert found[0] == (0,) * len(sizes)
    assert len(set(found)) == len(found) <= rows
    if len(found) == rows:
        for one, other in combinations(range(len(sizes)), 2):
            pairs = Counter((row[one], row[other]) for row in found)
            alone = [Counter(row[axis] for row in found) for axis in (one, other)]
            for first, second in product(range(sizes[one]), range(sizes[other])):
                assert pairs[first, second] * rows == alone[0][first] * alone[1][second]


def test_main_effects_are_clear_of_interactions_of_two_where_there_is_room() -> None:
    axes = {str(axis): [{f"a.x{axis}": -1}, {f"a.x{axis}": 1}] for axis in range(8)}
    table = np.array([[one.value for one in row] for row in variations(axes, "here", 16)])
    for axis, (one, other) in product(range(8), combinations(range(8), 2)):
        if axis not in (one, other):
            assert table[:, axis] @ (table[:, one] * table[:, other]) == 0


@pytest.mark.parametrize(
    ("axes", "most", "message"),
    [
        ({"a": [{"a": 1}]}, None, r"here: 'a' should look like STAGE.OPTION"),
        ({str(n): [{"a.x": 1}, {"a.x": 2}] for n in range(14)}, None, "16,384 combinations, and one command takes"),
        ({str(n): [{"a.x": 1}, {"a.x": 2}] for n in range(14)}, 12, "--readings 12: .* has 2, 4, 8, 16"),
        ({str(n): [{"a.x": 1}, {"a.x": 2}] for n in range(14)}, 8, "too few for the 14 choices of here; say 16"),
    ],
)
def test_axes_that_cannot_be_combined(axes: dict[str, Any], most: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        variations(axes, "here", most)


def test_names_and_files() -> None:
    assert recipe_path("table1") == shipped()["table1"]
    assert recipe_path("mine.toml") == Path("mine.toml")
    with pytest.raises(ConfigError, match=r"--recipe tabel1: no file.*Did you mean table1"):
        recipe_path("tabel1")


@pytest.mark.usefixtures("chest_xray")
@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("best", 9), ("chouhan2020", 25), ("kermany2018", 1), ("noise", 12), ("scratch", 3), ("table1", 3),
        ("table1-strict", 15), ("unfreeze-depth", 6),
    ],
)  # fmt: skip
def test_each_recipe_can_be_planned(name: str, runs: int) -> None:
    plan = make_plan(Request(recipe=name))
    assert len(plan.runs) == runs
    assert len({run.config_hash for run in plan.runs}) == runs
    assert plan.experiment == name
    for run in plan.runs:
        splits = {split.name: split for split in run.dataset.splits}
        assert len(splits["test"].ids) == 624
        assert not set(splits["val"].groups) & set(splits["test"].groups)


def test_every_recipe_is_planned_by_a_test() -> None:
    (marks,) = [mark for mark in test_each_recipe_can_be_planned.pytestmark if mark.name == "parametrize"]  # type: ignore[attr-defined]
    assert {name for name, _ in marks.args[1]} == set(shipped())


@pytest.mark.usefixtures("chest_xray")
def test_folds_hold_each_training_image_once_and_no_patient_twice() -> None:
    plan = make_plan(Request(recipe="chouhan2020"))
    folds = {run.dataset.fingerprint: run.dataset for run in plan.runs}
    assert len(folds) == 5
    held = [next(split for split in dataset.splits if split.name == "val") for dataset in folds.values()]
    assert sum(len(split.ids) for split in held) == len(set().union(*(split.ids for split in held))) == 4916 + 300
    groups = [set(split.groups) for split in held]
    assert all(not one & other for one, other in combinations(groups, 2))


@pytest.mark.usefixtures("chest_xray")
def test_readings_of_table_one() -> None:
    plan = make_plan(Request(recipe="table1", plugins=["resnet18"], readings=16))
    assert len(plan.runs) == 16
    assert plan.experiment == "table1-readings"
    assert plan.runs[0].config_hash == make_plan(Request(recipe="table1", plugins=["resnet18"])).runs[0].config_hash
    assert len({run.dataset.fingerprint for run in plan.runs}) == 2
    more = make_plan(Request(recipe="table1", plugins=["resnet18"], readings=32))
    assert len(more.runs) == 32


def test_what_is_typed_wins_over_an_axis(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('plugins = ["resnet18", "phantom"]\nweights = "random"\n[axes]\n"frozen.epochs" = [1, 2]\n')
    assert len(make_plan(Request(recipe=str(recipe))).runs) == 2
    assert len(make_plan(Request(recipe=str(recipe), settings=["frozen.epochs=3"])).runs) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[axes]\n"frozen.epochs" = 1', "axes: 'frozen.epochs' should be a list of values to try; found 1"),
        ('[axes]\n"frozen.epochs" = []', "axes: 'frozen.epochs' should be a list of values to try; found "),
        ('[axes]\n"frozen.epoch" = [1]', "nothing is called 'epoch' in 'frozen'. Did you mean epochs"),
        ('[axes]\n"epochs" = [1]', "'epochs' should look like STAGE.OPTION"),
        ("axes = 3", "axes = 3: "),
        ("", r"has no \[readings\]"),
    ],
)
def test_recipes_whose_axes_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(text)
    with pytest.raises(HarnessError, match=message):
        make_plan(Request(recipe=str(recipe), plugins=["resnet18"], data="phantom", readings=None if text else 4))
