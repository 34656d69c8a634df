from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from harness.api import SGD, Backbone, CyclicLR, Stage
from harness.config import RunConfig
from harness.data.augment import Augment
from harness.engine.run import execute
from harness.engine.stage import Split, Trainer
from harness.errors import BrokenPluginError, DataError
from harness.results import EpochResult, StageResult
from harness_plugins.schedules.paper import PAPER

FROZEN = PAPER.stages[0].model_copy(update={"epochs": 4, "batch_size": 8, "lr": CyclicLR(base=0.5, max=2.0)})


class _Small(Backbone):
    head = "4"

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        pool = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), pool, nn.Dropout(0.5), nn.Linear(16, 2))


class _Wide(_Small):
    def logits(self, output):
        return torch.cat([output, output], dim=1), ()


def _split(n: int, seed: int) -> Split:
    images = np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 1), dtype=np.uint8)
    return Split(images, torch.arange(n) % 2)


def _trainer(backbone: Backbone | None = None):
    backbone = backbone or _Small()
    torch.manual_seed(1)
    module = backbone.architecture(auxiliary=False)
    events: list[object] = []
    states: list[dict[str, torch.Tensor]] = []

    def emit(event: object) -> None:
        events.append(event)
        if isinstance(event, EpochResult):
            states.append(copy.deepcopy(module.state_dict()))

    augment = Augment(PAPER.transform, 16, (0.5,) * 3, (0.5,) * 3)
    splits = {"train": _split(32, 0), "val": _split(16, 1), "test": _split(8, 2)}
    return Trainer(module, backbone, augment, splits, 0, torch.device("cpu"), "fp32", emit), events, states


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("checkpoint", ["best", "last"])
@pytest.mark.parametrize("start_from", ["best", "last"])
def test_what_is_tested_and_what_the_next_stage_starts_from(checkpoint: str, start_from: str) -> None:
    trainer, events, states = _trainer()
    following = PAPER.stages[1].model_copy(update={"start_from": start_from})
    start = trainer.run_stage(FROZEN.model_copy(update={"checkpoint": checkpoint}), 0, following)
    epochs = [event for event in events if isinstance(event, EpochResult)]
    best = max(range(4), key=lambda i: (epochs[i].val_accuracy, -epochs[i].val_loss, -i))
    assert best != 3, "the test needs a best epoch that is not the last"
    tested = best if checkpoint == "best" else 3
    (result,) = (event for event in events if isinstance(event, StageResult))
    assert result.tested_epoch == tested + 1
    assert _same(trainer.module.state_dict(), states[tested])
    begins_with = trainer.module.state_dict() if start is None else start
    assert _same(begins_with, states[best if start_from == "best" else 3])


@pytest.mark.parametrize(("batch_norm", "moves"), [("train", True), ("eval", False)])
def test_a_frozen_stage_moves_the_head_and_nothing_else(batch_norm: str, moves: bool) -> None:
    trainer, _, _ = _trainer()
    before = copy.deepcopy(trainer.module.state_dict())
    trainer.run_stage(FROZEN.model_copy(update={"batch_norm": batch_norm, "checkpoint": "last"}), 0)
    after = trainer.module.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"} if moves else set()
    assert moved == {"4.weight", "4.bias"} | statistics


def test_momentum_is_the_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self: seen.append(self.param_groups[0]["momentum"]) or step(self)
    )
    rate = CyclicLR(base=0.01, max=0.1, step_size_up=4, low_momentum=0.3)
    trainer, _, _ = _trainer()
    trainer.run_stage(FROZEN.model_copy(update={"lr": rate, "optimizer": SGD(momentum=0.5), "epochs": 2}), 0)
    assert seen[0] == pytest.approx(0.5)
    assert min(seen) == pytest.approx(0.3)


def test_logits_of_another_width_are_the_plugins_fault() -> None:
    trainer, _, _ = _trainer(_Wide())
    with pytest.raises(BrokenPluginError, match=r"\(8, 4\); expected \(8, 2\)"):
        trainer.run_stage(FROZEN, 0)


def test_images_that_are_not_those_of_the_plan_are_refused() -> None:
    config = RunConfig(
        backbone="resnet18", weights="random", schedule_name="paper", schedule=PAPER, dataset="phantom",
        data={"train": 16, "val": 8, "test": 8},
    )  # fmt: skip
    with pytest.raises(DataError, match="have changed since this command began"):
        execute(config, "another fingerprint", lambda event: None)


def test_stage_models_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        FROZEN.epochs = 3  # type: ignore[misc]
    assert isinstance(FROZEN, Stage)
