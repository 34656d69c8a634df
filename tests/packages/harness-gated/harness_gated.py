"""A backbone of so many equal layers, that its time is known but for what every call costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import Backbone

if TYPE_CHECKING:
    from torch import nn

LAYERS = 40


class Layers(Backbone):
    """Sees 64 x 64 pixels."""

    input_size = 64
    head = "2"

    def architecture(self, *, auxiliary: bool) -> nn.Module:
        """Build it."""
        from torch import nn

        layers = [nn.Conv2d(3 if not index else 32, 32, 3, padding=1) for index in range(LAYERS)]
        return nn.Sequential(
            nn.Sequential(*layers), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(32, 1000)
        )
