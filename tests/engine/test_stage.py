from __future__ import annotations

import copy
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from engine_parts import Wide, trainer_on_noise
from harness.api import SGD, CyclicLR, Stage
from harness.config import RunConfig, Task
from harness.engine.checkpoint import Checkpoints
from harness.engine.device import most_memory
from harness.engine.run import execute
from harness.errors import BrokenPluginError, DataError
from harness.results import EpochResult, Progress, StageResult
from harness_plugins.schedules.paper import PAPER

FROZEN = PAPER.stages[0].model_copy(update={"epochs": 4, "batch_size": 8, "lr": CyclicLR(base=0.5, max=2.0)})


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("checkpoint", ["best", "last"])
@pytest.mark.parametrize("start_from", ["best", "last"])
def test_what_is_tested_and_what_the_next_stage_starts_from(checkpoint: str, start_from: str) -> None:
    trainer, events, states = trainer_on_noise()
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
    trainer, _, _ = trainer_on_noise()
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
    trainer, _, _ = trainer_on_noise()
    trainer.run_stage(FROZEN.model_copy(update={"lr": rate, "optimizer": SGD(momentum=0.5), "epochs": 2}), 0)
    assert seen[0] == pytest.approx(0.5)
    assert min(seen) == pytest.approx(0.3)


def test_logits_of_another_width_are_the_plugins_fault() -> None:
    trainer, _, _ = trainer_on_noise(Wide())
    with pytest.raises(BrokenPluginError, match=r"\(8, 4\); expected \(8, 2\)"):
        trainer.run_stage(FROZEN, 0)


def test_images_that_are_not_those_of_the_plan_are_refused() -> None:
    config = RunConfig(
        backbone="resnet18", weights="random", schedule_name="paper", schedule=PAPER, dataset="phantom",
        data={"train": 16, "val": 8, "test": 8},
    )  # fmt: skip
    with pytest.raises(DataError, match="have changed since this command began"):
        execute(Task(config, "another fingerprint"), lambda event: None)


def test_stage_models_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        FROZEN.epochs = 3  # type: ignore[misc]
    assert isinstance(FROZEN, Stage)


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_writing_checkpoints_is_not_counted_as_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_norm: str
) -> None:
    waited = 0.0
    monkeypatch.setattr("harness.engine.stage.now", lambda: time.monotonic() + waited)
    trainer, events, _ = trainer_on_noise()

    class Slow(Checkpoints):
        def save(self, *_arguments: object) -> None:
            nonlocal waited
            waited += 1000

    trainer.checkpoints = Slow(tmp_path, every=0)
    trainer.run_stage(PAPER.stages[0].model_copy(update={"epochs": 2, "batch_norm": batch_norm}), 0)
    assert waited >= 2000
    assert all(event.seconds < 1000 for event in events if isinstance(event, EpochResult | StageResult))
    speeds = [event.images_per_second for event in events if isinstance(event, Progress) and event.images_per_second]
    assert min(speeds) > 32 / 1000


def test_memory_is_what_limits_leave_of_the_machines() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30)); "
        "from harness.engine.device import most_memory; print(most_memory())"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(told.stdout) == min(3 << 30, most_memory())
