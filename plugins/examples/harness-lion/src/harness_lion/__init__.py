"""The optimiser Lion, timm's, and a schedule that trains with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness import CosineLR, Optimizer, Schedule, Stage

if TYPE_CHECKING:
    import torch

__all__ = ["LION_COSINE", "Lion"]


class Lion(Optimizer):
    """Steps of the sign of a momentum (Chen et al. 2023, arXiv:2302.06675): rates are 3 to 10 times below Adam's."""

    kind: Literal["lion"] = "lion"
    weight_decay: float = Field(0.1, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1, description="of the step")
    beta2: float = Field(0.99, ge=0, lt=1, description="of the momentum")

    def make(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return timm's optimiser."""
        from timm.optim import Lion

        made: torch.optim.Optimizer = Lion(groups, betas=(self.beta1, self.beta2), weight_decay=self.weight_decay)
        return made


LION_COSINE = Schedule(
    description="the head, then every layer, by Lion at rates that fall as a cosine",
    stages=(
        Stage(name="frozen", epochs=5, trainable="head", batch_norm="eval", optimizer=Lion(), lr=CosineLR(base=3e-4)),
        Stage(name="finetune", epochs=5, trainable="all", optimizer=Lion(), lr=CosineLR(base=1e-5, warm_up=0.1)),
    ),
)
