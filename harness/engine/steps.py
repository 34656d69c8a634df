"""Steps of training, a batch each. On a GPU the first few run as they are written, and from then on as a CUDA graph.

At a batch size of 32, launching a network's kernels one by one takes longer than computing them. A graph launches them
at once. It is captured, not compiled: the same kernels in the same order, so the same numbers.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from harness.engine.device import out_of_memory

__all__ = ["Shown", "Steps", "add_noise", "own_stream"]

_BEFORE = 3  # steps that libraries need to set themselves up, before a graph can be captured

Rows = tuple[Tensor, ...]


@dataclass(frozen=True)
class Shown:
    """What an epoch shows: a row of each tensor for each image, and what makes the network's inputs of some rows.

    ``labels`` int64 (n,) are on the device that trains. ``inputs`` must read no other tensor that a later epoch makes
    anew.
    """

    rows: Rows
    labels: Tensor
    inputs: Callable[[Rows], Rows]


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Work in a stream of CUDA on which graphs can be captured; the default one is none."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    with torch.cuda.stream(_stream(device)):
        yield
    torch.cuda.synchronize(device)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # only one: libraries keep memory for each that they have seen


class Steps:
    """Takes the steps of one stage.

    Args:
        losses: gives logits, their loss and the loss to minimise for inputs and labels.
        parameters: what is trained.
        optimizer: of these parameters. It is not part of the graph, as its rates change from step to step; its kernels
            are launched while the graph is computed.
        device: where.
        disturb: called between a batch's gradients and the optimiser's step.
    """

    def __init__(
        self,
        losses: Callable[[Rows, Tensor], tuple[Tensor, Tensor, Tensor]],
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        disturb: Callable[[], None] | None = None,
    ) -> None:
        self._losses, self._parameters, self._optimizer, self._device = losses, parameters, optimizer, device
        self._disturb = disturb
        self.because: str | None = None  # there is no graph
        self._totals = torch.zeros(2, dtype=torch.float64, device=device)  # losses of images, and how many are right
        self._shown = Shown((), torch.empty(0), lambda rows: rows)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._rows = torch.empty(0)
        self._gradients: list[Tensor | None] = []
        self._taken: dict[int, int] = {}  # steps as they are written, by batch size

    @property
    def captured(self) -> bool:
        """Tell whether steps are a graph by now."""
        return self._graph is not None

    def show(self, shown: Shown, loss_sum: float, correct: int) -> None:
        """Begin an epoch, or go on with one that has these sums."""
        if self._graph is None:
            self._shown = shown
            if self._device.type == "cuda" and not shown.rows[0].is_cuda:
                self.because = "the images are not in the GPU's memory"
        else:  # the graph reads where it has read before
            for there, here in zip((*self._shown.rows, self._shown.labels), (*shown.rows, shown.labels), strict=True):
                there.copy_(here)
        self._totals.copy_(torch.tensor([loss_sum, correct], dtype=torch.float64))

    def take(self, rows: Tensor) -> None:
        """Train on the images of ``rows``, int64 (b,) on the device where the shown rows are."""
        if self._graph is not None and len(rows) == len(self._rows):
            self._rows.copy_(rows)
            self._graph.replay()
            self._step()
            return
        taken = self._taken[len(rows)] = self._taken.get(len(rows), 0) + 1
        capturing = self._graph is None and self.because is None and taken == _BEFORE and self._device.type == "cuda"
        if capturing:
            with _watched() as found:
                self._compute(rows)
            self.because = found[0] if found else None
        else:
            self._compute(rows)
        self._step()
        if self._graph is not None:
            for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
                parameter.grad = gradient
        elif capturing and self.because is None:
            self._capture(rows)

    def _step(self) -> None:
        if self._disturb is not None:
            self._disturb()
        self._optimizer.step()

    def totals(self) -> tuple[float, int]:
        """Return the epoch's sum of losses, an image each, and how many images were right; this waits for the GPU."""
        loss_sum, correct = self._totals.tolist()
        return loss_sum, int(correct)

    def _compute(self, rows: Tensor) -> None:
        """Find the gradients of a batch, and add up its sums."""
        shown = self._shown
        labels = shown.labels[rows.to(self._device)]
        logits, loss, total = self._losses(shown.inputs(tuple(part[rows] for part in shown.rows)), labels)
        for parameter in self._parameters:
            parameter.grad = None
        total.backward()
        right = (logits.detach().argmax(dim=1) == labels).sum()
        self._totals += torch.stack([loss.detach().double() * len(rows), right.double()])

    def _capture(self, rows: Tensor) -> None:
        """Capture the computation of a batch of this size; nothing is computed meanwhile."""
        shown = self._shown
        self._shown = Shown(tuple(part.clone() for part in shown.rows), shown.labels.clone(), shown.inputs)
        self._rows = rows.clone()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        draws = torch.cuda.get_rng_state(self._device)
        try:
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._compute(self._rows)
        except Exception as error:  # the code is a plugin's; what a step without a graph does as well, it does then
            self._shown = shown
            if out_of_memory(error):
                raise
            # torch's generator believes that the capture goes on; a copy of it does not.
            generator = torch.cuda.default_generators[self._device.index or 0]
            generator.graphsafe_set_state(generator.clone_state())
            torch.cuda.set_rng_state(draws, self._device)
            self.because = f"CUDA graphs do not take it ({type(error).__name__}: {str(error).splitlines()[0]})"
            return
        self._graph, self._gradients = graph, [parameter.grad for parameter in self._parameters]


def add_noise(parameters: Sequence[nn.Parameter], eta: float, step: int) -> None:
    """Add normal noise of the variance eta / (1 + step)^0.55 to gradients (Neelakantan et al. 2015)."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.add_(torch.randn_like(parameter.grad), alpha=(eta / (1 + step) ** 0.55) ** 0.5)


@contextmanager
def _watched() -> Iterator[list[str]]:
    """Yield a list that, at the end, says what was done that a graph would not repeat."""
    found: list[str] = []
    draws = _draws_on_host()
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found += ["the network waits for the GPU" for one in said if "synchronizing CUDA operation" in str(one.message)]
    found += ["the network draws at random on the host"] if _draws_on_host() != draws else []


def _draws_on_host() -> tuple[object, ...]:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().numpy().tobytes()
