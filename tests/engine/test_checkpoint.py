"""Checkpoints as files, and what resuming restores."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from engine_parts import trainer_on_noise
from harness.api import SGD, Adam, AdamW, CosineLR, CyclicLR, Focal, OneCycleLR, Stage
from harness.engine import checkpoint
from harness.engine.checkpoint import Checkpoints, Position, digest, optimizer_tensors, restore_optimizer
from harness.engine.stage import Trainer
from harness.errors import Stopped
from harness.results import EpochResult, Progress, StageResult
from harness_plugins.schedules.paper import PAPER

TENSORS = {"module/a": torch.arange(6.0).reshape(2, 3), "best/a": torch.ones(2, 3, dtype=torch.bfloat16)}
PLAIN = {"scheduler": {"last_epoch": 3}, "best": True}


def _checkpoints(folder: Path, said: list[str] | None = None, **identity: object) -> Checkpoints:
    return Checkpoints(folder / "one", 0.0, {"torch": "2", **identity}, note=(said if said is not None else []).append)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    kept = _checkpoints(tmp_path)
    for epoch in (1, 2):
        kept.save(Position(1, epoch, 7, 0.1 + 0.2, 5, 1.5), PLAIN, TENSORS)
    saved = kept.load()
    assert saved is not None
    assert saved.position == Position(1, 2, 7, 0.1 + 0.2, 5, 1.5)
    assert saved.plain == PLAIN
    assert digest(saved.tensors) == digest(TENSORS)
    assert len(list((tmp_path / "one").iterdir())) == 2, "one state and its tensors"


def _flip(folder: Path) -> None:
    (path,) = folder.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_flip, "do not have the hash"),
        (lambda folder: (folder / "state.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "state.json").write_text("[1]"), "cannot be read"),
        (lambda folder: next(folder.glob("*.safetensors")).unlink(), "cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_not_gone_on_from(tmp_path: Path, damage: object, says: str) -> None:
    said: list[str] = []
    kept = _checkpoints(tmp_path, said)
    kept.save(Position(0), PLAIN, TENSORS)
    damage(tmp_path / "one")  # type: ignore[operator]
    assert kept.load() is None
    assert says in said[0]


def test_other_software_begins_anew(tmp_path: Path) -> None:
    said: list[str] = []
    _checkpoints(tmp_path).save(Position(0), PLAIN, TENSORS)
    assert _checkpoints(tmp_path, said, numpy="3").load() is None
    assert "other software" in said[0]


def test_where_no_checkpoint_can_be_written_the_run_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "one").write_text("a file where the folder should be")
    kept = _checkpoints(tmp_path, said)
    assert kept.due()
    kept.save(Position(0), PLAIN, TENSORS)
    assert "no checkpoint can be written" in said[0]
    (tmp_path / "one").unlink()
    kept.save(Position(1), PLAIN, TENSORS)
    loaded = kept.load()
    assert loaded is not None
    assert loaded.position == Position(1), "it is tried again"
    assert len(said) == 1


def test_a_full_disk_is_left_no_fuller_and_with_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    kept = _checkpoints(tmp_path, said)
    kept.save(Position(0), PLAIN, TENSORS)
    before = sorted(path.name for path in (tmp_path / "one").iterdir())

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_to_disk", full)
    kept.save(Position(0, 2), PLAIN, TENSORS)
    assert "No space left" in said[0]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == before
    loaded = kept.load()
    assert loaded is not None
    assert loaded.position == Position(0)


def test_parallel_runs_keep_their_checkpoints(tmp_path: Path) -> None:
    said: list[str] = []

    def save(name: str) -> None:
        kept = Checkpoints(tmp_path / (name * 32), note=said.append)
        for number in range(60):
            kept.save(Position(0, number + 1), PLAIN, TENSORS)
            if number % 7 == 0:
                shutil.rmtree(tmp_path / (name * 32))

    with ThreadPoolExecutor() as pool:
        list(pool.map(save, "abc"))
    assert said == []


def test_old_checkpoints_of_others_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_LIMIT_BYTES", 6_500)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "large").write_bytes(bytes(10_000))
    for name in "cba":
        Checkpoints(tmp_path / (name * 32)).save(Position(0), PLAIN, {"a": torch.zeros(400)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a" * 32, "b" * 32, "mine"]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_an_optimisers_state_comes_back(optimizer: type[torch.optim.Optimizer]) -> None:
    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        module = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        options = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
        return module, optimizer(module.parameters(), lr=0.1, **options)  # type: ignore[call-arg]

    def step(module: nn.Module, working: torch.optim.Optimizer) -> None:
        module(torch.ones(1, 3, 5, 5)).square().sum().backward()
        working.step()
        working.zero_grad()

    module, working = made()
    step(module, working)
    tensors, plain = optimizer_tensors(working)
    other, resumed = made()
    other.load_state_dict(module.state_dict())
    restore_optimizer(resumed, copy.deepcopy(tensors), copy.deepcopy(plain))
    assert digest(*optimizer_tensors(resumed)) == digest(tensors, plain)
    step(module, working)
    step(other, resumed)
    assert digest(other.state_dict()) == digest(module.state_dict())


STAGE = PAPER.stages[0].model_copy(update={"epochs": 3, "batch_size": 8, "lr": CyclicLR(base=0.5, max=2.0)})
STAGES = {
    "paper": (STAGE, PAPER.stages[1].model_copy(update={"epochs": 2, "batch_size": 8})),
    "last": (
        STAGE.model_copy(update={"checkpoint": "last"}),
        PAPER.stages[1].model_copy(update={"epochs": 2, "batch_size": 8, "start_from": "best"}),
    ),
    "adam by epoch": (
        STAGE.model_copy(update={"optimizer": Adam(), "lr": CyclicLR(base=0.01, max=0.1, step_every="epoch",
                                                                     cycle_momentum=False)}),
        PAPER.stages[1].model_copy(update={"epochs": 2, "batch_size": 8, "start_from": "last"}),
    ),
    "unfreezing": (
        STAGE.model_copy(update={"unfreeze_at": (2,), "lr_decay": 0.5, "lr": OneCycleLR(base=0.1, max=1.0), "ema": 0.8,
                                 "gradient_noise": 0.1, "loss": Focal(), "checkpoint": "last"}),
        STAGE.model_copy(update={"name": "averaged", "swa": 2, "lr": CosineLR(base=0.5, warm_up=0.3), "epochs": 3,
                                 "optimizer": AdamW(), "trainable": 1}),
    ),
    "sampler": (STAGE.model_copy(update={"class_weights": "sampler", "optimizer": SGD(momentum=0.0)}),),
}  # fmt: skip


def _run(trainer: Trainer, stages: tuple[Stage, ...], recorded: list[EpochResult]) -> None:
    """What engine.run does with stages and a checkpoint."""
    saved = trainer.checkpoints.load()
    start = None
    for index, stage in enumerate(stages):
        if saved is not None and index < saved.position.stage:
            trainer.skip_stage(stage)
            continue
        if start is not None:
            trainer.load(start)
        following = stages[index + 1] if index + 1 < len(stages) else None
        before = [] if saved is None else [
            epoch for epoch in recorded if epoch.stage == stage.name and epoch.epoch < saved.position.epoch
        ]  # fmt: skip
        start, saved = trainer.run_stage(stage, index, following, saved, before), None


@pytest.mark.parametrize("name", list(STAGES))
def test_stopped_anywhere_it_ends_as_if_nothing_had_happened(
    name: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.engine.stage._TOLD_SECONDS", 0.0)  # a GPU too tells of every batch
    trainer, events, _ = trainer_on_noise(device=device)
    _run(trainer, STAGES[name], [])
    results = [event for event in events if isinstance(event, StageResult)]
    epochs = {(event.stage, event.epoch): event.train_loss for event in events if isinstance(event, EpochResult)}
    batches = sum(isinstance(event, Progress) and event.epoch is not None for event in events)
    assert batches == sum(stage.epochs for stage in STAGES[name]) * 4
    assert all(result.execution.get("captured") == (True if device == "cuda" else None) for result in results)
    for stop_after in sorted({1, 2, 4, 5, 11, 12, 13, batches - 1, batches} & set(range(1, batches + 1))):
        recorded: list[EpochResult] = []
        ended: list[StageResult] = []
        for attempt in range(2):
            again, events, _ = trainer_on_noise(device=device)

            def stopping(attempt: int = attempt, events: list[object] = events) -> bool:
                done = sum(isinstance(event, Progress) and event.epoch is not None for event in events)
                return attempt == 0 and done >= stop_after  # noqa: B023

            kept = Checkpoints(tmp_path / f"{name}{stop_after}", 0.0, stopping=stopping)
            resumed = Trainer(
                again.module, again.backbone, again.augment, again.splits, 0, again.device, "fp32", again.emit, kept
            )
            if attempt == 0:
                with pytest.raises(Stopped):
                    _run(resumed, STAGES[name], recorded)
            else:
                _run(resumed, STAGES[name], recorded)
            recorded += [event for event in events if isinstance(event, EpochResult)]
            ended += [event for event in events if isinstance(event, StageResult)]
        assert {(epoch.stage, epoch.epoch): epoch.train_loss for epoch in recorded} == epochs
        last = {result.stage: result for result in ended}
        for result in results:
            assert last[result.stage].weights_sha256 == result.weights_sha256, f"stopped after batch {stop_after}"
            assert last[result.stage].optimizer_sha256 == result.optimizer_sha256
            assert last[result.stage].tested_epoch == result.tested_epoch


def test_stopped_again_while_features_are_computed_again_it_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    stages = (STAGE.model_copy(update={"batch_norm": "eval", "checkpoint": "last"}),)
    trainer, events, _ = trainer_on_noise()
    _run(trainer, stages, [])
    (expected,) = (event for event in events if isinstance(event, StageResult))
    assert expected.execution["training"] == "head on features"
    stops = [  # in the middle of the second epoch; while its features are computed once more; never
        lambda progress: progress.epoch == 2 and progress.loss is not None,
        lambda progress: progress.epoch == 2 and progress.loss is None,
        lambda progress: False,
    ]
    recorded: list[EpochResult] = []
    for stop in stops:
        again, events, _ = trainer_on_noise()

        def stopping(stop: Callable[[Progress], bool] = stop, events: list[object] = events) -> bool:
            return any(isinstance(event, Progress) and stop(event) for event in events)

        kept = Checkpoints(tmp_path / "one", 0.0, stopping=stopping)
        resumed = Trainer(
            again.module, again.backbone, again.augment, again.splits, 0, again.device, "fp32", again.emit, kept
        )
        with suppress(Stopped):
            _run(resumed, stages, recorded)
        assert kept.load() is not None
        assert stopping() == (stop is not stops[2])
        recorded += [event for event in events if isinstance(event, EpochResult)]
    (found,) = (event for event in events if isinstance(event, StageResult))
    assert found.weights_sha256 == expected.weights_sha256
