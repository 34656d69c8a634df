"""The pieces that stages are made of: learning-rate rules, optimisers and losses.

Each is a plugin, those here too. Its class is found by its ``kind``, which is the plugin's name, so that a stage can be
written in TOML and read from a database.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from harness.api.options import Kind, Options

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.optim.lr_scheduler import LRScheduler

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "ConstantLR",
    "CosineLR",
    "CrossEntropy",
    "CyclicLR",
    "ExponentialLR",
    "Focal",
    "LearningRate",
    "Loss",
    "OneCycleLR",
    "Optimizer",
    "Piece",
    "PolynomialLR",
    "StepLR",
    "piece",
]


class Piece(Options):
    """A piece of a stage. A subclass gives every option a default, and ``kind`` its plugin's name."""

    plugin: ClassVar[Kind]  # its kind of plugin
    kind: str


@cache
def piece(plugin: Kind, kind: str) -> type[Piece]:
    """Return the class of an installed piece.

    Raises:
        HarnessError: there is none, or its plugin is broken.
    """
    from harness import registry
    from harness.errors import BrokenPluginError

    found = registry.find(plugin, kind)
    made = registry.load(found, registry.BASES[plugin])
    if made.kind != kind:
        raise BrokenPluginError(f"the {found} has the kind {made.kind!r}; expected its plugin's name")
    return type(made)


def resolve(plugin: Kind, default: str) -> Callable[[Any], Any]:
    """Return what makes a piece of a table that has its ``kind``, for pydantic to call before it validates."""
    from harness.errors import HarnessError

    def of_table(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        try:
            made = piece(plugin, str(value.get("kind", default)))
        except HarnessError as error:
            raise ValueError(str(error)) from error
        return made.model_validate(value)

    return of_table


# --- learning-rate rules ----------------------------------------------------------------------------------------------


class LearningRate(Piece):
    """A rule for the learning rate of each step of a stage. ``base`` is that of the first one, unless it says else."""

    plugin: ClassVar[Kind] = "rate"
    base: float = Field(1e-3, gt=0, description="learning rate")
    step_every: Literal["batch", "epoch"] = Field("batch", description="when the rate takes a step")

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler | None:
        """Return torch's scheduler, or None where the rate stays ``base``.

        Args:
            optimizer: of the stage's kind, with one group of parameters whose rate is ``base``. What the scheduler
                makes of its ``lr``, ``momentum`` and ``betas`` is what the network is trained with.
            steps: how many the rate takes in the stage.
        """
        del optimizer, steps
        return None

    def fits(self, optimizer: Optimizer) -> None:
        """Raise a ValueError where the rule cannot be used with an optimiser."""


class ConstantLR(LearningRate):
    """The same learning rate at every step."""

    kind: Literal["constant"] = "constant"
    base: float = Field(1e-5, gt=0, description="learning rate")


class _Bounded(LearningRate):
    """A rule that moves the rate up to ``max``, and momentum the other way."""

    base: float = Field(0.01, gt=0, description="lower bound")
    max: float = Field(0.1, gt=0, description="upper bound")
    cycle_momentum: bool = Field(True, description="move momentum the other way, from the optimizer's to low_momentum")
    low_momentum: float = Field(0.8, ge=0, lt=1, description="momentum where the rate is highest")

    @model_validator(mode="after")
    def _ordered(self) -> _Bounded:
        if self.max < self.base:
            raise ValueError(f"max ({self.max}) must be at least base ({self.base})")
        return self

    def fits(self, optimizer: Optimizer) -> None:
        """Momentum is there to be moved, or is not to be."""
        if not self.cycle_momentum:
            return
        if not isinstance(optimizer, SGD):
            raise ValueError("lr.cycle_momentum needs an optimizer with momentum; set it to false, or use sgd")
        if optimizer.momentum < self.low_momentum:
            raise ValueError(
                f"optimizer.momentum ({optimizer.momentum}) must be at least lr.low_momentum "
                f"({self.low_momentum}), or lr.cycle_momentum false"
            )


class CyclicLR(_Bounded):
    """Learning rate that moves between two bounds (Smith 2017, arXiv:1506.01186), as ``torch.optim`` computes it."""

    kind: Literal["cyclic"] = "cyclic"
    step_size_up: int = Field(2000, ge=1, description="steps from the lower bound to the upper one")
    mode: Literal["triangular", "triangular2"] = Field("triangular", description="triangular2 halves each cycle")

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
        """Return torch's scheduler."""
        from torch.optim.lr_scheduler import CyclicLR

        del steps
        return CyclicLR(
            optimizer,
            base_lr=self.base,
            max_lr=self.max,
            step_size_up=self.step_size_up,
            mode=self.mode,
            cycle_momentum=self.cycle_momentum,
            base_momentum=self.low_momentum,
            max_momentum=optimizer.param_groups[0].get("momentum", 0.0),
        )


class OneCycleLR(_Bounded):
    """From ``base`` up to ``max``, and down to far below ``base`` at the end of the stage (Smith and Topin 2018,
    arXiv:1708.07120).
    """

    kind: Literal["one-cycle"] = "one-cycle"
    up: float = Field(0.3, gt=0, lt=1, description="share of the steps on which the rate rises")
    last: float = Field(1e-4, gt=0, le=1, description="rate at the end, as a share of base")

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
        """Return torch's scheduler."""
        from torch.optim.lr_scheduler import OneCycleLR

        return OneCycleLR(
            optimizer,
            max_lr=self.max,
            total_steps=steps,
            # torch's first phase would have no length where it is one step of them
            pct_start=self.up + 1e-9 if math.isclose(self.up * steps, 1) else self.up,
            div_factor=self.max / self.base,
            final_div_factor=1 / self.last,
            cycle_momentum=self.cycle_momentum,
            base_momentum=self.low_momentum,
            max_momentum=optimizer.param_groups[0].get("momentum", 0.0),
        )


class CosineLR(LearningRate):
    """Half a cosine from ``base`` to ``min`` (Loshchilov and Hutter 2017, arXiv:1608.03983), after a linear rise from a
    hundredth of ``base`` where there is a warm-up.
    """

    kind: Literal["cosine"] = "cosine"
    min: float = Field(0.0, ge=0, description="rate at the end")
    warm_up: float = Field(0.0, ge=0, lt=1, description="share of the steps on which the rate rises to base")

    @model_validator(mode="after")
    def _ordered(self) -> CosineLR:
        if self.base < self.min:
            raise ValueError(f"min ({self.min}) must be at most base ({self.base})")
        return self

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
        """Return torch's scheduler."""
        from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

        rising = round(self.warm_up * steps)
        falling = CosineAnnealingLR(optimizer, max(steps - rising, 1), eta_min=self.min)
        if rising == 0:
            return falling
        return SequentialLR(optimizer, [LinearLR(optimizer, 0.01, total_iters=rising), falling], [rising])


class StepLR(LearningRate):
    """The rate is multiplied by ``gamma`` after every ``every`` steps."""

    kind: Literal["step"] = "step"
    step_every: Literal["batch", "epoch"] = Field("epoch", description="when the rate takes a step")
    every: int = Field(10, ge=1, description="steps between two changes")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each change")

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
        """Return torch's scheduler."""
        from torch.optim.lr_scheduler import StepLR

        del steps
        return StepLR(optimizer, self.every, self.gamma)


class ExponentialLR(LearningRate):
    """The rate is multiplied by ``gamma`` at every step."""

    kind: Literal["exponential"] = "exponential"
    step_every: Literal["batch", "epoch"] = Field("epoch", description="when the rate takes a step")
    gamma: float = Field(0.95, gt=0, le=1, description="factor of each step")

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
        """Return torch's scheduler."""
        from torch.optim.lr_scheduler import ExponentialLR

        del steps
        return ExponentialLR(optimizer, self.gamma)


class PolynomialLR(LearningRate):
    """The share of the stage that is left, to a power, times ``base``: it ends at nothing."""

    kind: Literal["polynomial"] = "polynomial"
    power: float = Field(1.0, gt=0, description="1 is a straight line")

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
        """Return torch's scheduler."""
        from torch.optim.lr_scheduler import PolynomialLR

        return PolynomialLR(optimizer, steps, self.power)


# --- optimisers -------------------------------------------------------------------------------------------------------


class Optimizer(Piece):
    """An optimiser."""

    plugin: ClassVar[Kind] = "optimizer"
    weight_decay: float = Field(0.0, ge=0)

    def make(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return torch's optimiser of groups of parameters, each a dictionary of ``params`` and ``lr``."""
        raise NotImplementedError


class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1)

    def make(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return torch's optimiser."""
        import torch

        return torch.optim.SGD(groups, momentum=self.momentum, weight_decay=self.weight_decay, fused=True)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015)."""

    kind: Literal["adam"] = "adam"

    def make(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return torch's optimiser."""
        import torch

        return torch.optim.Adam(groups, weight_decay=self.weight_decay, fused=True)


class AdamW(Optimizer):
    """Adam whose weight decay is no part of the gradient (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    weight_decay: float = Field(0.01, ge=0)

    def make(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return torch's optimiser."""
        import torch

        return torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=True)


