"""Each check of the conformance kit passes what is sound, and finds what is not."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from harness import registry
from harness.api import ConstantLR, Dataset, Schedule
from harness.engine.rates import learning_rates
from harness.testing import conformance
from harness_plugins.ensembles.voting import MeanProbability
from harness_plugins.schedules.paper import PAPER
from support import Harness

KIT = {
    "Connects": (conformance.check_backbone, {"built without a network": "it connects to"}),
    "BadMean": (conformance.check_backbone, {"what its input is": "mean is (123.7"}),
    "SeesTheBatch": (conformance.check_backbone, {"whatever the batch": "other logits in a batch of 1"}),
    "Remembers": (conformance.check_backbone, {"changes nothing else": "0.calls changed, though not trained"}),
    "Draws": (conformance.check_backbone, {"The same seed": "other logits for the same images"}),
    "Unpicklable": (conformance.check_backbone, {"another process": "cannot be pickled"}),
    "NoBf16": (conformance.check_backbone, {"in bf16": "not finite"}),
    "Kept": (conformance.check_backbone, {"memory is freed": "keeps its network in memory"}),
    "NoAuxiliary": (conformance.check_backbone, {"auxiliary head": "names 1 auxiliary heads, and gives logits of 0"}),
    "Detached": (
        conformance.check_backbone,
        {"changes nothing else": "does not learn", "Unfrozen": "no gradient reaches"},
    ),
    "BodyDetached": (conformance.check_backbone, {"Unfrozen": "no gradient reaches"}),
    "RateDies": (conformance.check_rate, {"positive rate": "the rate 0.0 at step"}),
    "DrawsRates": (conformance.check_rate, {"each time": "other rates"}),
    "GrowsWhenStored": (conformance.check_rate, {"stored and read": "not what was stored"}),
    "GoesUp": (conformance.check_optimizer, {"down a bowl": "and began at"}),
    "IgnoresRates": (conformance.check_optimizer, {"at its own rate": "at a rate of 0 it moves"}),
    "MovesFrozen": (conformance.check_optimizer, {"without a gradient": "has no gradient"}),
    "KeepsToItself": (conformance.check_optimizer, {"goes on": "elsewhere"}),
    "NoScalar": (
        conformance.check_loss,
        {"one finite number": "the shape (12,)", "lower where": "", "a mean": "", "are weighted": ""},
    ),
    "SumsUp": (conformance.check_loss, {"a mean": "twice"}),
    "Backwards": (conformance.check_loss, {"lower where": "predictions are wrong"}),
    "IgnoresWeights": (conformance.check_loss, {"are weighted": "no weight count"}),
    "FitsItself": (conformance.check_ensemble, {"leaves itself": "fitting it changes it"}),
    "NamesTwice": (
        conformance.check_family,
        {"each once": "some name twice", "that it does not have": "gives a Tiny"},
    ),
    "NotNormalised": (conformance.check_ensemble, {"sum to one": "do not sum to one"}),
    "FirstDecides": (conformance.check_ensemble, {"order of its members": "give something else"}),
    "DrawsTies": (conformance.check_ensemble, {"order of its members": "give something else"}),
    "WritesInput": (conformance.check_ensemble, {"changes nothing": "writes into"}),
    "Shuffles": (conformance.check_dataset, {"the same splits": "its splits are others"}),
    "RepeatsIds": (conformance.check_dataset, {"ids of their own": "two images have the same id"}),
}


@pytest.mark.parametrize("name", list(KIT))
def test_each_fault_is_found_and_no_other(name: str, test_plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.syspath_prepend(str(test_plugins))
    plugin = getattr(importlib.import_module("harness_test_plugins.nonconforming"), name)()
    check, expected = KIT[name]
    found = list(check(plugin, "phantom") if isinstance(plugin, Dataset) else check(plugin))
    failed = [result for result in found if not result.passed]
    assert len(found) > len(failed)
    assert len(failed) == len(expected), failed
    for (name_of, message), result in zip(expected.items(), failed, strict=True):
        assert name_of in result.name
        assert message in result.message


def _installed() -> list[object]:
    """Those that need no images; networks of more than a few seconds are checked by hand."""
    need_images = ("imagefolder", "chest-xray", "pneumoniamnist")
    chosen = [plugin for plugin in registry.plugins() if plugin.name not in need_images]
    quick = ("resnet18", "efficientnet_lite0")
    marks = [() if plugin.kind != "backbone" or plugin.name in quick else (pytest.mark.slow,) for plugin in chosen]
    return [pytest.param(plugin, marks=mark, id=str(plugin)) for plugin, mark in zip(chosen, marks, strict=True)]


@pytest.mark.parametrize("plugin", _installed())
def test_every_installed_plugin_conforms(plugin: registry.Plugin) -> None:
    loaded = registry.load(plugin, registry.BASES[plugin.kind])
    arguments = (plugin.name,) if plugin.kind == "dataset" else ()
    found = list(getattr(conformance, f"check_{plugin.kind}")(loaded, *arguments))
    assert len(found) >= 3
    assert [result for result in found if not result.passed] == []


def test_a_schedule_with_a_rate_that_dies_is_found() -> None:
    class Dying(Schedule):
        pass

    stage = PAPER.stages[0].model_copy(update={"lr": ConstantLR.model_construct(kind="constant", base=0.0)})
    failed = [result for result in conformance.check_schedule(Dying(stages=(stage,))) if not result.passed]
    assert any("rate 0.0 at step 0" in result.message for result in failed)


def test_rates_are_those_of_the_golden_table() -> None:
    """torch's CyclicLR from 0.01 to 0.1 in 2000 steps and back, by hand."""
    frozen, finetune = PAPER.stages
    rates = learning_rates(frozen, 154, 4001)
    assert [rates[step] for step in (0, 1000, 2000, 3000, 4000)] == pytest.approx([0.01, 0.055, 0.1, 0.055, 0.01])
    assert set(learning_rates(finetune, 154, 100)) == {1e-5}
    by_epoch = frozen.model_copy(update={"lr": frozen.lr.model_copy(update={"step_every": "epoch"})})
    assert learning_rates(by_epoch, 154, 310)[::154] == pytest.approx([0.01, 0.010045, 0.01009])


