"""What the pieces of stages have to hold to: learning-rate rules, optimisers and losses."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from harness.api import LearningRate, Loss, Optimizer, Stage
from harness.api.pieces import Piece
from harness.engine.checkpoint import digest, optimizer_tensors, restore_optimizer
from harness.engine.rates import learning_rates
from harness.results import CheckResult
from harness.testing.checks import Tell, require, run_checks

__all__ = ["check_loss", "check_optimizer", "check_rate"]

CLASSES = 3
_PER_EPOCH = 7

_P = TypeVar("_P", bound=Piece)


def _quiet(_event: object) -> None:
    pass


def _again(given: _P) -> _P:
    """Return what is read where a piece was stored."""
    return type(given).model_validate_json(given.model_dump_json())


def _survives_json(given: Piece) -> None:
    """It is the same after it was stored and read."""
    require(_again(given) == given, "what is read is not what was stored")


# --- learning-rate rules ----------------------------------------------------------------------------------------------


def check_rate(rule: LearningRate, tell: Tell = _quiet) -> Iterator[CheckResult]:
    """Check a learning-rate rule."""
    return run_checks(rule, _OF_RATES, tell)


def _rates(rule: LearningRate, epochs: int) -> list[float]:
    return learning_rates(Stage(name="stage", epochs=epochs, trainable="head", lr=rule), _PER_EPOCH)


def _is_positive(rule: LearningRate) -> None:
    """It gives a positive rate for every step, however long the stage is."""
    for epochs in (1, 2, 30):
        bad = [(step, rate) for step, rate in enumerate(_rates(rule, epochs)) if not 0 < rate < float("inf")]
        require(not bad, f"of {epochs} epochs, it gives the rate {bad[0][1]} at step {bad[0][0]}" if bad else "")


def _repeats(rule: LearningRate) -> None:
    """It gives the same rates each time."""
    require(_rates(rule, 3) == _rates(rule, 3), "the second time it gives other rates")


_OF_RATES = (_survives_json, _is_positive, _repeats)


# --- optimisers -------------------------------------------------------------------------------------------------------


def check_optimizer(optimizer: Optimizer, tell: Tell = _quiet) -> Iterator[CheckResult]:
    """Check an optimiser."""
    return run_checks(optimizer, _OF_OPTIMIZERS, tell)


def _parameters() -> list[nn.Parameter]:
    draws = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=draws) + 3) for shape in ((4, 3), (4,))]


def _made(optimizer: Optimizer, parameters: list[nn.Parameter], rate: float = 0.01) -> torch.optim.Optimizer:
    return optimizer.make([{"params": [parameter], "lr": rate} for parameter in parameters])


def _take(steps: int, made: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> float:
    """Take steps down a bowl, and return how high it is where they end."""
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = 2 * parameter.detach()
        made.step()
    return float(sum((parameter.detach() ** 2).sum() for parameter in parameters))


def _goes_down(optimizer: Optimizer) -> None:
    """It goes down a bowl."""
    parameters = _parameters()
    begin = float(sum((parameter.detach() ** 2).sum() for parameter in parameters))
    end = _take(20, _made(optimizer, parameters), parameters)
    require(end < begin, f"after 20 steps it is at {end:.3g}, and began at {begin:.3g}")


def _heeds_rates(optimizer: Optimizer) -> None:
    """Each group of parameters is trained at its own rate, also after that was changed."""
    parameters = _parameters()
    before = [parameter.detach().clone() for parameter in parameters]
    made = _made(optimizer, parameters)
    made.param_groups[0]["lr"] = 0.0
    _take(1, made, parameters)
    require(torch.equal(parameters[0].detach(), before[0]), "at a rate of 0 it moves a parameter")
    require(not torch.equal(parameters[1].detach(), before[1]), "at a rate of 0.01 it moves nothing")


def _leaves_frozen_alone(optimizer: Optimizer) -> None:
    """A parameter without a gradient stays as it is."""
    parameters = _parameters()
    before = parameters[0].detach().clone()
    made = _made(optimizer, parameters)
    _take(3, made, parameters[1:])
    require(torch.equal(parameters[0].detach(), before), "it moves a parameter that has no gradient")


def _goes_on(optimizer: Optimizer) -> None:
    """From a checkpoint it goes on as if nothing had happened."""
    parameters = _parameters()
    made = _made(optimizer, parameters)
    _take(3, made, parameters)
    others = copy.deepcopy(parameters)
    other = _made(optimizer, others)
    restore_optimizer(other, *copy.deepcopy(optimizer_tensors(made)))
    _take(3, made, parameters)
    _take(3, other, others)
    require(_hash(parameters) == _hash(others), "three steps later it is elsewhere")


def _hash(parameters: list[nn.Parameter]) -> str:
    return digest({str(number): parameter for number, parameter in enumerate(parameters)})


_OF_OPTIMIZERS = (_survives_json, _goes_down, _heeds_rates, _leaves_frozen_alone, _goes_on)


# --- losses -----------------------------------------------------------------------------------------------------------


def check_loss(loss: Loss, tell: Tell = _quiet) -> Iterator[CheckResult]:
    """Check a loss."""
    return run_checks(loss, _OF_LOSSES, tell)


def _batch(n: int = 12) -> tuple[Tensor, Tensor]:
    logits = torch.randn(n, CLASSES, generator=torch.Generator().manual_seed(n))
    return logits, torch.arange(n) % CLASSES


def _is_a_number(loss: Loss) -> None:
    """It is one finite number, with finite gradients, also where logits are far apart."""
    for scale in (1, 100):
        logits, labels = _batch()
        logits = (scale * logits).requires_grad_()
        found = loss.make(None)(logits, labels)
        require(found.shape == (), f"it has the shape {tuple(found.shape)}; expected a scalar")
        require(bool(found.isfinite()), f"it is {found.item()} for logits of about {scale}")
        found.backward()
        require(bool(logits.grad is not None and logits.grad.isfinite().all()), "its gradients are not finite")


def _prefers_what_is_right(loss: Loss) -> None:
    """It is lower where predictions are right, and its gradient leads there."""
    logits, labels = _batch()
    right = 3 * nn.functional.one_hot(labels, CLASSES).float()
    of = loss.make(None)
    require(bool(of(right, labels) < of(-right, labels)), "it is lower where predictions are wrong")
    (gradient,) = torch.autograd.grad(of(logits.requires_grad_(), labels), logits)
    of_truth = gradient.gather(1, labels[:, None])
    require(bool((of_truth.mean() < 0).item()), "its gradient leads away from the true class")


def _is_a_mean(loss: Loss) -> None:
    """It is a mean: the same images twice give the same, in any order."""
    logits, labels = _batch()
    found = loss.make(None)(logits, labels)
    twice = loss.make(None)(torch.cat([logits, logits.flip(0)]), torch.cat([labels, labels.flip(0)]))
    require(torch.allclose(found, twice, rtol=1e-4), f"once it is {found:.4g}, twice {twice:.4g}")


def _heeds_weights(loss: Loss) -> None:
    """Classes count as they are weighted."""
    logits, labels = _batch()
    only = loss.make(torch.tensor([1.0, 0.0, 0.0]))(logits, labels)
    alone = loss.make(None)(logits[labels == 0], labels[labels == 0])
    require(torch.allclose(only, alone, rtol=1e-4), "classes of no weight count")


_OF_LOSSES = (_survives_json, _is_a_number, _prefers_what_is_right, _is_a_mean, _heeds_weights)
