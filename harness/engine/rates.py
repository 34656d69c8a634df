"""The learning rate of each step, and of each block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from harness.api import Stage

__all__ = ["Rates", "learning_rates", "optimizer_of"]

_SCALE = "scale"  # of a group of parameters: its rate, as a share of the head's
_MOVED = ("lr", "momentum", "betas")  # what torch's schedulers move


def optimizer_of(stage: Stage, blocks: Sequence[Sequence[nn.Parameter]]) -> torch.optim.Optimizer:
    """Return the stage's optimiser.

    Args:
        stage: what is trained with it.
        blocks: parameters, from the input to the head.
    """
    if stage.lr_decay == 1:
        groups = [(1.0, [value for block in blocks for value in block])]
    else:  # the head first: its rate is the one that is told
        groups = [(stage.lr_decay**depth, list(block)) for depth, block in enumerate(reversed(blocks))]
    return stage.optimizer.make(
        [{"params": values, "lr": stage.lr.base * scale, _SCALE: scale} for scale, values in groups if values]
    )


class Rates:
    """Moves the rates of an optimiser as the stage's rule says.

    torch's scheduler works on an optimiser of its own, and what it does there is done to every group of parameters
    here. So it need not know of groups, nor be stored: where a stage stands follows from the number of steps.

    Args:
        stage: whose rule.
        optimizer: as of :func:`optimizer_of`.
        steps_per_epoch: batches.
    """

    def __init__(self, stage: Stage, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> None:
        self._optimizer = optimizer
        self._model = optimizer_of(stage, [[nn.Parameter(torch.zeros(1))]])
        per_epoch = steps_per_epoch if stage.lr.step_every == "batch" else 1
        self._scheduler = stage.lr.scheduler(self._model, stage.epochs * per_epoch)
        self._model.step()  # of nothing: schedulers want to see one before their own
        self._apply()

    def step(self, times: int = 1) -> None:
        """Take steps of the rate."""
        if self._scheduler is not None and times:
            for _ in range(times):
                self._scheduler.step()
            self._apply()

    def _apply(self) -> None:
        (model,) = self._model.param_groups
        for group in self._optimizer.param_groups:
            for name in _MOVED:
                if name in model:
                    group[name] = model[name] * group[_SCALE] if name == "lr" else model[name]


def learning_rates(stage: Stage, steps_per_epoch: int, steps: int | None = None) -> list[float]:
    """Return the rate of each of a stage's steps, or of the first ones, as its rule computes it."""
    optimizer = optimizer_of(stage, [[nn.Parameter(torch.zeros(1))]])
    rates = Rates(stage, optimizer, steps_per_epoch)
    found: list[float] = []
    for step in range(1, (steps or stage.epochs * steps_per_epoch) + 1):
        found.append(float(optimizer.param_groups[0]["lr"]))
        if stage.lr.step_every == "batch" or step % steps_per_epoch == 0:
            rates.step()
    return found
