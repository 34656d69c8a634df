"""Weights averaged while they are trained, which are what is evaluated then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from harness.api import Stage

__all__ = ["Average"]

State = dict[str, Tensor]


class Average:
    """The average that a stage wants, if any: exponential after each step, or plain after each epoch from one on.

    Args:
        stage: which may want one.
        values: what training changes, by name: parameters, and buffers such as a BatchNorm's statistics.
    """

    def __init__(self, stage: Stage, values: Mapping[str, Tensor]) -> None:
        self._stage, self._values = stage, values
        self._names = [name for name, value in values.items() if value.is_floating_point()]
        self.mean: State = {}
        self.number = 0  # of what it is the mean, where each counts the same
        if stage.ema is not None:
            self.mean = {name: values[name].detach().clone() for name in self._names}

    def after_step(self) -> None:
        """Take the weights in."""
        if self._stage.ema is not None:
            self._update(get_ema_multi_avg_fn(self._stage.ema))

    def after_epoch(self, epoch: int) -> None:
        """Take the weights in, if the average has begun."""
        if self._stage.swa is None or epoch < self._stage.swa:
            return
        if not self.mean:
            self.mean = {name: self._values[name].detach().clone() for name in self._names}
        else:
            self._update(get_swa_multi_avg_fn())
        self.number += 1

    def _update(self, rule: Callable[..., None]) -> None:
        current = [self._values[name].detach() for name in self._names]
        rule([self.mean[name] for name in self._names], current, self.number)

    def restore(self, mean: State, number: int) -> None:
        """Go on from an average that was stored."""
        self.mean = {name: torch.empty_like(self._values[name]).copy_(value) for name, value in mean.items()}
        self.number = number

    @contextmanager
    def in_place(self) -> Iterator[bool]:
        """Give the network the averaged weights, if there are some, and then its own again; yield whether it did."""
        if not self.mean:
            yield False
            return
        own = {name: value.detach().clone() for name, value in self._values.items()}
        self._give(self.mean)
        try:
            yield True
        finally:
            self._give(own)

    @torch.no_grad()
    def _give(self, values: State) -> None:
        for name, value in values.items():
            self._values[name].copy_(value)