# --- losses -----------------------------------------------------------------------------------------------------------


class Loss(Piece):
    """What training minimises."""

    plugin: ClassVar[Kind] = "loss"

    def make(self, weights: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what gives a batch's loss, a scalar, from logits (n, classes) and labels int64 (n,).

        Args:
            weights: of the classes (classes,), or None where all weigh the same.
        """
        raise NotImplementedError


class CrossEntropy(Loss):
    """Cross-entropy."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the true label that goes to all classes (Szegedy et al. 2016)"
    )

    def make(self, weights: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
        """Return torch's."""
        from torch import nn

        return nn.CrossEntropyLoss(weights, label_smoothing=self.label_smoothing)


class Focal(Loss):
    """Cross-entropy in which an image that is right already counts little (Lin et al. 2017, arXiv:1708.02002): each is
    weighted by (1 - p)^gamma, where p is the probability of its true class. With gamma 0 it is cross-entropy.
    """

    kind: Literal["focal"] = "focal"
    gamma: float = Field(2.0, ge=0)

    def make(self, weights: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the loss; torchvision's is of classes that do not exclude each other."""
        import torch
        from torch.nn import functional as F  # noqa: N812

        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            each = F.cross_entropy(logits, labels, reduction="none")
            # a power below 1 has no slope at 0, where an image that is surely right stands
            each = each * (-torch.expm1(-each)).clamp_min(1e-12) ** self.gamma
            if weights is None:
                return each.mean()
            of_image = weights[labels]
            return (each * of_image).sum() / of_image.sum()

        return loss
