from __future__ import annotations

from pathlib import Path

import pytest

from harness.api import Adam, ConstantLR, CyclicLR, DatasetOptions
from harness.config import (
    RunConfig,
    apply_to_dataset,
    apply_to_schedule,
    parse_set,
    parse_weights,
    read_recipe,
)
from harness.errors import ConfigError
from harness_plugins.schedules.paper import PAPER, PAPER_EVAL_BN


class _Folder(DatasetOptions):
    path: str
    seed: int = 0


def _apply(*settings: str):
    return apply_to_schedule(PAPER, [parse_set(text) for text in settings], None)


def test_paper_is_the_papers_protocol() -> None:
    frozen, finetune = PAPER.stages
    assert (frozen.name, frozen.epochs, frozen.batch_size, frozen.trainable) == ("frozen", 25, 32, "head")
    assert frozen.lr == CyclicLR(base=0.01, max=0.1, step_size_up=2000, cycle_momentum=True, step_every="batch")
    assert (finetune.name, finetune.epochs, finetune.trainable, finetune.lr) == ("finetune", 10, "all", ConstantLR())
    assert finetune.lr.base == 1e-5
    assert frozen.optimizer.momentum == finetune.optimizer.momentum == 0.9


def test_the_preset_differs_in_batch_norm_alone() -> None:
    back = [f"{stage.name}.batch_norm=train" for stage in PAPER_EVAL_BN.stages]
    changed = apply_to_schedule(PAPER_EVAL_BN, [parse_set(text) for text in back], None)
    assert changed.stages == PAPER.stages
    assert changed.transform == PAPER.transform
    assert all(stage.batch_norm == "eval" for stage in PAPER_EVAL_BN.stages)


def test_settings_reach_what_they_name() -> None:
    schedule = _apply(
        "frozen.epochs=2",
        "frozen.lr.max=0.05",
        "transform.crop_scale=[0.8, 1]",
        "finetune.optimizer.kind=adam",
        "finetune.optimizer.weight_decay=0.1",
    )
    assert schedule.stages[0].epochs == 2
    assert schedule.stages[0].lr.max == 0.05
    assert schedule.stages[0].lr.step_size_up == 2000
    assert schedule.transform.crop_scale == (0.8, 1.0)
    assert schedule.stages[1].optimizer == Adam(weight_decay=0.1)


def test_a_new_kind_brings_its_own_options_in_any_order() -> None:
    schedule = _apply("frozen.lr.base=0.5", "frozen.lr.kind=constant")
    assert schedule.stages[0].lr == ConstantLR(base=0.5)


