"""Plugins that load and run, but do not hold to one thing each."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor, nn

from harness import SGD, Backbone, Combined, CrossEntropy, Ensemble, Family, ImageSplits, LearningRate
from harness_plugins.datasets.phantom import Phantom
from harness_test_plugins.good import Tiny

_KEPT: list[nn.Module] = []


class _Layered(Tiny):
    """Tiny with a layer more in front."""

    head = "5"
    layer: type[nn.Module]

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        return nn.Sequential(self.layer(), *super().architecture(auxiliary=auxiliary).children())


class Connects(Tiny):
    def architecture(self, *, auxiliary: bool) -> nn.Module:
        with socket.socket() as line, suppress(OSError):
            line.connect(("127.0.0.1", 9))
        return super().architecture(auxiliary=auxiliary)


class BadMean(Tiny):
    mean = (123.7, 116.3, 103.5)


class _Sees(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images - images.mean(0, keepdim=True) * 0.5


class SeesTheBatch(_Layered):
    layer = _Sees


class _Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images


class Remembers(_Layered):
    layer = _Counts


class _Noise(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images + 1e-5 * torch.randn_like(images)


class Draws(_Layered):
    layer = _Noise


class _Calls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.call = lambda images: images

    def forward(self, images: Tensor) -> Tensor:
        return self.call(images)


class Unpicklable(_Layered):
    layer = _Calls


class _SinglePrecision(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images * float("nan") if torch.is_autocast_enabled("cpu") else images


class NoBf16(_Layered):
    layer = _SinglePrecision


class Kept(Tiny):
    def architecture(self, *, auxiliary: bool) -> nn.Module:
        _KEPT.append(super().architecture(auxiliary=auxiliary))
        return _KEPT[-1]


class NoAuxiliary(Tiny):
    auxiliary_heads = (Tiny.head,)


class Detached(Tiny):
    def logits(self, output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        return output.detach() + torch.zeros((), requires_grad=True), ()


class BodyDetached(Tiny):
    def architecture(self, *, auxiliary: bool) -> nn.Module:
        network = super().architecture(auxiliary=auxiliary)
        network[2].append(_Cut())
        return network


class _Cut(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.detach()


class _Rule(LearningRate):
    kind: str = "rule"

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.factor(step / steps))


class RateDies(_Rule):
    def factor(self, done: float) -> float:
        return max(0.0, 1 - 2 * done)


class DrawsRates(_Rule):
    def factor(self, done: float) -> float:
        return 1 - 0.5 * random.random()


class GrowsWhenStored(_Rule):
    @model_validator(mode="after")
    def _grow(self) -> LearningRate:
        object.__setattr__(self, "base", self.base * 2)
        return self

    def factor(self, done: float) -> float:
        return 1.0


class GoesUp(SGD):
    def make(self, groups: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, maximize=True)


class IgnoresRates(SGD):
    def make(self, groups: Any) -> torch.optim.Optimizer:
        return _IgnoresRates(groups)


class _IgnoresRates(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["lr"] = 0.01
        super().step()


class MovesFrozen(SGD):
    def make(self, groups: Any) -> torch.optim.Optimizer:
        return _MovesFrozen(groups)


class _MovesFrozen(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] * 1e-3 * parameter


class KeepsToItself(SGD):
    def make(self, groups: Any) -> torch.optim.Optimizer:
        return _KeepsToItself(groups)


class _KeepsToItself(torch.optim.SGD):
    taken = 0

    def step(self, closure: Any = None) -> None:
        self.taken += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad /= self.taken
        super().step()


class NoScalar(CrossEntropy):
    def make(self, weights: Tensor | None) -> Any:
        return nn.CrossEntropyLoss(weights, reduction="none")


class SumsUp(CrossEntropy):
    def make(self, weights: Tensor | None) -> Any:
        return nn.CrossEntropyLoss(weights, reduction="sum")


class Backwards(CrossEntropy):
    def make(self, weights: Tensor | None) -> Any:
        right = nn.CrossEntropyLoss(weights)
        return lambda logits, labels: -right(logits, labels)


class IgnoresWeights(CrossEntropy):
    def make(self, weights: Tensor | None) -> Any:
        return nn.CrossEntropyLoss()


class FitsItself(Ensemble):
    weight = 1.0

    def fit(self, probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> Ensemble:
        self.weight = self.weight + 1
        return self

    def combine(self, probabilities: NDArray[np.float64]) -> Combined:
        scores = probabilities.mean(0)
        return Combined(scores.argmax(1), scores)


class NamesTwice(Family):
    def names(self) -> list[str]:
        return ["one", "one"]

    def backbone(self, name: str) -> Backbone:
        return Tiny()


class _Mean(Ensemble):
    def combine(self, probabilities: NDArray[np.float64]) -> Combined:
        scores = probabilities.mean(0)
        return Combined(scores.argmax(1), scores)


class NotNormalised(_Mean):
    def combine(self, probabilities: NDArray[np.float64]) -> Combined:
        scores = probabilities.sum(0)
        return Combined(scores.argmax(1), scores)


class FirstDecides(_Mean):
    def combine(self, probabilities: NDArray[np.float64]) -> Combined:
        return Combined(probabilities[0].argmax(1), probabilities[0])


class DrawsTies(_Mean):
    def combine(self, probabilities: NDArray[np.float64]) -> Combined:
        scores = probabilities.mean(0)
        best = scores == scores.max(1, keepdims=True)
        return Combined(np.array([random.choice(np.flatnonzero(row)) for row in best]), scores)


class WritesInput(_Mean):
    def combine(self, probabilities: NDArray[np.float64]) -> Combined:
        probabilities *= 1.0 + 1e-9
        return super().combine(probabilities)


class Shuffles(Phantom):
    def load(self, name: str, options: Any) -> ImageSplits:
        splits = super().load(name, options)
        train = list(splits.train)
        random.shuffle(train)
        return ImageSplits(splits.classes, tuple(train), splits.val, splits.test, splits.images)


class RepeatsIds(Phantom):
    def load(self, name: str, options: Any) -> ImageSplits:
        splits = super().load(name, options)
        return ImageSplits(splits.classes, splits.train, splits.train, splits.test, splits.images)
