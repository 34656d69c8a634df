"""Steps that a GPU takes as a CUDA graph are the steps that it takes without."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from engine_parts import Small, trainer_on_noise
from harness.api import Adam, Backbone, CyclicLR
from harness.engine.steps import Steps
from harness.results import StageResult
from harness_plugins.schedules.paper import PAPER

pytestmark = pytest.mark.gpu
STAGE = PAPER.stages[0].model_copy(update={"epochs": 3, "batch_size": 5, "lr": CyclicLR(base=0.01, max=0.1)})
CUDA = "cuda"


@pytest.fixture(autouse=True)
def _same_bits() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def _train(backbone: Backbone, **options: object) -> StageResult:
    trainer, events, _ = trainer_on_noise(backbone, device=CUDA)
    trainer.run_stage(STAGE.model_copy(update=options), 0)
    (result,) = (event for event in events if isinstance(event, StageResult))
    return result


@pytest.mark.parametrize(
    "options",
    [
        {"batch_norm": "train"},
        {"batch_norm": "eval"},
        {"trainable": "all"},
        {"trainable": "all", "optimizer": Adam(), "lr": CyclicLR(base=0.001, max=0.01, cycle_momentum=False)},
        {"class_weights": "inverse"},
        {"class_weights": "sampler", "dropout": False},
    ],
)
def test_a_graph_trains_to_the_same_bits(options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last batch of an epoch is smaller than those of the graph."""
    captured = _train(Small(), **options)
    assert captured.execution["captured"], captured.execution
    monkeypatch.setattr("harness.engine.steps._BEFORE", 10**9)
    written = _train(Small(), **options)
    assert not written.execution["captured"]
    assert captured.weights_sha256 == written.weights_sha256
    assert captured.optimizer_sha256 == written.optimizer_sha256


class Reads(nn.Module):
    """Asks the GPU for a number."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * (1.0 if float(images.sum()) < 1e9 else 2.0)


class Waits(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        torch.cuda.synchronize()
        return images


class Draws(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * (1 + 0.01 * random.random())


class DrawsWithTorch(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + 0.01 * torch.randn(1).item()


@pytest.mark.parametrize(
    ("layer", "because"),
    [
        (Reads, "waits for the GPU"),
        (Waits, "CUDA graphs do not take it"),
        (Draws, "draws at random on the host"),
        (DrawsWithTorch, "draws at random on the host"),
    ],
)
def test_what_a_graph_would_not_repeat_is_not_captured(layer: type[nn.Module], because: str) -> None:
    class Special(Small):
        def architecture(self, *, auxiliary: bool) -> nn.Module:
            return nn.Sequential(*super().architecture(auxiliary=auxiliary)[:4], nn.Linear(16, 2), layer())

    result = _train(Special(), batch_norm="train")
    assert not result.execution["captured"]
    assert because in result.execution["not_captured_because"]


def test_a_stage_frees_its_graph() -> None:
    trainer, _, _ = trainer_on_noise(device=CUDA)

    def used() -> int:
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    trainer.run_stage(STAGE, 0)
    gc.collect()
    gc.disable()  # what a stage keeps must go with it, not when somebody collects
    try:
        before = used()
        for _ in range(3):
            trainer.run_stage(STAGE, 0)
        assert used() <= before
    finally:
        gc.enable()


def test_sums_are_the_epochs() -> None:
    trainer, events, _ = trainer_on_noise(device=CUDA)
    assert Steps(lambda *_: None, [], None, torch.device(CUDA)).totals() == (0.0, 0)  # type: ignore[arg-type, return-value]
    trainer.run_stage(STAGE, 0)
    accuracies = [event.train_accuracy * 32 for event in events if hasattr(event, "train_accuracy")]
    assert len(accuracies) == 3
    assert all(accuracy == int(accuracy) for accuracy in accuracies)
