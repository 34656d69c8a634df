"""A network and a trainer small enough for tests of single stages."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from harness.api import Backbone, Transform
from harness.data.augment import Augment
from harness.engine.batches import Split, move
from harness.engine.features import FeatureCache
from harness.engine.stage import Trainer
from harness.results import EpochResult
from harness_plugins.schedules.paper import PAPER


class Small(Backbone):
    head = "4"

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        pool = nn.Sequential(nn.ReLU(), nn.AvgPool2d(7), nn.Flatten())
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), pool, nn.Dropout(0.5), nn.Linear(16, 2))


class Wide(Small):
    def logits(self, output):
        return torch.cat([output, output], dim=1), ()


def _split(n: int, seed: int) -> Split:
    images = np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 1), dtype=np.uint8)
    return Split(torch.from_numpy(images), torch.arange(n) % 2, [f"{seed} {index}" for index in range(n)])


def trainer_on_noise(
    backbone: Backbone | None = None,
    cache: FeatureCache | None = None,
    transform: Transform | None = None,
    device: str = "cpu",
):
    backbone = backbone or Small()
    torch.manual_seed(1)
    module = backbone.architecture(auxiliary=False).to(device)
    events: list[object] = []
    states: list[dict[str, torch.Tensor]] = []

    def emit(event: object) -> None:
        events.append(event)
        if isinstance(event, EpochResult):
            states.append(copy.deepcopy(module.state_dict()))

    augment = Augment(transform or PAPER.transform, 16, (0.5,) * 3, (0.5,) * 3)
    splits = {"train": _split(32, 0), "val": _split(16, 1), "test": _split(8, 2)}
    splits = move(splits, torch.device(device))
    trainer = Trainer(module, backbone, augment, splits, 0, torch.device(device), "fp32", emit, cache=cache)
    return trainer, events, states
