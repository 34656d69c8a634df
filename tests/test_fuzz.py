"""Whatever a user types or writes into a recipe, the answer is a plan or one clear message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.config import RunConfig, apply_to_schedule, parse_set, parse_weights
from harness.errors import HarnessError
from harness.experiment import Request, make_plan
from harness.store.database import connect
from harness_plugins.schedules.paper import PAPER

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

KEYS = st.sampled_from(
    [
        "frozen", "finetune", "transform", "data", "epochs", "lr", "lr.kind", "lr.base", "optimizer",
        "optimizer.kind", "batch_size", "crop_scale", "plugins", "weights", "seed", "stages", "path",
        "train", "", "é", "a b", "__class__",
    ]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
TYPED = st.text(max_size=12) | VALUES.map(lambda value: json.dumps(value)) | st.sampled_from(["cyclic", "sgd", "1e400"])
SETTINGS = st.builds(lambda keys, value: f"{'.'.join(keys)}={value}", st.lists(KEYS, max_size=4), TYPED)


def message(error: HarnessError) -> None:
    assert str(error)


@FUZZ
@given(st.lists(st.text(max_size=30) | SETTINGS, max_size=4), st.lists(KEYS, max_size=2) | st.none())
def test_settings(texts: list[str], stages: list[str] | None) -> None:
    try:
        schedule = apply_to_schedule(PAPER, [parse_set(text) for text in texts], stages)
    except HarnessError as error:
        message(error)
    else:
        assert schedule.stages


def toml(value: object) -> str:
    """Write a value as TOML, or as something near it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


LINES = st.builds(lambda key, value: f"{key} = {value}", KEYS, VALUES.map(toml))
RECIPES = st.lists(LINES | KEYS.map(lambda key: f"[{key}]") | st.text(max_size=20), max_size=8).map("\n".join)


@FUZZ
@given(RECIPES.map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=60))
@example(b'plugins = ["resnet18", "imagefolder"]\ndata.path = "a\\u0000b"')
def test_recipes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    try:
        make_plan(Request(plugins=["resnet18"], data="phantom", recipe=str(path)))
    except HarnessError as error:
        message(error)


@FUZZ
@given(
    plugins=st.lists(
        st.text(max_size=8) | st.sampled_from(["resnet18", "paper", "majority_vote", "phantom"]), max_size=3
    ),
    data=st.none() | st.text(max_size=10) | st.sampled_from(["phantom", "phantom:x", "imagefolder:/nowhere", ":"]),
    weights=st.lists(st.text(max_size=10) | st.sampled_from(["random", "resnet18=random", "="]), max_size=2),
    seeds=st.lists(st.integers(), max_size=3),
    limit=st.none() | st.integers(),
    words=st.lists(st.none() | st.text(max_size=8), min_size=2, max_size=2),
)
def test_requests(plugins, data, weights, seeds, limit, words) -> None:  # type: ignore[no-untyped-def]
    request = Request(
        plugins=plugins, data=data, weights=weights, seeds=seeds, limit_train=limit, device=words[0], precision=words[1]
    )
    try:
        plan = make_plan(request)
    except HarnessError as error:
        message(error)
    else:
        for run in plan.runs:
            again = RunConfig.model_validate(json.loads(json.dumps(run.config)))
            assert (again.model_dump(mode="json"), again.hash) == (run.config, run.config_hash)


@FUZZ
@given(st.lists(st.text(max_size=12), max_size=3))
@example(["~nobody/here"])
def test_weights(texts: list[str]) -> None:
    try:
        parse_weights(texts, ["resnet18", "alexnet"])
    except HarnessError as error:
        message(error)


@FUZZ
@given(
    st.text(max_size=30)
    | st.builds(lambda *parts: "".join(parts), st.sampled_from(["sqlite://", "postgresql://", "mysql://"]), st.text())
)
def test_database_urls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        connect(url, create=False)
    except HarnessError as error:
        message(error)
