"""A network small enough for tests: convolution, BatchNorm, dropout, one linear layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import Backbone

if TYPE_CHECKING:
    from torch import nn


class Tiny(Backbone):
    """Sees 32 x 32 pixels."""

    input_size = 32
    head = "4"

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Build it."""
        from torch import nn

        return nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2),
            nn.BatchNorm2d(8),
            nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()),
            nn.Dropout(0.2),
            nn.Linear(72, 1000),
        )