def test_an_ensemble_may_be_checked_by_its_author() -> None:
    assert all(result.passed for result in conformance.check_ensemble(MeanProbability()))


def test_a_package_says_what_it_needs(
    test_plugins: Path, ancient_plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (test_plugins, ancient_plugins):
        monkeypatch.syspath_prepend(str(folder))
    good, silent = (list(conformance.check_package(registry.find("backbone", name))) for name in ("tiny", "ancient"))
    assert [result.passed for result in good] == [True]
    assert "harness-ancient 0.3 does not name transfer-harness" in silent[0].message


def test_check_on_the_command_line(harness: Harness, test_plugins: Path) -> None:
    done = harness("plugin", "check", "tiny,phantom", PYTHONPATH=str(test_plugins), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "13 of 13 checks passed" in done.stdout
    assert "4 of 4 checks passed" in done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("import_error", "KeyError"),
        ("exits_at_import", "SystemExit: bye"),
        ("wrong_type", "found builtins.dict"),
        ("wrong_head", "says that its head is"),
        ("exits_hard", "exited with code"),
        ("segfaults", "SIGSEGV"),
        ("raises", "RuntimeError"),
    ],
)
def test_what_a_broken_plugin_does_is_said_where_it_happens(
    harness: Harness, test_plugins: Path, name: str, message: str
) -> None:
    done = harness("plugin", "check", name, "--json", PYTHONPATH=str(test_plugins))
    assert done.returncode == 1, done.stdout + done.stderr
    (plugin,) = json.loads(done.stdout)
    assert plugin["name"] == name
    assert any(message in check["message"] for check in plugin["checks"] if not check["passed"])


def test_an_endless_check_is_ended(harness: Harness, test_plugins: Path) -> None:
    done = harness("plugin", "check", "hangs", "--timeout", "8", PYTHONPATH=str(test_plugins))
    assert done.returncode == 1
    assert "nothing was heard of the run for 8 seconds" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "no plugin is called 'nope'"),
        (["timm"], "'timm' is a family of backbones"),
        (["phantom", "--set", "data.nope=2"], "nope"),
        (["resnet18", "--set", "data.train=16"], "and resnet18 is none"),
        (["timm:nope"], "timm has no network called 'nope'"),
    ],
)
def test_bad_input_is_one_message(harness: Harness, arguments: list[str], message: str) -> None:
    done = harness("plugin", "check", *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