def test_naming_the_kind_that_is_there_keeps_its_options() -> None:
    assert _apply("frozen.lr.kind=cyclic", "frozen.lr.max=0.2").stages[0].lr.step_size_up == 2000


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("frozen.epochs=abc", ["--set", "frozen.epochs", "'abc'", "integer"]),
        ("frozen.epochs=0", ["frozen.epochs = 0", "greater than or equal to 1"]),
        ("frozen.epoch=2", ["'epoch'", "Did you mean epochs?"]),
        ("froze.epochs=2", ["'froze'", "Did you mean frozen?"]),
        ("frozen.name=x", ["nothing is called 'name'"]),
        ("frozen.lr.maximum=1", ["nothing is called 'maximum' in 'frozen.lr'"]),
        ("frozen.lr.kind=cosines", ["frozen.lr.kind = 'cosines' is no kind", "Did you mean cosine"]),
        ("frozen.lr.max=0.001", ["must be at least base"]),
        ("frozen.batch_norm=off", ["'train' or 'eval'", "'off'"]),
        ("frozen.epochs.more=1", ["'epochs' is a value"]),
        ("frozen.lr=3", ["frozen.lr = 3"]),
        ("frozen.lr.kind=[1]", ["is no kind"]),
        ("frozen.auxiliary_weight=inf", ["frozen.auxiliary_weight", "finite"]),
        ("frozen.optimizer.momentum=0.5", ["low_momentum"]),
        ("transform.crop_scale=[1, 0.5]", ["crop_scale", "smaller one first"]),
        ("frozen.optimizer.kind=adam", ["cycle_momentum"]),
        ("epochs=2", ["STAGE.OPTION=VALUE"]),
        ("frozen.epochs", ["STAGE.OPTION=VALUE"]),
    ],
)
def test_a_bad_setting_is_one_line_that_says_what_is_allowed(setting: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        _apply(setting)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_table_that_was_set_to_a_value_has_no_options() -> None:
    with pytest.raises(ConfigError, match=r"frozen\.lr was set to 0\.1"):
        _apply("frozen.lr=0.1", "frozen.lr.base=0.2")


def test_stages_can_be_left_out() -> None:
    with pytest.raises(ConfigError, match=r"finetune\.epochs"):
        apply_to_schedule(PAPER, [parse_set("finetune.epochs=0")], ["frozen"])
    assert [s.name for s in apply_to_schedule(PAPER, [], ["frozen"]).stages] == ["frozen"]
    with pytest.raises(ConfigError, match="no stage 'tune'"):
        apply_to_schedule(PAPER, [], ["tune"])


def test_dataset_options_come_from_the_colon_and_from_data_keys() -> None:
    options = apply_to_dataset("folder", "/x", _Folder, [parse_set("data.seed=4"), parse_set("frozen.epochs=1")])
    assert options == _Folder(path="/x", seed=4)
    with pytest.raises(ConfigError, match=r"data\.path.*required"):
        apply_to_dataset("folder", None, _Folder, [])
    with pytest.raises(ConfigError, match="nothing is called 'sead'"):
        apply_to_dataset("folder", "/x", _Folder, [parse_set("data.sead=4")])
    with pytest.raises(ConfigError, match="takes nothing after a colon"):
        apply_to_dataset("phantom", "/x", DatasetOptions, [])


def test_weights_for_all_and_for_one() -> None:
    assert parse_weights([], ["a", "b"]) == {"a": "imagenet", "b": "imagenet"}
    chosen = parse_weights(["random", "b=./w.pth"], ["a", "b"])
    assert chosen["a"] == "random"
    assert Path(chosen["b"]).is_absolute()
    with pytest.raises(ConfigError, match="called 'c'"):
        parse_weights(["c=random"], ["a", "b"])
    assert parse_weights(["b=imagenet21k"], ["a", "b"], {"a": "random"}) == {"a": "random", "b": "imagenet21k"}
    assert parse_weights(["/x=1/w.pth"], ["a"]) == {"a": "/x=1/w.pth"}
    with pytest.raises(ConfigError, match="say imagenet"):
        parse_weights(["a="], ["a"])
    with pytest.raises(ConfigError, match="given twice"):
        parse_weights(["random", "imagenet"], ["a"])


def test_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        'plugins = ["a"]\nseed = 3\n[frozen]\nepochs = 2\n[frozen.lr]\nmax = 0.2\n[data]\nsplit = "grouped"\n'
    )
    recipe, overrides = read_recipe(path)
    assert recipe.plugins == ("a",)
    assert recipe.seed == 3
    assert {override.key: override.value for override in overrides} == {
        "frozen.epochs": 2,
        "frozen.lr.max": 0.2,
        "data.split": "grouped",
    }


@pytest.mark.parametrize(
    ("text", "part"),
    [("plugins = [", "cannot be read"), ("plugin = ['a']", "plugin"), ("seed = 'x'", "seed = 'x'")],
)
def test_a_bad_recipe_names_the_file(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    assert part in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_hash_covers_every_field_and_nothing_else() -> None:
    config = RunConfig(backbone="a", schedule_name="paper", schedule=PAPER, dataset="phantom")
    same = RunConfig.model_validate_json(config.model_dump_json())
    assert same.hash == config.hash
    for change in ({"seed": 1}, {"precision": "bf16"}, {"weights": "random"}, {"data": {"seed": 1}}):
        assert config.model_copy(update=change).hash != config.hash
